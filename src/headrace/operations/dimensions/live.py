"""Reads a live dimension table: all rows, at LOCAL_QUORUM, by token ranges, with the write times of directory columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.util import Date

from headrace.contract.cassandra import directory_columns, quoted
from headrace.contract.model import Pipeline
from headrace.operations.clients import cassandra_session, stored_time

RANGES = 32
CONCURRENCY = 4
PAGE_ROWS = 5_000
FIRST_TOKEN, LAST_TOKEN = -(2**63), 2**63 - 1

Row = tuple[tuple[Any, ...], tuple[Any, ...], int]
"""A row's key, its directory columns in the contract's order, and the newest write time of these in microseconds."""


def read(bindings: Path, pipeline: Pipeline, dimension: str) -> Iterator[Row]:
    """Yield the rows that the directory knows: those with at least one directory column.

    A row that only a stream wrote (a login after its user's deletion) has none and is left out.
    """
    table, columns = pipeline.dimensions[dimension], directory_columns(pipeline, dimension)
    with cassandra_session(bindings) as session:
        times = [f"writetime({quoted(name)})" for name in columns]
        for row in scan(session, table.keyspace, table.table, table.key, [*map(quoted, columns), *times]):
            key, rest = tuple(map(cell, row[: len(table.key)])), row[len(table.key) :]
            values, written = rest[: len(columns)], rest[len(columns) :]
            if any(value is not None for value in values):
                yield key, tuple(map(cell, values)), max(at for at in written if at is not None)


def cell(value: Any) -> Any:  # noqa: ANN401 - a cell
    """Return a Cassandra cell in the stage's form: the Cassandra driver uses its own date class, and UTC without a zone."""
    if isinstance(value, Date):
        return value.date()
    return stored_time(value) if isinstance(value, datetime) else value


def scan(
    session: Session, keyspace: str, table: str, key: Sequence[str], selected: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the key and the selected expressions of all rows, each once, one token range after the other."""
    token = f"token({', '.join(map(quoted, key))})"
    names = ", ".join([*map(quoted, key), *selected])
    select = session.prepare(
        f"SELECT {names} FROM {quoted(keyspace, table)} WHERE {token} > ? AND {token} <= ?"  # noqa: S608 - quoted names
    )
    select.consistency_level, select.fetch_size = ConsistencyLevel.LOCAL_QUORUM, PAGE_ROWS
    step = 2**64 // RANGES
    edges = [FIRST_TOKEN + number * step for number in range(RANGES)] + [LAST_TOKEN]
    ranges = list(pairwise(edges))
    for _, rows in execute_concurrent_with_args(
        session, select, ranges, concurrency=CONCURRENCY, results_generator=True
    ):
        yield from map(tuple, rows)
