"""Batch views for operators: plan the days, and show the state of the views."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from headrace.contract import batch_views, names
from headrace.contract.job_files import Ends, ViewsSpec
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.supervisor.observe import KafkaEnds
from headrace.store import view_state
from headrace.store.job_reports import ViewsReport
from headrace.store.view_state import ViewDay


def plan(
    deployment: Deployment,
    pipeline: str,
    *,
    first: str | None = None,
    last: str | None = None,
    run: str | None = None,
    now: datetime | None = None,
) -> BatchRun:
    """Write the job spec of a pipeline's views and return the run.

    Without `first` and `last`: the closed new days, and the days that received late records. `first` and `last` (ISO days, both
    included) request a backfill: these days are computed again. Raises HeadraceError for days that are not closed.
    """
    described = deployment.pipeline(pipeline)
    wanted = batch_views.views(described)
    if not wanted:
        raise HeadraceError(f"{pipeline} has no batch views: it keeps no state by event time.")
    closed = batch_views.closed_until(described, now or datetime.now(UTC))
    topics = sorted({topic for query in wanted.values() for topic in query.sources})
    days = _days(first, last, closed)
    ends = KafkaEnds(deployment.bindings)(topics)
    ranges = kafka_ranges(kafka_admin(deployment.bindings), ends)
    begins: Ends = {topic: {} for topic in topics}
    for (topic, partition), (begin, _) in sorted(ranges.items()):
        begins[topic][str(partition)] = begin
    spec = ViewsSpec(
        closed_until=str(closed),
        begins=begins,
        ends={topic: {str(p): end for p, end in sorted(parts.items())} for topic, parts in ends.items()},
        days=days,
    )
    return job_runs.prepare(deployment.root, "views", pipeline, spec, run)


@dataclass(frozen=True)
class ViewsStatus:
    """The views of a pipeline: tables, horizon (the first day not in them), days and their newest run.

    `stale` are the days that were computed before a view got a new column, `outdated` (view -> days) those that were computed
    before the pipeline file gave a view other keys, windows, joins or accepted records. The next run computes them again.
    """

    pipeline: str
    tables: tuple[str, ...]
    horizon: str | None
    days: dict[str, ViewDay]
    stale: tuple[str, ...]
    outdated: dict[str, tuple[str, ...]]


def status(root: str, pipeline: Pipeline) -> ViewsStatus:
    """Return the state of a pipeline's views."""
    state = view_state.read(root, pipeline.name)
    served = batch_views.views(pipeline)
    tables = tuple(names.batch_view_table(pipeline.name, query) for query in served)
    outdated = {name: tuple(sorted(view_state.outdated(state, pipeline, name))) for name in served}
    outdated = {name: days for name, days in outdated.items() if days}
    return ViewsStatus(pipeline.name, tables, state.horizon, state.days, state.stale, outdated)


def behind(report: ViewsReport) -> list[str]:
    """Return a text for each partition whose records were not all in the archive when the views of a report were computed."""
    return [
        f"{report.pipeline}: the archive of {lag.topic}/{lag.partition} is at {lag.reached} of {lag.end}: "
        f"see headrace stream status {report.pipeline}"
        for lag in report.behind
    ]


def fewer(report: ViewsReport) -> list[str]:
    """Return a text for each day that has fewer records in a report than when it was computed before."""
    return [
        f"{report.pipeline}: {day} has {now} records and had {then}: the archive no longer has the others, or today's contract "
        "refuses them, so the views no longer hold them"
        for day, (then, now) in sorted(report.fewer.items())
    ]


def _days(first: str | None, last: str | None, closed: date) -> tuple[str, ...] | None:
    if first is None and last is None:
        return None
    try:
        begin, end = date.fromisoformat(first or last or ""), date.fromisoformat(last or first or "")
    except ValueError as error:
        raise HeadraceError(f"A backfill takes days as 2026-11-23: {error}.") from error
    if end < begin:
        raise HeadraceError(f"The backfill ends on {end}, before it begins on {begin}.")
    if end >= closed:
        raise HeadraceError(f"{end} is not closed yet: days before {closed} can be computed.")
    return tuple(str(day) for day in [*batch_views.between(begin, end), end])
