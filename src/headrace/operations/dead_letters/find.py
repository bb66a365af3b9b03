"""Find the records that end a query, for operators: a finite Spark run (`batch.find_records`) over its planned batch."""

from __future__ import annotations

from collections.abc import Callable

from headrace.contract import names
from headrace.contract.job_files import Ends, FindSpec
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.deployment import Deployment
from headrace.store import checkpoint_log, generation
from headrace.store.checkpoint_log import Offsets
from headrace.store.job_reports import FindReport
from headrace.store.quarantine import OffsetRange

LIMIT = 20
"""The number of records after which a search ends."""


def planned_batch(root: str, pipeline: str, query: str) -> int | None:
    """Return the batch that a query has planned and not committed: the one that its driver ended in, if it crashed."""
    current = generation.current(root, pipeline, query)
    if current is None:
        return None
    folder = current.paths(root).checkpoint
    planned, committed = checkpoint_log.newest_batch(folder, "offsets"), checkpoint_log.newest_batch(folder)
    return planned if planned is not None and planned > (-1 if committed is None else committed) else None


def prepare(
    deployment: Deployment, pipeline: Pipeline, query: str, limit: int = LIMIT, run: str | None = None
) -> BatchRun:
    """Write the job spec of a search in the planned batch of a query and return the run, by the name `run` if given.

    Raises HeadraceError if the driver runs, or if there is no such batch.
    """
    name = names.query_name(pipeline.name, query)
    if running := deployment.launcher().find(pipeline.name):
        raise HeadraceError(
            f"The driver of {pipeline.name} runs ({running[0].where}). Stop it first: headrace stream stop {pipeline.name}"
        )
    batch = planned_batch(deployment.root, pipeline.name, query)
    current = generation.current(deployment.root, pipeline.name, query)
    if batch is None or current is None:
        raise HeadraceError(
            f"{name} has no batch that was planned and not committed, so no record of it ended a driver. "
            f"See `headrace stream status {pipeline.name}` for what did."
        )
    planned = checkpoint_log.read_batch_range(current.paths(deployment.root).checkpoint, batch)
    starts = {topic: {p: planned.start.get(topic, {}).get(p, 0) for p in parts} for topic, parts in planned.end.items()}
    spec = FindSpec(query=query, batch=batch, starts=_texts(starts), ends=_texts(planned.end), limit=limit)
    return job_runs.prepare(deployment.root, "find", pipeline.name, spec, run)


def find(
    deployment: Deployment,
    pipeline: Pipeline,
    query: str,
    limit: int = LIMIT,
    report: Callable[[str, float | None], None] | None = None,
) -> FindReport:
    """Search on this machine and return what was found."""
    return job_runs.execute(deployment, prepare(deployment, pipeline, query, limit), FindReport, report)


def quarantine_command(pipeline: str, report: FindReport) -> str | None:
    """Return the command that shows the plan to pass over the records that were found, None without any."""
    if not report.records:
        return None
    command = f"headrace dead-letters quarantine {pipeline} --query {report.query.partition('.')[2]}"
    return " ".join([command, *(f"--offsets {part}" for part in ranges(report))])


def ranges(report: FindReport) -> list[OffsetRange]:
    """Return the offsets of the records that were found, one range each."""
    return [OffsetRange(record.topic, record.partition, record.offset, record.offset) for record in report.records]


def words(report: FindReport) -> str:
    """Return what a search found, as a sentence."""
    where = f"batch {report.batch} of {report.query} ({report.offsets} offsets, {report.runs} runs)"
    count = len(report.records)
    if count:
        more = "" if report.complete else "; the search ended there, more may fail"
        subject, verb = ("1 record", "fails") if count == 1 else (f"{count} records", "fail")
        return f"{subject} of {where} {verb} alone{more}."
    if report.together:
        return (
            f"No record of {where} fails alone, but all of them together do: {report.together}. Correct the transform."
        )
    return f"The transform succeeds on all records of {where}. The fault is in the state, a sink or a store, not in a record."


def _texts(offsets: Offsets) -> Ends:
    return {topic: {str(number): offset for number, offset in parts.items()} for topic, parts in offsets.items()}
