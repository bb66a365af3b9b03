"""Which archive records a reconciliation of recent days must read: those behind its windows, joins and rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.contract.model import Source
from headrace.store.file_sink import Directory
from headrace.store.ledger import BatchRecord

Firsts = dict[str, dict[int, int]]
"""topic -> partition -> the first offset that is needed."""


def begun_since(records: Iterable[BatchRecord], since_ms: int) -> list[BatchRecord]:
    """Return the batches that began since a time (milliseconds since 1970; 0: all)."""
    return [record for record in records if record["began_ms"] >= since_ms]


def first_batch(records: Sequence[BatchRecord], directories: Sequence[Directory], since_ms: int) -> int:
    """Return the first batch that began since a time (milliseconds since 1970), or the one after the newest if none did.

    A directory of files that holds batches from before and after that time is left out entirely.
    """
    first = next((record["batch"] for record in records if record["began_ms"] >= since_ms), records[-1]["batch"] + 1)
    return max([first, *(directory.last + 1 for directory in directories if directory.first < first <= directory.last)])


def first_offsets(ledgers: Iterable[Sequence[BatchRecord]], since_ms: int) -> Firsts:
    """Return the first offsets of all batches of several queries that began since a time."""
    firsts: Firsts = {}
    for record in (record for records in ledgers for record in begun_since(records, since_ms)):
        for topic, parts in record["offsets"].items():
            known = firsts.setdefault(topic, {})
            for partition, (start, _) in parts.items():
                known[int(partition)] = min(start, known.get(int(partition), start))
    return firsts


def span(ledger: Sequence[BatchRecord], topic: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return partition -> first offset and partition -> end of a topic in some batches."""
    first: dict[str, int] = {}
    past: dict[str, int] = {}
    for record in ledger:
        for partition, (start, end) in record["offsets"].get(topic, {}).items():
            first[partition] = min(start, first.get(partition, start))
            past[partition] = max(end, past.get(partition, end))
    return first, past


def recent(rows: DataFrame, source: Source, since_ms: int, first: Mapping[int, int]) -> DataFrame:
    """Return the archive's rows that matter since a time: by event time, or because a batch since then read them.

    An event time is at most the broker's time plus the accepted skew, so records that arrived earlier happened earlier.
    """
    if not since_ms:
        return rows
    skew = source.event_time.accepted_skew if source.event_time else timedelta(0)
    since = datetime.fromtimestamp(since_ms / 1000, UTC) - skew
    wanted: Column = F.col("timestamp") >= F.lit(since)
    for partition, offset in sorted(first.items()):
        wanted = wanted | ((F.col("partition") == partition) & (F.col("offset") >= offset))
    return rows.where(wanted)
