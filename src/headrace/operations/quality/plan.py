"""Plan what a check reads: finished batches, closed windows, or a complete table, from where the last check ended.

A check is a small document. The task that plans hands it to the tasks that read; a retry reads the same rows again. A check
names a beginning and an end; `steps` reads the rows between them in bounded steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar, assert_never

from headrace.contract import names
from headrace.contract.checked_sinks import (
    WINDOW_START,
    CheckedSink,
    parts_query,
    sinks_of,
    totals_query,
)
from headrace.contract.model import KafkaSink, Pipeline
from headrace.contract.names import archive_query, topics_of
from headrace.operations.deployment import Deployment
from headrace.operations.dimensions import snapshot
from headrace.operations.drivers import desired_state
from headrace.operations.quality import bounds, offsets, position
from headrace.operations.quality.faults import words
from headrace.operations.quality.position import Position
from headrace.operations.quality.windows import (
    Batches,
    Closed,
    Grid,
    Nothing,
    TableWindow,
    Unreadable,
    Window,
    closed_windows,
    finished_batches,
    iso,
    nothing,
)
from headrace.store import generation, ledger

_MILLISECOND = timedelta(milliseconds=1)
Answer = TypeVar("Answer")
Earliest = Callable[[CheckedSink, int], int | None]


@dataclass(frozen=True)
class Check:
    """One sink, and its window: the rows that are read.

    `parameters` are the values of the suite's $PARAMETERs; `references` says which other queries may be used for comparison.
    """

    sink: str = ""
    pipeline: str = ""
    query: str = ""
    window: Window = field(default_factory=Nothing)
    parameters: dict[str, float] = field(default_factory=dict)
    references: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ledger:
    """A query's current generation and its newest ledger record; None if the query never ran."""

    generation: generation.Generation | None = None
    folder: str = ""
    newest: ledger.BatchRecord | None = None


@dataclass(frozen=True)
class _Now:
    """The values that all checks of one plan share. `ends`, `old` and `ledgers` raise an error if the source cannot be read.

    `old` returns the ends of a topic's records that are older than the pipeline's promised freshness.
    """

    deployment: Deployment
    pipeline: Pipeline
    kafka: offsets.TopicOffsets
    ends: Callable[[str], Mapping[int, int]]
    old: Callable[[str], Mapping[int, int]]
    ledgers: Callable[[str], _Ledger]
    earliest: Earliest
    since_ms: int | None
    now_ms: int


def plan(deployment: Deployment, pipeline: Pipeline, *, since_ms: int | None = None) -> list[Check]:
    """Return one check for each sink of a pipeline. A check that cannot be planned has the reason; the others are planned.

    A check begins where the last one ended, and at `since_ms` (milliseconds since 1970: batch or event time) where one is
    given. Raises HeadraceError where Kafka's binding cannot be read.
    """
    now_ms = time.time_ns() // 1_000_000
    promised_ms = now_ms - pipeline.slo.freshness // _MILLISECOND
    with offsets.reader(deployment.bindings) as kafka:
        now = _Now(
            deployment,
            pipeline,
            kafka,
            _once(kafka.ends),
            _once(lambda topic: {int(p): first for p, (first, _) in kafka.since(topic, promised_ms).items()}),
            _once(lambda query: _read_ledger(deployment.root, pipeline.name, query)),
            lambda sink, after_ms: _earliest(deployment, sink, after_ms),
            since_ms,
            now_ms,
        )
        return [_planned(sink, now) for sink in sinks_of(pipeline)]


def _once(function: Callable[[str], Answer]) -> Callable[[str], Answer]:
    """Return a function that calls `function` once for each name. It raises a remembered error again without a further call."""
    known: dict[str, Answer | Exception] = {}

    def answer(name: str) -> Answer:
        if name not in known:
            try:
                known[name] = function(name)
            except Exception as error:  # it is raised below
                known[name] = error
        result = known[name]
        if isinstance(result, Exception):
            raise result
        return result

    return answer


def _planned(sink: CheckedSink, now: _Now) -> Check:
    try:
        return _check(sink, now)
    except Exception as error:  # any error is the result of this sink alone
        return unreadable(sink.name, sink.pipeline, sink.query, words(error))


def unreadable(sink: str, pipeline: str, query: str, reason: str) -> Check:
    """Return the check of a sink that cannot be read."""
    return Check(sink, pipeline, query, Unreadable(reason=reason))


