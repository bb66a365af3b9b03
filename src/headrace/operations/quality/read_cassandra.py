"""Bounded reads of Cassandra at LOCAL_QUORUM: complete partitions of named windows, complete tables in portions.

The connector's default, LOCAL_ONE, may read a replica that has missed a write; a check must not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from headrace.contract.checked_sinks import WINDOW_START, CheckedSink, parts_query, totals_query
from headrace.contract.model import CassandraSink, Pipeline
from headrace.errors import HeadraceError
from headrace.operations.clients import as_dicts, cassandra_session
from headrace.store.records import Row

CONCURRENCY = 16
PAGE_ROWS = 5_000
# Murmur3Partitioner: no row has this token. It marks the beginning of the ring.
FIRST_TOKEN = -(2**63)


def is_empty(bindings: Path, sink: CheckedSink) -> bool:
    """Return whether the sink's table has no row."""
    with cassandra_session(bindings) as session:
        return not session.execute(_prepare(session, f"SELECT * FROM {quoted(*sink.place)} LIMIT 1")).all()  # noqa: S608


def columns_of(session: Session, place: tuple[str, ...]) -> list[str]:
    """Return the columns of a table (keyspace, name). Raises HeadraceError if the table does not exist."""
    described = session.execute(
        "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s", place
    )
    columns = [row.column_name for row in described]
    if not columns:
        raise HeadraceError(f"Cassandra has no table {'.'.join(place)}: run `headrace provision`.")
    return columns


def earliest_window(bindings: Path, sink: CheckedSink, after_ms: int) -> int | None:
    """Return the first window start at or after a time (milliseconds since 1970) of which the table has a row."""
    with cassandra_session(bindings) as session:
        columns_of(session, sink.place)
        select = _prepare(session, f'SELECT DISTINCT "{WINDOW_START}" FROM {quoted(*sink.place)}')  # noqa: S608
        starts = (int(row[0].replace(tzinfo=UTC).timestamp() * 1000) for row in session.execute(select))
        return min((start for start in starts if start >= after_ms), default=None)


def windows(session: Session, place: tuple[str, ...], starts_ms: Iterable[int]) -> list[Row]:
    """Return the rows of the windows that start at these times (milliseconds since 1970)."""
    select = _prepare(session, f'SELECT * FROM {quoted(*place)} WHERE "{WINDOW_START}" = ?')  # noqa: S608 - quoted names
    return _all(session, select, [(datetime.fromtimestamp(start / 1000, UTC),) for start in starts_ms])


def portions(
    session: Session, sink: CheckedSink, after: int | None, size: int
) -> Iterator[tuple[list[Row], int | None]]:
    """Yield (rows, token) of a table in the order of its tokens, after the token `after` (None: from the start).

    A portion has at least `size` rows and never splits a partition. `token` is its last token, None at the table's end.
    """
    token = f"token({', '.join(map(quoted, _partition_key(session, sink.place)))})"
    columns = ", ".join(map(quoted, columns_of(session, sink.place)))
    statement = f"SELECT {token} AS headrace_token, {columns} FROM {quoted(*sink.place)} WHERE {token} > ?"  # noqa: S608
    select = _prepare(session, statement)
    rows = session.execute(select, (FIRST_TOKEN if after is None else after,), execution_profile=as_dicts(session))
    yield from cut(rows, size)


def cut(rows: Iterable[Row], size: int) -> Iterator[tuple[list[Row], int | None]]:
    """Split rows in token order into portions that never split a token."""
    portion: list[Row] = []
    last: int | None = None
    for row in rows:
        at = row.pop("headrace_token")
        if len(portion) >= size and at != last:
            yield portion, last
            portion = []
        portion.append(row)
        last = at
    yield portion, None


def _partition_key(session: Session, place: tuple[str, ...]) -> list[str]:
    meta = session.cluster.metadata.keyspaces[place[0]].tables[place[1]]
    return [column.name for column in meta.partition_key]


def with_references(
    bindings: Path, pipeline: Pipeline, sink: CheckedSink, frame: pd.DataFrame, covered: Mapping[str, bool]
) -> pd.DataFrame:
    """Return the frame with columns from the tables of other queries: `_known_in_<query>`, `_<query>_<column>`.

    If a query has not yet read as far as the sink's query, its column is null.
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
    sink = next(declared for declared in pipeline.queries[query].sinks if isinstance(declared, CassandraSink))
    return names.cassandra_table(pipeline.name, query, sink)


def _cells(frame: pd.DataFrame, keys: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    return frame[[WINDOW_START, *keys]].itertuples(index=False, name=None)


def _known(session: Session, place: tuple[str, str], keys: Sequence[str], frame: pd.DataFrame) -> list[bool | None]:
    """Return for each row whether the table has its keys (the complete partition key); None where a key is null."""
    wanted = {tuple(key) for _, *key in _cells(frame, keys) if not any(pd.isna(part) for part in key)}
    where = " AND ".join(f'"{key}" = ?' for key in keys)
    select = _prepare(session, f"SELECT {', '.join(map(quoted, keys))} FROM {quoted(*place)} WHERE {where}")  # noqa: S608
    existing = {tuple(row[key] for key in keys) for row in _all(session, select, sorted(wanted))}
    return [tuple(key) in existing if tuple(key) in wanted else None for _, *key in _cells(frame, keys)]


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
    rows = windows(session, _place(pipeline, parts), [int(at.timestamp() * 1000) for at in inside])
    sums: dict[tuple[Any, ...], dict[str, Decimal]] = {}
    for row in rows:
        long_start = row[WINDOW_START].replace(tzinfo=UTC)
        for shift in shifts:
            cell = sums.setdefault((pd.Timestamp(long_start - shift), *(row[key] for key in keys)), {})
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


def _all(session: Session, statement: PreparedStatement, values: Sequence[tuple[Any, ...]]) -> list[Row]:
    """Run one statement for each tuple of values, CONCURRENCY at a time, and return the rows of all."""
    rows: list[Row] = []
    for _, answer in execute_concurrent_with_args(
        session,
        statement,
        values,
        concurrency=CONCURRENCY,
        results_generator=True,
        execution_profile=as_dicts(session),
    ):
        rows.extend(answer)
    return rows
