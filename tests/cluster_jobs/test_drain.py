"""Before an uninstall scheduler, batch runs, every driver and the finished Jobs go, in this order; against a stub of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.cluster.drain import SCHEDULER, drain
from headrace.operations.drivers.interface import LauncherSilentError
from tests.support.stub_kubernetes import NAMESPACE, StubApi


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StubApi]:
    with StubApi(tmp_path) as running:
        yield running


def _drain(api: StubApi) -> list[str]:
    return drain(NAMESPACE, NAMESPACE, 1, "airflow", "drain", api.kubeconfig)


def _installed(api: StubApi) -> None:
    api.replicas[SCHEDULER] = 1
    api.plant(f"{SCHEDULER}-x", role="", labels={"app.kubernetes.io/component": "scheduler"})
    api.plant("views-pos-sales-1", role="", labels={"app.kubernetes.io/component": "batch"})
    driver = api.plant("pos-sales-driver")
    api.plant("pos-sales-exec-1", role="executor", owner=driver["metadata"]["uid"])
    api.plant("web-events-driver", pipeline="web_events")
    api.end("web-events-driver")
    api.jobs |= {
        "drain": {"app.kubernetes.io/instance": "airflow"},
        "provision-1": {"app.kubernetes.io/instance": "airflow"},
        "other": {"app.kubernetes.io/instance": "theirs"},
    }


def test_the_scheduler_goes_before_batch_runs_and_drivers_and_finished_pods_and_jobs_release_their_claims(
    api: StubApi,
) -> None:
    _installed(api)
    done = _drain(api)
    assert api.replicas == {SCHEDULER: 0}
    assert api.pods == {}
    assert set(api.jobs) == {"drain", "other"}
    assert done[0] == "the scheduler is stopped"
    assert done[-1] == "1 Job(s) of airflow are deleted"
    changes = [path.rsplit("/", 1)[1] for method, path in api.requests if method != "GET"]
    assert changes == ["scale", "views-pos-sales-1", "pos-sales-driver", "web-events-driver", "provision-1"]


def test_draining_again_finds_nothing_and_succeeds(api: StubApi) -> None:
    _installed(api)
    _drain(api)
    assert _drain(api) == ["the scheduler is stopped", "0 Job(s) of airflow are deleted"]


def test_without_the_right_to_scale_no_driver_is_stopped(api: StubApi) -> None:
    _installed(api)
    api.fault(403)
    with pytest.raises(LauncherSilentError, match="give the account its role"):
        _drain(api)
    assert "pos-sales-driver" in api.pods
