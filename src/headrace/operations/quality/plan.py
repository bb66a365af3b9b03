"""What a check reads, decided before it reads: closed windows, finished batches, fixed offset ranges, or a whole table.

A check is small and JSON-safe. It goes from the task that plans to the tasks that read; a retry reads the same again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from headrace.contract import generation, ledger, paths, storage
from headrace.contract.model import Pipeline
from headrace.contract.names import archive_query
from headrace.operations.deployment import Deployment
from headrace.operations.quality import offsets
from headrace.operations.quality.sinks import (
    WINDOW_START,
    CheckedSink,
    parts_query,
    sinks_of,
    totals_query,
)

# A check holds its rows in memory and hands all of them to Great Expectations: 0.3 s and 100 MB for so many.
MAX_ROWS = 100_000
# Closed windows that one check reads at most, newest first: a day of windows of five minutes.
MAX_WINDOWS = 288
# Finished batches that one check looks back at most: each is one small file of the ledger.
MAX_BATCHES = 500
# Topics are searched from so long before a batch began: its times are the driver's, a record's are the broker's.
CLOCKS_APART_MS = 60_000
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Check:
    """One sink and what of it is read.

    `window` has `kind` (batches, closed, table, nothing), `name` (what the quarantine calls it) and, by kind:
    generation, first, last, offsets {partition: [start, end)} | starts_ms | at_ms | reason.
    `parameters` are what the suite's $PARAMETERs stand for; `references` says which other queries may be judged by.
    """

    sink: str
    pipeline: str
    query: str
    window: dict[str, Any]
    parameters: dict[str, float] = field(default_factory=dict)
    references: dict[str, bool] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values; `Check(**...)` takes them back."""
        return asdict(self)


@dataclass(frozen=True)
class _Ledger:
    """The newest MAX_BATCHES ledger records of a query; no generation where it never ran."""

    generation: generation.Generation | None
    records: Sequence[ledger.Record]

    @property
    def newest(self) -> ledger.Record | None:
        return self.records[-1] if self.records else None


def plan(deployment: Deployment, pipeline: Pipeline, *, since_ms: int | None = None) -> list[Check]:
    """Return one check for each sink of a pipeline.

    A check begins where the last recorded one ended, and at `since_ms` (milliseconds since 1970: batch or event time)
    where one is given; it reads at most MAX_ROWS rows and MAX_WINDOWS windows, the newest.
    """
    now_ms = time.time_ns() // 1_000_000
    sinks = sinks_of(pipeline)
    ledgers = {name: _read_ledger(deployment.root, pipeline.name, name) for name in {sink.query for sink in sinks}}
    with offsets.reader(deployment.bindings) as kafka:
        ends = {topic: kafka.ends(topic) for topic in pipeline.sources}
        return [_check(deployment.root, pipeline, sink, ledgers, ends, kafka, since_ms, now_ms) for sink in sinks]


def _check(
    root: str,
    pipeline: Pipeline,
    sink: CheckedSink,
    ledgers: Mapping[str, _Ledger],
    ends: Mapping[str, Mapping[int, int]],
    kafka: offsets.Offsets,
    since_ms: int | None,
    now_ms: int,
) -> Check:
    own = ledgers[sink.query]
    newest = own.newest
    if newest is None or own.generation is None:
        return Check(sink.name, sink.pipeline, sink.query, nothing(f"{sink.query} has not finished a batch yet"))
    before = _before(root, sink) if since_ms is None else {}
    grid = _grid(pipeline, sink)
    if grid:
        window = closed_windows(newest["watermark_ms"], grid, since_ms or before.get("until_ms"))
    elif sink.kind == "cassandra":
        window = {"kind": "table", "name": f"table at {iso(now_ms)}", "at_ms": now_ms}
    else:
        first = before.get("last", -1) + 1 if before.get("generation") == own.generation.number else 0
        chosen = finished_batches(own.records, first, since_ms)
        window = _batches(sink, chosen, kafka)
        if chosen and since_ms is None and chosen[0]["batch"] > first:
            window["skipped"] = f"batches {first} to {chosen[0]['batch'] - 1}: too many rows for one check"
    return Check(
        sink=sink.name,
        pipeline=sink.pipeline,
        query=sink.query,
        window=window,
        parameters=_parameters(pipeline, own, window, newest, ends, now_ms),
        references=_references(pipeline, sink, ledgers),
    )


