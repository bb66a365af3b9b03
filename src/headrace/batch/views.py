"""Batch views: a query's rows computed over the archive with the stream's transform, by day of event time.

Each day is written completely and in one Iceberg commit, so that computing it again replaces it. It includes records that
were late for the stream; records that arrive after the view was computed cause the next run to compute their day again.
Days are UTC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from operator import or_

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader, lake_tables
from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.contract import batch_views, names, view_shapes
from headrace.contract.job_files import ViewsSpec
from headrace.contract.model import Pipeline, Query, Source
from headrace.contract.platform_columns import SOURCE
from headrace.contract.spark_types import ddl
from headrace.driver import iceberg_maintenance, source
from headrace.errors import HeadraceError
from headrace.store import archive_notes, quarantine, view_state
from headrace.store.job_reports import Behind, ViewsReport
from headrace.store.quarantine import parse_range
from headrace.store.view_state import ViewDay, ViewState

WAIT_SECONDS = 60.0
SNAPSHOT_RUN = "headrace-run"
_MICRO = timedelta(microseconds=1)
_LAST_MS = 253_402_300_799_999  # 9999-12-31: in a topic of others a record may have any time


def run(job: Job, spec: ViewsSpec) -> ViewsReport:
    """Compute days of all views of a pipeline and return the report.

    The job spec says which days (`contract.job_files`).
    """
    began = time.monotonic()
    quarantined = _quarantined(job)  # read first: what changes meanwhile is new to the next run
    wanted = batch_views.views(job.pipeline)
    topics = sorted({topic for query in wanted.values() for topic in query.sources})
    archives = await_archives(job, topics, spec.ends)
    state = view_state.read(job.root, job.pipeline.name)
    behind = behind_of(archives, spec)
    closed = closed_until(job.pipeline, archives, behind, date.fromisoformat(spec.closed_until), state.horizon_day)
    state = _alter(job, wanted, state)
    sizes = {date.fromisoformat(day): computed.records for day, computed in state.days.items()}
    chosen = spec.days
    if chosen is not None:
        days = [date.fromisoformat(day) for day in chosen]
        early = [str(day) for day in days if closed is None or day >= closed]
        if early:
            raise HeadraceError(
                f"{', '.join(early)} cannot be computed yet: "
                + (f"only days before {closed} are closed and archived." if closed else _words(behind))
            )
    else:
        days = due(job, archives, state, closed, sizes) if closed else []
    chunks = list(batch_views.chunks(days, sizes))
    rows: dict[str, int] = dict.fromkeys(wanted, 0)
    fewer: dict[str, tuple[int, int]] = {}
    for number, chunk in enumerate(chunks):
        job.progress(number, len(chunks), f"{len(chunk)} days, {chunk[0]} to {chunk[-1]}")
        counts, sums, sizes = _write(job, archives, wanted, chunk)
        for name, count in counts.items():
            rows[name] += count
        at_ms = time.time_ns() // 1_000_000
        computed = {str(day): ViewDay(job.run, at_ms, sizes.get(day, 0)) for day in chunk}
        fewer |= _fewer(state, computed)
        outdated = {name: tuple(day for day in days if day not in computed) for name, days in state.outdated.items()}
        state = replace(
            state,
            days=state.days | computed,
            stale=tuple(day for day in state.stale if day not in computed),
            outdated={name: days for name, days in outdated.items() if days},
            sums={name: state.sums.get(name, True) and sums[name] for name in sums},
        )
        view_state.write(job.root, job.pipeline.name, state)
    ends = {topic: archive.ends for topic, archive in archives.items()}
    if chosen is None and closed:
        state = replace(state, horizon=str(closed), covered=ends, quarantined=quarantined)
        view_state.write(job.root, job.pipeline.name, state)
    for name in wanted:
        iceberg_maintenance.maintain_own(job.spark, job.root, names.batch_view_table(job.pipeline.name, name))
    job.progress(len(chunks), len(chunks), "done")
    return ViewsReport(
        run=job.run,
        pipeline=job.pipeline.name,
        days=tuple(str(day) for day in days),
        rows=rows,
        horizon=state.horizon,
        archive=ends,
        repeats={topic: archive.repeats for topic, archive in archives.items()},
        behind=tuple(behind),
        fewer=fewer,
        seconds=round(time.monotonic() - began, 1),
    )


def compute(query: Query, sides: Mapping[str, DataFrame], times: Mapping[str, str], transform: Callable[..., DataFrame],
            days: Sequence[date]) -> DataFrame:  # fmt: skip
    """Return the view's rows of some days, which need not be consecutive: `day`, then the query's columns.

    `sides` are the transform's parameters: accepted records, at least those of the days and of the query's margin after
    them; `times` names the event-time column of each.
    """
    if batch_views.kind(query) == "running":
        (topic,) = query.sources
        parts = [
            transform(_within(sides[topic], times[topic], [day])).withColumn(batch_views.day(query), F.lit(day))
            for day in days
        ]
        rows = reduce(DataFrame.unionByName, parts)
    elif batch_views.kind(query) == "window":
        (topic,) = query.sources
        rows = transform(_within(sides[topic], times[topic], days, batch_views.margin(query)))
        rows = rows.withColumn(batch_views.day(query), F.to_date(batch_views.WINDOW_START)).where(
            F.col(batch_views.day(query)).isin(*days)
        )
    else:
        assert query.join is not None
        left, right = query.join.left, query.join.right
        both = {
            left: _within(sides[left], times[left], days),
            right: _within(sides[right], times[right], days, batch_views.margin(query)),
        }
        rows = transform(**both).dropDuplicates(batch_views.key(query))
        rows = rows.withColumn(batch_views.day(query), F.to_date(batch_views.day_column(query)))
    return rows.select(*batch_views.columns(query))


def due(
    job: Job, archives: Mapping[str, Archive], state: ViewState, closed: date, sizes: dict[date, int]
) -> list[date]:
    """Return the closed days that the views lack, that have new records since the last run, or that are stale or outdated.

    Adds the number of new records to `sizes` (day -> records).
    """
    moved, fresh = touched(job, archives, state)
    days = {day for day in moved if day < closed}
    days |= set(batch_views.between(state.horizon_day, closed)) if state.horizon_day else set()
    days |= {
        date.fromisoformat(day) for day in (*state.stale, *(day for old in state.outdated.values() for day in old))
    }
    for day in days:
        sizes[day] = sizes.get(day, 0) + fresh.get(day, 0)
    return sorted(days)


def touched(job: Job, archives: Mapping[str, Archive], state: ViewState) -> tuple[set[date], dict[date, int]]:
    """Return the days of rows with new records since the state was written, and the number of new records by day.

    Records that were put into the quarantine, or taken out of it, since then count as new.
    """
    days: set[date] = set()
    fresh: dict[date, int] = {}
    now = _quarantined(job)
    changed = [parse_range(text) for name in now for text in {*state.quarantined.get(name, ())} ^ {*now[name]}]
    for topic, archive in archives.items():
        if archive.snapshot is None:
            continue
        day = F.to_date(time_of(job.pipeline.sources[topic])).alias("day")
        records = archive_reader.records(job.spark, archive)
        came = archive_reader.beyond(records, state.covered.get(topic, {}))
        came = (
            came.union(records.where(source.among([part for part in changed if part.topic == topic])))
            if changed
            else came
        )
        typed = archive_reader.accepted(job.pipeline, topic, came, ())
        rows = typed.groupBy(day).agg(F.count(F.lit(1)).alias("records")).collect()
        for row in rows:
            fresh[row.day] = fresh.get(row.day, 0) + row.records
        days |= _days_of(job, topic, {row.day for row in rows})
    return days, fresh


def sides(
    job: Job, archives: Mapping[str, Archive], wanted: Mapping[str, Query], days: Sequence[date]
) -> tuple[dict[str, DataFrame], dict[str, str]]:
    """Return the accepted records of some days, as needed by the given queries, and topic -> event-time column.

    The caller unpersists the frames.
    """
    frames, times = {}, {}
    passed = any(_quarantined(job).values())
    longest = max(batch_views.margin(query) for query in wanted.values())
    for topic, archive in archives.items():
        contract = job.pipeline.sources[topic]
        assert contract.event_time is not None
        times[topic] = time_of(contract)
        # An accepted event time is at most the broker's time plus the skew, so no record of these days arrived earlier.
        since = begins(days[0]) - contract.event_time.accepted_skew
        rows = (
            archive_reader.records(job.spark, archive, since)
            if archive.snapshot is not None
            else job.spark.table(names.archive_table(job.pipeline.name, topic))
        )
        typed = archive_reader.accepted(job.pipeline, topic, rows, (SOURCE,) if passed else ())
        frames[topic] = _within(typed, times[topic], days, longest).persist(StorageLevel.MEMORY_AND_DISK)
    return frames, times


def inputs(job: Job, name: str, own_sides: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """Return the frames of `sides` that a query reads, without the records that it passes over (ADR 0049)."""
    passed = quarantine.passed_by_query(job.root, job.pipeline.name, name)
    return {
        topic: source.without(own_sides[topic], passed, f"{SOURCE}.") for topic in job.pipeline.queries[name].sources
    }


def _quarantined(job: Job) -> dict[str, tuple[str, ...]]:
    """Return which offset ranges each query with a view passes over."""
    place = (job.root, job.pipeline.name)
    return {n: tuple(sorted(map(str, quarantine.passed_by_query(*place, n)))) for n in batch_views.views(job.pipeline)}


def await_archives(job: Job, topics: Sequence[str], ends: Mapping[str, Mapping[str, int]]) -> dict[str, Archive]:
    """Pin every topic's archive once it has reached `ends`, or after a minute if it has not (it may be stopped)."""
    deadline = time.monotonic() + WAIT_SECONDS
    name = job.pipeline.name
    while True:
        # Needs no table read.
        reached = {topic: archive_notes.reached(job.root, name, topic) for topic in topics}
        late = time.monotonic() > deadline
        behind = [t for t in topics if reached[t] and not archive_reader.covers(reached[t], ends.get(t, {}))]
        if not behind or late:
            archives = {topic: archive_reader.pin(job.spark, name, topic, reached[topic]) for topic in topics}
            behind = [topic for topic, archive in archives.items() if not archive.covers(ends.get(topic, {}))]
            if not behind or late:
                return archives
        job.progress(0, 1, f"waiting for the archive of {', '.join(behind)}")
        time.sleep(2)


