"""Which sinks there are, their columns and keys, and the columns that a check adds. All of it follows from the contract.

Added columns begin with an underscore, which no contract column may:
- `_schema_error`  what is wrong with the row's types or fields, in words; null where nothing is
- `_behind_seconds`  age of the query's newest batch while records wait for longer than is promised, else 0
- `_ahead_seconds`  how far the row's latest time lies after the check; negative for the past
- `_<a>_to_<b>_seconds`  between each two times of a row, in the file's order
- `_window_start_offset_seconds`  of a window's start to its grid
- `_known_in_<query>`  whether the table of running totals holds the row's keys; null where that query is behind
- `_<query>_<column>`  sum of the smaller windows that a sliding window consists of; null where that query is behind
- `_id`, `_copies`, `_batch`, `_partition`, `_offset`  of a Kafka record; `_batch`, `_line`  of a file
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, assert_never

from headrace.contract import names
from headrace.contract.cassandra import Table, tables
from headrace.contract.model import CassandraSink, Column, Dimension, FilesSink, KafkaSink, Pipeline, Query, Sink
from headrace.contract.model_quality import Expectation
from headrace.errors import HeadraceError

Kind = Literal["cassandra", "kafka", "files", "iceberg"]
KIND_WORDS: dict[Kind, str] = {
    "cassandra": "Cassandra table",
    "kafka": "Kafka topic",
    "files": "JSON files",
    "iceberg": "Iceberg archive",
}
"""What each kind of sink is called on pages."""

WINDOW_START, WINDOW_END = "window_start", "window_end"
SCHEMA_ERROR, BEHIND, AHEAD, OFFSET_IN_GRID = (
    "_schema_error",
    "_behind_seconds",
    "_ahead_seconds",
    "_window_start_offset_seconds",
)

# Where a row stands in its sink: of a Kafka record, of a line of a file.
STANDS = {"kafka": ("_id", "_copies", "_batch", "_partition", "_offset"), "files": ("_batch", "_line")}

# What an archive query writes, without the bytes: a check reads coordinates, times and reasons (driver.queries).
ARCHIVE_COLUMNS = {
    "topic": Column(type="string", required=True),
    "partition": Column(type="int", required=True),
    "offset": Column(type="long", required=True),
    "timestamp": Column(type="timestamp", required=True),
    "reason": Column(type="string"),
}


@dataclass(frozen=True)
class CheckedSink:
    """One sink. `key` are the columns that name a row in the quarantine; `place` is topic or (keyspace, table).

    `declared` is the sink in the pipeline file (an archive has none), `expectations` what the file declares for it, each
    with its dotted key.
    """

    name: str
    kind: Kind
    pipeline: str
    query: str
    columns: dict[str, Column]
    key: tuple[str, ...]
    place: tuple[str, ...] = ()
    declared: Sink | None = None
    expectations: tuple[tuple[str, Expectation], ...] = ()

    @property
    def numbers(self) -> list[str]:
        """Return the columns that can be summed."""
        return [name for name, column in self.columns.items() if column.type.startswith(("decimal", "long", "int"))]

    @property
    def times(self) -> list[str]:
        """Return the timestamp columns in the file's order."""
        return [name for name, column in self.columns.items() if column.type == "timestamp"]


def sinks_of(pipeline: Pipeline) -> list[CheckedSink]:
    """Return every sink of a pipeline: those of the declared queries, then the archives."""
    return [*_declared(pipeline), *_archives(pipeline)]


def _declared(pipeline: Pipeline) -> Iterator[CheckedSink]:
    all_tables = {(table.keyspace, table.name): table for table in tables(pipeline)}
    for name, query in pipeline.queries.items():
        for number, sink in enumerate(query.sinks):
            declared = (
                *((f"queries.{name}.quality.{at}", expectation) for at, expectation in enumerate(query.quality)),
                *(
                    (f"queries.{name}.sinks.{number}.quality.{at}", expectation)
                    for at, expectation in enumerate(sink.quality)
                ),
            )
            kind: Kind = sink.kind
            columns = dict(query.columns)
            place: tuple[str, ...]
            match sink:
                case CassandraSink():
                    table = names.cassandra_table(pipeline.name, name, sink)
                    columns, key = _table_columns(pipeline, all_tables[table], query), all_tables[table].key
                    place, full = table, names.sink_name(kind, *table)
                case KafkaSink():
                    key = ("_partition", "_offset") if sink.identity == "source" else tuple(sink.identity)
                    place, full = (sink.topic,), names.sink_name(kind, sink.topic)
                case FilesSink():
                    key = ("_batch", "_line")
                    place, full = (), names.sink_name(kind, pipeline.name, name)
                case _:
                    assert_never(sink)
            yield CheckedSink(full, kind, pipeline.name, name, columns, key, place, sink, declared)


def _archives(pipeline: Pipeline) -> Iterator[CheckedSink]:
    for topic in pipeline.sources:
        query = names.archive_query(topic)
        full = names.sink_name("iceberg", pipeline.name, query)
        yield CheckedSink(
            full, "iceberg", pipeline.name, query, dict(ARCHIVE_COLUMNS), ("partition", "offset"), (topic,)
        )


