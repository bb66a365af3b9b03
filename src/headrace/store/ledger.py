"""The ledger: one record per batch, kept long after Spark has purged its own (minBatchesToRetain).

It records which batch read an offset and which watermark that batch had. The batch layer needs exactly that to know
which rows Spark dropped as late. It is written after the sinks and before Spark's commit; a replay writes it again.

A record is a file `<batch>.json`. Compaction merges many into one segment `<first>-<last>.ndjson`, which is written
atomically before the files are removed. So a reader finds a batch in its file, in the segment, or for a moment in
both, and then reads the segment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NotRequired, TypedDict

from headrace.store import small_files
from headrace.store.checkpoint_log import BatchRange, Offsets

_RECORD = re.compile(r"^(\d{10,})\.json$")
_SEGMENT = re.compile(r"^(\d{10,})-(\d{10,})\.ndjson$")
_TRIES = 20  # a reader may run into compaction between two listings, but not this often


class BatchRecord(TypedDict):
    """One batch. Times are milliseconds since 1970, offsets are topic -> partition -> [start, end).

    `rows_in` is the number of records that Kafka delivered for these offsets: fewer, if some hold none (ADR 0031).
    `rows_out` is the number of rows that the sinks have; `refused` is how many became dead letters instead (ADR 0030), absent
    for none. Releases before 1 December 2026 counted these in `rows_out`.
    `quarantined` is how many records the query passed over (ADR 0049); absent for none. `contract` names the contract under
    which it took its records (`store.contracts`); absent for archives, and for releases before 1 December 2026.
    """

    query: str
    generation: int
    batch: int
    offsets: dict[str, dict[str, list[int]]]
    watermark_ms: int
    late_watermark_ms: int
    rows_in: int
    rows_out: int
    began_ms: int
    written_ms: int
    refused: NotRequired[int]
    quarantined: NotRequired[int]
    contract: NotRequired[str]


def make_record(
    query: str,
    generation: int,
    batch: BatchRange,
    *,
    rows_out: int,
    began_ms: int,
    written_ms: int,
    rows_in: int | None = None,
    refused: int = 0,
    quarantined: int = 0,
    contract: str = "",
) -> BatchRecord:
    """Return the record of a batch whose rows are in the sinks; `rows_in` None means that every offset held a record."""
    record = BatchRecord(
        query=query,
        generation=generation,
        batch=batch.batch,
        offsets={
            topic: {str(p): [batch.start.get(topic, {}).get(p, 0), end] for p, end in sorted(partitions.items())}
            for topic, partitions in sorted(batch.end.items())
        },
        watermark_ms=batch.watermark_ms,
        late_watermark_ms=batch.late_watermark_ms,
        rows_in=batch.offsets if rows_in is None else rows_in,
        rows_out=rows_out,
        began_ms=began_ms,
        written_ms=written_ms,
    )
    if refused:
        record["refused"] = refused
    if quarantined:
        record["quarantined"] = quarantined
    if contract:
        record["contract"] = contract
    return record


def offsets_taken(record: BatchRecord) -> int:
    """Return the number of offsets in a batch."""
    return sum(end - start for parts in record["offsets"].values() for start, end in parts.values())


def ends(record: BatchRecord) -> Offsets:
    """Return topic -> partition -> end offset of a batch."""
    return {topic: {int(p): end for p, (_, end) in parts.items()} for topic, parts in record["offsets"].items()}


def write(folder: str, record: BatchRecord) -> None:
    """Write one record atomically; a replayed batch overwrites its equal record."""
    small_files.write_json(f"{folder}/{record_name(record['batch'])}", record)


def read(folder: str, first: int = 0) -> list[BatchRecord]:
    """Return the records of a generation from batch `first`, in batch order. Use `stream` for a long ledger."""
    return list(stream(folder, first))


def stream(folder: str, first: int = 0) -> Iterator[BatchRecord]:
    """Yield the records from batch `first`, in batch order, with one segment in memory at a time.

    Safe while a driver writes and compaction runs: if a file disappears, the folder is listed again and reading continues
    after the last yielded batch. Segments that end before `first` are not read.
    """
    for _ in range(_TRIES):
        complete = True
        for record in _stream_once(folder, first):
            if record is None:
                complete = False
                break
            first = record["batch"] + 1
            yield record
        if complete:
            return
    raise OSError(f"{folder} changes faster than it can be read. Look for a second clean-up process.")


def _stream_once(folder: str, first: int) -> Iterator[BatchRecord | None]:
    """Yield records in batch order, then None if a file disappeared because compaction merged it."""
    for _, high, name in _pieces(small_files.list_names(folder)):
        if high < first:
            continue
        records = _records(f"{folder}/{name}")
        if records is None:
            yield None
            return
        for record in records:
            if record["batch"] >= first:
                first = record["batch"] + 1
                yield record


def _records(path: str) -> Iterable[BatchRecord] | None:
    """Return the records of one file, or None if it is gone. Raises HeadraceError or ValueError if it is broken."""
    if path.endswith(".json"):
        single: Any = small_files.read_json(path)
        return None if single is None else [single]
    text = small_files.read_text(path)
    return None if text is None else map(json.loads, text.splitlines())


def _pieces(names: Iterable[str]) -> list[tuple[int, int, str]]:
    """Return (first, last, name) of each file, in batch order; a wider segment precedes what it covers."""
    pieces = [(*bounds(name), name) for name in segments(names)]
    pieces += [(batch, batch, record_name(batch)) for batch in singles(names)]
    return sorted(pieces, key=lambda piece: (piece[0], -piece[1], piece[2].endswith(".json")))


def record(folder: str, batch: int) -> BatchRecord | None:
    """Return one batch's record, or None if the ledger has none."""
    single: Any = small_files.read_json(f"{folder}/{record_name(batch)}")
    if single is not None:
        entry: BatchRecord = single
        return entry
    inside = [name for name in segments(small_files.list_names(folder)) if _covers(name, batch)]
    for name in inside:
        for candidate in map(json.loads, (small_files.read_text(f"{folder}/{name}") or "").splitlines()):
            if candidate["batch"] == batch:
                compacted: BatchRecord = candidate
                return compacted
    return None


