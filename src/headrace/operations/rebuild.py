"""Rebuild of a query from the archive for operators: plan, order, and the manifest that makes the result the one that runs.

For a query that retention has overtaken (`retention`). Plan -> approval -> Spark run (`streaming/rebuild.py`) -> finish.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from headrace.contract import archived, generation, names
from headrace.contract.generation import Generation
from headrace.errors import HeadraceError
from headrace.operations import batch_runs
from headrace.operations.checkpoints import restore
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment

ROWS_EACH = 1_000_000  # archived records a batch


def plan(deployment: Deployment, pipeline: str, query: str) -> dict[str, Any]:
    """Return what a rebuild would do: {pipeline, query, number, archived, again, first, blockers, fingerprint}. Changes nothing.

    `archived` is how many offsets come from the archive, `again` how many the new generation then reads from Kafka. A
    blocker names its remedy. Raises HeadraceError for a query that there is not, or that never ran.
    """
    found = deployment.pipeline(pipeline)
    if query not in found.queries:
        raise HeadraceError(f"{pipeline} has no query {query!r} to rebuild: there is {', '.join(found.queries)}.")
    reset = restore.plan_reset(deployment.launcher(), found, query)
    blockers = list(reset.blockers)
    told = 0
    again = 0
    first: dict[str, dict[str, int]] = {}
    for topic in found.queries[query].sources:
        ends = archived.reached(deployment.root, pipeline, topic)
        partitions = range(found.sources[topic].partitions)
        held = kafka_ranges(kafka_admin(deployment.bindings), {topic: dict.fromkeys(partitions, 0)})
        if not ends:
            blockers.append(
                f"the archive of {topic} does not tell how far it is: let the pipeline archive one batch more"
            )
        for (_, partition), (begin, end) in sorted(held.items()):
            reached = ends.get(partition, 0)
            told += reached
            again += max(0, end - max(begin, reached))
            if reached < begin and (reached or begin):
                blockers.append(
                    f"{topic}/{partition}: the archive ends at {reached}, Kafka begins at {begin}, what lies between is lost"
                )
            first.setdefault(topic, {})[str(partition)] = begin
    basis = [pipeline, query, reset.new_generation, reset.fingerprint, blockers]
    return {
        "pipeline": pipeline,
        "query": query,
        "number": reset.new_generation,
        "archived": told,
        "again": again,
        "first": first,
        "blockers": blockers,
        "fingerprint": hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:16],
    }


def give(
    deployment: Deployment,
    approved: Mapping[str, Any],
    *,
    by: str,
    reason: str,
    run: str | None = None,
    rows_each: int = ROWS_EACH,
) -> dict[str, Any]:
    """Order the rebuild that was approved (a dict of `plan`) and return the run (`batch_runs.give`).

    Raises HeadraceError where something blocks it, or it is no longer what was planned.
    """
    pipeline, query = str(approved["pipeline"]), str(approved["query"])
    now = plan(deployment, pipeline, query)
    name = names.query_name(pipeline, query)
    if now["blockers"]:
        raise HeadraceError(f"{name} cannot be rebuilt: {'; '.join(now['blockers'])}.")
    if now["fingerprint"] != approved["fingerprint"]:
        raise HeadraceError(f"{name} is not as it was when its rebuild was planned: look at a new plan.")
    order = {
        "query": query,
        "number": now["number"],
        "started_micros": generation.next_start_micros(deployment.root, pipeline, query),
        "first": now["first"],
        "rows_each": rows_each,
        "reason": reason,
        "by": by,
        "at_ms": time.time_ns() // 1_000_000,
    }
    return batch_runs.give(deployment.root, "rebuild", pipeline, order, run)


def finish(deployment: Deployment, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of a rebuilt generation: the next start goes on from it. Returns {pipeline, query, generation}.

    Raises HeadraceError if a driver came up meanwhile or another generation was begun: then nothing is changed.
    """
    values = dict(report["generation"])
    values["lineage"] = tuple(values["lineage"])
    made = Generation(**values)
    name = names.query_name(made.pipeline, made.query)
    current = generation.current(deployment.root, made.pipeline, made.query)
    if current and current.number == made.number and current.started_micros == made.started_micros:
        return {"pipeline": made.pipeline, "query": made.query, "generation": made.number}
    if deployment.launcher().find(made.pipeline):
        raise HeadraceError(
            f"A driver of {made.pipeline} came up meanwhile: stop it and finish the rebuild of {name} again."
        )
    if current and current.number >= made.number:
        raise HeadraceError(f"{name} has begun generation {current.number} meanwhile: plan its rebuild anew.")
    generation.write(deployment.root, made)
    return {"pipeline": made.pipeline, "query": made.query, "generation": made.number}