def _check(sink: CheckedSink, now: _Now) -> Check:
    query_ledger = now.ledgers(sink.query)
    topics = topics_of(now.pipeline, sink.query)
    ends = {topic: now.ends(topic) for topic in topics}
    intended = desired_state.read(now.deployment.root, sink.pipeline)
    parameters: dict[str, float] = {
        "freshness_seconds": now.pipeline.slo.freshness.total_seconds(),
        "now_ms": now.now_ms,
        "rows_in": _rows_in(ends),
    }
    if query_ledger.newest is None or query_ledger.generation is None:
        waiting = intended.want == "RUNNING" and _have_records(topics, now)
        parameters["behind_seconds"] = max(0.0, (now.now_ms - intended.at_ms) / 1000) if waiting else 0.0
        reason = f"{sink.query} has not finished a batch yet"
        return Check(sink.name, sink.pipeline, sink.query, nothing(reason), parameters)
    before = position.read(now.deployment.root, sink.name)
    sums = position.tally(
        query_ledger.folder, query_ledger.generation.number, before.sums, query_ledger.newest["batch"]
    )
    parameters |= {
        "rows_min": int(sums.rows_out > 0),
        "rows_taken": sums.rows_in if _letters_are_written(query_ledger.newest, topics, now) else 0,
        "behind_seconds": behind_seconds(query_ledger.newest, {topic: now.old(topic) for topic in topics}, now.now_ms),
    }
    window = replace(_window(sink, query_ledger, before, now), sums=sums, since_ms=now.since_ms)
    return Check(sink.name, sink.pipeline, sink.query, window, parameters, _references(now, sink))


def _letters_are_written(newest: ledger.BatchRecord, topics: Iterable[str], now: _Now) -> bool:
    """Return whether the archive queries, which write the dead letters, have read all records that a query has read."""
    for topic in topics:
        archived = now.ledgers(archive_query(topic)).newest
        of_topic: ledger.BatchRecord = {
            **newest,
            "watermark_ms": 0,
            "offsets": {topic: newest["offsets"].get(topic, {})},
        }
        if archived is None or not _covers(archived, of_topic):
            return False
    return True


def _window(sink: CheckedSink, query_ledger: _Ledger, before: Position, now: _Now) -> Window:
    assert query_ledger.newest is not None
    start = Position() if now.since_ms is not None else before
    grid = _grid(now.pipeline, sink)
    if grid:
        since = now.since_ms if now.since_ms is not None else start.until_ms
        return _closed(sink, query_ledger.newest["watermark_ms"], grid, since, now.earliest)
    match sink.kind:
        case "cassandra":
            return TableWindow(name=f"table at {iso(now.now_ms)}", at_ms=now.now_ms, token=start.token)
        case "kafka":
            return _topic_batches(sink, query_ledger, start, now)
        case "files" | "iceberg":
            return _batches(sink, query_ledger, start, now)
        case _:
            assert_never(sink.kind)


def _closed(
    sink: CheckedSink, watermark_ms: int, grid: Grid, since_ms: int | None, earliest: Earliest
) -> Nothing | Closed:
    """Return the closed windows since the last check. A gap longer than one check is skipped up to the next row."""
    window = closed_windows(watermark_ms, grid, since_ms)
    if isinstance(window, Nothing) or (since_ms is not None and not window.left["windows"]):
        return window
    first = earliest(sink, window.starts_ms[0])
    if first is None:
        return nothing("no window of the table has closed since the last check")
    return closed_windows(watermark_ms, grid, first + grid.size - 1)


def _topic_batches(sink: CheckedSink, query_ledger: _Ledger, before: Position, now: _Now) -> Nothing | Batches:
    window = _batches(sink, query_ledger, before, now, _expired_before(sink, now))
    ends = None if window.left["batches"] else {str(p): end for p, end in now.kafka.ends(sink.place[0]).items()}
    return replace(window, cursor=before.cursor, ends=ends)


def _batches(
    sink: CheckedSink, query_ledger: _Ledger, before: Position, now: _Now, gone_ms: int = 0
) -> Nothing | Batches:
    """Return the finished batches since the last check. Rows from before `gone_ms` may have left the sink."""
    assert query_ledger.generation is not None
    number = query_ledger.generation.number
    first = before.last + 1 if before.generation == number else 0
    records = (record for record in ledger.stream(query_ledger.folder, first) if record["generation"] == number)
    window = finished_batches(number, records, now.since_ms or 0, gone_ms)
    return replace(window, replaced=_replaced(now, sink, before))


def _expired_before(sink: CheckedSink, now: _Now) -> int:
    """Return the time before which a topic may have lost rows to retention; 0 if it has lost none."""
    declared = next(
        topic_sink for topic_sink in now.pipeline.queries[sink.query].sinks
        if isinstance(topic_sink, KafkaSink) and topic_sink.topic == sink.place[0]
    )  # fmt: skip
    if not any(now.kafka.begins(sink.place[0]).values()):
        return 0
    return now.now_ms - declared.retention // _MILLISECOND + bounds.RETENTION_MARGIN_MS


def _replaced(now: _Now, sink: CheckedSink, before: Position) -> int:
    """Return how many finished batches of an earlier generation were not checked before this generation replaced it."""
    current = now.ledgers(sink.query).generation
    if current is None or before.generation in {0, current.number}:
        return 0
    earlier = [
        replaced
        for replaced in generation.all_of(now.deployment.root, sink.pipeline, sink.query)
        if replaced.number == before.generation
    ]
    runs = ledger.runs(earlier[0].paths(now.deployment.root).ledger) if earlier else []
    return sum(max(0, run.stop - max(run.start, before.last + 1)) for run in runs)


