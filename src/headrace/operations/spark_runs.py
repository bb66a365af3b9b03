"""Finite Spark runs for DAGs: plan one, give SparkSubmitOperator what it needs, read the report.

The operator runs `spark-submit` by the declared connection; what only a JVM's start can take (class path, heap, JVM
options) is its `conf`, everything else goes through the entry point's environment. Nothing here is secret.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.contract import names, views
from headrace.contract import snapshot as kept
from headrace.errors import HeadraceError
from headrace.operations import batch_runs, batch_views, lineage_runs, rebuild, reconcile
from headrace.operations.checkpoints import drill
from headrace.operations.deployment import Deployment

_AT_START = ("spark.driver.memory", "spark.driver.extraClassPath", "spark.driver.extraJavaOptions")


def submission(deployment: Deployment, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a SparkSubmitOperator for an order of `batch_runs.give`."""
    environment = batch_runs.environment(deployment, given["pipeline"])
    # spark-submit and the Python that it starts are those of this installation.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '/usr/bin:/bin')}"
    conf = batch_runs.environment_of(deployment).spark_conf
    return {
        "name": f"{given['duty']}-{given['pipeline']}",
        "application": str(deployment.project / "spark_jobs" / "batch.py"),
        "application_args": list(given["arguments"]),
        "conf": {key: conf[key] for key in _AT_START if key in conf},
        "env_vars": environment,
    }


def plan_views(
    deployment: Deployment, pipelines: Iterable[str], run: str, first: str | None = None, last: str | None = None
) -> list[dict[str, Any]]:
    """Order the batch views of pipelines; those without views are left out. Returns one entry each, as `_planned` does."""

    def order(name: str) -> dict[str, Any]:
        given = batch_views.plan(deployment, name, first=first or None, last=last or None, run=f"{run}-{name}")
        lineage_runs.start_views(deployment, given["pipeline"], given["run"])
        return given

    return [_planned(deployment, "views", name, order) for name in pipelines if not _has_no_views(deployment, name)]


def plan_reconcile(
    deployment: Deployment,
    pipelines: Iterable[str],
    run: str,
    days: float | None = None,
    queries: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Order the reconciliation of pipelines; one that never ran has nothing to compare. Returns one entry each (`_planned`).

    `days` bounds it (0 or None: all days, as `reconcile.plan`); `queries` are `<pipeline>.<query>` (none: all of them).
    """
    wanted = {name: reconcile.queries_of(name, queries) for name in pipelines}

    def order(name: str) -> dict[str, Any]:
        return reconcile.plan(deployment, name, days=days or None, queries=wanted[name], run=f"{run}-{name}")

    return [
        _planned(deployment, "reconcile", name, order)
        for name, chosen in wanted.items()
        if (chosen is None or chosen) and reconcile.has_run(deployment.root, name)
    ]


def _planned(
    deployment: Deployment, duty: str, pipeline: str, order: Callable[[str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the submission of one pipeline, or {"name", "fault"} where it cannot be ordered.

    The fault is the mapped task's (`seat.spark_run`), so that one pipeline does not keep the others from running.
    """
    try:
        return submission(deployment, order(pipeline))
    except HeadraceError as fault:
        return {"name": f"{duty}-{pipeline}", "fault": str(fault)}


def _has_no_views(deployment: Deployment, name: str) -> bool:
    """Return whether a pipeline is known to have no views: for one whose file does not load, the order says so."""
    try:
        return not views.views(deployment.pipeline(name))
    except HeadraceError:
        return False


def reports(deployment: Deployment, submitted: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the reports of the runs that ended well, and one sentence for each of the others."""
    found, faults = [], []
    for each in submitted:
        try:
            found.append(report(deployment, each))
        except HeadraceError as fault:
            faults.append(f"{each['name']} did not run to its end: {fault}")
    return found, faults


def require_all(deployment: Deployment, submitted: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the runs. Raises HeadraceError that names every one that left no report."""
    known = list(submitted)
    _, faults = reports(deployment, known)
    if faults:
        raise HeadraceError(" ".join(faults))
    return [str(each["name"]) for each in known]


def judge_reconcile(deployment: Deployment, submitted: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the summaries of reconciliations.

    Raises HeadraceError that names the differences of all that differ, and the runs that did not end well.
    """
    found, faults = reports(deployment, submitted)
    for each in found:
        try:
            reconcile.require_even(each)
        except HeadraceError as fault:
            faults.append(str(fault))
    if faults:
        raise HeadraceError(" ".join(faults))
    return [reconcile.summary(each) for each in found]


def plan_drills(deployment: Deployment, pipelines: Iterable[str], run: str) -> list[dict[str, Any]]:
    """Order the drill of the newest snapshot of every query that has one. Returns one submission each."""
    orders = [
        drill.give(deployment.root, name, query, run=f"{run}-{name}-{query}")
        for name in pipelines
        for query in names.query_names(deployment.pipeline(name))
        if kept.listed(deployment.root, name, query)
    ]
    return [submission(deployment, given) for given in orders]


def judge_drills(deployment: Deployment, submitted: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put every drill's report beside its snapshot. Raises HeadraceError for the first that failed, after all are kept."""
    told, faults = [], []
    for each in submitted:
        _, pipeline, run = each["application_args"]
        try:
            told.append(drill.judge(deployment.root, pipeline, run))
        except HeadraceError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    return told


def order_rebuild(
    deployment: Deployment, planned: Mapping[str, Any], run: str, *, by: str, reason: str
) -> dict[str, Any]:
    """Order the rebuild that was approved. Returns its submission; raises HeadraceError as `rebuild.give` does."""
    return submission(deployment, rebuild.give(deployment, planned, by=by, reason=reason, run=run))


def plan_upkeep(deployment: Deployment, pipelines: Iterable[str], run: str) -> list[dict[str, Any]]:
    """Order the upkeep of the pipelines' Iceberg tables. Returns one submission each."""
    orders = [batch_runs.give(deployment.root, "upkeep", name, {}, f"{run}-{name}") for name in pipelines]
    return [submission(deployment, given) for given in orders]


def report(deployment: Deployment, submitted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a run that was submitted. Raises HeadraceError if it left none, or could not be ordered."""
    if "fault" in submitted:
        raise HeadraceError(str(submitted["fault"]))
    _, pipeline, run = submitted["application_args"]
    return batch_runs.result(deployment.root, pipeline, run)
