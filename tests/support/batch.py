"""A deployment on a stage, so that finite runs can be planned and executed as on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from headrace.operations.batch import job_runs, reconcile, view_plans
from headrace.operations.deployment import Deployment
from headrace.store.job_reports import ReconcileReport, ViewsReport
from headrace.store.records import to_json
from tests.support.drivers import Stage


def deployment_of(stage: Stage, project: Path) -> Deployment:
    """Return the deployment of a stage; its tree also gets the entry point of finite runs."""
    shutil.copy(project / "spark_jobs" / "batch.py", stage.launcher.project / "spark_jobs" / "batch.py")
    return stage.deployment


def reconciled(deployment: Deployment, pipeline: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Reconcile and return the accounts by query and sink kind: `tumbling table`, `items topic`, `archive_pos topic`."""
    report = job_runs.execute(deployment, reconcile.plan(deployment, pipeline, **options), ReconcileReport)
    return {f"{account.query} {account.sink.split()[0]}": to_json(account) for account in report.accounts}


def viewed(deployment: Deployment, pipeline: str, **options: Any) -> ViewsReport:
    """Compute batch views and return the report."""
    return job_runs.execute(deployment, view_plans.plan(deployment, pipeline, **options), ViewsReport)
