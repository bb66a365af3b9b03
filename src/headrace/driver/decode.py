"""Turn Kafka records into typed rows, or into dead letters with a reason. Pure: Arrow in and out, no Spark (ADR 0004).

A single function, `_judge`, serves both outputs, so that accepted rows and dead letters always add up to the archive.
Its rules, in the order of application (a record gets the reason of the first rule that it breaks):

        null_value   the record has a value (a tombstone has none)
        empty        the value has at least one byte
        not_utf8     the value, including unknown fields, is UTF-8
        too_deep     arrays and objects are nested at most 100 deep
        not_json     the value is one JSON text by RFC 8259: no byte order mark, no NaN, no trailing text, no lone surrogate
        wrong_type   it is an object, every step of a path is an object, and each column has the JSON type below, wherever
                     it occurs; an object on a path may be null or absent, which makes its columns null
        overflow     int fits 32 bits, long fits 64, a decimal has at most precision - scale digits before the point
        inexact      a decimal has only zeros beyond its scale: amounts are never rounded
        bad_number   a decimal in a string is [+-]digits[.digits][e[+-]digits]: no blanks, no NaN, no Infinity
        bad_time     a timestamp or date exists, and is written as below
        too_long     a required string, which may become a key, has at most 16,384 bytes
        missing      each required column is present and not null, and the Kafka key column is not ""
        future       event time is at most the Kafka timestamp + `accepted_skew`

        column type   JSON it is read from
        string        string; every character is kept, including escaped NUL and control characters
    boolean       true or false
        int, long     integer without fraction and exponent
    decimal(p,s)  number, or string with a number in it
    timestamp     string "yyyy-MM-dd HH:mm:ss[.f to .ffffff]", T for the space, then nothing (UTC), Z or +hh[[:]mm];
                  1970-01-01 to 9999-12-31 in UTC
    date          string "yyyy-MM-dd", 0001-01-01 to 9999-12-31
        json          any value; the column is its unchanged text

Unknown fields are ignored. If a key occurs twice, the last one counts (RFC 8259 section 4 leaves it open).
A reason is the code above, ": ", and a detail; at most 200 characters. No record raises: any exception that a record
causes in the parser becomes its reason. Only MemoryError passes through, because it is not about the record: Spark retries.

Speed: each column goes through Arrow in bulk; the exact rule in Python reads a column's values one by one only if
Arrow rejects one of them. Both produce the same rows, which a property test verifies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contract.platform_columns import KAFKA_TIMESTAMP, RAW, SOURCE
from headrace.driver.columns import TIMESTAMP, ColumnRule, column_array, reason
from headrace.driver.parser import parser
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from datetime import timedelta

    from headrace.contract.model import Source

MAX_DEPTH: Final = 100
# A Cassandra key has at most 65,535 bytes in total; this leaves room for three such columns in one key.
MAX_KEY_TEXT: Final = 16_384

COORDINATES: Final = pa.struct([("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64())])
HEADERS: Final = pa.list_(pa.field("element", pa.struct([("key", pa.string()), ("value", pa.binary())])))
ADDED_COLUMNS: Final = {SOURCE: COORDINATES, KAFKA_TIMESTAMP: TIMESTAMP, RAW: pa.binary()}
# Added by default. Each column costs the transfer from the JVM to Python and back for every record.
USUAL: Final = (SOURCE, KAFKA_TIMESTAMP)

# Skips strings, so that brackets in them do not count. Possessive, with an optional closing quote: linear time on any
# input.
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)
_WRONG_TYPE: Final = re.compile(r"Expected `(?P<want>.+)`, got `(?P<got>\w+)`(?: - at `\$\.(?P<path>.+)`)?")
_OUT_OF_RANGE: Final = re.compile(r"(?P<what>Integer value|Number) out of range(?: - at `\$\.(?P<path>.+)`)?")


@dataclass(frozen=True)
class Decoder:
    """How to decode a source. Small, hashable and picklable; each process creates its own C parser.

    Both methods suit `DataFrame.mapInArrow` and yield one batch per input batch. `accepted` takes the columns of `needs`;
    `judged` takes key (binary), value (binary), topic (string), partition (int32), offset (int64), timestamp (timestamp)
    and optionally headers (list<struct<key, value>>).
    """

    columns: tuple[ColumnRule, ...]
    key: str
    event_time: str | None
    skew_micros: int
    added: tuple[str, ...] = USUAL

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of a Kafka record from which accepted rows are made."""
        coordinates = tuple(field.name for field in COORDINATES) if SOURCE in self.added else ()
        return ("value", *coordinates, "timestamp")

    @property
    def schema(self) -> pa.Schema:
        """The schema of accepted rows."""
        added = [(name, ADDED_COLUMNS[name]) for name in self.added]
        return pa.schema([*((column.name, column.arrow) for column in self.columns), *added])

    def accepted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows that satisfy all rules, in order, with the columns of `accepted_schema`."""
        schema = self.schema
        for batch in batches:
            arrays, reasons = _judge(self, batch)
            arrays += [_added(name, batch) for name in self.added]
            rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
            yield rows.filter(pa.array([i not in reasons for i in range(len(batch))])) if reasons else rows

    def judged(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield every record unchanged, with its reason (null: accepted), in order, with the columns of `judged_schema`."""
        schema = judged_schema()
        for batch in batches:
            _, reasons = _judge(self, batch)
            size = len(batch)
            reasons_column = (
                pa.array([reasons.get(i) for i in range(size)], pa.string()) if reasons else pa.nulls(size, pa.string())
            )
            given = [
                batch.column(f.name).cast(f.type) if f.name in batch.schema.names else pa.nulls(size, f.type)
                for f in list(schema)[:-1]
            ]
            yield pa.RecordBatch.from_arrays([*given, reasons_column], schema=schema)


