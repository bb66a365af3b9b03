"""Fixtures of pipeline files (`tests/contract`), and the deployment that commands work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.operations import deployment
from tests.contract.conftest import broken, good, pipelines  # noqa: F401 - fixtures


def use(chosen: deployment.Deployment, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the commands of this test work on a deployment, as a pod of the cluster does. It has a binding of Kafka."""
    chosen.write(file)
    (chosen.bindings / "kafka").mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv(deployment.VARIABLE, str(file))
