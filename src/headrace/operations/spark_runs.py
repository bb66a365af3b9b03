"""Finite Spark runs for DAGs: plan one, give SparkSubmitOperator what it needs, read the report.

The operator runs `spark-submit` by the declared connection; what only a JVM's start can take (class path, heap, JVM
options) is its `conf`, everything else goes through the entry point's environment. Nothing here is secret.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    conf = json.loads(environment["HEADRACE_SPARK_CONF"])
    return {
        "name": f"{given['duty']}-{given['pipeline']}",
        "application": str(deployment.project / "spark_jobs" / "batch.py"),
        "application_args": list(given["arguments"]),
        "conf": {key: conf[key] for key in _AT_START if key in conf},
        "env_vars": environment,
    }


def with_views(deployment: Deployment) -> list[str]:
    """Return the pipelines that have batch views."""
    return [name for name, pipeline in deployment.pipelines().items() if views.views(pipeline)]


def plan_views(
    deployment: Deployment, pipelines: Iterable[str], run: str, first: str | None = None, last: str | None = None
) -> list[dict[str, Any]]:
    """Order the batch views of pipelines; those without views are left out. Returns one submission each."""
    own = with_views(deployment)
    orders = [
        batch_views.plan(deployment, name, first=first or None, last=last or None, run=f"{run}-{name}")
        for name in pipelines
        if name in own
    ]
    for given in orders:
        lineage_runs.start_views(deployment, given["pipeline"], given["run"])
    return [submission(deployment, given) for given in orders]


def plan_reconcile(
    deployment: Deployment,
    pipelines: Iterable[str],
    run: str,
    days: float | None = None,
    queries: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Order the reconciliation of pipelines; one that never ran has nothing to compare. Returns one submission each.

    `days` bounds it (0 or None: all days, as `reconcile.plan`); `queries` are `<pipeline>.<query>` (none: all of them).
    """
    wanted = {name: reconcile.queries_of(name, queries) for name in pipelines}
    orders = [
        reconcile.plan(deployment, name, days=days or None, queries=chosen, run=f"{run}-{name}")
        for name, chosen in wanted.items()
        if (chosen is None or chosen) and reconcile.has_run(deployment.root, name)
    ]
    return [submission(deployment, given) for given in orders]


def judge_reconcile(deployment: Deployment, submitted: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the summaries of reconciliations. Raises HeadraceError that names the differences of all that differ."""
    reports = [report(deployment, each) for each in submitted]
    faults = []
    for each in reports:
        try:
            reconcile.require_even(each)
        except HeadraceError as fault:
            faults.append(str(fault))
    if faults:
        raise HeadraceError(" ".join(faults))
    return [reconcile.summary(each) for each in reports]


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
    """Return the report of a run that was submitted. Raises HeadraceError if it left none."""
    _, pipeline, run = submitted["application_args"]
    return batch_runs.result(deployment.root, pipeline, run)
