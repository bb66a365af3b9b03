"""What the operator's tasks do, one function a task: a wish through `control`, then wait until it is true.

Called by DAGs; each takes plain values and returns a small JSON-safe dict, so that a test needs no Airflow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from headrace.contract import names
from headrace.errors import HeadraceError
from headrace.operations import control, drivers, intent
from headrace.operations.checkpoints import prune as prune_checkpoints
from headrace.operations.checkpoints import restore as restore_checkpoints
from headrace.operations.checkpoints import snapshots
from headrace.operations.checkpoints import verify as verify_checkpoints
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import Driver, Launcher

START_SECONDS = 300.0
"""How long a driver may take until its queries run; a pod may wait that long for a node and an image."""


def start(
    launcher: Launcher, pipeline: str, *, by: str, reason: str, new_generations: Sequence[str] = (), request: str = ""
) -> dict[str, Any]:
    """Start the driver or adopt it, and wait until its queries run. Raises HeadraceError with the driver's own word.

    `request` names the start: a task that is tried again goes on with the same one.
    """
    driver, new = control.start(
        launcher, pipeline, by=by, reason=reason, new_generations=new_generations, request=request
    )
    return await_queries(launcher, driver, new=new)


def resume(launcher: Launcher, pipeline: str, *, by: str) -> dict[str, Any]:
    """Start a paused pipeline again and wait until its queries run. A repeat after it was started waits only."""
    if intent.read(launcher.root, pipeline).want == "RUNNING" and (living := launcher.find(pipeline)):
        return await_queries(launcher, living[0], new=False)
    driver, new = control.resume(launcher, pipeline, by=by)
    return await_queries(launcher, driver, new=new)


def restart(
    launcher: Launcher, pipeline: str, *, by: str, reason: str, new_generations: Sequence[str] = (), request: str = ""
) -> dict[str, Any]:
    """Stop the driver, start a new one and wait until its queries run. `request` as in `start`."""
    driver, new = control.restart(
        launcher, pipeline, by=by, reason=reason, new_generations=new_generations, request=request
    )
    return await_queries(launcher, driver, new=new)


def stop(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> dict[str, Any]:
    """Stop the driver and tell how it ended."""
    return _told(pipeline, control.stop(launcher, pipeline, by=by, reason=reason))


def pause(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> dict[str, Any]:
    """Stop the driver until it is resumed and tell how it ended."""
    return _told(pipeline, control.pause(launcher, pipeline, by=by, reason=reason))


def await_queries(launcher: Launcher, driver: Driver, *, new: bool, seconds: float = START_SECONDS) -> dict[str, Any]:
    """Wait until a driver's heartbeat says that its queries run. Raises HeadraceError if it ends first or says nothing."""
    beat = drivers.await_first_heartbeat(launcher, driver, seconds)
    dead = [entry["query"] for entry in beat["queries"] if not entry["active"]]
    if dead:
        raise HeadraceError(f"{', '.join(dead)} ended at once: see `headrace logs {driver.pipeline}`.")
    return {
        "pipeline": driver.pipeline,
        "driver": driver.identity,
        "where": driver.where,
        "started": new,
        "generations": {entry["query"]: entry["generation"] for entry in beat["queries"]},
        "seconds": round(time.time() - driver.started, 1),
    }


def _told(pipeline: str, gentle: bool | None) -> dict[str, Any]:
    words = {None: "did not run", True: "stopped", False: "killed after the grace time"}
    return {"pipeline": pipeline, "ended": words[gentle]}


def verify_and_snapshot(own: Deployment, pipeline: str) -> dict[str, Any]:
    """Verify every query and take a snapshot of the sound ones. Raises HeadraceError, after the others, if one is not."""
    described = own.pipeline(pipeline)
    taken: dict[str, str] = {}
    faults = []
    for report in verify_checkpoints.verify_all(own.root, [described], own.bindings):
        if report.generation is None:
            continue
        query = report.query.removeprefix(names.query_name(pipeline, ""))
        if report.sound:
            taken[query] = snapshots.take(own.root, pipeline, query, reason="nightly").id
        else:
            worst = next(finding for finding in report.findings if finding.severity == "critical")
            faults.append(f"{report.query}: {worst.what} at {worst.where}, see {worst.runbook}")
    if faults:
        raise HeadraceError(f"Checkpoints are not sound, and no snapshot of them was taken: {'; '.join(faults)}.")
    return {"pipeline": pipeline, "taken": taken}


