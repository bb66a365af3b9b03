"""Stages a snapshot: reads it completely, with the contract's columns and types, into one Parquet file of the refresh.

Faults in a snapshot's structure are refused here with a message; faults in its values are found by the stage's suite.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from headrace.contract.arrow_types import arrow_schema
from headrace.contract.cassandra import directory_columns
from headrace.contract.model import Pipeline
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations.dimensions import csv_strict
from headrace.operations.dimensions.documents import Staged
from headrace.operations.dimensions.snapshot import DirectorySnapshot
from headrace.store import paths, small_files, trees


class ColumnError(Exception):
    """A column whose values do not have the contract's type; the message contains no value."""


def stage(root: str, bindings: Path, pipeline: Pipeline, dimension: str, snapshot: DirectorySnapshot) -> Staged:
    """Read a snapshot, write the stage and return it.

    Raises HeadraceError for an unreadable, truncated or empty snapshot, wrong columns or wrong types.
    """
    schema, declared = stage_schema(pipeline, dimension), pipeline.dimensions[dimension]
    types = {name: declared.columns[name].type for name in schema.names}
    if snapshot.kind == "sql":
        from headrace.operations.dimensions.source_sql import read_table

        table, sha256 = read_table(bindings, dimension, snapshot.place, schema, types), ""
    else:
        table, sha256 = _read_file(snapshot, schema, types, declared.refresh.delimiter if declared.refresh else ",")
    if table.num_rows == 0:
        raise HeadraceError(
            f"{snapshot.place} has no rows. A directory without users is a fault of the extract: extract it again."
        )
    if snapshot.rows is not None and snapshot.rows != table.num_rows:
        raise HeadraceError(
            f"{snapshot.place} has {table.num_rows} rows, but its mark says {snapshot.rows}: it is truncated. Drop it again."
        )
    folder = f"{paths.refresh(root, pipeline.name, dimension)}/{snapshot.version}"
    path = f"{folder}/stage.parquet"
    small_files.write_json(f"{folder}/staged.json", {"at_ms": time.time_ns() // 1_000_000})
    write_parquet(path, table)
    return Staged(
        snapshot.version, snapshot.extract_ms, snapshot.kind, snapshot.place, path, table.num_rows, sha256
    )  # fmt: skip


def stage_schema(pipeline: Pipeline, dimension: str) -> pa.Schema:
    """Return the columns that a snapshot must have: the key, and all columns that no stream writes."""
    declared = pipeline.dimensions[dimension]
    names = [*declared.key, *directory_columns(pipeline, dimension)]
    return arrow_schema({name: declared.columns[name] for name in names})


def read_parquet(path: str) -> pa.Table:
    """Return the table of a stage or difference. Raises HeadraceError if it is missing."""
    try:
        return pyarrow.parquet.read_table(io.BytesIO(trees.read_bytes(path)))
    except FileNotFoundError as error:
        raise HeadraceError(f"{path} is missing. Start the refresh again from its first step.") from error


def write_parquet(path: str, table: pa.Table) -> str:
    """Write a table, replacing an existing one, and return its SHA-256 (hex)."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    fs, inner = small_files.locate(path)
    fs.makedirs(inner.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(inner, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _read_file(
    snapshot: DirectorySnapshot, schema: pa.Schema, types: Mapping[str, str], delimiter: str
) -> tuple[pa.Table, str]:
    try:
        content = trees.read_bytes(snapshot.place)
    except OSError as error:
        raise HeadraceError(f"{snapshot.place} cannot be read ({error}). Allow the tasks to read it.") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if snapshot.sha256 is not None and snapshot.sha256 != sha256:
        raise HeadraceError(
            f"{snapshot.place} does not have the SHA-256 in its mark: it was truncated or changed. Drop it again."
        )
    try:
        if snapshot.kind == "csv":
            return _read_csv(snapshot, content, schema, types, delimiter), sha256
        return _read_parquet_file(snapshot, content, schema, types), sha256
    except csv_strict.CsvError as error:
        raise HeadraceError(f"{snapshot.place}{error}. Correct the extract and drop it again.") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
        raise HeadraceError(
            f"{snapshot.place} cannot be read as {snapshot.kind} with the types of the contract. Correct the extract and drop it "
            "again."
        ) from error


def _read_csv(
    snapshot: DirectorySnapshot, content: bytes, schema: pa.Schema, types: Mapping[str, str], delimiter: str
) -> pa.Table:
    if snapshot.place.endswith(".gz"):
        content = csv_strict.unpacked(content)
    if not content.strip():
        return schema.empty_table()
    names = csv_strict.header(content, delimiter, schema.names)
    if set(names) != set(schema.names) and (other := csv_strict.other_delimiter(content, delimiter, schema.names)):
        raise HeadraceError(
            f"{snapshot.place} is delimited by {csv_strict.DELIMITERS[other]}, not by {csv_strict.DELIMITERS[delimiter]}. Write "
            f"`delimiter: {json.dumps(other)}` into the dimension's refresh in the pipeline file."
        )
    _require_columns(snapshot, names, schema)
    return csv_strict.read(content, delimiter, schema, types)


def _read_parquet_file(
    snapshot: DirectorySnapshot, content: bytes, schema: pa.Schema, types: Mapping[str, str]
) -> pa.Table:
    if not content:
        return schema.empty_table()
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    _require_columns(snapshot, table.column_names, schema)
    if table.num_rows == 0:  # a column without values may have no type
        return schema.empty_table()
    try:
        return converted(table.select(schema.names), schema, types)
    except ColumnError as error:
        raise HeadraceError(f"{snapshot.place}: {error}. Correct the extract and drop it again.") from error


_NUMBER = (pa.types.is_integer, pa.types.is_decimal, pa.types.is_string, pa.types.is_null)
_TIME = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_string, pa.types.is_null)
_MAY_BE = {
    "string": (pa.types.is_string, pa.types.is_null),
    "boolean": (pa.types.is_boolean, pa.types.is_string, pa.types.is_null),
    "int": (*_NUMBER, pa.types.is_floating),
    "long": (*_NUMBER, pa.types.is_floating),
    "decimal": _NUMBER,
    "timestamp": _TIME,
    "date": _TIME,
}
"""The Parquet types allowed for each contract type. Arrow would cast more, with changes: a number to text, a number of
milliseconds to a time in microseconds, a float to a rounded decimal."""


def converted(table: pa.Table, schema: pa.Schema, types: Mapping[str, str]) -> pa.Table:
    """Return a table with the schema's types. Raises ColumnError, with column and row, if a value would change."""
    columns = []
    for field, column in zip(schema, table.columns, strict=True):
        if not any(is_kind(_plain(column.type)) for is_kind in _MAY_BE[types[field.name].split("(")[0]]):
            raise ColumnError(f"column {field.name} is {column.type}, not {types[field.name]}")
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            row, _ = csv_strict.first_bad(partial(_cast, column, field.type), len(column), error)
            raise ColumnError(
                f"column {field.name} is {column.type}, but its value in row {row + 1} is not {types[field.name]}"
            ) from error
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, first: int, last: int) -> pa.ChunkedArray:
    return column.slice(first, last - first).cast(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _require_columns(snapshot: DirectorySnapshot, names: list[str], schema: pa.Schema) -> None:
    missing = [name for name in schema.names if name not in names]
    strange = [name for name in names if name not in schema.names]
    if missing or strange or len(set(names)) != len(names):
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        if len(missing) == len(
            schema.names
        ):  # no header: its first line is a person's data, which no message or log may contain
            faults.append("its first line is not a header")
        elif strange:
            faults.append(f"has surplus columns {', '.join(printable(name[:30]) for name in strange[:8])}")
        raise HeadraceError(
            f"{snapshot.place} {' and '.join(faults) or 'names a column twice'}. A snapshot has exactly the columns "
            f"{', '.join(schema.names)} (streams write the others)."
        )
