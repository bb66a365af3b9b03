"""The suite of every sink and stage, in Great Expectations' own JSON.

Most expectations follow from the pipeline file: columns and types, required columns, keys, windows, the rows that the ledger
counts, freshness and clock skew. The others are declared there under `quality:`. A check derives its suite from the loaded
pipeline. The files in `expectations/` are a rendering for reviewers: `python -m headrace.operations.quality.suites` writes
them, and nothing reads them.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from math import prod
from pathlib import Path
from typing import assert_never

from headrace.contract import checked_sinks
from headrace.contract.cassandra import directory_columns
from headrace.contract.checked_sinks import (
    AHEAD,
    BEHIND,
    OFFSET_IN_GRID,
    SCHEMA_ERROR,
    WINDOW_END,
    WINDOW_START,
    CheckedSink,
    added_columns,
    sinks_of,
    stages_of,
)
from headrace.contract.load import load_pipelines
from headrace.contract.model import CassandraSink, EventTime, KafkaSink, Pipeline, Query
from headrace.contract.model_quality import Expectation, columns_of
from headrace.errors import HeadraceError
from headrace.store import records
from headrace.store.records import Json

FOLDER = "expectations"

_NAMESPACE = uuid.UUID("6f1f0a5e-6a0b-5d43-9d0f-2a3f0b7f1c55")
# What an archive table has besides the columns that a check reads.
_ARCHIVED_BYTES = ("headers", "key", "value")
_ROWS_WRITTEN = "The ledger's rows of these batches: a row is lost or there twice."


@dataclass(frozen=True)
class SuiteExpectation:
    """One expectation of a suite. `kwargs` are the arguments of Great Expectations; `meta` says `why` it is there."""

    id: str
    type: str
    kwargs: Json
    severity: str
    meta: dict[str, str]


@dataclass(frozen=True)
class Suite:
    """A suite as Great Expectations takes it."""

    name: str
    id: str
    expectations: tuple[SuiteExpectation, ...]
    meta: dict[str, str] = field(default_factory=dict)
    notes: str | None = None


@dataclass(frozen=True)
class _Wanted:
    """One expectation before it has an id."""

    type: str
    arguments: Json
    why: str
    severity: str = "critical"

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        """Return the type and the columns, by which a declared expectation replaces a derived one."""
        return self.type, columns_of(self.arguments)


def suites(pipeline: Pipeline) -> dict[str, Suite]:
    """Return every suite of a pipeline by name: of its sinks, then of the stages of its dimensions."""
    made = {sink.name: _suite(sink.name, _of_sink(pipeline, sink), _declared(sink)) for sink in sinks_of(pipeline)}
    return made | {name: _stage_suite(pipeline, name, dimension) for name, dimension in stages_of(pipeline).items()}


def suite_of(pipeline: Pipeline, name: str) -> Suite:
    """Return the suite of one sink or stage. Raises HeadraceError for a name that the pipeline does not have."""
    known = suites(pipeline)
    if name not in known:
        raise HeadraceError(f"Pipeline {pipeline.name} has no sink or stage {name!r}. It has: {', '.join(known)}.")
    return known[name]


def _suite(name: str, derived: Iterable[_Wanted], declared: Iterable[_Wanted]) -> Suite:
    """Return a suite. A declared expectation on columns replaces the derived one of its type on the same columns."""
    listed = list(declared)
    replaced = {wanted.place for wanted in listed if wanted.place[1]}
    kept = [wanted for wanted in derived if wanted.place not in replaced]
    expectations = tuple(_with_id(name, wanted) for wanted in (*kept, *listed))
    return Suite(name, str(uuid.uuid5(_NAMESPACE, name)), expectations)


def _with_id(suite: str, wanted: _Wanted) -> SuiteExpectation:
    """Return an expectation. Its id follows from suite, type and arguments: a finding names what it broke by it."""
    said = f"{suite} {wanted.type} {json.dumps(wanted.arguments, sort_keys=True)}"
    expectation_id = str(uuid.uuid5(_NAMESPACE, said))
    return SuiteExpectation(expectation_id, wanted.type, wanted.arguments, wanted.severity, {"why": wanted.why})


def _declared(sink: CheckedSink) -> list[_Wanted]:
    """Return the expectations declared for a sink. Those of the sink replace those of its query on the same columns."""
    of_sink = {
        (expectation.type, expectation.columns)
        for key, expectation in sink.expectations
        if ".sinks." in key and expectation.columns
    }
    return [
        _as_wanted(expectation)
        for key, expectation in sink.expectations
        if ".sinks." in key or (expectation.type, expectation.columns) not in of_sink
    ]


def _as_wanted(expectation: Expectation) -> _Wanted:
    return _Wanted(expectation.type, expectation.arguments, expectation.why, expectation.severity)


def _of_sink(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    for rule in _RULES:
        yield from rule(pipeline, sink)


def _columns_and_types(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    columns = [*sink.columns, *added_columns(pipeline, sink), *(_ARCHIVED_BYTES if sink.kind == "iceberg" else ())]
    yield _columns(columns, "A column too many or too few: the sink and the pipeline file differ.")
    why = "A cell that has no value of its column's type, or a field that the contract does not know."
    yield _Wanted("expect_column_values_to_be_null", {"column": SCHEMA_ERROR}, why)
    for name, column in sink.columns.items():
        if column.required:
            yield _not_null(name, f"{name} is required.")


def _columns(names: Iterable[str], why: str) -> _Wanted:
    return _Wanted("expect_table_columns_to_match_set", {"column_set": sorted(names), "exact_match": True}, why)


def _not_null(column: str, why: str) -> _Wanted:
    return _Wanted("expect_column_values_to_not_be_null", {"column": column}, why)


def _parameter(name: str) -> dict[str, str]:
    return {"$PARAMETER": name}


def _volume(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    """Yield expectations on the row count, from the ledger. A table has only its newest rows, minus the expired ones."""
    equal = _Wanted("expect_table_row_count_to_equal", {"value": _parameter("rows_out")}, _ROWS_WRITTEN)
    between = "expect_table_row_count_to_be_between"
    match sink.kind:
        case "cassandra":
            if getattr(sink.declared, "ttl", None) is None:
                why = "The ledger says that rows were written: an empty table has lost them."
                yield _Wanted(between, {"min_value": _parameter("rows_min")}, why)
            most = _most_keys(pipeline, sink)
            if most is not None:
                why = "At most as many keys as the pipeline file bounds by max_distinct."
                yield _Wanted(between, {"min_value": 0, "max_value": most}, why, "warning")
        case "kafka":
            why = "The ledger's rows of these batches: fewer records are a loss; more are copies of a batch that ran twice."
            copies: Json = {"column": "_copies", "min_value": _parameter("rows_out")}
            yield _Wanted("expect_column_sum_to_be_between", copies, why)
            if _one_row_an_identity(pipeline, sink):
                yield equal
        case "files" | "iceberg":
            yield equal
        case _:
            assert_never(sink.kind)


def _most_keys(pipeline: Pipeline, sink: CheckedSink) -> int | None:
    """Return the largest number of rows of a table of running totals, if the sources bound every key."""
    query = pipeline.queries[sink.query]
    if query.aggregate is None or query.aggregate.window is not None or not query.aggregate.keys:
        return None
    bounds = [_max_distinct(pipeline, query, key) for key in query.aggregate.keys]
    return None if None in bounds else prod(bound for bound in bounds if bound is not None)


def _max_distinct(pipeline: Pipeline, query: Query, key: str) -> int | None:
    columns = [pipeline.sources[topic].columns.get(key) for topic in query.sources]
    distinct = [column.max_distinct for column in columns if column and column.max_distinct]
    return max(distinct, default=None)


def _one_row_an_identity(pipeline: Pipeline, sink: CheckedSink) -> bool:
    """Return whether two rows of a query never have the same identity: a group has one row, and so has a record.

    A join returns one row for each match, so two equal records return two equal rows.
    """
    query = pipeline.queries[sink.query]
    if query.join is not None:
        return False
    return query.aggregate is not None or (isinstance(sink.declared, KafkaSink) and sink.declared.identity == "source")


def _freshness(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    why = "Records wait and no batch has finished for longer than the pipeline promises."
    bounds = {"column": BEHIND, "min_value": 0, "max_value": _parameter("freshness_seconds")}
    yield _Wanted("expect_column_max_to_be_between", bounds, why, "warning")


def _skew(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    """Yield: no time is later than the check by more than the accepted skew. Only if all times of the sources are event times."""
    if not sink.times or not _only_event_times(pipeline, sink):
        return
    query = pipeline.queries.get(sink.query)
    topics = query.sources if query else [sink.place[0]]
    times = [pipeline.sources[topic].event_time for topic in topics]
    skew = max(event_time.accepted_skew if event_time else _USUAL_SKEW for event_time in times)
    why = f"A time in the future, beyond the accepted skew of {int(skew.total_seconds())} seconds."
    if query and query.aggregate and query.aggregate.window and WINDOW_END in sink.columns and not _closed(query, sink):
        skew += query.aggregate.window.size
        why = "A window that has not begun, beyond the accepted skew."
    yield _between(AHEAD, why, high=skew)


_TIMES = {"timestamp", "date"}
_USUAL_SKEW: timedelta = EventTime.model_fields["accepted_skew"].default


def _closed(query: Query, sink: CheckedSink) -> bool:
    """Return whether a check reads only closed windows: for a table with one partition for each window, or in append mode."""
    by_start = isinstance(sink.declared, CassandraSink) and sink.declared.partition_key == [WINDOW_START]
    return by_start or query.mode == "append"


def _only_event_times(pipeline: Pipeline, sink: CheckedSink) -> bool:
    """Return whether every time that the sink's query reads is an event time. Other times may be in the future."""
    query = pipeline.queries.get(sink.query)
    if query is None:
        return True  # an archive has Kafka's time
    for topic in query.sources:
        source = pipeline.sources[topic]
        event = source.event_time.column if source.event_time else None
        if any(column.type in _TIMES | {"json"} and name != event for name, column in source.columns.items()):
            return False
    dimensions = [pipeline.dimensions[name].columns for name in query.dimensions]
    return not any(
        column.type in _TIMES and name not in query.columns
        for columns in dimensions
        for name, column in columns.items()
    )


