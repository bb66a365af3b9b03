"""Batch views: a query's rows over the archive, by the same transform that the stream runs, day by day of event time.

A day is written as a whole and in one Iceberg commit, so that a day that is computed again is replaced. Records that came
late for the stream are in it; records that come after the view was computed make their day be computed again by the
next run. Days are UTC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import archived, names, paths, storage, views
from headrace.contract.model import Query, Source
from headrace.contract.spark import ddl
from headrace.errors import HeadraceError
from headrace.streaming import batch, batch_archive, tables
from headrace.streaming.batch_archive import Archive
from headrace.streaming.batch_job import Job

WAIT_SECONDS = 60.0
SNAPSHOT_RUN = "headrace-run"


def run(job: Job, order: Mapping[str, Any]) -> dict[str, Any]:
    """Compute days of all views of a pipeline and return the report.

    The order has `closed_until` (ISO day: all before it are closed), `ends` (topic -> partition -> offset that the
    archive must have reached) and `days` (ISO days to compute again; None: those that are new or were touched).
    """
    began = time.monotonic()
    wanted = views.views(job.pipeline)
    topics = sorted({topic for query in wanted.values() for topic in query.sources})
    archives = await_archives(job, topics, order["ends"])
    closed = _closed_until(job, archives, order)
    state: dict[str, Any] = storage.read_json(paths.view_state(job.root, job.pipeline.name)) or {"days": {}}
    chosen = order["days"]
    days = [date.fromisoformat(day) for day in chosen] if chosen is not None else due(job, archives, state, closed)
    early = [str(day) for day in days if day >= closed]
    if early:
        raise HeadraceError(
            f"{', '.join(early)} cannot be computed yet: days before {closed} are closed and archived, later ones are not."
        )
    for name, query in wanted.items():
        create(job.spark, job.pipeline.name, name, query)
    chunks = list(views.chunks(days))
    rows: dict[str, int] = dict.fromkeys(wanted, 0)
    for number, chunk in enumerate(chunks):
        job.progress(number, len(chunks), f"{chunk[0]} to {chunk[-1]}")
        counts, sums = _write(job, archives, wanted, chunk)
        for name, count in counts.items():
            rows[name] += count
        state["sums"] = {name: state.get("sums", {}).get(name, True) and sums[name] for name in sums}
        stamp = {"run": job.run, "at_ms": time.time_ns() // 1_000_000}
        state["days"] |= {str(day): stamp for day in chunk}
        storage.write_json(paths.view_state(job.root, job.pipeline.name), state)
    if chosen is None:
        state |= {"horizon": str(closed), "covered": {topic: archive.ends for topic, archive in archives.items()}}
        storage.write_json(paths.view_state(job.root, job.pipeline.name), state)
    for name in wanted:
        tables.tend_own(job.spark, job.root, names.batch_view_table(job.pipeline.name, name))
    job.progress(len(chunks), len(chunks), "done")
    return {
        "run": job.run,
        "pipeline": job.pipeline.name,
        "days": [str(day) for day in days],
        "rows": rows,
        "horizon": state.get("horizon"),
        "archive": {topic: archive.ends for topic, archive in archives.items()},
        "repeats": {topic: archive.repeats for topic, archive in archives.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def compute(query: Query, sides: Mapping[str, DataFrame], times: Mapping[str, str], transform: Callable[..., DataFrame],
            days: Sequence[date]) -> DataFrame:  # fmt: skip
    """Return the view's rows of neighbouring days: `day`, then the query's columns.

    `sides` are the transform's parameters: accepted records, at least those of the days and of the query's margin after
    them; `times` names the event-time column of each.
    """
    first, past = days[0], days[-1] + timedelta(days=1)
    if views.kind(query) == "running":
        (topic,) = query.sources
        parts = [
            transform(_within(sides[topic], times[topic], day, day + timedelta(days=1))).withColumn(
                views.day(query), F.lit(day)
            )
            for day in days
        ]
        rows = reduce(DataFrame.unionByName, parts)
    elif views.kind(query) == "window":
        (topic,) = query.sources
        rows = transform(_within(sides[topic], times[topic], first, past, views.margin(query)))
        rows = _within(
            rows.withColumn(views.day(query), F.to_date(views.WINDOW_START)), views.WINDOW_START, first, past
        )
    else:
        assert query.join is not None
        left, right = query.join.left, query.join.right
        own = {
            left: _within(sides[left], times[left], first, past),
            right: _within(sides[right], times[right], first, past, views.margin(query)),
        }
        rows = transform(**own).dropDuplicates(views.key(query))
        rows = rows.withColumn(views.day(query), F.to_date(views.day_column(query)))
    return rows.select(*views.columns(query))


def due(job: Job, archives: Mapping[str, Archive], state: Mapping[str, Any], closed: date) -> list[date]:
    """Return the closed days that the views lack, and those that records touched which came since the last run."""
    old = date.fromisoformat(state["horizon"]) if state.get("horizon") else None
    touched: set[date] = set()
    for topic, archive in archives.items():
        if archive.snapshot is None:
            continue
        contract = job.pipeline.sources[topic]
        fresh = batch_archive.beyond(batch_archive.records(job.spark, archive), state.get("covered", {}).get(topic, {}))
        typed = batch_archive.accepted(job.pipeline, topic, fresh, ())
        rows = typed.select(F.to_date(time_of(contract)).alias("day")).distinct().collect()
        touched |= _days_of(job, topic, {row.day for row in rows})
    found = {day for day in touched if day < closed}
    return sorted(found | set(views.between(old, closed)) if old else found)


def await_archives(job: Job, topics: Sequence[str], ends: Mapping[str, Mapping[str, int]]) -> dict[str, Archive]:
    """Pin every topic's archive once it has reached `ends`, or when it has not within a minute (it may be stopped)."""
    deadline = time.monotonic() + WAIT_SECONDS
    name = job.pipeline.name
    while True:
        # No table has to be read for that.
        reached = {topic: archived.reached(job.root, name, topic) for topic in topics}
        late = time.monotonic() > deadline
        behind = [t for t in topics if reached[t] and not batch_archive.covers(reached[t], ends.get(t, {}))]
        if not behind or late:
            found = {topic: batch_archive.pin(job.spark, name, topic, reached[topic]) for topic in topics}
            behind = [topic for topic, archive in found.items() if not archive.covers(ends.get(topic, {}))]
            if not behind or late:
                return found
        job.progress(0, 1, f"waits for the archive of {', '.join(behind)}")
        time.sleep(2)


