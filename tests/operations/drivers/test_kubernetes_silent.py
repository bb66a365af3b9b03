"""An API that errs, is slow or is not there: unknown, never dead, and nothing is started."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.operations.drivers.interface import LauncherSilentError
from headrace.operations.drivers.kubernetes import KubernetesLauncher
from tests.support.stub_kubernetes import NAME, POD, StubApi


def test_one_or_two_api_errors_are_passed_over(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.plant(POD)
    api.fault(500, 503)
    assert len(launcher.find(NAME)) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_three_api_errors_in_a_row_are_unknown_and_start_nothing(
    api: StubApi, launcher: KubernetesLauncher, status: int
) -> None:
    api.fault(status, status, status)
    with pytest.raises(LauncherSilentError, match=str(status)):
        launcher.submit(NAME)
    assert api.created == []
    assert not any(method == "POST" for method, _ in api.requests)


def test_an_api_that_is_not_there_is_unknown(launcher: KubernetesLauncher, tmp_path: Path) -> None:
    # Bound and not listening: a port that is let go may be another test's API a moment later.
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        config = json.loads((launcher.kubeconfig or Path()).read_text())
        config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{kept.getsockname()[1]}"
        gone = tmp_path / "gone"
        gone.write_text(json.dumps(config))
        with pytest.raises(LauncherSilentError, match="does not say what runs"):
            replace(launcher, kubeconfig=gone).find(NAME)


def test_an_api_that_is_slow_is_unknown(
    api: StubApi, launcher: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.operations.drivers.pods._REQUEST_SECONDS", (1, 0.2))
    api.fault(0.6, 0.6, 0.6)
    with pytest.raises(LauncherSilentError, match="Timeout"):
        launcher.find(NAME)
