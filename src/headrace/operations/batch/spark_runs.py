"""Finite Spark runs for DAGs: plan a run, return the arguments of SparkSubmitOperator, read the report.

On one machine the operator runs `spark-submit` with the declared connection. On Kubernetes a run is a pod (`pod_runs`), which is
made from the run's arguments alone. Settings that the JVM reads only at its start (class path, heap,
JVM options) are in `conf`; everything else is in the entry point's environment. Nothing here is secret.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.contract import batch_views, names
from headrace.contract.job_files import UpkeepSpec
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs, rebuild, reconcile, view_plans
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.checkpoints import drill
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.lineage import run_events
from headrace.operations.plans import Approval
from headrace.store import records
from headrace.store import snapshot as kept
from headrace.store.job_reports import DrillReport, ReconcileReport, ViewsReport
from headrace.store.records import Record

_AT_START = ("spark.driver.memory", "spark.driver.extraClassPath", "spark.driver.extraJavaOptions")


@dataclass(frozen=True)
class Submission:
    """The arguments of a SparkSubmitOperator for a run. With a `fault` the run could not be planned.

    The mapped task (`dag_support.spark_run`) fails with the fault, so one pipeline does not keep the others from running.
    """

    name: str
    application: str = ""
    application_args: tuple[str, ...] = ()
    conf: dict[str, str] = field(default_factory=dict)
    env_vars: dict[str, str] = field(default_factory=dict)
    fault: str = records.optional("")


def submission(deployment: Deployment, run: BatchRun) -> Submission:
    """Return the submission of a run."""
    if deployment.drivers.kind == "kubernetes":
        return Submission(f"{run.duty}-{run.pipeline}", application_args=run.arguments)
    environment = job_runs.environment(deployment, run.pipeline)
    # Use the spark-submit and the Python of this installation.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '/usr/bin:/bin')}"
    conf = job_runs.environment_of(deployment, run.pipeline).spark_conf
    at_start = {key: conf[key] for key in _AT_START if key in conf}
    entry = str(deployment.project / "spark_jobs" / "batch.py")
    return Submission(f"{run.duty}-{run.pipeline}", entry, run.arguments, at_start, environment)


def plan_views(
    deployment: Deployment, pipelines: Iterable[str], run: str, first: str | None = None, last: str | None = None
) -> list[Submission]:
    """Plan the batch views of pipelines that have any. Returns one submission for each of them."""

    def prepare(name: str) -> BatchRun:
        prepared = view_plans.plan(deployment, name, first=first or None, last=last or None, run=f"{run}-{name}")
        run_events.start_views(deployment, name, prepared.run)
        return prepared

    return [_planned(deployment, "views", name, prepare) for name in pipelines if not _has_no_views(deployment, name)]


def plan_reconcile(
    deployment: Deployment,
    pipelines: Iterable[str],
    run: str,
    days: float | None = None,
    queries: Sequence[str] = (),
    *,
    only_new: bool = False,
) -> list[Submission]:
    """Plan the reconciliation of pipelines that ever ran. Returns one submission for each of them.

    `days` limits the reconciliation (0 or None: all days), and so does `only_new` (without `days`; see `reconcile.plan`).
    `queries` are `<pipeline>.<query>` (empty: all).
    """
    wanted = {name: reconcile.queries_of(name, queries) for name in pipelines}

    def prepare(name: str) -> BatchRun:
        limit = {"days": days} if days else {"only_new": only_new}
        return reconcile.plan(deployment, name, queries=wanted[name], run=f"{run}-{name}", **limit)

    return [
        _planned(deployment, "reconcile", name, prepare)
        for name, chosen in wanted.items()
        if (chosen is None or chosen) and reconcile.has_run(deployment.root, name)
    ]


def _planned(deployment: Deployment, duty: str, pipeline: str, prepare: Callable[[str], BatchRun]) -> Submission:
    """Return the submission of one pipeline, with the fault if it cannot be planned."""
    try:
        return submission(deployment, prepare(pipeline))
    except HeadraceError as fault:
        return Submission(f"{duty}-{pipeline}", fault=str(fault))


def _has_no_views(deployment: Deployment, name: str) -> bool:
    """Return whether a pipeline is known to have no views. False if its file does not load: planning then reports the fault."""
    try:
        return not batch_views.views(deployment.pipeline(name))
    except HeadraceError:
        return False


def reports(
    deployment: Deployment, submitted: Iterable[Submission], kind: type[Record]
) -> tuple[list[Record], list[str]]:
    """Return the reports of the successful runs, and one sentence for each of the others."""
    known, faults = [], []
    for run in submitted:
        try:
            known.append(report(deployment, run, kind))
        except HeadraceError as fault:
            faults.append(f"{run.name} did not run to its end: {fault}")
    return known, faults


def judge_views(deployment: Deployment, submitted: Sequence[Submission]) -> list[str]:
    """Return the names of the runs.

    Raises HeadraceError that names every run without a report, and every partition whose archive was behind, so that the
    horizon stays where it is. The archive of a pipeline that is paused or stopped may be behind.
    """
    known, faults = reports(deployment, submitted, ViewsReport)
    for views in known:
        if views.behind and desired_state.read(deployment.root, views.pipeline).want == "RUNNING":
            faults += [f"{text}." for text in view_plans.behind(views)]
    if faults:
        raise HeadraceError(" ".join(faults))
    return [run.name for run in submitted]


def judge_reconcile(deployment: Deployment, submitted: Iterable[Submission]) -> list[ReconcileReport]:
    """Return the summaries of reconciliations.

    Raises HeadraceError that names the differences of every report that differs, and the runs that failed.
    """
    results, faults = reports(deployment, submitted, ReconcileReport)
    for result in results:
        try:
            reconcile.require_even(result)
        except HeadraceError as fault:
            faults.append(str(fault))
    if faults:
        raise HeadraceError(" ".join(faults))
    return [reconcile.summary(result) for result in results]


def plan_drills(deployment: Deployment, pipelines: Iterable[str], run: str) -> list[Submission]:
    """Plan the drill of the newest snapshot of every query that has one. Returns one submission for each of them."""
    runs = [
        drill.prepare(deployment.root, name, query, run=f"{run}-{name}-{query}")
        for name in pipelines
        for query in names.query_names(deployment.pipeline(name))
        if kept.listed(deployment.root, name, query)
    ]
    return [submission(deployment, prepared) for prepared in runs]


def judge_drills(deployment: Deployment, submitted: Iterable[Submission]) -> list[DrillReport]:
    """Store every drill's report beside its snapshot, then raise HeadraceError for the first drill that failed."""
    reports_kept, faults = [], []
    for submission_of in submitted:
        _, pipeline, run = submission_of.application_args
        try:
            reports_kept.append(drill.judge(deployment.root, pipeline, run))
        except HeadraceError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    return reports_kept


def order_rebuild(deployment: Deployment, pipeline: str, query: str, run: str, approval: Approval) -> Submission:
    """Prepare the approved rebuild and return its submission. Raises HeadraceError as `rebuild.prepare` does."""
    return submission(deployment, rebuild.prepare(deployment, pipeline, query, approval, run))


def plan_upkeep(deployment: Deployment, pipelines: Iterable[str], run: str) -> list[Submission]:
    """Plan the maintenance of the pipelines' Iceberg tables. Returns one submission for each pipeline."""
    runs = [job_runs.prepare(deployment.root, "upkeep", name, UpkeepSpec(), f"{run}-{name}") for name in pipelines]
    return [submission(deployment, prepared) for prepared in runs]


def report(deployment: Deployment, submitted: Submission, kind: type[Record]) -> Record:
    """Return the report of a submitted run. Raises HeadraceError if it left no report, or could not be planned."""
    if submitted.fault:
        raise HeadraceError(submitted.fault)
    _, pipeline, run = submitted.application_args
    return job_runs.result(deployment.root, pipeline, run, kind)
