"""The part of a sink that one check reads: the oldest closed windows or finished batches, and the number of those left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from headrace.operations.quality import bounds
from headrace.store import ledger

Window = dict[str, Any]


def nothing(reason: str) -> Window:
    """Return the window of a check that has nothing to read."""
    return {"kind": "nothing", "name": "nothing", "reason": reason}


class Grid(NamedTuple):
    """The grid of windows, in milliseconds: size, time between two starts, and offset of the starts from 1970."""

    size: int
    slide: int
    offset: int = 0


def closed_windows(watermark_ms: int, grid: Grid, since_ms: int | None) -> Window:
    """Return the window starts (milliseconds) of windows that ended at or before the watermark and after `since_ms`.

    Only the oldest CHECK_WINDOWS are returned; `left` counts the others. The newest finished batch's watermark closes them: the
    next batch drops rows of such a window (SPARK-42376).
    """
    size_ms, slide_ms, offset_ms = grid
    last = (watermark_ms - size_ms - offset_ms) // slide_ms * slide_ms + offset_ms
    first = offset_ms
    if since_ms is not None:
        first = max(first, ((since_ms - size_ms - offset_ms) // slide_ms + 1) * slide_ms + offset_ms)
    starts = range(first, last + 1, slide_ms)
    if not starts:
        return nothing("no window has closed since the last check")
    taken = starts[: bounds.CHECK_WINDOWS]
    until = taken[-1] + size_ms
    return {
        "kind": "closed",
        "name": f"windows {iso(taken[0])} to {iso(until)}",
        "starts_ms": list(taken),
        "until_ms": until,
        "size_ms": size_ms,
        "left": {"windows": len(starts) - len(taken)},
    }


def finished_batches(records: Iterable[ledger.Record], since_ms: int = 0, gone_ms: int = 0) -> Window:
    """Return the window of the oldest finished batches that one check reads: first, last, batches, rows.

    At most CHECK_ROWS rows and CHECK_BATCHES batches, but at least one batch; `left` counts the later ones. Batches written
    before `since_ms` are skipped. Those written before `gone_ms` are counted in `expired`: retention may have removed their rows.
    """
    taken, left, expired = _Count(), _Count(), _Count()
    for record in records:
        if record["written_ms"] < since_ms:
            continue
        if record["written_ms"] < gone_ms:
            expired.add(record)
        elif left.batches or (taken.batches and not taken.has_room_for(record)):
            left.add(record)
        else:
            taken.add(record)
    window: Window = {"left": {"batches": left.batches, "rows": left.rows}}
    if expired.batches:
        window |= {"expired": {"batches": expired.batches, "rows": expired.rows}, "passed": expired.last}
    if not taken.batches:
        return nothing("no batch has finished since the last check") | window
    return {
        "kind": "batches", "first": taken.first, "last": taken.last, "batches": taken.batches, "rows": taken.rows
    } | window  # fmt: skip


@dataclass
class _Count:
    batches: int = 0
    rows: int = 0
    first: int = -1
    last: int = -1

    def has_room_for(self, record: ledger.Record) -> bool:
        """Return whether a check with these batches may read one more."""
        return self.batches < bounds.CHECK_BATCHES and self.rows + record["rows_out"] <= bounds.CHECK_ROWS

    def add(self, record: ledger.Record) -> None:
        """Count a batch."""
        self.first = record["batch"] if self.first < 0 else self.first
        self.batches, self.rows, self.last = self.batches + 1, self.rows + record["rows_out"], record["batch"]


def iso(milliseconds: int) -> str:
    """Return a time in ISO format, to the second, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
