"""Rebuild of a query from the archive, for operators: plan, job spec, and the manifest that makes the result current.

It is for a query that lost records to retention (`retention`). Plan -> approval -> Spark run (`batch/rebuild.py`) -> finish.
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

ROWS_EACH = 1_000_000  # archived records in each batch


@dataclass(frozen=True)
class RebuildPlan:
    """What a rebuild would do, JSON-safe for an approval.

    `number` is the number of the new generation. `archived` offsets come from the archive; `again` offsets are then read from
    Kafka. `first` is the first offset in Kafka of each partition. `fingerprint` is the id of the plan.
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
    """Return what a rebuild would do. Changes nothing. Raises HeadraceError if the query is unknown or never ran."""
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
        ranges = kafka_ranges(kafka_admin(deployment.bindings), {topic: dict.fromkeys(partitions, 0)})
        if not ends:
            blockers.append(
                f"the archive of {topic} does not say how far it is: let the pipeline archive one batch more"
            )
        for (_, partition), (begin, end) in sorted(ranges.items()):
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
    """Write the job spec of an approved rebuild and return the run.

    Raises HeadraceError if something blocks the rebuild, or if it differs from the plan.
    """
    pipeline, query = approved.pipeline, approved.query
    replanned = plan(deployment, pipeline, query)
    name = names.query_name(pipeline, query)
    if replanned.blockers:
        raise HeadraceError(f"{name} cannot be rebuilt: {'; '.join(replanned.blockers)}.")
    if replanned.fingerprint != approved.fingerprint:
        raise HeadraceError(f"{name} is not as it was when its rebuild was planned: look at a new plan.")
    spec = RebuildSpec(
        query=query,
        number=replanned.number,
        started_micros=generation.next_start_micros(deployment.root, pipeline, query),
        first=replanned.first,
        rows_each=rows_each,
        reason=reason,
        by=by,
        at_ms=time.time_ns() // 1_000_000,
    )
    return job_runs.prepare(deployment.root, "rebuild", pipeline, spec, run)


def finish(deployment: Deployment, report: Json) -> Json:
    """Write the manifest of a rebuilt generation: the next start continues from it. Returns {pipeline, query, generation}.

    Raises HeadraceError, and changes nothing, if a driver was started meanwhile or another generation began.
    """
    values = dict(report["generation"])
    values["lineage"] = tuple(values["lineage"])
    rebuilt = Generation(**values)
    name = names.query_name(rebuilt.pipeline, rebuilt.query)
    current = generation.current(deployment.root, rebuilt.pipeline, rebuilt.query)
    if current and current.number == rebuilt.number and current.started_micros == rebuilt.started_micros:
        return {"pipeline": rebuilt.pipeline, "query": rebuilt.query, "generation": rebuilt.number}
    if deployment.launcher().find(rebuilt.pipeline):
        raise HeadraceError(
            f"A driver of {rebuilt.pipeline} came up meanwhile: stop it and finish the rebuild of {name} again."
        )
    if current and current.number >= rebuilt.number:
        raise HeadraceError(f"{name} has begun generation {current.number} meanwhile: plan its rebuild again.")
    generation.write(deployment.root, rebuilt)
    return {"pipeline": rebuilt.pipeline, "query": rebuilt.query, "generation": rebuilt.number}
