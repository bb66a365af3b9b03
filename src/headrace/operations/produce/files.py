"""A user's own file as records of one topic: NDJSON, JSON, CSV or Parquet.

    NDJSON   each line is one record's value, bytes untouched, bad lines too (dead letters are for them); an empty line
             is no record; a file of arrays is refused; a byte order mark belongs to the file, not to its first record
    JSON     as NDJSON; or one array, or objects over several lines: each value is a record, bytes untouched
    CSV      UTF-8, comma, header; an empty cell is an absent value
    Parquet  null and NaN are absent values; timestamps are written in UTC, with all their digits

CSV and Parquet rows become JSON objects with the columns that the topic's source declares (others are left out), each
in its column's `field`, written by the source's types. A cell that does not fit its type is passed on as the user's own
text: the stream's contract judges, not this reader, so that the record turns up among the dead letters with its reason and
as it was written. A row that is none (a wrong count of cells, a broken quote, bytes that are not UTF-8) is passed on too;
`OddRows` counts and names them. Only a file that is not of its kind as a whole is refused, before anything is sent.
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
    """Yield the records of a file, chosen by its ending, planned `rate` a second (None: all at once).

    `odd` gets the count and the names of the rows that are none. Raises HeadraceError, one sentence: at the call for a
    file that is missing, of an unknown kind, unreadable, not of its kind, or without a required column; while reading
    where the disk or Parquet's own structure fails.
    """
    pairs = _reader(path)(path, topic, source, odd if odd is not None else OddRows())
    gap = 1.0 / rate if rate else 0.0
    return (Record(topic, key, value, number * gap) for number, (key, value) in enumerate(pairs))


def count_records(path: Path) -> int | None:
    """Return how many records a file holds if that is cheap to know (Parquet), else None."""
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
        raise HeadraceError(f"{named(path)} {state}: name a file that ends with {', '.join(readers)}.")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise HeadraceError(
            f"{named(path)}: what it holds cannot be told from its name; end it with {', '.join(readers)}."
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise HeadraceError(f"{named(path)} cannot be read: {error.strerror}; check its permissions.") from error
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
    """Return a function that gives the Kafka key of a JSON value: the key column's text as it is written, or None."""
    column = source.columns[source.key]
    path, kind = column.path(source.key), column.type
    row: Any = msgspec.Raw
    for step in reversed(path):
        field = msgspec.field(default=msgspec.Raw(b"null") if row is msgspec.Raw else None, name=step)
        row = msgspec.defstruct("Row", [("key", row if row is msgspec.Raw else row | None, field)])
    decode = msgspec.json.Decoder(row).decode

    def key_of(value: bytes) -> bytes | None:
        try:
            found = decode(value)
            for _ in path:
                found = getattr(found, "key", msgspec.Raw(b"null"))
            raw = bytes(found)
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
    fields = (f"{json.dumps(name)}:{each.get(()) or _object(each)}" for name, each in inside.items())
    return "{" + ",".join(fields) + "}"


def _require_columns(path: Path, topic: str, source: Source, found: list[str]) -> None:
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise HeadraceError(f"{named(path)} has two columns {twice[0][:30]!r}: rename or drop one.")
    for name, column in source.columns.items():
        if name not in found and (column.required or name == source.key):
            near = get_close_matches(name, found, n=1)
            remedy = f"rename {near[0]!r} to {name!r}" if near else "add it"
            if len(found) == 1 and set(found[0]) & set(";\t|"):
                remedy = "separate the cells by commas"
            raise HeadraceError(
                f"{named(path)} has no column {name!r}, which topic {topic} needs (it has {len(found)} columns): {remedy}."
            )
