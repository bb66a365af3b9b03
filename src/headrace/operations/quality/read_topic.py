"""Reads a sink's topic from the end of the last check, so that each record of any writer is checked once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from confluent_kafka import Consumer

from headrace.contract import names
from headrace.contract.checked_sinks import CheckedSink
from headrace.operations import topics
from headrace.operations.quality import bounds
from headrace.operations.quality.offsets import TopicOffsets
from headrace.operations.quality.windows import BatchesStep
from headrace.store.records import Row

Cursor = Mapping[str, int]

STRANGER = "no batch of this query wrote this record"


def onward(
    consumer: Consumer, sink: CheckedSink, window: BatchesStep, cursor: Cursor | None, read_to: Cursor | None
) -> tuple[list[Row], dict[str, int], dict[str, int]]:
    """Return (rows, start, end): the records from the cursor on until the window's batches have all their rows.

    Without a cursor it begins at the time of the first batch. If `read_to` is set, every record up to these ends is read, so
    records of other writers after the newest batch are included. Batches are in order within each partition, but Kafka delivers
    one partition sooner than another. So the end of each partition is before its first record of a later batch.
    """
    topic = sink.place[0]
    kafka = TopicOffsets(consumer)
    since_start = {p: start for p, (start, _) in kafka.since(topic, window.began_ms - bounds.CLOCKS_APART_MS).items()}
    begins = {str(p): first for p, first in kafka.begins(topic).items()}
    start = {p: max(cursor.get(p, 0), begins[p]) if cursor is not None else since_start[p] for p in begins}
    late = kafka.since(topic, window.written_ms + bounds.CLOCKS_APART_MS)
    ends = {p: max(start[p], (read_to or {}).get(p, late[p][0])) for p in begins}
    reached = dict(start)
    missing = sum(window.rows_out.values())
    known: set[tuple[int, str]] = set()
    later: set[str] = set()
    rows: list[Row] = []
    if missing <= 0 and read_to is None:
        return rows, start, reached
    for message in topics.between(consumer, topic, {int(p): (start[p], end) for p, end in ends.items()}):
        partition = str(message.partition())
        if partition in later:
            continue
        if read_to is None and _is_later(message, sink, window):
            later.add(partition)
            continue
        reached[partition] = message.offset() + 1
        row = own_record(message, sink, window)
        if row is None:
            continue
        rows.append(row)
        if "_stranger" not in row and (row["_batch"], row["_id"]) not in known:
            known.add((row["_batch"], row["_id"]))
            missing -= 1
        if missing <= 0 and read_to is None:
            return rows, start, reached
    return rows, start, {p: reached[p] if p in later else end for p, end in ends.items()}


def again(consumer: Consumer, sink: CheckedSink, window: BatchesStep) -> list[Row]:
    """Return the rows of a window's ranges again, without those that retention has removed."""
    begins = TopicOffsets(consumer).begins(sink.place[0])
    ranges = {int(p): (max(start, begins[int(p)]), end) for p, (start, end) in window.ranges.items()}
    return [
        row for message in topics.between(consumer, sink.place[0], ranges) if (row := own_record(message, sink, window))
    ]


def own_record(message: Any, sink: CheckedSink, window: BatchesStep) -> Row | None:  # noqa: ANN401 - a confluent_kafka.Message
    """Return the row of a record of the window's batches, or of one that no batch of this query wrote; else None.

    Records of other batches and generations of the query are left out: other checks read them.
    """
    where = {"_partition": message.partition(), "_offset": message.offset()}
    headers = _headers(message)
    written = _written_by(headers, sink)
    if written is None:
        named = {"_id": headers.get("headrace.id"), "_batch": None, "_stranger": True}
        return json_row(message.value()) | where | named
    generation, batch = written
    if generation != window.generation or not window.first <= batch <= window.last:
        return None
    return json_row(message.value()) | where | {"_id": headers.get("headrace.id"), "_batch": batch}


def _is_later(message: Any, sink: CheckedSink, window: BatchesStep) -> bool:  # noqa: ANN401 - a confluent_kafka.Message
    """Return whether a batch after the window's last one wrote a record."""
    written = _written_by(_headers(message), sink)
    return written is not None and written > (window.generation, window.last)


def _headers(message: Any) -> dict[str, str]:  # noqa: ANN401 - a confluent_kafka.Message
    return {key: (value or b"").decode(errors="replace") for key, value in message.headers() or []}


def _written_by(headers: Mapping[str, str], sink: CheckedSink) -> tuple[int, int] | None:
    """Return (generation, batch) of the query's batch that wrote a record, or None where none did."""
    batch, number = headers.get("headrace.batch", ""), headers.get("headrace.generation", "")
    query = names.query_name(sink.pipeline, sink.query)
    ours = batch.isdecimal() and number.isdecimal() and headers.get("headrace.query", query) == query
    return (int(number), int(batch)) if ours else None


def distinct(rows: list[Row]) -> list[Row]:
    """Return the records without copies. `_copies` is their number: an id may appear again, but only with the same content.

    A record of another writer is a separate row and is never counted as a copy.
    """
    first_copies: dict[Any, Row] = {}
    for row in rows:
        if "_stranger" in row:
            first_copies[row["_partition"], row["_offset"], STRANGER] = row | {"_copies": 0}
            continue
        content = json.dumps({k: v for k, v in row.items() if not k.startswith("_")}, sort_keys=True, default=str)
        first = first_copies.setdefault((row["_id"], content), row | {"_copies": 0})
        first["_copies"] += 1
    return list(first_copies.values())


def json_row(value: bytes | str | None) -> Row:
    """Return a JSON object with exact numbers. Names that a check adds are not taken from a record.

    What no writer of ours would write (another writer may) is a row of one column that names the fault.
    """
    try:
        text = value.decode() if isinstance(value, bytes) else value or "null"
        parsed = json.loads(text, parse_float=_number)
        if "\\u" in text:  # only an escape can leave half of a surrogate pair
            json.dumps(parsed, ensure_ascii=False, default=str).encode()
    except (ValueError, RecursionError) as error:
        fault = "no_text" if isinstance(error, UnicodeEncodeError) else "not_an_object"
        return {fault: str(value)[:40]}
    if not isinstance(parsed, dict):
        return {"not_an_object": str(value)[:40]}
    return {name.lstrip("_") or "unnamed": field for name, field in parsed.items()}


def _number(text: str) -> Decimal | str:
    """Return a number exactly; one beyond what a decimal can be as text, which is no value of a numeric column."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return text


def strangers(rows: list[Row]) -> Iterator[tuple[int, Row]]:
    """Yield position and row of each record that no batch of the query wrote, and take its mark away."""
    for at, row in enumerate(rows):
        if row.pop("_stranger", False):
            yield at, row
