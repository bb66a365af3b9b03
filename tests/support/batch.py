"""A deployment over a stage, so that finite runs can be ordered and carried out as on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from headrace.operations import batch_runs, batch_views, reconcile
from headrace.operations.deployment import Deployment, LocalDrivers
from tests.support.drivers import Stage


def deployment_of(stage: Stage, project: Path) -> Deployment:
    """Return the deployment of a stage; its tree also gets the entry point of finite runs."""
    own = stage.launcher
    shutil.copy(project / "spark_jobs" / "batch.py", own.project / "spark_jobs" / "batch.py")
    drivers = LocalDrivers(
        run_dir=own.run_dir,
        log_dir=own.log_dir,
        tmp_dir=own.tmp_dir,
        driver_bindings=own.bindings,
        environment=dict(own.environment),
        conf=dict(own.conf),
    )
    return Deployment(project=own.project, root=own.root, bindings=stage.admin, drivers=drivers)


def reconciled(deployment: Deployment, pipeline: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Reconcile and return the accounts by query and sink kind: `tumbling table`, `items topic`, `archive_pos topic`."""
    report = batch_runs.execute(deployment, reconcile.plan(deployment, pipeline, **options))
    return {f"{each['query']} {each['sink'].split()[0]}": each for each in report["accounts"]}


def viewed(deployment: Deployment, pipeline: str, **options: Any) -> dict[str, Any]:
    """Compute batch views and return the report."""
    return batch_runs.execute(deployment, batch_views.plan(deployment, pipeline, **options))
