"""The ledger: one record a batch, kept when Spark has long forgotten it (minBatchesToRetain).

It says which batch took an offset and which watermark that batch had, which is all that the batch layer needs to know
which rows Spark dropped as late. Written after the sinks and before Spark's own commit; a replay writes the same again.

A record is a file `<batch>.json`. Upkeep gathers many into one segment `<first>-<last>.ndjson`: written in one piece
first, so that a reader meets a batch in its file, in the segment, or for a moment in both, and then takes the segment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

from headrace.contract import storage
from headrace.contract.checkpoint import BatchRange, Offsets

_RECORD = re.compile(r"^(\d{10,})\.json$")
_SEGMENT = re.compile(r"^(\d{10,})-(\d{10,})\.ndjson$")
_TRIES = 20  # a reader may meet upkeep between two listings, but not this often


class Record(TypedDict):
    """One batch. Times are milliseconds since 1970, offsets are topic -> partition -> [start, end).

    `rows_in` is how many records Kafka gave of these offsets: fewer, where some hold none (ADR 0031).
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


def make_record(
    query: str,
    generation: int,
    batch: BatchRange,
    *,
    rows_out: int,
    began_ms: int,
    written_ms: int,
    rows_in: int | None = None,
) -> Record:
    """Return the ledger's record of a batch whose rows are in the sinks; `rows_in` None: every offset held a record."""
    return Record(
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


def offsets_taken(record: Record) -> int:
    """Return how many offsets a batch took."""
    return sum(end - start for parts in record["offsets"].values() for start, end in parts.values())


def ends(record: Record) -> Offsets:
    """Return topic -> partition -> end of what a batch took."""
    return {topic: {int(p): end for p, (_, end) in parts.items()} for topic, parts in record["offsets"].items()}


def write(folder: str, record: Record) -> None:
    """Write one record in one piece, over an equal one if the batch is a replay."""
    storage.write_json(f"{folder}/{record_name(record['batch'])}", record)


def read(folder: str, first: int = 0) -> list[Record]:
    """Return the records of a generation from batch `first` on, in batch order. See `stream` for a long ledger."""
    return list(stream(folder, first))


def stream(folder: str, first: int = 0) -> Iterator[Record]:
    """Yield the records from batch `first` on, in batch order, one segment in memory at a time.

    Safe while a driver writes and upkeep gathers: where a file went away it is listed again, from the batch that was
    yielded last. Segments that end before `first` are not read.
    """
    for _ in range(_TRIES):
        whole = True
        for record in _stream_once(folder, first):
            if record is None:
                whole = False
                break
            first = record["batch"] + 1
            yield record
        if whole:
            return
    raise OSError(f"{folder} changes faster than it can be read: look for a second clean-up.")


def _stream_once(folder: str, first: int) -> Iterator[Record | None]:
    """Yield records in batch order, then None where a file went away: upkeep has gathered it meanwhile."""
    for _, high, name in _pieces(storage.list_names(folder)):
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


def _records(path: str) -> Iterable[Record] | None:
    """Return the records of one file, or None where it is gone. Raises HeadraceError or ValueError on a broken one."""
    if path.endswith(".json"):
        single: Any = storage.read_json(path)
        return None if single is None else [single]
    text = storage.read_text(path)
    return None if text is None else map(json.loads, text.splitlines())


def _pieces(names: Iterable[str]) -> list[tuple[int, int, str]]:
    """Return (first, last, name) of each file, in batch order; a wider segment stands before what it covers."""
    found = [(*bounds(name), name) for name in segments(names)]
    found += [(batch, batch, record_name(batch)) for batch in singles(names)]
    return sorted(found, key=lambda piece: (piece[0], -piece[1], piece[2].endswith(".json")))


def record(folder: str, batch: int) -> Record | None:
    """Return one batch's record, or None where the ledger has none."""
    single: Any = storage.read_json(f"{folder}/{record_name(batch)}")
    if single is not None:
        found: Record = single
        return found
    inside = [name for name in segments(storage.list_names(folder)) if _covers(name, batch)]
    for name in inside:
        for each in map(json.loads, (storage.read_text(f"{folder}/{name}") or "").splitlines()):
            if each["batch"] == batch:
                gathered: Record = each
                return gathered
    return None


def runs(folder: str) -> list[range]:
    """Return the batches that the ledger has as ranges without a gap, in order, without reading the records."""
    found: list[range] = []
    for first, last, _ in _pieces(storage.list_names(folder)):
        if found and first <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, last + 1))
        else:
            found.append(range(first, last + 1))
    return found


def batches(folder: str) -> list[int]:
    """Return the batches that the ledger has, in order: for a short ledger, `runs` for any."""
    return [batch for run in runs(folder) for batch in run]


def newest_batch(folder: str) -> int | None:
    """Return the newest batch of the ledger, or None where it is empty."""
    found = runs(folder)
    return found[-1].stop - 1 if found else None


def newest(folder: str) -> Record | None:
    """Return the newest record, or None where the ledger is empty."""
    batch = newest_batch(folder)
    return None if batch is None else record(folder, batch)


def singles(names: Iterable[str]) -> list[int]:
    """Return the batches that have a file of their own, in order."""
    return sorted(int(match[1]) for name in names if (match := _RECORD.match(name)))


def segments(names: Iterable[str]) -> list[str]:
    """Return the names of the segments, in batch order."""
    return sorted(name for name in names if _SEGMENT.match(name))


def bounds(segment: str) -> tuple[int, int]:
    """Return the first and the last batch of a segment, which has all between them."""
    match = _SEGMENT.match(segment)
    assert match, segment
    return int(match[1]), int(match[2])


def record_name(batch: int) -> str:
    """Return the name of a batch's own file."""
    return f"{batch:010d}.json"


def write_segment(folder: str, records: Sequence[Record]) -> str:
    """Write records of batches without a gap as one segment, in one piece; return its name."""
    numbers = [record["batch"] for record in records]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "a segment has no gap"
    name = f"{numbers[0]:010d}-{numbers[-1]:010d}.ndjson"
    text = "".join(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n" for record in records)
    storage.write_text(f"{folder}/{name}", text)
    return name


def _covers(segment: str, batch: int) -> bool:
    first, last = bounds(segment)
    return first <= batch <= last
