"""A user's own file as records of one topic: NDJSON, JSON, CSV or Parquet.

    NDJSON   each line is the value of one record, unchanged, even if malformed (it becomes a dead letter); empty lines
             are skipped; a file of arrays is refused; a byte order mark belongs to the file, not to the first record
    JSON     as NDJSON; or one array, or objects over several lines: each value is a record, unchanged
    CSV      UTF-8, comma, header; an empty cell is an absent value
    Parquet  null and NaN are absent values; timestamps are written in UTC, with all their digits

CSV and Parquet rows become JSON objects with the columns that the topic's source declares (others are left out), each in
its column's `field`, with the source's types. A cell that does not fit its type is passed on as the user's text: the
stream's contract checks it, not this reader, so that the record becomes a dead letter with its reason and its original
text. A malformed row (a wrong number of cells, a broken quote, bytes that are not UTF-8) is passed on too; `OddRows`
counts and names them. Only a file that is entirely of another kind is refused, before anything is sent.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from headrace.contract.model import Source
from headrace.errors import HeadraceError
from headrace.operations.produce import csvfile, jsonfile, parquet
from headrace.operations.produce.cells import cell_text, key_text
from headrace.operations.produce.record import Record
from headrace.operations.produce.rows import OddRows, named

_MAX_LINE = 16 * 1024 * 1024  # bytes; a file without line ends must not fill the memory

Pair = tuple[bytes | None, bytes]  # key, value
Reader = Callable[[Path, str, Source, OddRows], Iterator[Pair]]


def read_records(
    path: Path, topic: str, source: Source, rate: float | None = None, odd: OddRows | None = None
) -> Iterator[Record]:
    """Yield the records of a file. Its extension selects the format; `rate` is records per second (None: all at once).

    `odd` collects the count and the names of malformed rows. Raises HeadraceError: at the call for a file that is missing, of
    an unknown kind, unreadable, malformed, or without a required column; while reading if the disk or Parquet's structure
    fails.
    """
    pairs = _reader(path)(path, topic, source, odd if odd is not None else OddRows())
    gap = 1.0 / rate if rate else 0.0
    return (Record(topic, key, value, number * gap) for number, (key, value) in enumerate(pairs))


def count_records(path: Path) -> int | None:
    """Return the number of records in a file if it is cheap to determine (Parquet), otherwise None."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return None
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def _reader(path: Path) -> Reader:
    readers: Mapping[str, Reader] = {
        ".ndjson": _ndjson,
        ".jsonl": _ndjson,
        ".json": _json,
        ".csv": _csv,
        ".parquet": _parquet,
        ".pq": _parquet,
    }
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise HeadraceError(f"{named(path)} {state}. Name a file that ends with {', '.join(readers)}.")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise HeadraceError(
            f"The format of {named(path)} cannot be derived from its name. Its name must end with {', '.join(readers)}."
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise HeadraceError(f"{named(path)} cannot be read: {error.strerror}. Check its permissions.") from error
    return reader


def _json(path: Path, topic: str, source: Source, odd: OddRows) -> Iterator[Pair]:
    values = jsonfile.values(path)
    if values is None:
        return _lines(path, topic, source, odd)
    key_of = _key_reader(source)
    return ((key_of(value), value) for value in values)


def _ndjson(path: Path, topic: str, source: Source, odd: OddRows) -> Iterator[Pair]:
    jsonfile.require_no_arrays(path)
    return _lines(path, topic, source, odd)


def _lines(path: Path, _topic: str, source: Source, odd: OddRows) -> Iterator[Pair]:
    key_of = _key_reader(source)
    with path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                while (line := file.readline(_MAX_LINE)) and not line.endswith(b"\n"):
                    pass
                odd.leave(f"line {number}", "longer than 16 MiB")
                continue
            value = line.removesuffix(b"\n").removesuffix(b"\r")
            if value:
                yield key_of(value), value


def _key_reader(source: Source) -> Callable[[bytes], bytes | None]:
    """Return a function that maps a JSON value to its Kafka key: the key column's text as written, or None."""
    column = source.columns[source.key]
    path, kind = column.path(source.key), column.type
    row: Any = msgspec.Raw
    for step in reversed(path):
        field = msgspec.field(default=msgspec.Raw(b"null") if row is msgspec.Raw else None, name=step)
        row = msgspec.defstruct("Row", [("key", row if row is msgspec.Raw else row | None, field)])
    decode = msgspec.json.Decoder(row).decode

    def key_of(value: bytes) -> bytes | None:
        try:
            decoded = decode(value)
            for _ in path:
                decoded = getattr(decoded, "key", msgspec.Raw(b"null"))
            raw = bytes(decoded)
            if raw.startswith(b'"'):
                return key_text(kind, msgspec.json.decode(raw))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return None if raw == b"null" or raw[:1] in b"[{" else raw

    return key_of


def _csv(path: Path, topic: str, source: Source, odd: OddRows) -> Iterator[Pair]:
    names = csvfile.header(path)
    _require_columns(path, topic, source, names)
    return (
        (None, row) if isinstance(row, bytes) else _pair(source, row, f"line {number}", odd)
        for number, row in csvfile.rows(path, names, odd)
    )


def _parquet(path: Path, topic: str, source: Source, odd: OddRows) -> Iterator[Pair]:
    file = parquet.opened(path)
    try:
        _require_columns(path, topic, source, file.schema_arrow.names)
        wanted = parquet.wanted_columns(path, topic, source, file.schema_arrow)
    except HeadraceError:
        file.close()
        raise
    rows = enumerate(parquet.rows(path, file, wanted), 1)
    return (_pair(source, row, f"row {number}", odd) for number, row in rows)


def _pair(source: Source, row: Mapping[str, Any], place: str, odd: OddRows) -> Pair:
    cells = {
        column.path(name): text
        for name, column in source.columns.items()
        if (text := cell_text(column.type, row.get(name))) is not None
    }
    key, value = key_text(source.columns[source.key].type, row.get(source.key)), _object(cells)
    try:
        return key, value.encode()
    except UnicodeEncodeError:
        odd.refuse(place, "not UTF-8")
        return key, value.encode("utf-8", "surrogateescape")


def _object(cells: Mapping[tuple[str, ...], str]) -> str:
    """Return the JSON object that has each text at its path."""
    inside: dict[str, dict[tuple[str, ...], str]] = {}
    for (name, *rest), text in cells.items():
        inside.setdefault(name, {})[tuple(rest)] = text
    fields = (f"{json.dumps(name)}:{branch.get(()) or _object(branch)}" for name, branch in inside.items())
    return "{" + ",".join(fields) + "}"


def _require_columns(path: Path, topic: str, source: Source, columns: list[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise HeadraceError(f"{named(path)} has two columns {twice[0][:30]!r}. Rename or drop one.")
    for name, column in source.columns.items():
        if name not in columns and (column.required or name == source.key):
            near = get_close_matches(name, columns, n=1)
            remedy = f"Rename {near[0]!r} to {name!r}" if near else "Add it"
            if len(columns) == 1 and set(columns[0]) & set(";\t|"):
                remedy = "Separate the cells by commas"
            raise HeadraceError(
                f"{named(path)} has no column {name!r}, which topic {topic} needs (it has {len(columns)} columns). {remedy}."
            )
