"""The ledger: one record a batch, kept when Spark has long forgotten it (minBatchesToRetain).

It says which batch took an offset and which watermark that batch had, which is all that the batch layer needs to know
which rows Spark dropped as late. Written after the sinks and before Spark's own commit; a replay writes the same again.
"""

from __future__ import annotations

from typing import Any, TypedDict

from headrace.contract import storage
from headrace.contract.checkpoint import BatchRange


class Record(TypedDict):
    """One batch. Times are milliseconds since 1970, offsets are topic -> partition -> [start, end)."""

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
    query: str, generation: int, batch: BatchRange, *, rows_out: int, began_ms: int, written_ms: int
) -> Record:
    """Return the ledger's record of a batch whose rows are in the sinks."""
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
        rows_in=batch.rows,
        rows_out=rows_out,
        began_ms=began_ms,
        written_ms=written_ms,
    )


def write(folder: str, record: Record) -> None:
    """Write one record in one piece, over an equal one if the batch is a replay."""
    storage.write_json(f"{folder}/{record['batch']:010d}.json", record)


def read(folder: str) -> list[Record]:
    """Return all records of a generation, in batch order."""
    names = [name for name in storage.list_names(folder) if name.endswith(".json") and not name.startswith(".")]
    records: list[Any] = [storage.read_json(f"{folder}/{name}") for name in names]
    return sorted(records, key=lambda record: int(record["batch"]))