def make_decoder(source: Source, added: tuple[str, ...] = USUAL) -> Decoder:
    """Return the decoder of a source; accepted rows also have the columns `added`, a subset of ADDED_COLUMNS.

    Raises HeadraceError if a column has the name of one that decoding adds.
    """
    taken = sorted(ADDED_COLUMNS.keys() & source.columns.keys())
    if taken:
        raise HeadraceError(f"A source cannot have a column {taken[0]!r}: decoding adds one with this name. Rename it.")
    event_time = source.event_time
    return Decoder(
        columns=tuple(
            ColumnRule(name, column.type, column.required, column.path(name)) for name, column in source.columns.items()
        ),
        key=source.key,
        event_time=event_time.column if event_time else None,
        skew_micros=_micros(event_time.accepted_skew) if event_time else 0,
        added=added,
    )


def accepted(
    batches: Iterable[pa.RecordBatch], source: Source, added: tuple[str, ...] = USUAL
) -> Iterator[pa.RecordBatch]:
    """Yield the accepted rows of `batches`; see `Decoder`."""
    return make_decoder(source, added).accepted(batches)


def judged(batches: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    """Yield every record of `batches` with its reason; see `Decoder`."""
    return make_decoder(source).judged(batches)


def accepted_schema(source: Source, added: tuple[str, ...] = USUAL) -> pa.Schema:
    """Return the schema of accepted rows: the source's columns, then those of `added`."""
    return make_decoder(source, added).schema


def judged_schema() -> pa.Schema:
    """Return the schema of judged records: the unchanged record and `reason`."""
    record = [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", HEADERS),
        *((f.name, f.type) for f in COORDINATES),
    ]
    return pa.schema([*record, ("timestamp", TIMESTAMP), ("reason", pa.string())])


def accepted_ddl(source: Source, added: tuple[str, ...] = USUAL) -> str:
    """Return `accepted_schema` as Spark DDL."""
    return _ddl(accepted_schema(source, added))


def judged_ddl() -> str:
    """Return `judged_schema` as Spark DDL."""
    return _ddl(judged_schema())


def _added(name: str, batch: pa.RecordBatch) -> pa.Array:
    """Return one of ADDED_COLUMNS, computed from a batch of Kafka records."""
    if name == SOURCE:
        arrays = [batch.column(field.name).cast(field.type) for field in COORDINATES]
        return pa.StructArray.from_arrays(arrays, fields=list(COORDINATES))
    return batch.column("value" if name == RAW else "timestamp").cast(ADDED_COLUMNS[name])


def _judge(decoder: Decoder, batch: pa.RecordBatch) -> tuple[list[Any], dict[int, str]]:
    """Return one Arrow array per column, as long as the batch, and {row: reason} of the refused rows."""
    if len(batch) == 0:
        return [pa.array([], column.arrow) for column in decoder.columns], {}
    reasons: dict[int, str] = {}
    rows = _rows(decoder.columns, batch.column("value").cast(pa.binary()), reasons)
    arrays = []
    for column, value_of in zip(decoder.columns, parser(decoder.columns).values, strict=True):
        array = column_array(column, list(map(value_of, rows)), reasons)
        _check_text(column, array, decoder.key, reasons)
        if column.required and array.null_count:
            for row in _where(pc.is_null(array)):
                reasons.setdefault(row, reason("missing", column.label))
        arrays.append(array)
    if decoder.event_time is not None:
        event_times = arrays[[column.name for column in decoder.columns].index(decoder.event_time)]
        _check_future(decoder, event_times, batch.column("timestamp").cast(TIMESTAMP), reasons)
    return arrays, reasons


def _rows(columns: tuple[ColumnRule, ...], values: pa.Array, reasons: dict[int, str]) -> list[Any]:
    """Parse each value; a refused one gets a reason and a row of nulls."""
    raw = values.to_pylist()
    for row, why in (*_not_utf8(values, raw), *_too_deep(values, raw)):
        reasons.setdefault(row, why)
        raw[row] = None
    parse, blank, _ = parser(columns)
    rows: list[Any] = []
    add = rows.append
    for value in raw:
        try:
            add(parse(value))
        except MemoryError:
            raise
        except Exception as error:  # whatever it is, only this record caused it
            reasons.setdefault(len(rows), _parse_reason(columns, value, error))
            add(blank)
    return rows


def _not_utf8(values: pa.Array, raw: list[bytes | None]) -> Iterator[tuple[int, str]]:
    """Yield values that are not UTF-8: the parser does not check the bytes of fields that it skips."""
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(raw):
            try:
                if value is not None:
                    value.decode()
            except UnicodeDecodeError as error:
                yield row, reason("not_utf8", f"{error.reason} (byte {error.start})")


def _too_deep(values: pa.Array, raw: list[bytes | None]) -> Iterator[tuple[int, str]]:
    """Yield values nested too deeply, by a fixed limit: the parser's own limit depends on the stack."""
    lengths = pc.binary_length(values)
    if (pc.max(lengths).as_py() or 0) <= MAX_DEPTH:
        return
    for row in _where(pc.greater(lengths, MAX_DEPTH)):
        value = raw[row]
        if value is None or value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
            continue
        depth = 0
        for bracket in _BRACKETS.finditer(value):
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(bracket[0], 0)
            if depth > MAX_DEPTH:
                yield row, reason("too_deep", f"more than {MAX_DEPTH} nested arrays and objects")
                break


def _parse_reason(columns: tuple[ColumnRule, ...], value: bytes | None, error: Exception) -> str:
    """Return the reason why the parser refused a value, in the contract's terms."""
    if value is None:
        return reason("null_value", "the record has no value (a tombstone)")
    if not value:
        return reason("empty", "the value has no bytes")
    if isinstance(error, msgspec.ValidationError):
        try:  # the parser stops at the first wrong type, and the rest may not be JSON
            msgspec.json.decode(value, type=msgspec.Raw)
        except msgspec.DecodeError as malformed:
            error = malformed
    text = str(error)
    if match := _WRONG_TYPE.fullmatch(text) or _OUT_OF_RANGE.fullmatch(text):
        path, got = match["path"], match.groupdict().get("got", "float")  # a float cannot hold a value out of range
        if path is None:
            return reason("wrong_type", f"expected an object, got {got}")
        columns_there = [column for column in columns if ".".join(column.path) == path]
        if not columns_there:
            return reason("wrong_type", f"field {path}: expected an object, got {got}")
        if match.groupdict().get("what") == "Integer value":
            return reason("overflow", f"{columns_there[0].label}: does not fit {columns_there[0].kind}")
        return reason("wrong_type", f"{columns_there[0].label}: expected {columns_there[0].kind}, got {got}")
    if value.startswith(b"\xef\xbb\xbf"):
        return reason("not_json", "begins with a byte order mark")
    return reason("not_json", text.removeprefix("JSON is malformed: "))


def _check_text(column: ColumnRule, array: pa.Array, key: str, reasons: dict[int, str]) -> None:
    """Refuse text that cannot be a key: Cassandra accepts neither an empty partition key nor more than 65,535 bytes."""
    if column.kind != "string" or not column.required:
        return
    lengths = pc.binary_length(array)
    bounds = pc.min_max(lengths).as_py()
    if bounds["max"] is None:
        return
    if bounds["max"] > MAX_KEY_TEXT:
        for row in _where(pc.greater(lengths, MAX_KEY_TEXT)):
            size = lengths[row].as_py()
            reasons.setdefault(row, reason("too_long", f"{column.label}: {size} bytes, at most {MAX_KEY_TEXT}"))
    if bounds["min"] == 0 and column.name == key:
        for row in _where(pc.equal(lengths, 0)):
            reasons.setdefault(row, reason("missing", f"{column.label}: the key is empty"))


def _check_future(decoder: Decoder, times: pa.Array, kafka: pa.Array, reasons: dict[int, str]) -> None:
    """Refuse event times beyond the broker's clock plus the skew: one would push the watermark past all data."""
    skew = pa.scalar(decoder.skew_micros, pa.duration("us"))
    ahead = pc.greater(pc.subtract(times, skew), kafka)
    for row in _where(ahead):
        detail = (
            f"{decoder.event_time} {times[row].as_py():%Y-%m-%d %H:%M:%S} is beyond the Kafka timestamp and the skew"
        )
        reasons.setdefault(row, reason("future", detail))


_SPARK_TYPES: Final = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.bool_(): "boolean",
    pa.int32(): "int",
    pa.int64(): "bigint",
    TIMESTAMP: "timestamp",
    pa.date32(): "date",
}


def _ddl(schema: pa.Schema) -> str:
    return ", ".join(f"`{field.name}` {_spark_type(field.type)}" for field in schema)


def _spark_type(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'`{field.name}`:{_spark_type(field.type)}' for field in kind)}>"
    if pa.types.is_list(kind):
        return f"array<{_spark_type(kind.value_type)}>"
    return _SPARK_TYPES[kind]


def _micros(span: timedelta) -> int:
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def _where(mask: pa.Array) -> list[int]:
    """Return the rows where `mask` is true (null counts as false)."""
    rows: list[int] = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
    return rows