def _earliest(deployment: Deployment, sink: CheckedSink, after_ms: int) -> int | None:
    from headrace.operations.quality import read_cassandra

    return read_cassandra.earliest_window(deployment.bindings, sink, after_ms)


def _grid(pipeline: Pipeline, sink: CheckedSink) -> Grid | None:
    """Return the grid of a table with one partition for each window; None for every other sink."""
    query = pipeline.queries.get(sink.query)
    if sink.kind != "cassandra" or query is None or query.aggregate is None or query.aggregate.window is None:
        return None
    by_start = any(getattr(declared, "partition_key", None) == [WINDOW_START] for declared in query.sinks)
    window = query.aggregate.window
    parts = (window.size, window.slide or window.size, window.offset)
    return Grid(*(part // _MILLISECOND for part in parts)) if by_start else None


def behind_seconds(newest: ledger.BatchRecord, old: Mapping[str, Mapping[int, int]], now_ms: int) -> float:
    """Return the age of a query's newest batch if records have waited longer than the promised freshness, else 0.

    `old` has topic -> partition -> end of the records that are older than the promise. So a new record in a quiet topic does
    not make a stream late.
    """
    waiting = any(
        end > newest["offsets"].get(topic, {}).get(str(partition), [0, 0])[1]
        for topic in newest["offsets"]
        for partition, end in old.get(topic, {}).items()
    )
    return max(0.0, (now_ms - newest["written_ms"]) / 1000) if waiting else 0.0


def _have_records(topics: Iterable[str], now: _Now) -> bool:
    """Return whether one of the topics has a record that is older than the promised freshness."""
    return any(
        end > now.kafka.begins(topic).get(partition, 0) for topic in topics for partition, end in now.old(topic).items()
    )


def _references(now: _Now, sink: CheckedSink) -> dict[str, bool]:
    """Return reference query -> whether it has read as far as this sink's query. Only then are its rows compared."""
    newest = now.ledgers(sink.query).newest
    comparable = {}
    for name in (totals_query(now.pipeline, sink.query), parts_query(now.pipeline, sink.query)):
        if name and newest:
            other = now.ledgers(name).newest
            comparable[name] = other is not None and _covers(other, newest)
    return comparable


def _covers(other: ledger.BatchRecord, record: ledger.BatchRecord) -> bool:
    return other["watermark_ms"] >= record["watermark_ms"] * bool(other["watermark_ms"]) and all(
        other["offsets"].get(topic, {}).get(partition, [0, 0])[1] >= end
        for topic, partitions in record["offsets"].items()
        for partition, (_, end) in partitions.items()
    )


def _read_ledger(root: str, pipeline: str, query: str) -> _Ledger:
    chosen = generation.current(root, pipeline, query)
    if chosen is None:
        return _Ledger()
    folder = chosen.paths(root).ledger
    return _Ledger(chosen, folder, ledger.newest(folder))


def moving(
    deployment: Deployment, pipeline: Pipeline, sink: CheckedSink, planned: Mapping[str, float]
) -> dict[str, float]:
    """Return the bounds of a table that changes while it is read; called after the read. `planned` are the check's parameters.

    `rows_in`: all records that the query's topics ever had. `rows_least`: records that its batches had read when the check was
    planned, minus the dead letters of its topics. `rows_min`: rows that the table must have.
    """
    topics = topics_of(pipeline, sink.query)
    with offsets.reader(deployment.bindings) as kafka:
        rows_in = _rows_in({topic: kafka.ends(topic) for topic in topics})
        refused = _rows_in({topic: kafka.ends(names.dead_letter_topic(topic)) for topic in topics})
    least = max(0, int(planned.get("rows_taken", 0)) - refused)
    rows_min = max(int(planned.get("rows_min", 0)), _directory_rows(deployment.root, pipeline, sink, planned["now_ms"]))
    return {"rows_in": rows_in, "rows_least": least, "rows_min": rows_min}


def _directory_rows(root: str, pipeline: Pipeline, sink: CheckedSink, planned_ms: float) -> int:
    """Return how many rows the newest refresh left in a dimension's table; 0 without one, or if one ran since the plan.

    No stream deletes them. A row that a person deleted is missing until the next refresh, and the check says so.
    """
    for name, dimension in pipeline.dimensions.items():
        if dimension.refresh and (dimension.keyspace, dimension.table) == sink.place:
            done, begun = snapshot.applied(root, pipeline.name, name), snapshot.begun(root, pipeline.name, name)
            return done.rows if done.version == begun.version and done.at_ms < planned_ms else 0
    return 0


def _rows_in(ends: Mapping[str, Mapping[int, int]]) -> int:
    return sum(end for partitions in ends.values() for end in partitions.values())
