"""A Kubernetes API that is a stub, and the launcher on it; tests of other launchers have their own `launcher`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.operations.drivers.kubernetes import KubernetesLauncher
from tests.contract.conftest import broken, good, pipelines  # noqa: F401 - fixtures
from tests.support.stub_kubernetes import StubApi, launcher_on


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StubApi]:
    with StubApi(tmp_path) as stub:
        yield stub


@pytest.fixture
def launcher(api: StubApi, project: Path) -> KubernetesLauncher:
    return launcher_on(api, project)