def _between(column: str, why: str, low: timedelta | None = None, high: timedelta | None = None) -> _Wanted:
    bounds = {"min_value": low, "max_value": high}
    said = {name: _seconds(bound) for name, bound in bounds.items() if bound is not None}
    return _Wanted("expect_column_values_to_be_between", {"column": column, **said}, why)


def _seconds(duration: timedelta) -> int | float:
    seconds = duration.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _keys(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    """Yield expectations on what names a row. A line of a file has no such columns."""
    match sink.kind:
        case "kafka":
            yield _not_null("_id", "Every record has an id to de-duplicate by.")
            yield _unique(("_id",), "One id says one thing, however often it comes.")
            if sink.key != ("_partition", "_offset"):
                yield _unique(sink.key, "A key has one row.")
        case "cassandra":
            yield _unique(sink.key, "A key has one row.")
        case "iceberg":
            yield _unique(sink.key, "A record is archived once.")
        case "files":
            pass
        case _:
            assert_never(sink.kind)


def _unique(key: tuple[str, ...], why: str) -> _Wanted:
    if len(key) == 1:
        return _Wanted("expect_column_values_to_be_unique", {"column": key[0]}, why)
    return _Wanted("expect_compound_columns_to_be_unique", {"column_list": list(key)}, why)


def _windows(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    query = pipeline.queries.get(sink.query)
    window = query.aggregate.window if query and query.aggregate else None
    if window is None or WINDOW_START not in sink.columns:
        return
    if sink.columns[WINDOW_START].type != "timestamp":
        return
    length = f"_{WINDOW_START}_to_{WINDOW_END}_seconds"
    if length in added_columns(pipeline, sink):
        yield _in_set(length, _seconds(window.size), "A window is as long as the pipeline file says.")
    yield _in_set(OFFSET_IN_GRID, 0, "Windows begin on the grid.")


def _in_set(column: str, value: object, why: str) -> _Wanted:
    return _Wanted("expect_column_values_to_be_in_set", {"column": column, "value_set": [value]}, why)


def _between_queries(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    """Yield expectations on the rows of another query: keys that must be known, and sums of smaller windows."""
    added = added_columns(pipeline, sink)
    totals, parts = checked_sinks.totals_query(pipeline, sink.query), checked_sinks.parts_query(pipeline, sink.query)
    if f"_known_in_{totals}" in added:
        yield _in_set(f"_known_in_{totals}", True, f"Every key of a window is in the totals of {totals}.")
    for name in sink.numbers if parts else ():
        if f"_{parts}_{name}" in added:
            yield _sum_of_parts(pipeline.queries[sink.query], str(parts), name)


def _sum_of_parts(query: Query, parts: str, name: str) -> _Wanted:
    """Return the expectation that a long window is the sum of its short ones: exactly, unless late rows are dropped.

    A short window closes before the long ones that begin with it. A row that is late for the first and not for the second
    is in the sum of one only, and no check can see which: reconciliation does, which reads the archive.
    """
    arguments: Json = {"column_A": name, "column_B": f"_{parts}_{name}", "ignore_row_if": "either_value_is_missing"}
    why = f"A window is the sum of the windows of {parts} inside it."
    if query.late == "drop":
        arguments["mostly"] = 0.9
        why += " A row may be late for a short window and in time for a long one; reconcile says which."
    return _Wanted("expect_column_pair_values_to_be_equal", arguments, why)


def _archives(pipeline: Pipeline, sink: CheckedSink) -> Iterator[_Wanted]:
    if sink.kind != "iceberg":
        return
    yield _in_set("topic", sink.place[0], "The archive of a topic holds that topic.")
    why = "So many refused records at once are a producer's fault, not a record's."
    yield _Wanted("expect_column_values_to_be_null", {"column": "reason", "mostly": 0.95}, why, "warning")
    for name in ("offset", "partition"):
        yield _between(name, "Kafka counts from 0.", low=timedelta(0))


_RULES: tuple[Callable[[Pipeline, CheckedSink], Iterator[_Wanted]], ...] = (
    _columns_and_types,
    _volume,
    _freshness,
    _skew,
    _keys,
    _windows,
    _between_queries,
    _archives,
)


def _stage_suite(pipeline: Pipeline, name: str, dimension: str) -> Suite:
    spec = pipeline.dimensions[dimension]
    columns = [*spec.key, *directory_columns(pipeline, dimension)]
    required = [column for column in columns if column in spec.key or spec.columns[column].required]
    why = "So many fewer rows than before are a fault of the extract."
    derived = (
        _columns(columns, "The key, and the columns that no stream writes."),
        *(_not_null(column, f"{column} is required.") for column in required),
        _unique(tuple(spec.key), "A key has one row: of two, the table would keep either."),
        _Wanted("expect_table_row_count_to_be_between", {"min_value": _parameter("rows_min")}, why),
    )
    return _suite(name, derived, map(_as_wanted, spec.quality))


def text(suite: Suite) -> str:
    """Return the content of a suite's file."""
    return json.dumps(records.to_json(suite), indent=2, ensure_ascii=False) + "\n"


def render(project: Path) -> None:
    """Write the suites of all pipelines of a project to `expectations/`, and remove files of suites that are gone.

    Raises HeadraceError for a fault of a pipeline file.
    """
    folder = project / FOLDER
    folder.mkdir(exist_ok=True)
    made = {
        name: suite for one in load_pipelines(project / "pipelines").values() for name, suite in suites(one).items()
    }
    for path in folder.glob("*.json"):
        if path.stem not in made:
            path.unlink()
    for name, suite in made.items():
        (folder / f"{name}.json").write_text(text(suite), encoding="utf-8")


if __name__ == "__main__":
    render(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
