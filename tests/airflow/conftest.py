"""A real Airflow for this folder's tests only: its scheduler would work beside all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.local.settings import Settings
from tests.support import airflow as support
from tests.support.airflow_client import Airflow


@pytest.fixture(scope="package")
def airflow_settings(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real Airflow on the platform's home: the project's DAGs and those of probes/; ended with this folder's tests."""
    dags = support.dags_folder(
        tmp_path_factory.mktemp("airflow") / "dags", project / "dags", project / "tests" / "airflow" / "probes"
    )
    started = support.start(platform, dags, project / "plugins", airflow_notify_connection="alerts")
    try:
        yield started
    finally:
        support.stop(started)


@pytest.fixture(scope="package")
def airflow(airflow_settings: Settings) -> Iterator[Airflow]:
    """The admin's login at that Airflow."""
    with Airflow.login(airflow_settings) as client:
        yield client
