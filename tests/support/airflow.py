"""A real Airflow on the tests' platform: its DAG folder holds the project's DAGs and the tests' own."""

from pathlib import Path

from headrace.local import airflow, platform
from headrace.local.settings import Settings


def dags_folder(folder: Path, *sources: Path) -> Path:
    """Return a folder that links to all DAG files of the sources; the links keep the surroundings of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for path in source.glob("*.py"):
            (folder / path.name).symlink_to(path.resolve())
    return folder


def start(settings: Settings, dags: Path, plugins: Path, **values: object) -> Settings:
    """Start Airflow in the home of a platform, adopting running servers, and return the settings that include it."""
    with_airflow = settings.model_copy(
        update={"airflow": True, "airflow_dags": dags, "airflow_plugins": plugins, "min_free_memory_mb": 0, **values}
    )
    platform.up(with_airflow)
    return with_airflow


def stop(settings: Settings) -> None:
    """Stop Airflow only."""
    with platform._locked(settings):
        for together in platform._waves(settings):
            components = [part for part in together if part.name in airflow.COMPONENTS]
            platform._stop_all(components, settings, lambda _stage, _fraction: None)
