"""A real Airflow for this folder's tests only: its scheduler would work beside all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.local.airflow_client import login
from tests.support import airflow as support


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put an operator's day back into its order: pytest-randomly shuffles it, and its steps build on each other."""
    places = [place for place, item in enumerate(items) if item.location[0] == "tests/airflow/test_dag_runs.py"]
    steps = sorted((items[place] for place in places), key=lambda item: item.location[1] or 0)
    for place, step in zip(places, steps, strict=True):
        items[place] = step


@pytest.fixture(scope="package")
def airflow_settings(platform: object, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A real Airflow on the platform's home: the project's DAGs and those of probes/; ended with this folder's tests."""
    dags = support.dags_folder(
        tmp_path_factory.mktemp("airflow") / "dags", project / "dags", project / "tests" / "airflow" / "probes"
    )
    own = support.start(platform, dags, project / "plugins")  # type: ignore[arg-type]
    try:
        yield own
    finally:
        support.stop(own)


@pytest.fixture(scope="package")
def airflow(airflow_settings: object) -> Iterator[object]:
    """The admin's login at that Airflow (`headrace.local.airflow_client.Airflow`)."""
    with login(airflow_settings) as client:  # type: ignore[arg-type]
        yield client