def _table_columns(pipeline: Pipeline, table: Table, query: Query) -> dict[str, Column]:
    """Return the columns of a table: where a dimension is the same table, what the dimension says of them."""
    shared = {n: c for d in pipeline.dimensions.values() if _is(d, table) for n, c in d.columns.items()}
    return {name: shared.get(name) or query.columns[name] for name in table.columns}


def _is(dimension: Dimension, table: Table) -> bool:
    return (dimension.keyspace, dimension.table) == (table.keyspace, table.name)


def totals_query(pipeline: Pipeline, query: str) -> str | None:
    """Return the query whose table must hold the keys of `query`'s windows: same sources and keys, no window, no loss."""
    checked = pipeline.queries.get(query)
    if checked is None or checked.aggregate is None or checked.aggregate.window is None:
        return None
    for name, other in pipeline.queries.items():
        keys = tuple(checked.aggregate.keys)
        totals = other.aggregate is not None and other.aggregate.window is None and tuple(other.aggregate.keys) == keys
        if totals and other.late == "include" and other.sources == checked.sources and _table_keyed(other, keys):
            return name
    return None


def parts_query(pipeline: Pipeline, query: str) -> str | None:
    """Return the query whose tumbling windows make up the sliding windows of `query`, if its rows are in a table."""
    checked = pipeline.queries.get(query)
    if (
        checked is None
        or checked.aggregate is None
        or checked.aggregate.window is None
        or checked.aggregate.window.slide is None
    ):
        return None
    keys, window = checked.aggregate.keys, checked.aggregate.window
    for name, other in pipeline.queries.items():
        if other.aggregate is None or other.aggregate.window is None or other.sources != checked.sources:
            continue
        size, slide = other.aggregate.window.size, other.aggregate.window.slide
        tumbling = slide in {None, size} and size == window.slide and other.aggregate.keys == keys
        tumbling = tumbling and other.aggregate.window.offset == window.offset
        if tumbling and _table_keyed(other, (WINDOW_START,)):
            return name
    return None


def _table_keyed(query: Query, partition_key: tuple[str, ...]) -> bool:
    """Return whether a table of the query has this partition key and keeps its rows: no time to live."""
    return any(
        isinstance(sink, CassandraSink) and tuple(sink.partition_key) == partition_key and sink.ttl is None
        for sink in query.sinks
    )


def column_types(pipeline: Pipeline, sink: CheckedSink) -> dict[str, str]:
    """Return every column that an expectation on a sink may name, with its type (long stands for any number)."""
    added = {name: _added_type(name) for name in added_columns(pipeline, sink)}
    return {name: column.type for name, column in sink.columns.items()} | added


def _added_type(name: str) -> str:
    if name.startswith("_known_in_"):
        return "boolean"
    return "string" if name in {SCHEMA_ERROR, "_id", "_line"} else "long"


def added_columns(pipeline: Pipeline, sink: CheckedSink) -> list[str]:
    """Return the columns that a check adds to the sink's own, in order."""
    times = [f"_{a}_to_{b}_seconds" for a, b in combinations(sink.times, 2)]
    columns = [SCHEMA_ERROR, BEHIND, *([AHEAD] if sink.times else []), *times]
    query = pipeline.queries.get(sink.query)
    if query and query.aggregate and query.aggregate.window and WINDOW_START in sink.columns:
        columns.append(OFFSET_IN_GRID)
        totals, parts = totals_query(pipeline, sink.query), parts_query(pipeline, sink.query)
        columns += [f"_known_in_{totals}"] if totals else []
        columns += [f"_{parts}_{name}" for name in sink.numbers] if parts else []
    return [*columns, *STANDS.get(sink.kind, ())]


def description_of(pipeline: Pipeline, sink: CheckedSink) -> str:
    """Return what a row of a sink means: the description of its query, or of an archive."""
    declared = pipeline.queries.get(sink.query)
    return declared.description if declared else f"Every record of the topic {sink.place[0]}."


def stages_of(pipeline: Pipeline) -> dict[str, str]:
    """Return the dimension of each stage: of every dimension that is refreshed, by the name of its stage."""
    refreshed = [name for name, dimension in pipeline.dimensions.items() if dimension.refresh]
    return {names.stage_name(pipeline.name, name): name for name in refreshed}


def suites_of(pipeline: Pipeline) -> list[str]:
    """Return the names of all suites of a pipeline: of its sinks, and of the stage of each dimension that is refreshed."""
    return [*(sink.name for sink in sinks_of(pipeline)), *stages_of(pipeline)]


def find(pipelines: Iterable[Pipeline], sink: str) -> CheckedSink:
    """Return the sink with a name. Raises HeadraceError that lists the known sinks."""
    known = {checked.name: checked for pipeline in pipelines for checked in sinks_of(pipeline)}
    if sink not in known:
        raise HeadraceError(f"Unknown sink {sink!r}. Known sinks: {', '.join(sorted(known))}.")
    return known[sink]