def runs(folder: str) -> list[range]:
    """Return the batches in the ledger as contiguous ranges, in order, without reading the records."""
    ranges: list[range] = []
    for first, last, _ in _pieces(small_files.list_names(folder)):
        if ranges and first <= ranges[-1].stop:
            ranges[-1] = range(ranges[-1].start, max(ranges[-1].stop, last + 1))
        else:
            ranges.append(range(first, last + 1))
    return ranges


def batches(folder: str) -> list[int]:
    """Return the batches in the ledger, in order. For short ledgers; use `runs` for any length."""
    return [batch for run in runs(folder) for batch in run]


def newest_batch(folder: str) -> int | None:
    """Return the newest batch in the ledger, or None if it is empty."""
    ranges = runs(folder)
    return ranges[-1].stop - 1 if ranges else None


def newest(folder: str) -> BatchRecord | None:
    """Return the newest record, or None if the ledger is empty."""
    batch = newest_batch(folder)
    return None if batch is None else record(folder, batch)


def singles(names: Iterable[str]) -> list[int]:
    """Return the batches that have a file of their own, in order."""
    return sorted(int(match[1]) for name in names if (match := _RECORD.match(name)))


def segments(names: Iterable[str]) -> list[str]:
    """Return the names of the segments, in batch order."""
    return sorted(name for name in names if _SEGMENT.match(name))


def bounds(segment: str) -> tuple[int, int]:
    """Return the first and the last batch of a segment, which holds all batches between them."""
    match = _SEGMENT.match(segment)
    assert match, segment
    return int(match[1]), int(match[2])


def record_name(batch: int) -> str:
    """Return the file name of a single batch's record."""
    return f"{batch:010d}.json"


def write_segment(folder: str, records: Sequence[BatchRecord]) -> str:
    """Write records of consecutive batches as one segment, atomically; return its name."""
    numbers = [record["batch"] for record in records]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "a segment has no gaps"
    name = f"{numbers[0]:010d}-{numbers[-1]:010d}.ndjson"
    text = "".join(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n" for record in records)
    small_files.write_text(f"{folder}/{name}", text)
    return name


def _covers(segment: str, batch: int) -> bool:
    first, last = bounds(segment)
    return first <= batch <= last
