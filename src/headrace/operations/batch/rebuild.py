"""Rebuild of a query from the archive for operators: plan, job spec, and the manifest that makes the result the one that runs.

For a query that retention has overtaken (`retention`). Plan -> approval -> Spark run (`batch/rebuild.py`) -> finish.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from headrace.contract import names
from headrace.contract.job_files import Ends, RebuildSpec
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.checkpoints import restore
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.store import archive_notes as archived
from headrace.store import generation
from headrace.store.generation import Generation
from headrace.store.records import Json, short_id

ROWS_EACH = 1_000_000  # archived records a batch


@dataclass(frozen=True)
class RebuildPlan:
    """What a rebuild would do, JSON-safe for an approval.

    `number` is that of the new generation; `archived` offsets come from the archive, `again` are then read from Kafka.
    `first` is where Kafka begins. A blocker names its remedy. `fingerprint` is the id of the plan.
    """

    pipeline: str = ""
    query: str = ""
    number: int = 0
    archived: int = 0
    again: int = 0
    first: Ends = field(default_factory=dict)
    blockers: tuple[str, ...] = ()
    fingerprint: str = ""


def plan(deployment: Deployment, pipeline: str, query: str) -> RebuildPlan:
    """Return what a rebuild would do. Changes nothing. Raises HeadraceError for an unknown query, or one that never ran."""
    described = deployment.pipeline(pipeline)
    if query not in described.queries:
        raise HeadraceError(f"Unknown query {query!r} of {pipeline}. Known queries: {', '.join(described.queries)}.")
    reset = restore.plan_reset(deployment.launcher(), described, query)
    blockers = list(reset.blockers)
    from_archive, again = 0, 0
    first: Ends = {}
    for topic in described.queries[query].sources:
        ends = archived.reached(deployment.root, pipeline, topic)
        partitions = range(described.sources[topic].partitions)
        held = kafka_ranges(kafka_admin(deployment.bindings), {topic: dict.fromkeys(partitions, 0)})
        if not ends:
            blockers.append(
                f"the archive of {topic} does not say how far it is: let the pipeline archive one batch more"
            )
        for (_, partition), (begin, end) in sorted(held.items()):
            reached = ends.get(partition, 0)
            from_archive += reached
            again += max(0, end - max(begin, reached))
            if reached < begin and (reached or begin):
                blockers.append(
                    f"{topic}/{partition}: the archive ends at {reached}, Kafka begins at {begin}, what lies between is lost"
                )
            first.setdefault(topic, {})[str(partition)] = begin
    basis = [pipeline, query, reset.new_generation, reset.fingerprint, blockers]
    return RebuildPlan(
        pipeline=pipeline,
        query=query,
        number=reset.new_generation,
        archived=from_archive,
        again=again,
        first=first,
        blockers=tuple(blockers),
        fingerprint=short_id(basis),
    )


def prepare(
    deployment: Deployment,
    approved: RebuildPlan,
    *,
    by: str,
    reason: str,
    run: str | None = None,
    rows_each: int = ROWS_EACH,
) -> BatchRun:
    """Write the job spec of the rebuild that was approved, and return the run.

    Raises HeadraceError if something blocks it, or it is no longer what was planned.
    """
    pipeline, query = approved.pipeline, approved.query
    now = plan(deployment, pipeline, query)
    name = names.query_name(pipeline, query)
    if now.blockers:
        raise HeadraceError(f"{name} cannot be rebuilt: {'; '.join(now.blockers)}.")
    if now.fingerprint != approved.fingerprint:
        raise HeadraceError(f"{name} is not as it was when its rebuild was planned: look at a new plan.")
    spec = RebuildSpec(
        query=query,
        number=now.number,
        started_micros=generation.next_start_micros(deployment.root, pipeline, query),
        first=now.first,
        rows_each=rows_each,
        reason=reason,
        by=by,
        at_ms=time.time_ns() // 1_000_000,
    )
    return job_runs.prepare(deployment.root, "rebuild", pipeline, spec, run)


def finish(deployment: Deployment, report: Json) -> Json:
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
        raise HeadraceError(f"{name} has begun generation {current.number} meanwhile: plan its rebuild again.")
    generation.write(deployment.root, made)
    return {"pipeline": made.pipeline, "query": made.query, "generation": made.number}
