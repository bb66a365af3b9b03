"""Compares a staged directory with the live table, both in DuckDB, so that memory does not grow with the directory.

Columns are called by their positions (k0, k1, ... of the key, c0, c1, ... of the others), so that no name is a word of SQL.
Times are microseconds since 1970, cut to the milliseconds that Cassandra keeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contract.cassandra import directory_columns
from headrace.contract.model import Pipeline
from headrace.operations.dimensions.live import Row
from headrace.operations.dimensions.stage import stage_schema

UPSERT, DELETE = "upsert", "delete"
MEMORY = "256MB"
BATCH_ROWS = 20_000


@dataclass(frozen=True)
class RowCounts:
    """Numbers of rows. `newer` rows of the live table were written after the extract and stay unchanged."""

    live_rows: int
    stage_rows: int
    inserts: int
    updates: int
    deletes: int
    unchanged: int
    newer: int


@contextmanager
def opened() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in a temporary folder, which is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="headrace-refresh-") as folder,
        duckdb.connect(Path(folder) / "rows.duckdb", config={"memory_limit": MEMORY, "threads": 2}) as db,
    ):
        yield db


def load_stage(db: duckdb.DuckDBPyConnection, pipeline: Pipeline, dimension: str, table: pa.Table) -> None:
    """Load the rows of a stage."""
    schema = stage_schema(pipeline, dimension)
    columns = [_plain(table.column(name)) for name in schema.names]
    _create(db, "stage", pa.Table.from_arrays(columns, names=_names(pipeline, dimension)))


def load_live(db: duckdb.DuckDBPyConnection, pipeline: Pipeline, dimension: str, rows: Iterable[Row]) -> None:
    """Load the rows of the live table, some at a time."""
    schema, names = stage_schema(pipeline, dimension), [*_names(pipeline, dimension), "written"]
    types = [*schema.types, pa.int64()]

    def batches() -> Iterator[pa.RecordBatch]:
        source = iter(rows)
        while part := list(islice(source, BATCH_ROWS)):
            flat = zip(*((*key, *values, written) for key, values, written in part), strict=True)
            arrays = [_plain(pa.array(column, kind)) for column, kind in zip(flat, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, names=names)

    empty = [_plain(pa.array([], kind)) for kind in types]
    shape = pa.RecordBatch.from_arrays(empty, names=names).schema
    _create(db, "live", pa.RecordBatchReader.from_batches(shape, batches()))


def has_wrong_keys(db: duckdb.DuckDBPyConnection, pipeline: Pipeline, dimension: str) -> bool:
    """Return whether a key of the stage is null or there twice."""
    key = _names(pipeline, dimension)[: len(pipeline.dimensions[dimension].key)]
    null = " OR ".join(f"{name} IS NULL" for name in key)
    twice = f"SELECT 1 FROM stage GROUP BY {', '.join(key)} HAVING count(*) > 1"  # noqa: S608 - our names
    ((wrong,),) = db.execute(f"SELECT EXISTS (SELECT 1 FROM stage WHERE {null}) OR EXISTS ({twice})").fetchall()  # noqa: S608
    return bool(wrong)


def changes(
    db: duckdb.DuckDBPyConnection, pipeline: Pipeline, dimension: str, extract_micros: int
) -> tuple[RowCounts, pa.Table]:
    """Return the numbers of rows, and the rows to write: `op`, `changed` (names of columns), and the stage's columns.

    Upserts come before deletes, those of the same columns together, each in the order of their keys; so the same rows make
    the same file. A row to delete has only its key. Rows that are newer than the extract are left out.
    """
    width = len(pipeline.dimensions[dimension].key)
    names = _names(pipeline, dimension)
    key, columns = names[:width], names[width:]
    differs = [f"s.{name} IS DISTINCT FROM l.{name}" for name in columns]
    changed = ", ".join(f"CASE WHEN {unlike} THEN {at} END" for at, unlike in enumerate(differs))
    db.execute(
        f"""
        CREATE TABLE compared AS SELECT {", ".join(f"coalesce(s.{name}, l.{name}) AS {name}" for name in key)},
            {", ".join(f"s.{name}" for name in columns)},
            CASE WHEN l.written IS NULL THEN 'inserts'
                 WHEN s.staged AND NOT ({" OR ".join(differs)}) THEN 'unchanged'
                 WHEN l.written >= {extract_micros} THEN 'newer'
                 WHEN s.staged THEN 'updates' ELSE 'deletes' END AS what,
            [{changed}] AS changed
        FROM (SELECT *, true AS staged FROM stage) s
        FULL JOIN live l ON {" AND ".join(f"s.{name} = l.{name}" for name in key)}
        """  # noqa: S608 - our names
    ).fetchall()
    numbers = dict(db.execute("SELECT what, count(*) FROM compared GROUP BY what").fetchall())
    rows = db.sql(
        f"""
        SELECT CASE what WHEN 'deletes' THEN '{DELETE}' ELSE '{UPSERT}' END AS op, changed, {", ".join(names)} FROM compared
        WHERE what IN ('inserts', 'updates', 'deletes') ORDER BY op DESC, changed, {", ".join(key)}
        """  # noqa: S608 - our names
    ).to_arrow_table()
    counts = RowCounts(
        _rows(db, "live"), _rows(db, "stage"),
        *(numbers.get(what, 0) for what in ("inserts", "updates", "deletes", "unchanged", "newer")),
    )  # fmt: skip
    return counts, _named(rows, stage_schema(pipeline, dimension), directory_columns(pipeline, dimension))


def _named(rows: pa.Table, schema: pa.Schema, columns: list[str]) -> pa.Table:
    ops = rows.column("op").to_pylist()
    changed = [
        [columns[at] for at in positions if at is not None and op == UPSERT]
        for op, positions in zip(ops, rows.column("changed").to_pylist(), strict=True)
    ]
    values = [rows.column(at + 2).cast(field.type) for at, field in enumerate(schema)]
    return pa.table(
        [rows.column("op").cast(pa.string()), pa.array(changed, pa.list_(pa.string())), *values],
        schema=pa.schema([pa.field("op", pa.string()), pa.field("changed", pa.list_(pa.string())), *schema]),
    )


def _names(pipeline: Pipeline, dimension: str) -> list[str]:
    width = len(pipeline.dimensions[dimension].key)
    return [f"k{at}" for at in range(width)] + [f"c{at}" for at in range(len(directory_columns(pipeline, dimension)))]


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        return pc.floor_temporal(column, unit="millisecond").cast(pa.int64())
    return column


def _create(db: duckdb.DuckDBPyConnection, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
    db.register("given", rows)
    db.execute(f"CREATE TABLE {name} AS SELECT * FROM given").fetchall()  # noqa: S608 - our names
    db.unregister("given")


def _rows(db: duckdb.DuckDBPyConnection, name: str) -> int:
    ((count,),) = db.execute(f"SELECT count(*) FROM {name}").fetchall()  # noqa: S608 - our names
    return int(count)
