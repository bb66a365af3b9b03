"""Bounded reads of Cassandra at LOCAL_QUORUM: whole partitions of named windows, a small table whole, a large one by sample.

The connector's default, LOCAL_ONE, may read a replica that has missed a write; a check must not.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
from cassandra import ConsistencyLevel, InvalidRequest
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import PreparedStatement

from headrace.contract import names
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline
from headrace.errors import HeadraceError
from headrace.operations.clients import cassandra_session
from headrace.operations.quality.plan import MAX_ROWS
from headrace.operations.quality.sinks import WINDOW_START, CheckedSink, parts_query, totals_query

CONCURRENCY = 16
PAGE_ROWS = 5_000
# A large table is read in so many short token ranges, drawn anew for each check.
SAMPLE_RANGES = 64
TOKENS = 2**64
FIRST_TOKEN = -(2**63)

Rows = list[dict[str, Any]]


def read(bindings: Path, sink: CheckedSink, window: Mapping[str, Any]) -> tuple[Rows, list[str], bool]:
    """Return (rows, the table's columns, whether they are a sample) of a check's window: closed windows, or the table."""
    with cassandra_session(bindings) as session:
        columns = _columns(session, sink.place)
        if window["kind"] == "closed":
            rows, cut = _windows(session, sink.place, window["starts_ms"])
            return rows, columns, cut
        rows, sampled = _table(session, sink, seed=zlib.crc32(window["name"].encode()))
        return rows, columns, sampled


def is_empty(bindings: Path, sink: CheckedSink) -> bool:
    """Return whether the sink's table has no row at all."""
    with cassandra_session(bindings) as session:
        return not session.execute(_prepare(session, f"SELECT * FROM {quoted(*sink.place)} LIMIT 1")).all()  # noqa: S608


def _columns(session: Session, place: tuple[str, ...]) -> list[str]:
    found = session.execute(
        "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s", place
    )
    columns = [row.column_name for row in found]
    if not columns:
        raise HeadraceError(f"Cassandra has no table {'.'.join(place)}: run `headrace provision`.")
    return columns


def _windows(session: Session, place: tuple[str, ...], starts_ms: Sequence[int]) -> tuple[Rows, bool]:
    """Return the rows of windows, newest first, and whether older ones were left out because there are MAX_ROWS."""
    rows: Rows = []
    newest_first = sorted(starts_ms, reverse=True)
    for first in range(0, len(newest_first), CONCURRENCY):
        if len(rows) >= MAX_ROWS:
            return rows, True
        rows += _partitions(session, place, newest_first[first : first + CONCURRENCY])
    return rows, False


def _partitions(session: Session, place: tuple[str, ...], starts_ms: Iterable[int]) -> Rows:
    select = _prepare(session, f'SELECT * FROM {quoted(*place)} WHERE "{WINDOW_START}" = ?')  # noqa: S608 - quoted names
    return _all(session, select, [(datetime.fromtimestamp(start / 1000, UTC),) for start in starts_ms])


def _table(session: Session, sink: CheckedSink, seed: int) -> tuple[Rows, bool]:
    """Return the whole table if it has at most MAX_ROWS rows, else the first rows of random token ranges.

    Token ranges are what a full scan consists of; rows of one partition lie together in one.
    """
    table = quoted(*sink.place)
    whole = _prepare(session, f"SELECT * FROM {table} LIMIT {MAX_ROWS + 1}")  # noqa: S608 - quoted names
    rows = [row._asdict() for row in session.execute(whole)]
    if len(rows) <= MAX_ROWS:
        return rows, False
    token = f"token({', '.join(map(quoted, _partition_key(session, sink.place)))})"
    each = MAX_ROWS // SAMPLE_RANGES
    part = _prepare(session, f"SELECT * FROM {table} WHERE {token} >= ? LIMIT {each}")  # noqa: S608 - quoted names
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret; the same for a retry of the check
    starts = [(FIRST_TOKEN + draw.randrange(TOKENS),) for _ in range(SAMPLE_RANGES)]
    sample = {tuple(row[name] for name in sink.key): row for row in _all(session, part, starts)}
    return list(sample.values()), True


def _partition_key(session: Session, place: tuple[str, ...]) -> list[str]:
    meta = session.cluster.metadata.keyspaces[place[0]].tables[place[1]]
    return [column.name for column in meta.partition_key]


def with_references(
    bindings: Path, pipeline: Pipeline, sink: CheckedSink, frame: pd.DataFrame, covered: Mapping[str, bool]
) -> pd.DataFrame:
    """Return the frame with what other tables say of its rows: `_known_in_<query>`, `_<query>_<column>`.

    A query that has not yet read as far as the sink's own says nothing: its column is null.
    """
    totals, parts = totals_query(pipeline, sink.query), parts_query(pipeline, sink.query)
    if WINDOW_START not in frame or not (totals or parts):
        return frame
    query = pipeline.queries[sink.query]
    keys = list(query.aggregate.keys) if query.aggregate else []
    with cassandra_session(bindings) as session:
        if totals:
            known = _known(session, _place(pipeline, totals), keys, frame) if covered.get(totals) else None
            frame[f"_known_in_{totals}"] = pd.Series(known, index=frame.index, dtype=object)
        if parts:
            sums = _sums(session, pipeline, sink, keys, frame) if covered.get(parts) else None
            for name in sink.numbers:
                cells = None if sums is None else [sums.get(cell, {}).get(name, 0) for cell in _cells(frame, keys)]
                frame[f"_{parts}_{name}"] = pd.Series(cells, index=frame.index, dtype=object)
    return frame


def _place(pipeline: Pipeline, query: str) -> tuple[str, str]:
    sink = next(each for each in pipeline.queries[query].sinks if isinstance(each, CassandraSink))
    return names.cassandra_table(pipeline.name, query, sink)


def _cells(frame: pd.DataFrame, keys: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    return frame[[WINDOW_START, *keys]].itertuples(index=False, name=None)


def _known(session: Session, place: tuple[str, str], keys: Sequence[str], frame: pd.DataFrame) -> list[bool | None]:
    """Return for each row whether the table has its keys (its whole partition key); None where a key is null."""
    wanted = {tuple(key) for _, *key in _cells(frame, keys) if not any(pd.isna(part) for part in key)}
    where = " AND ".join(f'"{key}" = ?' for key in keys)
    select = _prepare(session, f"SELECT {', '.join(map(quoted, keys))} FROM {quoted(*place)} WHERE {where}")  # noqa: S608
    there = {tuple(row[key] for key in keys) for row in _all(session, select, sorted(wanted))}
    return [tuple(key) in there if tuple(key) in wanted else None for _, *key in _cells(frame, keys)]


def _sums(
    session: Session, pipeline: Pipeline, sink: CheckedSink, keys: Sequence[str], frame: pd.DataFrame
) -> dict[tuple[Any, ...], dict[str, Decimal]]:
    """Return (window start, *keys) of the sink's own windows -> column -> sum over the smaller windows inside them."""
    aggregate, parts = pipeline.queries[sink.query].aggregate, parts_query(pipeline, sink.query)
    assert aggregate is not None
    assert aggregate.window is not None
    assert aggregate.window.slide is not None
    assert parts is not None
    size, slide = aggregate.window.size, aggregate.window.slide
    shifts = [slide * step for step in range(size // slide)]
    starts = {start.to_pydatetime() for start in frame[WINDOW_START].dropna()}
    inside = sorted({start + shift for start in starts for shift in shifts})
    rows = _partitions(session, _place(pipeline, parts), [int(at.timestamp() * 1000) for at in inside])
    sums: dict[tuple[Any, ...], dict[str, Decimal]] = {}
    for row in rows:
        own = row[WINDOW_START].replace(tzinfo=UTC)
        for shift in shifts:
            cell = sums.setdefault((pd.Timestamp(own - shift), *(row[key] for key in keys)), {})
            for name in sink.numbers:
                cell[name] = cell.get(name, Decimal(0)) + (row[name] or 0)
    return sums


def _prepare(session: Session, statement: str) -> PreparedStatement:
    try:
        prepared = session.prepare(statement)
    except InvalidRequest as error:
        raise HeadraceError(
            f"Cassandra refuses {statement!r} ({error}): the table differs from the pipeline file; run `headrace provision`."
        ) from error
    prepared.consistency_level = ConsistencyLevel.LOCAL_QUORUM
    prepared.fetch_size = PAGE_ROWS
    return prepared


def _all(session: Session, statement: PreparedStatement, values: Sequence[tuple[Any, ...]]) -> Rows:
    """Run one statement for each tuple of values, CONCURRENCY at a time, and return the rows of all."""
    found: Rows = []
    for _, rows in execute_concurrent_with_args(
        session, statement, values, concurrency=CONCURRENCY, results_generator=True
    ):
        found.extend(row._asdict() for row in rows)
    return found
