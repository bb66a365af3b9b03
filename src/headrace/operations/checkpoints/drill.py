"""The restore drill for operators: a finite Spark run (`batch.restore_drill`). Its report is stored beside the snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.contract import names
from headrace.contract.job_files import DrillSpec
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.deployment import Deployment
from headrace.store import paths, small_files
from headrace.store import snapshot as kept
from headrace.store.job_reports import DrillReport
from headrace.store.records import to_json


def prepare(root: str, pipeline: str, query: str, snapshot: str = "", run: str | None = None) -> BatchRun:
    """Write the job spec of a drill of one snapshot (default: the newest) and return the run.

    Raises HeadraceError if there is no snapshot.
    """
    name = names.query_name(pipeline, query)
    known = [entry.id for entry in kept.listed(root, pipeline, query) if snapshot in ("", entry.id)]
    if not known:
        raise HeadraceError(f"{name} has no snapshot {snapshot}: take one with `headrace checkpoint snapshot {name}`.")
    return job_runs.prepare(root, "drill", pipeline, DrillSpec(query=query, snapshot=known[-1]), run)


def judge(root: str, pipeline: str, run: str) -> DrillReport:
    """Store the report of a drill beside its snapshot and return it. Raises HeadraceError if the drill failed."""
    report = job_runs.result(root, pipeline, run, DrillReport)
    query = report.query.removeprefix(names.query_name(pipeline, ""))
    stored = to_json(report) | {"at_ms": time.time_ns() // 1_000_000}
    small_files.write_json(paths.snapshot_drill(root, pipeline, query, report.snapshot), stored)
    if not report.ok:
        raise HeadraceError(
            f"The drill of snapshot {report.snapshot} of {report.query} failed: {'; '.join(report.differences)}. "
            "Do not rely on this snapshot. Take a new one and drill it; see docs/runbooks/CheckpointStateDamaged.md."
        )
    return report


def drill(
    deployment: Deployment,
    pipeline: str,
    query: str,
    snapshot: str = "",
    report: Callable[[str, float | None], None] | None = None,
) -> DrillReport:
    """Prepare a drill, run it on this machine, and judge its report."""
    run = prepare(deployment.root, pipeline, query, snapshot)
    job_runs.execute(deployment, run, DrillReport, report)
    return judge(deployment.root, pipeline, run.run)
