"""Reads a check in bounded steps, oldest first. The rows of a step are validated and released before the next step is read.

A step's window is enough to read the same rows again, so a later check can see that a finding was repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import assert_never

from headrace.contract.checked_sinks import CheckedSink
from headrace.operations import topics
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.operations.quality import bounds, read_cassandra, read_topic
from headrace.operations.quality.plan import Check
from headrace.operations.quality.position import Position
from headrace.operations.quality.read import read_archive, read_files
from headrace.operations.quality.windows import (
    Batches,
    BatchesStep,
    Closed,
    Ranges,
    StepWindow,
    TableWindow,
    batches_name,
    windows_name,
)
from headrace.store import ledger, paths
from headrace.store.records import Row


@dataclass(frozen=True)
class Step:
    """Rows of a sink. `columns` are the columns of a table."""

    window: StepWindow
    rows: list[Row]
    columns: list[str] | None = None

    @property
    def rows_out(self) -> int:
        """Return the number of rows in the ledger for the step's batches."""
        return sum(self.window.rows_out.values()) if isinstance(self.window, BatchesStep) else 0

    @property
    def reached(self) -> Position:
        """Return the position up to which the sink is checked after the step."""
        window = self.window
        if isinstance(window, BatchesStep):
            cursor = {partition: end for partition, (_, end) in window.ranges.items()}
            return Position(window.generation, window.last, cursor or None)
        return Position(until_ms=window.until_ms) if isinstance(window, Closed) else Position(token=window.token)


def steps(deployment: Deployment, sink: CheckedSink, check: Check) -> Iterator[Step]:
    """Yield a check's steps. Raises the library's error if the sink cannot be read."""
    window = check.window
    if isinstance(window, Batches):
        folder = paths.generation_paths(deployment.root, sink.pipeline, sink.query, window.generation).ledger
        groups = grouped(_records(folder, window.generation, window.first, window.last))
        if sink.kind == "kafka":
            yield from _topic_steps(deployment, sink, window, groups)
        else:
            for group in groups:
                yield _batch_step(deployment, sink, _window_of(group))
    elif isinstance(window, Closed):
        yield from _closed_steps(deployment, sink, window)
    elif isinstance(window, TableWindow):
        yield from _table_steps(deployment, sink, window)


def again(deployment: Deployment, sink: CheckedSink, window: BatchesStep | Closed) -> Step:
    """Read a step's window once more."""
    if isinstance(window, Closed):
        with cassandra_session(deployment.bindings) as session:
            columns = read_cassandra.columns_of(session, sink.place)
            return Step(window, read_cassandra.windows(session, sink.place, window.starts_ms), columns)
    if sink.kind == "kafka":
        with topics.reader(deployment.bindings, sink.place[0], "quality") as consumer:
            return Step(window, read_topic.distinct(read_topic.again(consumer, sink, window)))
    return _batch_step(deployment, sink, window)


def grouped(records: Iterable[ledger.BatchRecord]) -> Iterator[list[ledger.BatchRecord]]:
    """Yield runs of records that together wrote at most STEP_ROWS rows. A larger batch is a run by itself."""
    group: list[ledger.BatchRecord] = []
    rows = 0
    for record in records:
        if group and rows + record["rows_out"] > bounds.STEP_ROWS:
            yield group
            group, rows = [], 0
        group.append(record)
        rows += record["rows_out"]
    if group:
        yield group


def _records(folder: str, generation: int, first: int, last: int) -> Iterator[ledger.BatchRecord]:
    for record in ledger.stream(folder, first):
        if record["batch"] > last:
            return
        if record["generation"] == generation:
            yield record


def _window_of(group: list[ledger.BatchRecord]) -> BatchesStep:
    first, last = group[0], group[-1]
    return BatchesStep(
        name=batches_name(last["generation"], first["batch"], last["batch"]),
        generation=last["generation"],
        first=first["batch"],
        last=last["batch"],
        count=len(group),
        began_ms=first["began_ms"],
        written_ms=last["written_ms"],
        rows_out={str(record["batch"]): record["rows_out"] for record in group if record["rows_out"]},
        spans=spans(group),
    )


def spans(group: Iterable[ledger.BatchRecord]) -> Ranges:
    """Return partition -> [start, end) of the source offsets that consecutive batches took (an archive has one topic)."""
    ranges: Ranges = {}
    for record in group:
        for partitions in record["offsets"].values():
            for partition, (start, end) in partitions.items():
                known = ranges.setdefault(partition, [start, end])
                known[1] = end
    return ranges


def _batch_step(deployment: Deployment, sink: CheckedSink, window: BatchesStep) -> Step:
    match sink.kind:
        case "files":
            return Step(window, list(read_files(deployment.root, sink, window)))
        case "iceberg":
            return Step(window, *read_archive(deployment.root, sink, window.spans))
        case "kafka" | "cassandra":
            raise AssertionError(f"{sink.name} is not read batch by batch")
        case _:
            assert_never(sink.kind)


def _topic_steps(
    deployment: Deployment, sink: CheckedSink, window: Batches, groups: Iterator[list[ledger.BatchRecord]]
) -> Iterator[Step]:
    with topics.reader(deployment.bindings, sink.place[0], "quality") as consumer:
        cursor = window.cursor
        for group in groups:
            part = _window_of(group)
            read_to = window.ends if part.last == window.last else None
            rows, start, cursor = read_topic.onward(consumer, sink, part, cursor, read_to)
            part = replace(part, ranges={p: [start[p], end] for p, end in cursor.items()})
            yield Step(part, read_topic.distinct(rows))


def _closed_steps(deployment: Deployment, sink: CheckedSink, window: Closed) -> Iterator[Step]:
    starts = window.starts_ms
    with cassandra_session(deployment.bindings) as session:
        columns = read_cassandra.columns_of(session, sink.place)
        rows: list[Row] = []
        taken: list[int] = []
        for first in range(0, len(starts), read_cassandra.CONCURRENCY):
            portion = starts[first : first + read_cassandra.CONCURRENCY]
            rows += read_cassandra.windows(session, sink.place, portion)
            taken += portion
            if len(rows) >= bounds.STEP_ROWS or len(taken) >= bounds.STEP_WINDOWS or taken[-1] == starts[-1]:
                until = taken[-1] + window.size_ms
                part = Closed(name=windows_name(taken[0], until), starts_ms=tuple(taken), until_ms=until)
                yield Step(part, rows, columns)
                rows, taken = [], []


def _table_steps(deployment: Deployment, sink: CheckedSink, window: TableWindow) -> Iterator[Step]:
    """Yield a table in the order of its tokens, from where the last check ended, at most CHECK_ROWS rows."""
    with cassandra_session(deployment.bindings) as session:
        portions = read_cassandra.portions(session, sink, window.token, bounds.STEP_ROWS)
        columns = read_cassandra.columns_of(session, sink.place)
        for rows, token in islice(portions, max(1, bounds.CHECK_ROWS // bounds.STEP_ROWS)):
            yield Step(TableWindow(name=window.name, token=token), rows, columns)
