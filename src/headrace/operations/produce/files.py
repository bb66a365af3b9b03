"""A user's own file as records of one topic: NDJSON, CSV or Parquet, read as a stream.

    NDJSON   each line is one record's value, bytes untouched, bad lines too (dead letters are for them); an empty line
             is no record; a byte order mark belongs to the file, not to its first record
    CSV      UTF-8, comma, header; an empty cell is an absent value
    Parquet  null is an absent value; timestamps with a zone become UTC, nanoseconds are cut to microseconds

CSV and Parquet rows become JSON objects with the columns that the topic's source declares (others are left out),
written by the source's types. A cell that does not fit its type is passed on as a string: the stream's contract judges,
not this reader, so that the record turns up among the dead letters with its reason.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.contract.model import Source
from headrace.errors import HeadraceError
from headrace.operations.produce.cells import cell_text, key_text
from headrace.operations.produce.record import Record

_MAX_LINE = 16 * 1024 * 1024  # bytes; a file without line ends must not fill the memory
_PARQUET_ROWS = 8_192
_UTF8 = "save it as UTF-8"

Pair = tuple[bytes | None, bytes]  # key, value


def read_records(path: Path, topic: str, source: Source, rate: float | None = None) -> Iterator[Record]:
    """Yield the records of a file, chosen by its ending, planned `rate` a second (None: all at once).

    Raises HeadraceError, one sentence: at the call for a file that is missing, of an unknown kind, unreadable or
    without a required column; while reading for a broken place in it.
    """
    pairs = _reader(path)(path, topic, source)
    gap = 1.0 / rate if rate else 0.0
    return (Record(topic, key, value, number * gap) for number, (key, value) in enumerate(pairs))


def count_records(path: Path) -> int | None:
    """Return how many records a file holds if that is cheap to know (Parquet), else None."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return None
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def _reader(path: Path) -> Callable[[Path, str, Source], Iterator[Pair]]:
    readers: Mapping[str, Callable[[Path, str, Source], Iterator[Pair]]] = {
        ".ndjson": _ndjson,
        ".jsonl": _ndjson,
        ".json": _ndjson,
        ".csv": _csv,
        ".parquet": _parquet,
        ".pq": _parquet,
    }
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise HeadraceError(f"{path} {state}: name a file that ends with {', '.join(readers)}.")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise HeadraceError(f"{path}: what it holds cannot be told from its name; end it with {', '.join(readers)}.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise HeadraceError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error
    return reader


def _ndjson(path: Path, _topic: str, source: Source) -> Iterator[Pair]:
    column = source.columns[source.key]
    with path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                raise HeadraceError(f"{path}, line {number} is longer than 16 MiB: write one JSON object a line.")
            value = line.removesuffix(b"\n").removesuffix(b"\r")
            if value:
                yield key_text(column.type, _field(value, source.key)), value


def _field(value: bytes, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return a field of a JSON object; None if it has none or the bytes are no JSON object."""
    try:
        row = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return row.get(name) if isinstance(row, dict) else None


def _csv(path: Path, topic: str, source: Source) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = next(csv.reader(file), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise HeadraceError(f"{path} is not a CSV file in UTF-8 ({error}): {_UTF8}.") from error
    _require_columns(path, topic, source, header)
    return _csv_rows(path, source, header)


def _csv_rows(path: Path, source: Source, header: list[str]) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            next(rows)
            for row in rows:
                if not row:  # an empty line
                    continue
                if len(row) != len(header):
                    raise HeadraceError(
                        f"{path}, line {rows.line_num} has {len(row)} cells where the header has {len(header)}: "
                        "put cells that hold a comma or a line end in double quotes."
                    )
                yield _pair(source, dict(zip(header, row, strict=True)))
        except UnicodeDecodeError as error:
            raise HeadraceError(f"{path} is not UTF-8 after line {rows.line_num} ({error.reason}): {_UTF8}.") from error
        except csv.Error as error:
            raise HeadraceError(f"{path}, line {rows.line_num} is not CSV ({error}): mend the line.") from error


def _parquet(path: Path, topic: str, source: Source) -> Iterator[Pair]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise HeadraceError(f"{path} is not a readable Parquet file ({_first_line(error)}): write it anew.") from error
    schema = file.schema_arrow
    try:
        _require_columns(path, topic, source, schema.names)
        wanted = [name for name in schema.names if name in source.columns]
        for name in wanted:
            if pa.types.is_nested(schema.field(name).type):
                raise HeadraceError(
                    f"{path}: column {name!r} is {schema.field(name).type}, but topic {topic} takes "
                    f"{source.columns[name].type}: flatten it."
                )
    except HeadraceError:
        file.close()
        raise
    return _parquet_rows(path, source, file, wanted)


def _parquet_rows(path: Path, source: Source, file: pq.ParquetFile, wanted: list[str]) -> Iterator[Pair]:
    with file:
        try:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
                columns = {name: _utc_micros(batch.column(name)).to_pylist() for name in wanted}
                for cells in zip(*columns.values(), strict=True):
                    yield _pair(source, dict(zip(columns, cells, strict=True)))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise HeadraceError(f"{path} cannot be read to its end ({_first_line(error)}): write it anew.") from error


def _utc_micros(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        zone = column.type.tz
        column = column.cast(pa.timestamp("us", zone), safe=False)
        # Arrow keeps zoned timestamps as UTC: taking the zone off leaves the UTC wall clock.
        return column.cast(pa.timestamp("us")) if zone else column
    return column


def _pair(source: Source, row: Mapping[str, Any]) -> Pair:
    cells = [
        f'"{name}":{text}'
        for name, column in source.columns.items()
        if (text := cell_text(column.type, row.get(name))) is not None
    ]
    key = key_text(source.columns[source.key].type, row.get(source.key))
    return key, ("{" + ",".join(cells) + "}").encode()


def _require_columns(path: Path, topic: str, source: Source, found: list[str]) -> None:
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise HeadraceError(f"{path} has two columns {twice[0]!r}: rename or drop one.")
    for name, column in source.columns.items():
        if name not in found and (column.required or name == source.key):
            near = get_close_matches(name, found, n=1)
            remedy = f"rename {near[0]!r} to {name!r}" if near else "add it"
            if len(found) == 1 and set(found[0]) & set(";\t|"):
                remedy = "separate the cells by commas"
            raise HeadraceError(
                f"{path} has no column {name!r}, which topic {topic} needs (it has: {', '.join(found)}): {remedy}."
            )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
