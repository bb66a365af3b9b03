"""Read the offsets and the watermark of a batch from Spark's checkpoint. Spark writes both before it runs the batch.

`offsets/<batch>`: a version line, one JSON line of metadata (batchWatermarkMs), then one line per source, "-" while
it has no offset. `sources/<n>/0`: where a Kafka source began. (Spark: OffsetSeqLog, KafkaSourceInitialOffsetWriter.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import HeadraceError
from headrace.store import small_files

Offsets = dict[str, dict[int, int]]
"""topic -> partition -> offset of the next record to read."""


@dataclass(frozen=True)
class BatchRange:
    """The input of one batch: [start, end) of each topic partition, and the watermarks in milliseconds since 1970.

    `watermark_ms` evicts state in this batch. `late_watermark_ms` (the previous batch's, SPARK-42376) is the threshold
    below which a row of this batch is late.
    """

    batch: int
    start: Offsets
    end: Offsets
    watermark_ms: int
    late_watermark_ms: int

    @property
    def offsets(self) -> int:
        """Return the number of offsets in the batch: an upper bound of its number of records.

        Transaction markers, aborted records and compacted records occupy an offset each but are never delivered to a reader
        (KIP-98; ADR 0031).
        """
        return distance(self.start, self.end)


def read_batch_range(checkpoint: str, batch: int) -> BatchRange:
    """Return the range of a planned batch. Raises HeadraceError if its offset log entry or the previous one is missing."""
    entry = _require_entry(checkpoint, batch)
    # Spark keeps minBatchesToRetain entries, so the previous one must exist. Without it the range would begin too early.
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
    for source in small_files.list_names(f"{checkpoint}/sources"):
        offsets |= _initial(checkpoint, source)
    return offsets


def _initial(checkpoint: str, source: str) -> Offsets:
    text = small_files.read_text(f"{checkpoint}/sources/{source}/0")
    # a zero byte and a version precede the JSON
    return _parse(text[text.index("{") :]) if text and "{" in text else {}


def newest_batch(checkpoint: str, log: str = "commits") -> int | None:
    """Return the highest batch id in the `commits` or `offsets` log. Old entries are purged, so never count them."""
    return max(batches(checkpoint, log), default=None)


def batches(checkpoint: str, log: str) -> list[int]:
    """Return the batch ids in the `commits` or `offsets` log, in order."""
    return sorted(int(name) for name in small_files.list_names(f"{checkpoint}/{log}") if name.isdigit())


def offsets_entry(checkpoint: str, batch: int) -> str:
    """Return the path of a batch's entry in the offset log."""
    return f"{checkpoint}/offsets/{batch}"


def commits_entry(checkpoint: str, batch: int) -> str:
    """Return the path of a batch's entry in the commit log."""
    return f"{checkpoint}/commits/{batch}"


def read_entry(checkpoint: str, batch: int) -> tuple[int, Offsets] | None:
    """Return (watermark in milliseconds, end offsets) of a planned batch, or None if the entry is missing or truncated.

    Raises ValueError or KeyError if the entry is neither complete nor truncated.
    """
    text = small_files.read_text(offsets_entry(checkpoint, batch))
    lines = text.splitlines() if text else []
    if len(lines) < 3:
        return None
    offsets: Offsets = {}
    for line in lines[2:]:
        if line.startswith("{"):
            offsets |= _parse(line)
    return int(json.loads(lines[1])["batchWatermarkMs"]), offsets


def ends(checkpoint: str, batch: int | None) -> Offsets:
    """Return the end offsets of a planned batch; nothing for None, and if its entry is missing or truncated."""
    entry = None if batch is None else read_entry(checkpoint, batch)
    return entry[1] if entry else {}


def distance(start: Offsets, end: Offsets) -> int:
    """Return the number of offsets from `start` to `end`; a partition that `start` lacks counts from 0."""
    return sum(
        max(0, offset - start.get(topic, {}).get(partition, 0))
        for topic, parts in end.items()
        for partition, offset in parts.items()
    )


def state_partitions(checkpoint: str, batch: int) -> int | None:
    """Return the number of state partitions of a planned batch (fixed by the first batch, SPARK-19873)."""
    text = small_files.read_text(offsets_entry(checkpoint, batch)) or ""
    lines = text.splitlines()
    conf = json.loads(lines[1]).get("conf", {}) if len(lines) > 1 else {}
    return int(conf["spark.sql.shuffle.partitions"]) if "spark.sql.shuffle.partitions" in conf else None


def next_watermark_ms(checkpoint: str, batch: int) -> int:
    """Return the watermark that a committed batch passed to the next one. Raises HeadraceError on a broken commit."""
    text = small_files.read_text(commits_entry(checkpoint, batch)) or ""
    try:
        return int(json.loads(text.splitlines()[1])["nextBatchWatermarkMs"])
    except (IndexError, KeyError, ValueError) as error:
        raise HeadraceError(
            f"{commits_entry(checkpoint, batch)} is missing or truncated. Use an older snapshot."
        ) from error


def planned_entry(checkpoint: str, batch: int, ends: Offsets, watermark_ms: int) -> str:
    """Return the text of an offset log entry for `batch`: the previous entry with other end offsets and watermark.

    Written into the checkpoint, it makes Spark run exactly this batch first. A source without an offset gets one if
    `sources/<n>/0` names its topic.
    """
    text = small_files.read_text(offsets_entry(checkpoint, batch - 1))
    if not text:
        raise HeadraceError(f"{offsets_entry(checkpoint, batch - 1)} is missing or empty. Use an older snapshot.")
    version, metadata, *sources = text.splitlines()
    lines = []
    for number, line in enumerate(sources):
        known = _parse(line) if line.startswith("{") else _initial(checkpoint, str(number))
        moved = {topic: text_keys(parts | ends.get(topic, {})) for topic, parts in known.items()}
        lines.append(json.dumps(moved, separators=(",", ":")) if moved else line)
    changed = json.loads(metadata) | {"batchWatermarkMs": watermark_ms}
    return "\n".join([version, json.dumps(changed, separators=(",", ":")), *lines])


def text_keys(parts: Mapping[int, int]) -> dict[str, int]:
    """Return offsets by partition as JSON has them: by text, in the order of the partitions."""
    return {str(partition): offset for partition, offset in sorted(parts.items())}


def _require_entry(checkpoint: str, batch: int) -> tuple[int, Offsets]:
    entry = read_entry(checkpoint, batch)
    if entry is None:
        raise HeadraceError(
            f"{offsets_entry(checkpoint, batch)} is missing or truncated: another driver or a clean-up modified a checkpoint "
            "in use. Stop the pipeline and start a new generation."
        )
    return entry


def _parse(text: str) -> Offsets:
    topics: dict[str, dict[str, int]] = json.loads(text)
    return {topic: {int(p): int(o) for p, o in parts.items()} for topic, parts in topics.items()}
