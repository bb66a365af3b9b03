"""What every sink of a generated pipeline must hold, in plain Python from the records as a consumer reads them.

The rules are those of docs/dead-letters.md (which records are accepted: `tests.driver.decode_oracle`) and of
docs/reference/limits.md (which rows a sink takes). The ledger tells only which batch read an offset, and its watermarks, which
are checked against the records (`require_watermarks`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from headrace.contract.model import CassandraSink, KafkaSink, Query, Sink, Source
from headrace.store import ledger
from tests.driver.decode_oracle import Number, oracle
from tests.support.drivers import Message
from tests.support.generated_columns import BEYOND, Made, Sum
from tests.support.generated_lookup import Lookup

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO, MILLISECOND = timedelta(microseconds=1), timedelta(milliseconds=1)
MIN_LONG = -(2**63)
KEY, ROW, RECORD = 65_535, 4_063_232, 4_190_208  # bytes: docs/reference/limits.md
Row = dict[str, Any]
Place = tuple[int, int]
"""Partition and offset."""


class Json:
    """The value of a json column: equal to every text that says the same as it, or as one of the others that it may be."""

    def __init__(self, value: Any, size: int, *others: Any) -> None:
        self.values, self.size = [value, *others], size

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return json.loads(other, parse_float=Number, parse_int=Number) in self.values
        return isinstance(other, Json) and other.values == self.values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"json {self.values!r}"[:200]


@dataclass
class Judged:
    """The records of one topic: accepted rows by place, and for the others the rules that they break."""

    source: Source
    rows: dict[Place, Row] = field(default_factory=dict)
    refused: dict[Place, set[str]] = field(default_factory=dict)

    def add(self, messages: Iterable[Message]) -> None:
        """Judge records that are not judged yet."""
        for message in messages:
            place = message.partition, message.offset
            if place in self.rows or place in self.refused:
                continue
            words, row = oracle(self.source, message.value, EPOCH + timedelta(milliseconds=message.at_ms))
            if words:
                self.refused[place] = words
                continue
            for name, column in self.source.columns.items():
                if column.type == "json" and row[name] is not None:
                    row[name] = Json(row[name], len(message.value or b""))
            self.rows[place] = row


def micros(moment: datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - EPOCH) // MICRO


# Rows of one record.


def made_row(made: Mapping[str, Made], row: Row, partner: Row | None = None) -> Row:
    """Return the row that a stateless transform makes of an accepted record, and of the row that it finds in a table."""
    values = {name: (partner or {}).get(how.source) if how.looked_up else row[how.source] for name, how in made.items()}
    return {name: value if value is None else made[name].how.python(value) for name, value in values.items()}


def key_columns(sink: Sink) -> list[str]:
    """Return the columns without which a sink cannot place or identify a row."""
    if isinstance(sink, CassandraSink):
        return [*sink.partition_key, *sink.clustering_key]
    if isinstance(sink, KafkaSink):
        return [sink.key, *([] if sink.identity == "source" else sink.identity)]
    return []


def refusal(query: Query, row: Row) -> bool | None:
    """Return whether no sink takes a row; None if that depends on a few bytes of JSON which are not counted here."""
    required = {name for name, column in query.columns.items() if column.required}
    if any(row[name] is None for name in required) or any(value is BEYOND for value in row.values()):
        return True
    unsure = False
    for sink in query.sinks:
        if isinstance(sink, CassandraSink):
            parts = sink.partition_key
            if len(parts) == 1 and row[parts[0]] == "":
                return True
            if (
                size(query, row, parts) + (3 * len(parts) if len(parts) > 1 else 0) > KEY
                or size(query, row, sink.clustering_key) > KEY
            ):
                return True
            bytes_ = size(query, row, query.columns) + 32 * len(query.columns)
            least = bytes_ - sum(value.size for value in row.values() if isinstance(value, Json))
            if least > ROW:
                return True
            unsure = unsure or bytes_ > ROW
        if isinstance(sink, KafkaSink):
            bytes_ = len(json.dumps(row, ensure_ascii=False, default=str).encode()) + size(
                query, row, key_columns(sink)
            )
            around = 2_000 + sum(value.size * 6 for value in row.values() if isinstance(value, Json))
            if bytes_ - around > RECORD:
                return True
            unsure = unsure or bytes_ + around > RECORD
    return None if unsure else False


def size(query: Query, row: Row, names: Iterable[str]) -> int:
    """Return the bytes of some columns: a text's own, 24 for any other value."""
    texts = (row[name] if query.columns[name].type == "string" else "x" * 24 for name in names)
    return sum(text.size if isinstance(text, Json) else len((text or "").encode()) for text in texts)


@dataclass
class Rows:
    """The rows of a stateless query by their record, and the records that no sink takes; `unsure` may be in either."""

    taken: dict[Place, Row] = field(default_factory=dict)
    refused: set[Place] = field(default_factory=set)
    unsure: set[Place] = field(default_factory=set)
    unmatched: set[Place] = field(default_factory=set)


