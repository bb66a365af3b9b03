"""The tasks of the batch layer and of dead letters, one function for each task: plans with a text for a person, and rechecks."""

from __future__ import annotations

from headrace.contract.wording import code_span
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.batch import rebuild, repair
from headrace.operations.dead_letters import replay
from headrace.operations.dead_letters.reader import Filter
from headrace.operations.deployment import Deployment
from headrace.store.records import Json

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


def plan_replay(deployment: Deployment, topic: str, reason: str, *, again: bool, run: str, by: str) -> Json:
    """Choose letters, store the plan, and return it with `words`. Raises HeadraceError if no letter can be replayed."""
    plan = replay.plan(
        deployment.root, deployment.bindings, topic, Filter(reason=reason or None), again=again, run=run, by=by,
        readers=replay.readers_of(deployment.pipelines().values(), topic),
    )  # fmt: skip
    taken_text = replay.taken_words(plan)
    if not plan["letters"]:
        raise HeadraceError(
            f"No dead letter of {topic} can be replayed; left out: {plan['left_out']}. {taken_text}".strip()
        )
    reasons = ", ".join(f"{count} {code_span(word)}" for word, count in sorted(plan["reasons"].items()))
    return plan | {
        "words": f"{plan['letters']} letters of **{topic}**: {reasons}. Left out: {plan['left_out']}. {taken_text}".strip()
    }


def recheck_replay(deployment: Deployment, planned: Json) -> Json:
    """Return the plan if its letters are still the approved ones. Raises HeadraceError if some were replayed meanwhile."""
    known = replay.history(deployment.root, planned["topic"])
    journal = next(
        entry for entry in replay.journals(deployment.root, planned["topic"]) if entry["run"] == planned["run"]
    )
    if replay.fingerprint(journal["ids"]) != planned["fingerprint"]:
        raise HeadraceError(f"Replay {planned['run']} is not what was approved: plan it again.")
    meanwhile = [letter for letter in journal["ids"] if known.replayed.get(letter, planned["run"]) != planned["run"]]
    if meanwhile and not journal["again"]:
        raise HeadraceError(f"{len(meanwhile)} letters were replayed since this was approved: plan it again.")
    return planned
