"""Rebuild of a query from the archive, for operators: plan, job spec, and the manifest that makes the result current.

It is for a query that lost records to retention (`retention`). Plan -> approval (ADR 48) -> Spark run (`batch/rebuild.py`) ->
finish.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace.contract import names
from headrace.contract.job_files import Ends, RebuildSpec
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.batch import job_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.checkpoints import restore
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval, Plan
from headrace.store import archive_notes as archived
from headrace.store import generation
from headrace.store.job_reports import RebuildReport

ROWS_EACH = 1_000_000  # archived records in each batch


@dataclass(frozen=True)
class _Survey:
    """What a rebuild would read: `archived` offsets from the archive, then `again` from Kafka, which begins at `first`."""

    archived: int
    again: int
    first: Ends
    blockers: tuple[str, ...]


def plan(deployment: Deployment, pipeline: str, query: str) -> Plan:
    """Return what a rebuild would do. Changes nothing. Raises HeadraceError if the query is unknown or never ran."""
    described = deployment.pipeline(pipeline)
    if query not in described.queries:
        raise HeadraceError(f"Unknown query {query!r} of {pipeline}. Known queries: {', '.join(described.queries)}.")
    restore.require_ran(deployment.root, pipeline, query)
    return _plan(deployment, pipeline, query, _survey(deployment, described, query))


def _plan(deployment: Deployment, pipeline: str, query: str, surveyed: _Survey) -> Plan:
    note = f"{surveyed.archived:,} offsets from the archive, then {surveyed.again:,} from Kafka"
    items = restore.succession(deployment.root, pipeline, query, "from the archive, then from Kafka", note)
    return Plan("rebuild", names.query_name(pipeline, query), items, surveyed.blockers)


def _survey(deployment: Deployment, described: Pipeline, query: str) -> _Survey:
    pipeline = described.name
    blockers = restore.blockers(deployment.launcher(), pipeline)
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
    return _Survey(from_archive, again, first, tuple(blockers))


def prepare(
    deployment: Deployment,
    pipeline: str,
    query: str,
    approval: Approval,
    run: str | None = None,
    rows_each: int = ROWS_EACH,
) -> BatchRun:
    """Write the job spec of an approved rebuild and return the run. Raises HeadraceError as `plans.begin` does."""
    surveyed = _survey(deployment, deployment.pipeline(pipeline), query)
    plans.begin(deployment.root, _plan(deployment, pipeline, query, surveyed), approval)
    spec = RebuildSpec(
        query=query,
        number=generation.next_number(deployment.root, pipeline, query),
        started_micros=generation.next_start_micros(deployment.root, pipeline, query),
        first=surveyed.first,
        rows_each=rows_each,
        reason=approval.reason,
        by=approval.by,
        at_ms=time.time_ns() // 1_000_000,
    )
    return job_runs.prepare(deployment.root, "rebuild", pipeline, spec, run)


@dataclass(frozen=True)
class Rebuilt:
    """The result of a rebuild: the generation from which the next start continues."""

    pipeline: str
    query: str
    generation: int


def finish(deployment: Deployment, report: RebuildReport) -> Rebuilt:
    """Write the manifest of a rebuilt generation, which the report of its run has. It may be repeated.

    Raises HeadraceError, and changes nothing, if a driver was started meanwhile or another generation began.
    """
    rebuilt = report.generation
    name = names.query_name(rebuilt.pipeline, rebuilt.query)
    done = Rebuilt(rebuilt.pipeline, rebuilt.query, rebuilt.number)
    current = generation.current(deployment.root, rebuilt.pipeline, rebuilt.query)
    if current and current.number == rebuilt.number and current.started_micros == rebuilt.started_micros:
        return done
    if deployment.launcher().find(rebuilt.pipeline):
        raise HeadraceError(
            f"A driver of {rebuilt.pipeline} came up meanwhile: stop it and finish the rebuild of {name} again."
        )
    if current and current.number >= rebuilt.number:
        raise HeadraceError(f"{name} has begun generation {current.number} meanwhile: plan its rebuild again.")
    generation.write(deployment.root, rebuilt)
    return done