def rows_of(query: Query, made: Mapping[str, Made], judged: Judged, lookup: Lookup | None = None) -> Rows:
    """Return what a stateless query makes of all records; those that `lookup` does not match are refused and `unmatched`."""
    rows = Rows()
    for place, record in judged.rows.items():
        partner = lookup.row_of(record) if lookup else None
        if lookup and partner is None and lookup.type == "inner":
            continue
        row = made_row(made, record, partner)
        verdict = refusal(query, row)
        if lookup and partner is None and lookup.matched:
            rows.unmatched.add(place)
            verdict = True
        if verdict:
            rows.refused.add(place)
        else:
            rows.taken[place] = row
            rows.unsure |= {place} if verdict is None else set()
    return rows


def newest_cells(query: Query, sink: CassandraSink, rows: Iterable[Row]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return key -> column -> the value of the newest time; of equally new ones the greater in bytes, as Cassandra decides.

    Null overwrites nothing. Cassandra keeps milliseconds of a time.
    """
    key = [*sink.partition_key, *sink.clustering_key]
    cells: dict[tuple[Any, ...], dict[str, tuple[tuple[int, bytes], Any]]] = {}
    for row in rows:
        mine = cells.setdefault(tuple(stored(row[name]) for name in key), {})
        for name in row.keys() - set(key):
            value = stored(row[name])
            if value is None:
                mine.setdefault(name, ((MIN_LONG, b""), None))
                continue
            rank = micros(row[sink.writetime]), in_bytes(query.columns[name].type, value)
            best, now = mine.get(name, (rank, value))
            if best == rank and isinstance(value, Json):
                value = Json(value.values[0], value.size, *now.values)
            mine[name] = max((best, now), (rank, value), key=lambda cell: cell[0]) if best != rank else (rank, value)
    return {place: {name: value for name, (_, value) in mine.items()} for place, mine in cells.items()}


def in_bytes(kind: str, value: Any) -> bytes:
    """Return a value as Cassandra serialises it (org.apache.cassandra.serializers). Of json any text may be there."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Json):
        return b""
    if isinstance(value, date):
        return (value.toordinal() - EPOCH.toordinal() + 2**31).to_bytes(4, "big")
    if isinstance(value, Decimal):
        scale = int(kind[8:-1].split(",")[1])
        unscaled = int(value.scaleb(scale, Context(prec=100)))
        return scale.to_bytes(4, "big") + unscaled.to_bytes(
            (unscaled + (unscaled < 0)).bit_length() // 8 + 1, "big", signed=True
        )
    sizes = {"boolean": 1, "int": 4, "long": 8, "timestamp": 8}
    return int(value).to_bytes(sizes[kind], "big", signed=kind != "boolean")


def stored(value: Any) -> Any:
    """Return a value as a Cassandra table holds it: times in milliseconds since 1970."""
    return micros(value) // 1000 if isinstance(value, datetime) else value


# Groups.


@dataclass
class Groups:
    """What an aggregate gives: rows that were emitted (by batch), rows refused (by batch), and the table at the end."""

    emitted: list[tuple[int, Row]] = field(default_factory=list)
    refused: list[tuple[int, Row]] = field(default_factory=list)
    table: dict[tuple[Any, ...], Row] = field(default_factory=dict)


def groups_of(query: Query, sums: Mapping[str, Sum], judged: Judged, batches: Sequence[ledger.BatchRecord]) -> Groups:
    """Return what an aggregate gives over the batches of its ledger."""
    assert query.aggregate
    (topic,) = query.sources
    groups: dict[tuple[Any, ...], list[Row]] = {}
    closed: set[tuple[Any, ...]] = set()
    result = Groups()
    window = query.aggregate.window
    for batch in batches:
        touched: dict[tuple[Any, ...], None] = {}
        for row in rows_of_batch(judged, batch, topic):
            for span in spans(query, row):
                if window and span[1] <= EPOCH + timedelta(milliseconds=batch["late_watermark_ms"]):
                    continue
                group = (*span, *(row[name] for name in query.aggregate.keys))
                groups.setdefault(group, []).append(row)
                touched[group] = None
        if query.mode == "append":
            now = EPOCH + timedelta(milliseconds=batch["watermark_ms"])
            touched = {group: None for group in groups if group not in closed and group[1] <= now}
            closed |= touched.keys()
        elif query.mode == "complete":
            touched = dict.fromkeys(groups)
            result.table = {}
        for group in touched:
            row = group_row(query, sums, group, groups[group])
            if refusal(query, row):
                result.refused.append((batch["batch"], row))
            else:
                result.emitted.append((batch["batch"], row))
                result.table[group] = row
    return result


def rows_of_batch(judged: Judged, batch: ledger.BatchRecord, topic: str) -> Iterable[Row]:
    """Yield the accepted rows of a topic that a batch read."""
    for partition, (start, end) in batch["offsets"].get(topic, {}).items():
        for offset in range(start, end):
            if (int(partition), offset) in judged.rows:
                yield judged.rows[int(partition), offset]


def spans(query: Query, row: Row) -> list[tuple[Any, ...]]:
    """Return (start, end) of each window of a row; one empty span without a window."""
    window = query.aggregate.window if query.aggregate else None
    if window is None:
        return [()]
    step, at = (window.slide or window.size) // MICRO, micros(row[window.column])
    last = (at - window.offset // MICRO) // step * step + window.offset // MICRO
    result = []
    while last + window.size // MICRO > at:
        result.append((EPOCH + last * MICRO, EPOCH + last * MICRO + window.size))
        last -= step
    return result


def group_row(query: Query, sums: Mapping[str, Sum], group: tuple[Any, ...], rows: list[Row]) -> Row:
    """Return the row of a group."""
    assert query.aggregate
    keys = [*(["window_start", "window_end"] if query.aggregate.window else []), *query.aggregate.keys]
    values = {name: entry.python([row[entry.source] for row in rows]) for name, entry in sums.items()}
    return dict(zip(keys, group, strict=True)) | values


def watermarks_of(
    query: Query, judged: Mapping[str, Judged], batches: Sequence[ledger.BatchRecord], restarts: Collection[int]
) -> list[int]:
    """Return the watermark of each batch in milliseconds, and as the last that of the next batch.

    It is the newest accepted time of the batches before, minus the delay; of two topics the slower one counts. Over a restart
    (before one of these batches) Spark keeps the watermark, but not how far each topic was.
    """
    newest, marks = dict.fromkeys(query.sources, 0), [0]

    def mark() -> int:
        return max(marks[-1], min(newest[topic] - query.watermark[topic] // MILLISECOND for topic in query.sources))

    for batch in batches:
        marks.append(mark())
        if batch["batch"] in restarts:
            newest = dict.fromkeys(query.sources, 0)
        for topic in query.sources:
            time = judged[topic].source.event_time
            assert time
            times = (micros(row[time.column]) // 1000 for row in rows_of_batch(judged[topic], batch, topic))
            newest[topic] = max([newest[topic], *times])
    return [*marks[1:], mark()]


def require_watermarks(
    query: Query, judged: Mapping[str, Judged], batches: Sequence[ledger.BatchRecord], restarts: Collection[int]
) -> None:
    """Assert that each batch has its watermark, and that of the batch before for late rows."""
    late = 0
    for batch, mark in zip(batches, watermarks_of(query, judged, batches, restarts), strict=False):
        assert (batch["late_watermark_ms"], batch["watermark_ms"]) == (late, mark), (
            f"watermarks of {batch} are {late}, {mark}"
        )
        late = mark


# Comparison.


def read_row(query: Query, row: Row) -> Row:
    """Return a row of JSON with the values that the query's types say; a column that is absent is null."""
    return {name: read_value(column.type, row.get(name)) for name, column in query.columns.items()}


def read_value(kind: str, value: Any) -> Any:
    """Return the value of a JSON field, read with its numbers as Decimal, in the type of its column."""
    if value is None:
        return None
    if kind == "timestamp":
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind == "date":
        return date.fromisoformat(value)
    if kind in ("int", "long"):
        assert value == int(value), value
        return int(value)
    return value


def parsed(value: bytes | str | None) -> Row:
    """Return a row of JSON with exact numbers."""
    row: Row = json.loads(value or "null", parse_float=Decimal, parse_int=Decimal)
    return row


def require_same(actual: Mapping[Any, Any], wanted: Mapping[Any, Any], what: str, optional: Iterable[Any] = ()) -> None:
    """Assert that two dicts are equal; keys in `optional` may be missing."""
    missing = [key for key in wanted if key not in actual and key not in set(optional)]
    extra = [key for key in actual if key not in wanted]
    wrong = [(key, actual[key], wanted[key]) for key in actual if key in wanted and wanted[key] != actual[key]]
    counts = f"{len(actual)} instead of {len(wanted)}; {len(missing)} lost, {len(extra)} too many, {len(wrong)} wrong"
    if missing or extra or wrong:
        raise AssertionError(f"{what}: {counts}: {clip(missing)}, {clip(extra)}, (key, is, should be) {clip(wrong)}")


def require_same_rows(actual: Iterable[Row], wanted: Iterable[Row], what: str, optional: Iterable[Row] = ()) -> None:
    """Assert that two lists have equal rows equally often, in any order; those of `optional` may be missing."""
    ours, missing, extra = list(actual), list(wanted), []
    for row in ours:
        if row in missing:
            missing.remove(row)
        else:
            extra.append(row)
    for row in optional:
        if row in missing:
            missing.remove(row)
    if missing or extra:
        counts = f"{len(ours)} rows; {len(missing)} lost, {len(extra)} too many"
        raise AssertionError(f"{what}: {counts}: {clip(missing)}, {clip(extra)}")


def clip(values: Sequence[Any]) -> str:
    """Return a few values for a message."""
    texts = [text if len(text) < 600 else f"{text[:500]}... ({len(text)} characters)" for text in map(repr, values[:3])]
    return "[" + ", ".join(texts) + "]"
