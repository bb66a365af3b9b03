"""Stages a snapshot: reads all of it, with the contract's columns and types, into one Parquet file of the refresh.

Whatever is wrong with a snapshot's shape ends here, in one sentence; what is wrong with its values, in the stage's suite.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from headrace.contract import paths, storage, trees
from headrace.contract.arrow import arrow_schema
from headrace.contract.cassandra import directory_columns
from headrace.contract.model import Pipeline
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations.users.snapshot import Snapshot


def stage(root: str, bindings: Path, pipeline: Pipeline, dimension: str, snapshot: Snapshot) -> dict[str, Any]:
    """Read a snapshot and write the stage. Returns version, extract_ms, kind, place, stage (its path), rows, sha256.

    Raises HeadraceError, one sentence, for an unreadable, cut or empty snapshot, wrong columns or wrong types.
    """
    schema = stage_schema(pipeline, dimension)
    if snapshot.kind == "sql":
        from headrace.operations.users.source_sql import read_table

        table, sha256 = read_table(bindings, dimension, snapshot.place, schema), ""
    else:
        table, sha256 = _read_file(snapshot, schema)
    if table.num_rows == 0:
        raise HeadraceError(
            f"{snapshot.place} has no rows: a directory without users is a fault of the extract; extract it again."
        )
    if snapshot.rows is not None and snapshot.rows != table.num_rows:
        raise HeadraceError(
            f"{snapshot.place} has {table.num_rows} rows but its mark says {snapshot.rows}: it was cut; drop it again."
        )
    path = f"{paths.refresh(root, pipeline.name, dimension)}/{snapshot.version}/stage.parquet"
    write_parquet(path, table)
    told = {"version": snapshot.version, "extract_ms": snapshot.extract_ms, "kind": snapshot.kind}
    return told | {"place": snapshot.place, "stage": path, "rows": table.num_rows, "sha256": sha256}


def stage_schema(pipeline: Pipeline, dimension: str) -> pa.Schema:
    """Return the columns that a snapshot must have: the key, and what no stream writes."""
    own = pipeline.dimensions[dimension]
    names = [*own.key, *directory_columns(pipeline, dimension)]
    return arrow_schema({name: own.columns[name] for name in names})


def read_parquet(path: str) -> pa.Table:
    """Return the table of a stage or difference. Raises HeadraceError where it is missing."""
    try:
        return pyarrow.parquet.read_table(io.BytesIO(trees.read_bytes(path)))
    except FileNotFoundError as error:
        raise HeadraceError(f"{path} is missing: begin the refresh again from its first step.") from error


def write_parquet(path: str, table: pa.Table) -> str:
    """Write a table, over one that stands there, and return its SHA-256 (hex)."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    fs, inner = storage.locate(path)
    fs.makedirs(inner.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(inner, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _read_file(snapshot: Snapshot, schema: pa.Schema) -> tuple[pa.Table, str]:
    try:
        content = trees.read_bytes(snapshot.place)
    except OSError as error:
        raise HeadraceError(
            f"{snapshot.place} cannot be read ({error}): give the tasks the right to read it."
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if snapshot.sha256 is not None and snapshot.sha256 != sha256:
        raise HeadraceError(
            f"{snapshot.place} does not have the SHA-256 of its mark: it was cut or changed; drop it again."
        )
    read = _read_csv if snapshot.kind == "csv" else _read_parquet_file
    try:
        return read(snapshot, content, schema), sha256
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
        raise HeadraceError(
            f"{snapshot.place} does not read as {snapshot.kind} with the types of the contract ({_first_line(error)}): "
            "correct the extract and drop it again."
        ) from error


def _read_csv(snapshot: Snapshot, content: bytes, schema: pa.Schema) -> pa.Table:
    if not content.strip():
        return schema.empty_table()
    first = re.split(rb"[\r\n]", content, maxsplit=1)[0]  # Excel on a Mac ends lines with a carriage return alone
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first:
        raise HeadraceError(f"{snapshot.place} is not a CSV file in UTF-8: save it as UTF-8 and drop it again.")
    header = first.decode("utf-8-sig", errors="replace").strip().split(",")
    _require_columns(snapshot, [name.strip().strip('"') for name in header], schema)
    options = pyarrow.csv.ConvertOptions(
        column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    parsed = pyarrow.csv.read_csv(
        io.BytesIO(content),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=options,
    )
    return parsed.select(schema.names).cast(schema)


def _read_parquet_file(snapshot: Snapshot, content: bytes, schema: pa.Schema) -> pa.Table:
    if not content:
        return schema.empty_table()
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    _require_columns(snapshot, table.column_names, schema)
    if table.num_rows == 0:  # a column without values may have no type
        return schema.empty_table()
    found = table.select(schema.names)
    for name in schema.names:  # a number is no text, although Arrow would write it as one
        if pa.types.is_string(schema.field(name).type) and not pa.types.is_string(
            _plain(found.schema.field(name).type)
        ):
            raise pa.ArrowTypeError(f"{name} is {found.schema.field(name).type}, not string")
    return found.cast(schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _require_columns(snapshot: Snapshot, there: list[str], schema: pa.Schema) -> None:
    missing = [name for name in schema.names if name not in there]
    strange = [name for name in there if name not in schema.names]
    if missing or strange or len(set(there)) != len(there):
        told = [f"lacks {', '.join(missing)}"] if missing else []
        if len(missing) == len(
            schema.names
        ):  # no header: its first line is a person, whom no message and no log may hold
            told.append("its first line is no header")
        elif strange:
            told.append(f"has {', '.join(printable(name[:30]) for name in strange[:8])} too many")
        raise HeadraceError(
            f"{snapshot.place} {' and '.join(told) or 'names a column twice'}: a snapshot has exactly the columns "
            f"{', '.join(schema.names)} (streams write the others)."
        )


def _first_line(error: Exception) -> str:
    """Return what Arrow says is wrong, without the row or the value that it quotes."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return printable(re.sub(r"(, got \d+|invalid value)\b.*", r"\1", line)[:200])