def create(spark: SparkSession, pipeline: str, name: str, query: Query) -> lake_tables.SchemaChange:
    """Create the table of a view if it is absent, partitioned by day, or update its columns to the query's."""
    table = names.batch_view_table(pipeline, name)
    again = f"headrace batch views {pipeline} --first FIRST_DAY --last LAST_DAY"
    remedy = f"A view is derived data: remove the folder lake/{pipeline}/batch_{name} below the storage root, then run: {again}"
    return lake_tables.ensure(spark, table, ddl(batch_views.columns(query)), batch_views.day(query), remedy)


def time_of(contract: Source) -> str:
    """Return the event-time column of a source that has one."""
    assert contract.event_time is not None
    return contract.event_time.column


def begins(day: date) -> datetime:
    """Return the beginning of a day: midnight UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def are_sums(
    query: Query, side: DataFrame, transform: Callable[..., DataFrame], total: DataFrame | None = None,
    by: Sequence[str] | None = None,
) -> bool:  # fmt: skip
    """Return whether running totals of two halves of the records add up to those of all; a maximum or mean does not.

    Only sums can be served by day, or be continued by a reconciliation. `total` are the totals of all records, if they are
    known. They add up for each value of the columns `by` (None: the key).
    """
    by, values = list(by or batch_views.key(query)), batch_views.values(query)
    half = F.pmod(F.hash(*side.columns), F.lit(2))
    parts = transform(side.where(half == 0)).unionByName(transform(side.where(half == 1)))
    sums = [accounting.added_up(parts, value, required=query.columns[value].required) for value in values]
    added = parts.groupBy(*by).agg(*sums) if sums else parts.select(*by).distinct()
    together = accounting.matched({"all": transform(side) if total is None else total, "added": added}, by, values)
    return bool(accounting.unlike(together, "all", "added", values).isEmpty())


def _write(
    job: Job, archives: Mapping[str, Archive], wanted: Mapping[str, Query], days: list[date]
) -> tuple[dict[str, int], dict[str, bool], dict[date, int]]:
    """Compute and replace the days in every view.

    Returns the number of rows of each view, which running totals are sums, and the number of records of each day.
    """
    own_sides, times = sides(job, archives, wanted, days)
    sizes: dict[date, int] = {}
    counts: dict[str, int] = {}
    sums: dict[str, bool] = {}
    try:
        for name, query in wanted.items():
            table = names.batch_view_table(job.pipeline.name, name)
            frames = inputs(job, name, own_sides)
            frame = compute(query, frames, times, job.transforms[name], days)
            replaced = F.col(batch_views.day(query)).isin(*days)
            frame.writeTo(table).option(f"snapshot-property.{SNAPSHOT_RUN}", job.run).overwrite(replaced)
            counts[name] = job.spark.table(table).where(replaced).count()
            if batch_views.kind(query) == "running":
                sums[name] = are_sums(query, frames[query.sources[0]], job.transforms[name])
        for topic, side in own_sides.items():
            for row in side.groupBy(F.to_date(times[topic]).alias("day")).agg(F.count(F.lit(1)).alias("n")).collect():
                sizes[row.day] = sizes.get(row.day, 0) + row.n
    finally:
        for side in own_sides.values():
            side.unpersist()
    return counts, sums, sizes


def behind_of(archives: Mapping[str, Archive], spec: ViewsSpec) -> list[Behind]:
    """Return where the archives have not reached the job spec's `ends`. A partition that Kafka has emptied lacks nothing."""
    lagging = []
    for topic, archive in archives.items():
        for number, end in sorted(spec.ends.get(topic, {}).items()):
            begin = spec.begins.get(topic, {}).get(number, 0)
            if begin < end and not archive.covers({number: end}):
                lagging.append(Behind(topic, int(number), archive.ends.get(number, 0), end))
    return lagging


