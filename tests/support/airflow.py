"""A real Airflow beside the platform of the tests: its DAG folder holds the project's DAGs and the tests' own."""

from pathlib import Path

from headrace.local import platform
from headrace.local.settings import Settings


def dags_folder(folder: Path, *sources: Path) -> Path:
    """Return a folder that links to all DAG files of the sources: what they find beside themselves stays the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for path in source.glob("*.py"):
            (folder / path.name).symlink_to(path.resolve())
    return folder


def start(settings: Settings, dags: Path, plugins: Path, **values: object) -> Settings:
    """Start Airflow in the home of a platform, adopting what runs there, and return the settings that include it."""
    own = settings.model_copy(
        update={"airflow": True, "airflow_dags": dags, "airflow_plugins": plugins, "min_free_memory_mb": 0, **values}
    )
    platform.up(own)
    return own


def stop(settings: Settings) -> None:
    """Stop Airflow only."""
    platform.stop_airflow(settings)
