"""The operator's tasks, one function for each task: set the desired state with `control`, then wait until it is reached.

DAGs call them. They take plain values and return a small JSON-safe dict, so that a test needs no Airflow.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contract import names
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.checkpoints import prune as prune_checkpoints
from headrace.operations.checkpoints import restore as restore_checkpoints
from headrace.operations.checkpoints import snapshots
from headrace.operations.checkpoints import verify as verify_checkpoints
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import control, desired_state, interface
from headrace.operations.drivers.interface import Launcher
from headrace.operations.plans import Approval
from headrace.store.records import Json, to_json


def start(
    launcher: Launcher, pipeline: str, *, by: str, reason: str, new_generations: Sequence[str] = (), request: str = ""
) -> Json:
    """Start the driver or adopt it, and wait until its queries run. Raises HeadraceError with the driver's error.

    `request` identifies the start: a retry of the task continues with the same start.
    """
    driver, new = control.start(
        launcher, pipeline, by=by, reason=reason, new_generations=new_generations, request=request
    )
    return to_json(control.await_queries(launcher, driver, new=new))


def resume(launcher: Launcher, pipeline: str, *, by: str) -> Json:
    """Start a paused pipeline again and wait until its queries run. A repeat after the start only waits."""
    if desired_state.read(launcher.root, pipeline).want == "RUNNING" and (running := launcher.find(pipeline)):
        return to_json(control.await_queries(launcher, running[0], new=False))
    driver, new = control.resume(launcher, pipeline, by=by)
    return to_json(control.await_queries(launcher, driver, new=new))


def restart(
    launcher: Launcher, pipeline: str, *, by: str, reason: str, new_generations: Sequence[str] = (), request: str = ""
) -> Json:
    """Stop the driver, start a new one and wait until its queries run. `request` as in `start`."""
    driver, new = control.restart(
        launcher, pipeline, by=by, reason=reason, new_generations=new_generations, request=request
    )
    return to_json(control.await_queries(launcher, driver, new=new))


def stop(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> Json:
    """Stop the driver and return how it ended."""
    return _ended(pipeline, control.stop(launcher, pipeline, by=by, reason=reason))


def pause(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> Json:
    """Stop the driver until it is resumed, and return how it ended."""
    return _ended(pipeline, control.pause(launcher, pipeline, by=by, reason=reason))


def _ended(pipeline: str, gentle: bool | None) -> Json:
    return {"pipeline": pipeline, "ended": interface.end_in_words(gentle)}


def verify_and_snapshot(deployment: Deployment, pipeline: str) -> Json:
    """Verify every query and take a snapshot of the sound ones. Then raise HeadraceError if any query is not sound."""
    described = deployment.pipeline(pipeline)
    taken: dict[str, str] = {}
    faults = []
    for report in verify_checkpoints.verify_all(deployment.root, [described], deployment.bindings):
        query = report.query.removeprefix(names.query_name(pipeline, ""))
        if not report.sound:
            worst = next(finding for finding in report.findings if finding.severity == "critical")
            faults.append(f"{report.query}: {worst.what} at {worst.where}, see {worst.runbook}")
        elif report.batch is not None:  # otherwise there is nothing to keep yet
            taken[query] = snapshots.take(deployment.root, pipeline, query, reason="nightly").id
    if faults:
        raise HeadraceError(f"Checkpoints are not sound, and no snapshot of them was taken: {'; '.join(faults)}.")
    return {"pipeline": pipeline, "taken": taken}


def verify(deployment: Deployment, pipeline: str, query: str) -> Json:
    """Verify one query. Raises HeadraceError if its checkpoint is not sound."""
    report = verify_checkpoints.verify(deployment.root, deployment.pipeline(pipeline), query, deployment.bindings)
    if not report.sound:
        faults = "; ".join(f"{finding.what} at {finding.where}, see {finding.runbook}" for finding in report.findings)
        raise HeadraceError(f"{report.query} is not sound: {faults}.")
    return {"query": report.query, "sound": True, "findings": len(report.findings)}


def plan_restore(deployment: Deployment, pipeline: str, query: str, snapshot: str = "") -> Json:
    """Return the plan of a restore for its approval, and the snapshot that was chosen. Raises HeadraceError if it is blocked."""
    described = deployment.pipeline(pipeline)
    if query not in names.query_names(described):
        raise HeadraceError(
            f"Unknown query {query!r} of {pipeline}. Known queries: {', '.join(names.query_names(described))}."
        )
    chosen = restore_checkpoints.choose(deployment.root, pipeline, query, snapshot).id
    plan = restore_checkpoints.plan(deployment.launcher(), described, query, chosen, deployment.bindings)
    return plans.for_approval(plan) | {"pipeline": pipeline, "query": query, "snapshot": chosen}


def restore(deployment: Deployment, planned: Json, approval: Approval) -> Json:
    """Carry out a plan of `plan_restore`. Returns {pipeline, query, generation}."""
    described = deployment.pipeline(planned["pipeline"])
    restored = restore_checkpoints.act(
        deployment.launcher(), described, planned["query"], approval, planned["snapshot"], deployment.bindings
    )
    return {"pipeline": restored.pipeline, "query": restored.query, "generation": restored.number}


def plan_prune(deployment: Deployment, retention: Json) -> Json:
    """Return the plan of a prune for its approval, or {} if there is nothing to do."""
    kept = prune_checkpoints.Retention(**retention)
    plan = prune_checkpoints.plan(deployment.root, deployment.pipelines().values(), kept)
    return plans.for_approval(plan) if plan.items else {}


def prune(deployment: Deployment, retention: Json, approval: Approval) -> Json:
    """Carry out a plan of `plan_prune`. Returns how many trees were moved to the trash and how many were deleted."""
    kept = prune_checkpoints.Retention(**retention)
    done = prune_checkpoints.act(deployment.root, deployment.pipelines().values(), kept, approval)
    deleted = sum(item.action == prune_checkpoints.DELETE for item in done.items)
    return {"trashed": len(done.items) - deleted, "deleted": deleted}