def closed_until(
    pipeline: Pipeline, archives: Mapping[str, Archive], behind: Sequence[Behind], asked: date, horizon: date | None
) -> date | None:
    """Return the first day that is not closed: the day asked for, or an earlier one if the archive is behind.

    It never precedes the horizon: those days are computed, and new records mark them. If the archive never had a partition its
    time is unknown; then the result is the horizon, and None before the first horizon.
    """
    closed: date | None = asked
    for lagging in behind:
        part = archives[lagging.topic].partitions.get(lagging.partition)
        if part is None or closed is None:
            closed = None
        else:
            newest = datetime.fromtimestamp(min(part.newest_ms, _LAST_MS) / 1000, UTC)
            closed = min(closed, batch_views.closed_until(pipeline, newest))
    return max((day for day in (closed, horizon) if day), default=None)


def _words(behind: Sequence[Behind]) -> str:
    places = ", ".join(
        f"{lagging.topic}/{lagging.partition} ({lagging.reached} of {lagging.end})" for lagging in behind
    )
    return f"the archive has not reached {places}. See `headrace stream status`."


def _alter(job: Job, wanted: Mapping[str, Query], state: ViewState) -> ViewState:
    """Create the views' tables, and note which days must be computed again.

    If a view gained columns, all days are stale. If the pipeline file gives it another shape, all its days are outdated.
    """
    changes = [create(job.spark, job.pipeline.name, name, query) for name, query in wanted.items()]
    stale = tuple(sorted(state.days)) if any(change.added for change in changes) else state.stale
    outdated = {name: tuple(sorted(view_state.outdated(state, job.pipeline, name))) for name in wanted}
    outdated = {name: days for name, days in outdated.items() if days}
    shapes = {name: view_shapes.shape(job.pipeline, name) for name in wanted}
    # Whether other totals are sums is found out again.
    held = {name: known for name, known in state.sums.items() if name in wanted}
    sums = {name: known for name, known in held.items() if not view_state.changes(state, job.pipeline, name)}
    altered = replace(state, stale=stale, outdated=outdated, shapes=shapes, sums=sums)
    if altered != state:
        view_state.write(job.root, job.pipeline.name, altered)
    return altered


