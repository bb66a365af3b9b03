"""Reads a check in bounded steps, oldest first. The rows of a step are validated and released before the next step is read.

A step's window is enough to read the same rows again, so a later check can see that a finding was repaired. `reached` is the
position up to which the sink is checked after the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from headrace.operations import topics
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.operations.quality import bounds, read_cassandra, read_topic
from headrace.operations.quality.plan import Check
from headrace.operations.quality.read import read_archive, read_files
from headrace.operations.quality.sinks import CheckedSink
from headrace.operations.quality.windows import Window, iso
from headrace.store import ledger, paths

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """Rows of a sink. `found` are the columns of a table; `batches` is the number of batches.

    `offsets` are the ranges that were read, partition -> [start, end): of a sink's topic, or of an archive's source.
    """

    window: Window
    rows: Rows
    found: list[str] | None = None
    batches: int = 0
    reached: dict[str, Any] = field(default_factory=dict)
    offsets: dict[str, list[int]] = field(default_factory=dict)

    @property
    def rows_out(self) -> int:
        """Return the number of rows in the ledger for the step's batches."""
        return sum(self.window.get("rows_out", {}).values())


def steps(deployment: Deployment, sink: CheckedSink, check: Check) -> Iterator[Step]:
    """Yield a check's steps. Raises the library's error if the sink cannot be read."""
    if check.window["kind"] == "batches":
        folders = paths.generation_paths(deployment.root, sink.pipeline, sink.query, check.window["generation"])
        groups = grouped(
            _records(folders.ledger, check.window["generation"], check.window["first"], check.window["last"])
        )
        if sink.kind == "kafka":
            yield from _topic_steps(deployment, sink, check.window, groups)
        else:
            for group in groups:
                yield _batch_step(deployment, sink, _window_of(group))
    elif check.window["kind"] == "closed":
        yield from _closed_steps(deployment, sink, check.window)
    else:
        yield from _table_steps(deployment, sink, check.window)


def again(deployment: Deployment, sink: CheckedSink, window: Window) -> Step:
    """Read a step's window once more."""
    if window["kind"] == "closed":
        with cassandra_session(deployment.bindings) as session:
            columns = read_cassandra.columns_of(session, sink.place)
            return Step(window, read_cassandra.windows(session, sink.place, window["starts_ms"]), columns)
    if sink.kind == "kafka":
        with topics.reader(deployment.bindings, sink.place[0], "quality") as consumer:
            return Step(window, read_topic.distinct(read_topic.again(consumer, sink, window)))
    return _batch_step(deployment, sink, window)


def grouped(records: Iterable[ledger.Record]) -> Iterator[list[ledger.Record]]:
    """Yield runs of records that together wrote at most STEP_ROWS rows. A larger batch is a run by itself."""
    group: list[ledger.Record] = []
    rows = 0
    for record in records:
        if group and rows + record["rows_out"] > bounds.STEP_ROWS:
            yield group
            group, rows = [], 0
        group.append(record)
        rows += record["rows_out"]
    if group:
        yield group


def _records(folder: str, generation: int, first: int, last: int) -> Iterator[ledger.Record]:
    for record in ledger.stream(folder, first):
        if record["batch"] > last:
            return
        if record["generation"] == generation:
            yield record


def _window_of(group: list[ledger.Record]) -> Window:
    first, last = group[0], group[-1]
    return {
        "kind": "batches",
        "name": f"generation {last['generation']} batches {first['batch']} to {last['batch']}",
        "generation": last["generation"],
        "first": first["batch"],
        "last": last["batch"],
        "count": len(group),
        "began_ms": first["began_ms"],
        "written_ms": last["written_ms"],
        "rows_out": {str(record["batch"]): record["rows_out"] for record in group if record["rows_out"]},
        "spans": spans(group),
    }


def spans(group: Iterable[ledger.Record]) -> dict[str, list[int]]:
    """Return partition -> [start, end) of the source offsets that consecutive batches took (an archive has one topic)."""
    ranges: dict[str, list[int]] = {}
    for record in group:
        for partitions in record["offsets"].values():
            for partition, (start, end) in partitions.items():
                known = ranges.setdefault(partition, [start, end])
                known[1] = end
    return ranges


def _batch_step(deployment: Deployment, sink: CheckedSink, window: Window) -> Step:
    reached = {"generation": window["generation"], "last": window["last"]}
    if sink.kind == "files":
        rows = list(read_files(deployment.root, sink, window))
        return Step(window, rows, None, window["count"], reached)
    rows, columns = read_archive(deployment.root, sink, window["spans"])
    return Step(window, rows, columns, window["count"], reached, window["spans"])


def _topic_steps(
    deployment: Deployment, sink: CheckedSink, window: Mapping[str, Any], groups: Iterator[list[ledger.Record]]
) -> Iterator[Step]:
    with topics.reader(deployment.bindings, sink.place[0], "quality") as consumer:
        cursor: Mapping[str, int] | None = window.get("cursor")
        for group in groups:
            step_window = _window_of(group)
            read_to = window.get("ends") if step_window["last"] == window["last"] else None
            rows, start, cursor = read_topic.onward(consumer, sink, step_window, cursor, read_to)
            step_window["ranges"] = {p: [start[p], end] for p, end in cursor.items()}
            reached = {"generation": step_window["generation"], "last": step_window["last"], "cursor": dict(cursor)}
            yield Step(
                step_window, read_topic.distinct(rows), None, step_window["count"], reached, step_window["ranges"]
            )


def _closed_steps(deployment: Deployment, sink: CheckedSink, window: Mapping[str, Any]) -> Iterator[Step]:
    starts, size_ms = list(window["starts_ms"]), window["size_ms"]
    with cassandra_session(deployment.bindings) as session:
        columns = read_cassandra.columns_of(session, sink.place)
        rows: Rows = []
        taken: list[int] = []
        for first in range(0, len(starts), read_cassandra.CONCURRENCY):
            portion = starts[first : first + read_cassandra.CONCURRENCY]
            rows += read_cassandra.windows(session, sink.place, portion)
            taken += portion
            if len(rows) >= bounds.STEP_ROWS or len(taken) >= bounds.STEP_WINDOWS or taken[-1] == starts[-1]:
                until = taken[-1] + size_ms
                name = f"windows {iso(taken[0])} to {iso(until)}"
                yield Step(
                    {"kind": "closed", "name": name, "starts_ms": taken, "until_ms": until},
                    rows,
                    columns,
                    reached={"until_ms": until},
                )
                rows, taken = [], []


def _table_steps(deployment: Deployment, sink: CheckedSink, window: Mapping[str, Any]) -> Iterator[Step]:
    """Yield a table in the order of its tokens, from where the last check ended, at most CHECK_ROWS rows."""
    with cassandra_session(deployment.bindings) as session:
        portions = read_cassandra.portions(session, sink, window.get("token"), bounds.STEP_ROWS)
        columns = read_cassandra.columns_of(session, sink.place)
        for rows, token in islice(portions, max(1, bounds.CHECK_ROWS // bounds.STEP_ROWS)):
            step_window = {"kind": "table", "name": window["name"], "token": token}
            yield Step(step_window, rows, columns, reached={"token": token})