def create(spark: SparkSession, pipeline: str, name: str, query: Query) -> None:
    """Create the table of a view if it is absent: one partition a day."""
    table = names.batch_view_table(pipeline, name)
    spark.sql(
        f"CREATE TABLE IF NOT EXISTS {table} ({ddl(views.columns(query))}) USING iceberg PARTITIONED BY ({views.day(query)})"
    )


def time_of(contract: Source) -> str:
    """Return the event-time column of a source that has one."""
    assert contract.event_time is not None
    return contract.event_time.column


def begins(day: date) -> datetime:
    """Return midnight, UTC, that a day begins with."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def are_sums(query: Query, side: DataFrame, transform: Callable[..., DataFrame]) -> bool:
    """Return whether running totals of two halves of the records add up to those of all: only sums can be served by day."""
    key, values = views.key(query), views.values(query)
    half = F.pmod(F.hash(*side.columns), F.lit(2))
    parts = transform(side.where(half == 0)).unionByName(transform(side.where(half == 1)))
    sums = [F.sum(value).alias(value) for value in values]
    added = parts.groupBy(*key).agg(*sums) if sums else parts.select(*key).distinct()
    together = batch.matched({"all": transform(side), "added": added}, key, values)
    return bool(batch.unlike(together, "all", "added", values).isEmpty())


def _write(
    job: Job, archives: Mapping[str, Archive], wanted: Mapping[str, Query], days: list[date]
) -> tuple[dict[str, int], dict[str, bool]]:
    """Compute and replace the days in every view; returns how many rows each got, and which running totals are sums."""
    sides, times = {}, {}
    past = days[-1] + timedelta(days=1)
    longest = max(views.margin(query) for query in wanted.values())
    for topic, archive in archives.items():
        contract = job.pipeline.sources[topic]
        assert contract.event_time is not None
        times[topic] = time_of(contract)
        # An accepted event time is at most the broker's time and the skew, so no record of these days came before.
        since = begins(days[0]) - contract.event_time.accepted_skew
        rows = (
            batch_archive.records(job.spark, archive, since)
            if archive.snapshot is not None
            else job.spark.table(names.archive_table(job.pipeline.name, topic))
        )
        typed = batch_archive.accepted(job.pipeline, topic, rows, ())
        sides[topic] = _within(typed, times[topic], days[0], past, longest).persist(StorageLevel.MEMORY_AND_DISK)
    counts: dict[str, int] = {}
    sums: dict[str, bool] = {}
    try:
        for name, query in wanted.items():
            table = names.batch_view_table(job.pipeline.name, name)
            own = {topic: sides[topic] for topic in query.sources}
            frame = compute(query, own, times, job.transforms[name], days)
            replaced = F.col(views.day(query)).isin(*days)
            frame.writeTo(table).option(f"snapshot-property.{SNAPSHOT_RUN}", job.run).overwrite(replaced)
            counts[name] = job.spark.table(table).where(replaced).count()
            if views.kind(query) == "running":
                sums[name] = are_sums(query, sides[query.sources[0]], job.transforms[name])
    finally:
        for side in sides.values():
            side.unpersist()
    return counts, sums


def _closed_until(job: Job, archives: Mapping[str, Archive], order: Mapping[str, Any]) -> date:
    """Return the first day that is not closed: what was asked for, or earlier where the archive is behind."""
    closed = date.fromisoformat(order["closed_until"])
    for topic, archive in archives.items():
        for number, end in order["ends"].get(topic, {}).items():
            part = archive.partitions.get(int(number))
            if not archive.covers({number: end}):
                reached = (
                    datetime.fromtimestamp(part.newest_ms / 1000, UTC) if part else datetime(1970, 1, 2, tzinfo=UTC)
                )
                closed = min(closed, views.closed_until(job.pipeline, reached))
    return closed


def _days_of(job: Job, topic: str, days: set[date]) -> set[date]:
    """Return the days of rows that records of these days take part in: a join's or window's day may be the one before."""
    reach = max(
        (views.margin(query) for query in views.views(job.pipeline).values() if topic in query.sources),
        default=timedelta(0),
    )
    before = 0 if not reach else -(-reach // timedelta(days=1))
    return {day - timedelta(days=back) for day in days for back in range(before + 1)}


def _within(frame: DataFrame, column: str, first: date, past: date, margin: timedelta = timedelta(0)) -> DataFrame:
    time_, end = F.col(column), begins(past) + margin
    return frame.where((time_ >= F.lit(begins(first))) & (time_ <= F.lit(end) if margin else time_ < F.lit(end)))
