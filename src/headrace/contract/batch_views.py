"""Batch views: which queries have one, its columns, and the event times of one of its days.

A view holds a query's rows as the batch layer computes them from the archive, late records included, by day of event
time (UTC). Queries whose result is state by key have one: an aggregate in update mode, or a join. Other queries need
none: a complete-mode board repeats the totals, an append-mode window repeats the same window in update mode, and a
projection is the archive itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from headrace.contract.model import CassandraSink, Column, Pipeline, Query
from headrace.errors import HeadraceError

DAY = "day"  # see `day`
WINDOW_START, WINDOW_END = "window_start", "window_end"
CHUNK_DAYS = 50
CHUNK_RECORDS = 7_000_000

Kind = Literal["window", "running", "join"]


def views(pipeline: Pipeline) -> dict[str, Query]:
    """Return name -> query for the queries with a batch view; empty if the pipeline keeps no state by event time."""
    return {
        name: query
        for name, query in pipeline.queries.items()
        if _timed(pipeline, query) and (query.join is not None or (query.aggregate and query.mode == "update"))
    }


def kind(query: Query) -> Kind:
    """Return how a query with a view keeps its rows: by window, as running totals, or as joined rows."""
    if query.join:
        return "join"
    assert query.aggregate is not None
    return "window" if query.aggregate.window else "running"


def day_column(query: Query) -> str:
    """Return the timestamp column that determines the day of a row; running totals have none and use `day` itself.

    For a join it is the left side's event time: its required timestamp column. Raises HeadraceError if there is none.
    """
    if kind(query) == "window":
        return WINDOW_START
    if kind(query) == "running":
        return day(query)
    times = [name for name, column in query.columns.items() if column.type == "timestamp" and column.required]
    if not times:
        raise HeadraceError(
            "A join without a required timestamp column has no batch view. Add the left side's event time to its columns."
        )
    return times[0]


def columns(query: Query) -> dict[str, Column]:
    """Return the columns of a view: the day first, then the query's columns."""
    spec = Column(type="date", required=True, description="Day of event time, UTC.")
    return {day(query): spec} | dict(query.columns)


def day(query: Query) -> str:
    """Return the name of a view's first column, the day; another name if the query already has a column `day`."""
    return f"_headrace_{DAY}" if DAY in query.columns else DAY


def key(query: Query) -> list[str]:
    """Return the columns that identify a row: window and keys, or a join's Cassandra key (otherwise all columns)."""
    if query.aggregate:
        window = (WINDOW_START, WINDOW_END) if query.aggregate.window else ()
        return [*(name for name in window if name in query.columns), *query.aggregate.keys]
    sinks = [sink for sink in query.sinks if isinstance(sink, CassandraSink)]
    return [*sinks[0].partition_key, *sinks[0].clustering_key] if sinks else list(query.columns)


def values(query: Query) -> list[str]:
    """Return the summed columns of an aggregate: all numeric columns that are not keys."""
    numbers = ("decimal", "long", "int")
    return [name for name, c in query.columns.items() if name not in key(query) and c.type.startswith(numbers)]


def margin(query: Query) -> timedelta:
    """Return how far beyond the end of a day records still belong to a row of that day."""
    if query.join:
        upper = query.join.time_range.upper if query.join.time_range else None
        return upper or timedelta(0)
    assert query.aggregate is not None
    return query.aggregate.window.size if query.aggregate.window else timedelta(0)


def settles_after(pipeline: Pipeline) -> timedelta:
    """Return how long after midnight a day counts as closed: the longest window or range, plus the longest watermark."""
    delays = [delay for query in pipeline.queries.values() for delay in query.watermark.values()]
    margins = [margin(query) for query in views(pipeline).values()]
    return max(delays, default=timedelta(0)) + max(margins, default=timedelta(0))


def closed_until(pipeline: Pipeline, now: datetime) -> date:
    """Return the first day that is not closed at `now` (timezone-aware); all earlier days are closed."""
    return (now.astimezone(UTC) - settles_after(pipeline)).date()


def speed_windows(pipeline: Pipeline, name: str) -> str | None:
    """Return the tumbling query whose windows, summed, continue the running totals of `name` after the horizon.

    It has the same keys and the same summed columns; None if the pipeline declares no such query. Windows with an offset
    would begin before the horizon, which is midnight UTC, and end after it.
    """
    query = pipeline.queries[name]
    for other, candidate in pipeline.queries.items():
        window = candidate.aggregate.window if candidate.aggregate else None
        tumbling = window is not None and window.slide in (None, window.size) and not window.offset
        if (
            tumbling
            and candidate.mode == "update"
            and candidate.sources == query.sources
            and query.aggregate
            and candidate.aggregate
            and candidate.aggregate.keys == query.aggregate.keys
            and values(candidate) == values(query)
        ):
            return other
    return None


def chunks(days: Iterable[date], records: Mapping[date, int]) -> Iterator[list[date]]:
    """Yield the days in order, in groups that are computed together; the days of a group need not be consecutive.

    `records` maps days to their number of records, as far as known. A group has at most CHUNK_RECORDS records, or is a
    single day, and has at most CHUNK_DAYS days. A day of unknown size counts as a seventh of a group.
    """
    group: list[date] = []
    weight = 0
    for day in sorted(set(days)):
        size = records.get(day, CHUNK_RECORDS // 7)
        if group and (len(group) == CHUNK_DAYS or weight + size > CHUNK_RECORDS):
            yield group
            group, weight = [], 0
        group.append(day)
        weight += size
    if group:
        yield group


def between(first: date, past: date) -> list[date]:
    """Return the days from `first` up to but excluding `past`."""
    return [first + timedelta(days=n) for n in range((past - first).days)]


def _timed(pipeline: Pipeline, query: Query) -> bool:
    return all(pipeline.sources[topic].event_time is not None for topic in query.sources)