class Grid(NamedTuple):
    """Where windows lie, in milliseconds: their size, the time between two starts, and how long after 1970 they begin."""

    size: int
    slide: int
    offset: int = 0


def nothing(reason: str) -> dict[str, Any]:
    """Return the window of a check that has nothing to read."""
    return {"kind": "nothing", "name": "nothing", "reason": reason}


def closed_windows(watermark_ms: int, grid: Grid, since_ms: int | None) -> dict[str, Any]:
    """Return the window starts (milliseconds) of windows that ended at or before the watermark and after `since_ms`.

    The newest finished batch's watermark closes them: the next batch drops rows of such a window (SPARK-42376).
    """
    size_ms, slide_ms, offset_ms = grid
    last = (watermark_ms - size_ms - offset_ms) // slide_ms * slide_ms + offset_ms
    first = last - (MAX_WINDOWS - 1) * slide_ms
    if since_ms is not None:
        first = max(first, ((since_ms - size_ms - offset_ms) // slide_ms + 1) * slide_ms + offset_ms)
    starts = list(range(max(first, offset_ms), last + 1, slide_ms))
    if not starts:
        return nothing("no window has closed since the last check")
    until = starts[-1] + size_ms
    return {
        "kind": "closed",
        "name": f"windows {iso(starts[0])} to {iso(until)}",
        "starts_ms": starts,
        "until_ms": until,
    }


def finished_batches(records: Sequence[ledger.Record], first: int, since_ms: int | None = None) -> list[ledger.Record]:
    """Return the newest finished batches from number `first` on that together wrote at most MAX_ROWS rows.

    One larger batch alone is taken whole: it can only be checked whole.
    """
    chosen: list[ledger.Record] = []
    rows = 0
    for record in reversed(records):
        rows += record["rows_out"]
        if record["batch"] < first or (since_ms or 0) > record["written_ms"] or (chosen and rows > MAX_ROWS):
            break
        chosen.append(record)
    return chosen[::-1]


def _batches(sink: CheckedSink, chosen: Sequence[ledger.Record], kafka: offsets.Offsets) -> dict[str, Any]:
    if not chosen:
        return nothing("no batch has finished since the last check")
    first, last = chosen[0], chosen[-1]
    window: dict[str, Any] = {
        "kind": "batches",
        "name": f"generation {last['generation']} batches {first['batch']} to {last['batch']}",
        "generation": last["generation"],
        "first": first["batch"],
        "last": last["batch"],
        "rows_out": {str(record["batch"]): record["rows_out"] for record in chosen if record["rows_out"]},
    }
    if sink.kind == "kafka":
        window["offsets"] = kafka.since(sink.place[0], first["began_ms"] - CLOCKS_APART_MS)
    elif sink.kind == "iceberg":
        window["offsets"] = _spans(chosen)
    return window


def _spans(chosen: Sequence[ledger.Record]) -> dict[str, list[int]]:
    """Return partition -> [start, end) of the source offsets that consecutive batches took (an archive has one topic)."""
    spans: dict[str, list[int]] = {}
    for record in chosen:
        for partitions in record["offsets"].values():
            for partition, (start, end) in partitions.items():
                known = spans.setdefault(partition, [start, end])
                known[1] = end
    return spans


def _grid(pipeline: Pipeline, sink: CheckedSink) -> Grid | None:
    """Return the grid of a table with one partition a window; None for every other sink."""
    query = pipeline.queries.get(sink.query)
    if sink.kind != "cassandra" or query is None or query.aggregate is None or query.aggregate.window is None:
        return None
    by_start = any(getattr(each, "partition_key", None) == [WINDOW_START] for each in query.sinks)
    window = query.aggregate.window
    parts = (window.size, window.slide or window.size, window.offset)
    return Grid(*(part // _MILLISECOND for part in parts)) if by_start else None


def _parameters(
    pipeline: Pipeline,
    own: _Ledger,
    window: Mapping[str, Any],
    newest: ledger.Record,
    ends: Mapping[str, Mapping[int, int]],
    now_ms: int,
) -> dict[str, float]:
    """Return what suites may refer to: rows of the checked batches, of all batches, freshness, in seconds."""
    waiting = any(
        end > newest["offsets"].get(topic, {}).get(str(partition), [0, 0])[1]
        for topic in newest["offsets"]
        for partition, end in ends.get(topic, {}).items()
    )
    written = sum(window.get("rows_out", {}).values())
    return {
        "rows_out": written,
        "rows_min": int(any(record["rows_out"] for record in own.records)),
        "rows_in": _rows_in({topic: ends[topic] for topic in newest["offsets"] if topic in ends}),
        "behind_seconds": max(0.0, (now_ms - newest["written_ms"]) / 1000) if waiting else 0.0,
        "freshness_seconds": pipeline.slo.freshness.total_seconds(),
        "now_ms": now_ms,
    }


def _references(pipeline: Pipeline, sink: CheckedSink, ledgers: Mapping[str, _Ledger]) -> dict[str, bool]:
    """Return reference query -> whether it has read all that this sink's query has: only then may rows be judged by it."""
    own = ledgers[sink.query].newest
    found = {}
    for name in (totals_query(pipeline, sink.query), parts_query(pipeline, sink.query)):
        if name and own:
            other = ledgers[name].newest
            found[name] = other is not None and _covers(other, own)
    return found


def _covers(other: ledger.Record, own: ledger.Record) -> bool:
    return other["watermark_ms"] >= own["watermark_ms"] * bool(other["watermark_ms"]) and all(
        other["offsets"].get(topic, {}).get(partition, [0, 0])[1] >= end
        for topic, partitions in own["offsets"].items()
        for partition, (_, end) in partitions.items()
    )


def _before(root: str, sink: CheckedSink) -> dict[str, Any]:
    latest = storage.read_json(paths.quality_latest(root, sink.name))
    return dict(latest["window"]) if latest else {}


def _read_ledger(root: str, pipeline: str, query: str) -> _Ledger:
    chosen = generation.current(root, pipeline, query)
    if chosen is None:
        return _Ledger(None, [])
    own = chosen.paths(root)
    files = [name for name in storage.list_names(own.ledger) if name.endswith(".json") and not name.startswith(".")]
    records: list[Any] = [storage.read_json(f"{own.ledger}/{name}") for name in sorted(files)[-MAX_BATCHES:]]
    return _Ledger(chosen, records)


def rows_there(deployment: Deployment, pipeline: Pipeline, sink: CheckedSink) -> int:
    """Return how many records the topics of a sink's query have had by now, those that are deleted by now included.

    A table that is read whole goes on changing: what it sums is bounded by what was there after it was read.
    """
    with offsets.reader(deployment.bindings) as kafka:
        return _rows_in({topic: kafka.ends(topic) for topic in _topics(pipeline, sink.query)})


def _topics(pipeline: Pipeline, query: str) -> list[str]:
    declared = pipeline.queries.get(query)
    return (
        list(declared.sources) if declared else [topic for topic in pipeline.sources if archive_query(topic) == query]
    )


def _rows_in(ends: Mapping[str, Mapping[int, int]]) -> int:
    return sum(end for partitions in ends.values() for end in partitions.values())


def iso(milliseconds: int) -> str:
    """Return a time as people write it: to the second, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
