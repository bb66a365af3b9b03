"""Batch views for operators: plan the days, and what the views hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from headrace.contract import names, paths, storage, views
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import batch_runs
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.supervisor_observe import KafkaEnds


def plan(
    deployment: Deployment,
    pipeline: str,
    *,
    first: str | None = None,
    last: str | None = None,
    run: str | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Order the views of a pipeline and return the run (`batch_runs.give`).

    Without days: those that are closed and new, and those that late records touched. `first` and `last` (ISO days,
    both included) order a backfill: these days are computed again. Raises HeadraceError for days that are not closed.
    """
    found = deployment.pipeline(pipeline)
    wanted = views.views(found)
    if not wanted:
        raise HeadraceError(f"{pipeline} has no batch views: it keeps no state by event time.")
    closed = views.closed_until(found, now or datetime.now(UTC))
    topics = sorted({topic for query in wanted.values() for topic in query.sources})
    days = _days(first, last, closed)
    ends = KafkaEnds(deployment.bindings)(topics)
    held = kafka_ranges(kafka_admin(deployment.bindings), ends)
    begins: dict[str, dict[str, int]] = {topic: {} for topic in topics}
    for (topic, partition), (begin, _) in sorted(held.items()):
        begins[topic][str(partition)] = begin
    order = {
        "closed_until": str(closed),
        "begins": begins,
        "ends": {topic: {str(p): end for p, end in sorted(parts.items())} for topic, parts in ends.items()},
        "days": days,
    }
    return batch_runs.give(deployment.root, "views", pipeline, order, run)


def status(root: str, pipeline: Pipeline) -> dict[str, Any]:
    """Return the views of a pipeline: tables, horizon (first day that is not in them), days and their newest run.

    `stale` are the days that were computed before a view got a column, and that the next run computes again.
    """
    state: dict[str, Any] = storage.read_json(paths.view_state(root, pipeline.name)) or {"days": {}}
    return {
        "pipeline": pipeline.name,
        "tables": [names.batch_view_table(pipeline.name, query) for query in views.views(pipeline)],
        "horizon": state.get("horizon"),
        "days": state["days"],
        "stale": state.get("stale", []),
    }


def behind(report: Mapping[str, Any]) -> list[str]:
    """Return, in words, each partition of which the archive lacked records when the views of a report were computed."""
    return [
        f"{report['pipeline']}: the archive of {each['topic']}/{each['partition']} is at {each['reached']} of {each['end']}: "
        f"see headrace stream status {report['pipeline']}"
        for each in report["behind"]
    ]


def _days(first: str | None, last: str | None, closed: date) -> Sequence[str] | None:
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
    return [str(day) for day in [*views.between(begin, end), end]]
