"""The local launcher of drivers, built from the settings of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headrace.local import airflow_config, class_archive, jars
from headrace.local.java import child_environment, find_java
from headrace.local.settings import Settings
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers.local import LocalLauncher
from headrace.store import spark_conf


def launcher(settings: Settings, project: Path) -> LocalLauncher:
    """Return the launcher that finds and stops drivers of `project` (folder with pipelines/ and spark_jobs/)."""
    return LocalLauncher(
        project=project,
        root=str(settings.home / "storage"),
        run_dir=settings.run_dir,
        log_dir=settings.log_dir,
        tmp_dir=settings.tmp_dir,
        bindings=settings.home / "bindings",
        environment={},
    )


def starting_launcher(settings: Settings, project: Path) -> LocalLauncher:
    """Return the launcher that also starts drivers. Raises HeadraceError if Java or a jar is missing."""
    java = find_java(settings)
    # Four drivers on two cores spend most of their first minutes in the JVM's second compiler.
    java_options = f"{spark_conf.JAVA_OPTIONS} {settings.driver_java_options}".strip()
    heap = {"spark.driver.memory": settings.driver_heap} if settings.driver_heap else {}
    return replace(
        launcher(settings, project),
        environment=dict(child_environment(java)) | spark_conf.local_environment(),
        ui_port=settings.spark_ui_port_base,
        conf={
            "spark.driver.extraClassPath": jars.spark_class_path(settings),
            "spark.driver.defaultJavaOptions": class_archive.java_options(settings, java),
            "spark.driver.extraJavaOptions": java_options,
        }
        | heap,
    )


def deployment(settings: Settings, project: Path, *, starting: bool = False) -> Deployment:
    """Return the deployment of this machine. With `starting` its launcher can also start drivers (see `starting_launcher`)."""
    drivers = (starting_launcher if starting else launcher)(settings, project)
    return Deployment(
        project=project, root=drivers.root, bindings=settings.bindings(), drivers=LocalDrivers.of(drivers)
    )


def write_deployment(settings: Settings, project: Path) -> Deployment:
    """Write the file that gives Airflow's tasks the same launcher as the command line; return its content."""
    written = deployment(settings, project, starting=True)
    written.write(airflow_config.deployment_file(settings))
    return written
