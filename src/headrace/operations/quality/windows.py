"""A window is the part of a sink that one check reads: planned, read in steps, and in the result up to where it was read.

A planned window holds the oldest closed windows or finished batches and the number of the remaining ones. `name` identifies it in
the quarantine. `kind` is its type in JSON. Times are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from headrace.operations.quality import bounds
from headrace.operations.quality.position import Tally
from headrace.store import ledger, records

Ranges = dict[str, list[int]]
"""Partition (text, as JSON has it) -> [start, end) of offsets."""


@dataclass(frozen=True)
class NamedWindow:
    """What every window has. `reason`: why nothing, or no more, was read. `since_ms`: the start that a person chose."""

    kind: str = ""
    name: str = ""
    reason: str = records.optional("")
    sums: Tally | None = records.optional()
    since_ms: int | None = records.optional()


@dataclass(frozen=True)
class Passed:
    """Batches that a check passes over: retention may have removed their rows."""

    batches: int = 0
    rows: int = 0


@dataclass(frozen=True)
class _OfBatches(NamedWindow):
    """What a window of batches has, also if no batch is new.

    `left`: batches and rows for the next check. `expired` counts batches that are passed over, `passed` is the last of them;
    `replaced` counts those of an earlier generation. For a topic, `cursor` is where the last check ended and `ends` is where this
    one stops.
    """

    generation: int = records.optional(0)
    left: dict[str, int] = records.optional(factory=dict)
    expired: Passed | None = records.optional()
    passed: int = records.optional(-1)
    replaced: int = records.optional(0)
    cursor: dict[str, int] | None = records.optional()
    ends: dict[str, int] | None = records.optional()


@dataclass(frozen=True)
class Nothing(_OfBatches):
    """There is nothing to read."""

    kind: str = "nothing"


@dataclass(frozen=True)
class Unreadable(NamedWindow):
    """The sink cannot be read."""

    kind: str = "unreadable"
    name: str = "not checked"


@dataclass(frozen=True)
class Batches(_OfBatches):
    """Finished batches of a generation. `offsets` are the ranges that were read."""

    kind: str = "batches"
    first: int = 0
    last: int = 0
    batches: int = 0
    rows: int = 0
    offsets: Ranges = records.optional(factory=dict)


@dataclass(frozen=True)
class Closed(NamedWindow):
    """Closed windows of `size_ms`, by their starts. `left`: windows for the next check. A step sets neither."""

    kind: str = "closed"
    starts_ms: tuple[int, ...] = records.optional(())
    until_ms: int = 0
    size_ms: int = records.optional(0)
    left: dict[str, int] = records.optional(factory=dict)


@dataclass(frozen=True)
class TableWindow(NamedWindow):
    """A table, read in token order. A plan starts after `token` (None: the start). A step stops at it (None: the end)."""

    kind: str = "table"
    at_ms: int = records.optional(0)
    token: int | None = None


@dataclass(frozen=True)
class StageVersion(NamedWindow):
    """A version of a dimension in its stage."""

    kind: str = "stage"
    version: str = ""


Window = Nothing | Unreadable | Batches | Closed | TableWindow | StageVersion


@dataclass(frozen=True)
class BatchesStep(NamedWindow):
    """Consecutive batches that one step reads: `count` of them, `rows_out` by batch.

    `spans` are the source offsets that they took, `ranges` the offsets of a sink's topic that were read.
    """

    kind: str = "batches"
    generation: int = 0
    first: int = 0
    last: int = 0
    count: int = 0
    began_ms: int = 0
    written_ms: int = 0
    rows_out: dict[str, int] = field(default_factory=dict)
    spans: Ranges = field(default_factory=dict)
    ranges: Ranges = records.optional(factory=dict)


StepWindow = BatchesStep | Closed | TableWindow


def nothing(reason: str) -> Nothing:
    """Return the window of a check that has nothing to read."""
    return Nothing(name="nothing", reason=reason)


def batches_name(generation: int, first: int, last: int) -> str:
    """Return the name of a window of batches."""
    return f"generation {generation} batches {first} to {last}"


def windows_name(first_ms: int, until_ms: int) -> str:
    """Return the name of a window of closed windows."""
    return f"windows {iso(first_ms)} to {iso(until_ms)}"


class Grid(NamedTuple):
    """The grid of windows, in milliseconds: size, time between two starts, and offset of the starts from 1970."""

    size: int
    slide: int
    offset: int = 0


def closed_windows(watermark_ms: int, grid: Grid, since_ms: int | None) -> Nothing | Closed:
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
    left = {"windows": len(starts) - len(taken)}
    return Closed(
        name=windows_name(taken[0], until), starts_ms=tuple(taken), until_ms=until, size_ms=size_ms, left=left
    )


def finished_batches(
    generation: int, batches: Iterable[ledger.BatchRecord], since_ms: int = 0, gone_ms: int = 0
) -> Nothing | Batches:
    """Return the window of a generation's oldest finished batches that one check reads.

    At most CHECK_ROWS rows and CHECK_BATCHES batches, but at least one batch; `left` counts the later ones. Batches written
    before `since_ms` are skipped. Those written before `gone_ms` are counted in `expired`: retention may have removed their rows.
    """
    taken, left, expired = _Count(), _Count(), _Count()
    for record in batches:
        if record["written_ms"] < since_ms:
            continue
        if record["written_ms"] < gone_ms:
            expired.add(record)
        elif left.batches or (taken.batches and not taken.has_room_for(record)):
            left.add(record)
        else:
            taken.add(record)
    window = Batches(
        generation=generation,
        name=batches_name(generation, taken.first, taken.last),
        first=taken.first,
        last=taken.last,
        batches=taken.batches,
        rows=taken.rows,
    )
    chosen = (
        window
        if taken.batches
        else replace(nothing("no batch has finished since the last check"), generation=generation)
    )
    return replace(
        chosen,
        left={"batches": left.batches, "rows": left.rows},
        expired=Passed(expired.batches, expired.rows) if expired.batches else None,
        passed=expired.last,
    )


@dataclass
class _Count:
    batches: int = 0
    rows: int = 0
    first: int = -1
    last: int = -1

    def has_room_for(self, record: ledger.BatchRecord) -> bool:
        """Return whether a check with these batches may read one more."""
        return self.batches < bounds.CHECK_BATCHES and self.rows + record["rows_out"] <= bounds.CHECK_ROWS

    def add(self, record: ledger.BatchRecord) -> None:
        """Count a batch."""
        self.first = record["batch"] if self.first < 0 else self.first
        self.batches, self.rows, self.last = self.batches + 1, self.rows + record["rows_out"], record["batch"]


def iso(milliseconds: int) -> str:
    """Return a time in ISO format, to the second, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
