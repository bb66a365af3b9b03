"""The tasks of the batch layer and of dead letters, one function for each task: plans with a text for a person, and rechecks."""

from __future__ import annotations

from headrace.contract.wording import code_span
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.batch import rebuild, repair
from headrace.operations.dead_letters import replay
from headrace.operations.dead_letters.reader import Filter
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval
from headrace.store.records import Json, to_json

SHOWN = 20


def plan_repair(deployment: Deployment, pipeline: str, run: str) -> Json:
    """Return the plan of a repair with `words` for a person. Raises HeadraceError if there is nothing to repair."""
    plan = repair.plan(deployment, pipeline, run)
    if not plan["rows"]:
        why = f": {'; '.join(plan['refused'])}" if plan["refused"] else ""
        raise HeadraceError(f"Run {run} of {pipeline} left nothing that can be repaired{why}.")
    lines = [f"- {code_span(repair.words(row))}" for row in plan["rows"]]
    more = [f"- and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    refused = [f"Not repaired: {code_span(why)}" for why in plan["refused"]]
    return {
        "pipeline": pipeline,
        "run": run,
        "rows": len(plan["rows"]),
        "fingerprint": plan["fingerprint"],
        "words": "\n".join([*lines[:SHOWN], *more, *refused]),
    }


def recheck_repair(deployment: Deployment, planned: Json) -> Json:
    """Return the same plan if it is still valid. Raises HeadraceError if a row has changed meanwhile."""
    replanned = plan_repair(deployment, planned["pipeline"], planned["run"])
    if replanned["fingerprint"] != planned["fingerprint"]:
        raise HeadraceError(f"Rows of {planned['pipeline']} have changed since the repair was approved: plan it again.")
    return replanned


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
