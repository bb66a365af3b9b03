"""Read Spark's checkpoint: which offsets and which watermark a batch has. Spark writes both before the batch runs.

`offsets/<batch>`: a version line, one JSON line of metadata (batchWatermarkMs), then one line a source, "-" where it
has none yet. `sources/<n>/0`: where a Kafka source began. (Spark: OffsetSeqLog, KafkaSourceInitialOffsetWriter.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from headrace.contract import storage
from headrace.errors import HeadraceError

Offsets = dict[str, dict[int, int]]
"""topic -> partition -> offset of the next record to read."""


@dataclass(frozen=True)
class BatchRange:
    """What one batch reads: [start, end) of each topic partition, and the watermarks in milliseconds since 1970.

    `watermark_ms` evicts state in this batch; `late_watermark_ms` (that of the batch before, SPARK-42376) is the one
    below which a row of this batch is late.
    """

    batch: int
    start: Offsets
    end: Offsets
    watermark_ms: int
    late_watermark_ms: int

    @property
    def rows(self) -> int:
        """Return how many offsets the batch reads (topics without transactions have one record an offset)."""
        return sum(
            end - self.start.get(topic, {}).get(partition, 0)
            for topic, partitions in self.end.items()
            for partition, end in partitions.items()
        )


def read_batch_range(checkpoint: str, batch: int) -> BatchRange:
    """Return the range of a batch that Spark has planned. Raises HeadraceError if its offset log or the one before is gone."""
    entry = _require_entry(checkpoint, batch)
    # Spark keeps minBatchesToRetain of them, so the one before is there, or the range would silently begin too early.
    before = _require_entry(checkpoint, batch - 1) if batch > 0 else None
    start = initial_offsets(checkpoint)
    if before:
        start |= before[1]
    return BatchRange(
        batch=batch,
        start={topic: start.get(topic, {}) for topic in entry[1]},
        end=entry[1],
        watermark_ms=entry[0],
        late_watermark_ms=before[0] if before else 0,
    )


def initial_offsets(checkpoint: str) -> Offsets:
    """Return where each Kafka source of the checkpoint began."""
    offsets: Offsets = {}
    for source in storage.list_names(f"{checkpoint}/sources"):
        text = storage.read_text(f"{checkpoint}/sources/{source}/0")
        if text and "{" in text:  # a zero byte and a version stand before the JSON
            offsets |= _parse(text[text.index("{") :])
    return offsets


def newest_batch(checkpoint: str, log: str = "commits") -> int | None:
    """Return the highest batch id in the `commits` or `offsets` log. Old entries are purged: never count them."""
    ids = [int(name) for name in storage.list_names(f"{checkpoint}/{log}") if name.isdigit()]
    return max(ids, default=None)


def _require_entry(checkpoint: str, batch: int) -> tuple[int, Offsets]:
    entry = _read_entry(checkpoint, batch)
    if entry is None:
        raise HeadraceError(
            f"{checkpoint}/offsets/{batch} is missing or cut: another driver or a clean-up touched a live checkpoint; "
            "stop the pipeline and start a new generation."
        )
    return entry


def _read_entry(checkpoint: str, batch: int) -> tuple[int, Offsets] | None:
    text = storage.read_text(f"{checkpoint}/offsets/{batch}")
    lines = text.splitlines() if text else []
    if len(lines) < 3:
        return None
    offsets: Offsets = {}
    for line in lines[2:]:
        if line.startswith("{"):
            offsets |= _parse(line)
    return int(json.loads(lines[1])["batchWatermarkMs"]), offsets


def _parse(text: str) -> Offsets:
    topics: dict[str, dict[str, Any]] = json.loads(text)
    return {topic: {int(p): int(o) for p, o in parts.items()} for topic, parts in topics.items()}