def _fewer(state: ViewState, computed: Mapping[str, ViewDay]) -> dict[str, tuple[int, int]]:
    """Return day -> number of records then and now, for days that have fewer than when an earlier run counted them."""
    before = {day: state.days[day].records for day in computed if day in state.days and state.days[day].run}
    return {day: (then, computed[day].records) for day, then in before.items() if computed[day].records < then}


def _days_of(job: Job, topic: str, days: set[date]) -> set[date]:
    """Return the days of rows in which records of these days take part; for a join or window also the previous day."""
    reach = max(
        (batch_views.margin(query) for query in batch_views.views(job.pipeline).values() if topic in query.sources),
        default=timedelta(0),
    )
    before = 0 if not reach else -(-reach // timedelta(days=1))
    return {day - timedelta(days=back) for day in days for back in range(before + 1)}


def _within(frame: DataFrame, column: str, days: Sequence[date], margin: timedelta = timedelta(0)) -> DataFrame:
    """Return the records of the days and of the margin after each of them."""
    steps = -(-margin // timedelta(days=1))  # each step is at most a day, so no time between two steps is skipped
    moments = [
        F.col(column) - F.expr(f"INTERVAL {(margin * n / steps) // _MICRO} MICROSECOND") for n in range(1, steps + 1)
    ]
    return frame.where(reduce(or_, (F.to_date(moment).isin(*days) for moment in (F.col(column), *moments))))