def verify(own: Deployment, pipeline: str, query: str) -> dict[str, Any]:
    """Verify one query. Raises HeadraceError if its checkpoint is not sound."""
    report = verify_checkpoints.verify(own.root, own.pipeline(pipeline), query, own.bindings)
    if not report.sound:
        told = "; ".join(f"{finding.what} at {finding.where}, see {finding.runbook}" for finding in report.findings)
        raise HeadraceError(f"{report.query} is not sound: {told}.")
    return {"query": report.query, "sound": True, "findings": len(report.findings)}


def plan_restore(own: Deployment, pipeline: str, query: str, snapshot: str = "") -> dict[str, Any]:
    """Return the plan of a restore, JSON-safe, with `words` for a person. Raises HeadraceError where it is blocked."""
    described = own.pipeline(pipeline)
    if query not in names.query_names(described):
        raise HeadraceError(f"{pipeline} has no query {query!r}: it has {', '.join(names.query_names(described))}.")
    plan = restore_checkpoints.plan(own.launcher(), described, query, snapshot or None, own.bindings)
    if plan.blockers:
        raise HeadraceError(f"{pipeline}.{query} cannot be restored now: {'; '.join(plan.blockers)}.")
    words = [
        (
            f"**{pipeline}.{query}** goes back to batch {plan.batch} of generation {plan.source_generation}, as generation "
            f"{plan.new_generation}, from snapshot `{plan.snapshot}`."
        ),
        f"{plan.again:,} offsets are read again. Nothing of the present generation is touched.",
        *(f"Mind: {warning}" for warning in plan.warnings),
    ]
    return plan.to_json_dict() | {"words": "\n\n".join(words)}


def recheck_restore(own: Deployment, planned: dict[str, Any]) -> dict[str, Any]:
    """Return the same plan if it still is the one. Raises HeadraceError if something has changed meanwhile."""
    now = plan_restore(own, planned["pipeline"], planned["query"], planned["snapshot"])
    if now["fingerprint"] != planned["fingerprint"]:
        raise HeadraceError(
            f"{planned['pipeline']}.{planned['query']} is not as it was when the restore was approved: make a new plan."
        )
    return now


def restore(own: Deployment, planned: dict[str, Any], *, by: str, reason: str) -> dict[str, Any]:
    """Carry out a plan of `plan_restore`; returns {pipeline, query, generation}."""
    described = own.pipeline(planned["pipeline"])
    plan = restore_checkpoints.Plan.from_json_dict({key: planned[key] for key in planned if key != "words"})
    made = restore_checkpoints.act(own.launcher(), described, plan, by=by, reason=reason, bindings=own.bindings)
    return {"pipeline": made.pipeline, "query": made.query, "generation": made.number}


def plan_prune(own: Deployment, retention: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of a prune with `words` for a person, or {} where there is nothing to do."""
    kept = prune_checkpoints.Retention(**retention)
    plan = prune_checkpoints.plan(own.root, own.pipelines().values(), kept)
    if not plan.items:
        return {}
    lines = [
        f"- {'delete' if item.delete else 'to the trash'}: {item.why}, {item.bytes:,} bytes" for item in plan.items
    ]
    more = [f"- and {len(lines) - 50} more"] if len(lines) > 50 else []
    return {
        "fingerprint": plan.fingerprint,
        "retention": retention,
        "items": len(plan.items),
        "words": "\n".join(lines[:50] + more),
    }


def recheck_prune(own: Deployment, planned: dict[str, Any]) -> dict[str, Any]:
    """Return the same plan if it still is the one. Raises HeadraceError if there is other work by now."""
    now = plan_prune(own, planned["retention"])
    if now.get("fingerprint") != planned["fingerprint"]:
        raise HeadraceError("The work of a prune is not what was approved: make a new plan.")
    return now


def prune(own: Deployment, planned: dict[str, Any]) -> dict[str, Any]:
    """Carry out a plan of `plan_prune`; returns how many trees went where."""
    kept = prune_checkpoints.Retention(**planned["retention"])
    done = prune_checkpoints.act(own.root, list(own.pipelines().values()), kept, planned["fingerprint"])
    deleted = sum(item.delete for item in done.items)
    return {"trashed": len(done.items) - deleted, "deleted": deleted}
