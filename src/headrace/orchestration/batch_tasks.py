"""The tasks of the batch layer and of dead letters, one function for each task: plans for their approval, and acts."""

from __future__ import annotations

from headrace.operations import plans
from headrace.operations.batch import rebuild, repair
from headrace.operations.dead_letters import replay
from headrace.operations.dead_letters.reader import Filter
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval
from headrace.store.records import Json, to_json


def plan_repair(deployment: Deployment, pipeline: str, run: str) -> Json:
    """Return the plan of a repair for its approval. Raises HeadraceError if there is nothing to repair."""
    return plans.for_approval(repair.plan(deployment, pipeline, run))


def repair_rows(deployment: Deployment, pipeline: str, run: str, approval: Approval) -> Json:
    """Write and delete the rows of an approved plan. Returns what `repair.Repaired` has."""
    return to_json(repair.act(deployment, pipeline, run, approval))


def plan_rebuild(deployment: Deployment, pipeline: str, query: str) -> Json:
    """Return the plan of a rebuild for its approval. Raises HeadraceError if something blocks it."""
    return plans.for_approval(rebuild.plan(deployment, pipeline, query))


def plan_replay(deployment: Deployment, topic: str, reason: str, *, again: bool, by: str) -> Json:
    """Choose letters and return their plan for its approval. Raises HeadraceError if no letter can be replayed."""
    chosen, readers = Filter(reason=reason or None), replay.readers_of(deployment.pipelines().values(), topic)
    plan = replay.plan(deployment.root, deployment.bindings, topic, chosen, readers=readers, again=again, by=by)
    return plans.for_approval(plan)


def replay_letters(deployment: Deployment, topic: str, approval: Approval) -> Json:
    """Send the letters of an approved plan. Returns {plan, topic, sent}."""
    readers = replay.readers_of(deployment.pipelines().values(), topic)
    return to_json(replay.act(deployment.root, deployment.bindings, topic, approval, readers=readers))
