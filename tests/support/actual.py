"""Readers of the sinks, from a user's point of view: files, topics without repeats, tables, the archive."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from headrace.contract import names
from headrace.contract.model import Query
from headrace.operations import lake
from headrace.store import file_sink, ledger, small_files, trees
from tests.support.drivers import Message, Stage, group_offsets, sources_of
from tests.support.expected import micros, require_whole_ledger

ArchiveRow = tuple[int, int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""partition, offset, broker time in milliseconds, key, value, headers."""


def parse(value: bytes | None) -> dict[str, Any]:
    """Return a JSON row with exact numbers."""
    row: dict[str, Any] = json.loads(value or b"null", parse_float=Decimal)
    return row


def files(stage: Stage, query: str) -> list[dict[str, Any]]:
    """Return all rows of a file sink. Only complete batch directories may exist."""
    folder = stage.generation(query).paths(stage.root).files
    batches = small_files.list_names(folder)
    assert all(batch.startswith("batch_id=") for batch in batches), batches
    assert all(trees.size(f"{folder}/{batch}/{file_sink.COMPLETE_MARK}") is not None for batch in batches)
    directories = file_sink.complete(folder)
    assert len(directories) == len(batches)
    return [parse(line) for directory in directories for line in lines_of(directory)]


def lineage_rows(stage: Stage, query: str, column: str) -> list[Any]:
    """Return one column of all rows of a file sink, sorted, read along the generation's lineage."""
    now = stage.generation(query)
    directories = file_sink.directories(stage.root, stage.name, query, now.number, now.lineage)
    return sorted(parse(line)[column] for directory in directories for line in lines_of(directory))


def lines_of(directory: file_sink.Directory) -> list[bytes]:
    """Return the lines of one directory of a file sink."""
    parts = [path for path in trees.files(directory.path) if path.startswith("part-")]
    return [line for part in parts for line in trees.read_bytes(f"{directory.path}/{part}").splitlines()]


def archive(stage: Stage, topic: str) -> list[ArchiveRow]:
    """Return all rows of a topic's archive, in order, as pyiceberg reads it, including repeats."""
    content = lake.scan(stage.root, names.archive_table(stage.name, topic))
    rows = [] if content is None else content.to_pylist()
    return sorted(
        (
            row["partition"],
            row["offset"],
            micros(row["timestamp"]) // 1000,
            row["key"],
            row["value"],
            tuple((header["key"], header["value"]) for header in row["headers"] or ()),
        )
        for row in rows
    )


def as_archived(messages: Iterable[Message]) -> list[ArchiveRow]:
    """Return the expected archive rows of these records."""
    return sorted((m.partition, m.offset, m.at_ms, m.key, m.value, m.headers) for m in messages)


def distinct(messages: Iterable[Message]) -> tuple[dict[str, Message], int]:
    """Return the records by their `headrace.id`, and the number of repeats. A repeat must have the same content."""
    by_id: dict[str, Message] = {}
    repeats = 0
    for message in messages:
        first = by_id.setdefault(message.header("headrace.id"), message)
        if first is not message:
            assert (message.key, message.value) == (first.key, first.value), (first, message)
            repeats += 1
    return by_id, repeats


def coordinates(topic: str, place: tuple[int, int]) -> str:
    """Return the id of the output of one source record."""
    return f"{topic}/{place[0]}/{place[1]}"


def in_micros(text: str) -> int:
    """Return microseconds since 1970 of a time in a sink's JSON."""
    return micros(datetime.fromisoformat(text))


def windows(rows: Iterable[dict[str, Any]]) -> dict[tuple[int, int, str], tuple[Decimal, int]]:
    """Return (start, end, product) -> (total, sales) of rows from Cassandra or JSON; keys must be unique."""
    sums: dict[tuple[int, int, str], tuple[Decimal, int]] = {}
    for row in rows:
        start, end = (row[name] for name in ("window_start", "window_end"))
        as_micros: Callable[[Any], int] = in_micros if isinstance(start, str) else micros
        key = (as_micros(start), as_micros(end), row["product_id"])
        assert key not in sums, f"{key} appears twice"
        sums[key] = (Decimal(row["total_amount"]), row["sales"])
    return sums


def totals(rows: Iterable[dict[str, Any]]) -> dict[str, tuple[Decimal, int]]:
    """Return product -> (total, sales)."""
    return {row["product_id"]: (row["total_amount"], row["sales"]) for row in rows}


def same(actual: Any, wanted: Any, what: str) -> None:
    """Assert that two dicts or lists are equal; report a few differences instead of all."""
    if actual == wanted:
        return
    if isinstance(actual, dict):
        missing = [key for key in wanted if key not in actual]
        extra = [key for key in actual if key not in wanted]
        wrong = [(key, actual[key], wanted[key]) for key in actual if key in wanted and actual[key] != wanted[key]]
    else:
        ours, theirs = Counter(map(repr, actual)), Counter(map(repr, wanted))
        missing, extra, wrong = list((theirs - ours).elements()), list((ours - theirs).elements()), []
    raise AssertionError(
        f"{what}: {len(actual)} instead of {len(wanted)}; {len(missing)} missing {missing[:5]}, {len(extra)} too many "
        f"{extra[:5]}, {len(wrong)} wrong (key, is, should be) {wrong[:5]}"
    )


def require_ledgers(stage: Stage) -> dict[str, list[ledger.BatchRecord]]:
    """Assert for every query that its ledger is complete and that its Kafka group is at the end of the ledger."""
    ledgers = {}
    for query in names.query_names(stage.pipeline):
        ends = {topic: stage.ends(topic) for topic in sources_of(stage.pipeline, query)}
        ledgers[query] = stage.ledger(query)
        require_whole_ledger(ledgers[query], ends)
        committed = group_offsets(stage.admin, names.consumer_group(stage.name, query))
        same(committed, ends, f"group of {query}")
    return ledgers


def require_archive(stage: Stage, topic: str, messages: Sequence[Message], accepted: Iterable[tuple[int, int]]) -> int:
    """Assert that the archive equals the topic byte for byte and archive = accepted + dead letters. Returns the repeats.

    A dead letter has the record's bytes, key, coordinates and a reason; `accepted` are (partition, offset) pairs.
    """
    same(archive(stage, topic), as_archived(messages), f"archive of {topic}")
    taken = set(accepted)
    refused = {coordinates(topic, (m.partition, m.offset)): m for m in messages if (m.partition, m.offset) not in taken}
    letters, repeats = distinct(stage.read(names.dead_letter_topic(topic)))
    same(
        {name: (letter.key, letter.value) for name, letter in letters.items()},
        {name: (record.key, record.value) for name, record in refused.items()},
        f"dead letters of {topic}",
    )
    for letter in letters.values():
        place = [letter.header(f"headrace.{part}") for part in ("topic", "partition", "offset")]
        assert "/".join(place) == letter.header("headrace.id")
        assert letter.header("headrace.reason")
    return repeats


def row_of(query: Query, row: dict[str, Any]) -> tuple[Any, ...]:
    """Return a row's columns in the file's order."""
    return tuple(row[name] for name in query.columns)
