"""Classifies the offsets that an archive lacks: lost, or never holding a record that a reader receives (ADR 0031).

Transaction markers, aborted records and compacted records occupy an offset and are never delivered. The archive query
writes each record it reads, so the ledger is the evidence: of the offsets in a batch, all except `rows_out` held no
record. Anything else the archive lacks inside a batch was lost after delivery; anything it lacks outside of all
batches was never read. Pure arithmetic on ledgers and offsets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from headrace.store.ledger import BatchRecord, offsets_taken

Span = tuple[int, int]
"""[first offset, offset past the last) of one partition."""


@dataclass(frozen=True)
class Claim:
    """What one batch of an archive query read: the spans of each partition, and how many of its offsets held no record."""

    batch: int
    empty: int
    spans: Mapping[int, Sequence[Span]]


@dataclass(frozen=True)
class Loss:
    """The number of records that an archive lacks and their spans per partition; `batch` read them (None: no batch did)."""

    records: int
    batch: int | None
    spans: Mapping[int, Sequence[Span]]


@dataclass
class Absent:
    """The absent offsets of one partition: ascending spans that do not touch."""

    spans: Sequence[Span]
    _firsts: list[int] = field(init=False, repr=False)
    _sums: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Precompute the sums."""
        self._firsts = [first for first, _ in self.spans]
        self._sums = [0, *accumulate(past - first for first, past in self.spans)]

    def count(self, first: int, past: int) -> int:
        """Return how many offsets of [first, past) are absent."""
        return self._before(past) - self._before(first)

    def within(self, first: int, past: int) -> list[Span]:
        """Return the absent spans inside [first, past)."""
        place = max(0, bisect_left(self._firsts, first) - 1)
        gaps = []
        for low, high in self.spans[place:]:
            if low >= past:
                break
            if high > first:
                gaps.append((max(low, first), min(high, past)))
        return gaps

    def _before(self, offset: int) -> int:
        place = bisect_left(self._firsts, offset)
        if not place:
            return 0
        first, past = self.spans[place - 1]
        return self._sums[place - 1] + min(past, offset) - first


def claims(ledgers: Iterable[Sequence[BatchRecord]], topic: str, reached: Mapping[int, int]) -> list[Claim]:
    """Return what the batches of an archive query read of a topic; `ledgers` holds one per generation, newest first.

    If a later generation read offsets again, its record counts. Batches that end beyond `reached` are left out: they were
    not yet in the archive when it was read.
    """
    covered: dict[int, list[Span]] = {}
    result = []
    for records in ledgers:
        fresh: dict[int, list[Span]] = {}
        for record in records:
            parts = {int(partition): span for partition, span in record["offsets"].get(topic, {}).items()}
            if any(end > reached.get(partition, 0) for partition, (_, end) in parts.items()):
                continue
            spans = {p: outside((start, end), covered.get(p, ())) for p, (start, end) in parts.items()}
            result.append(Claim(record["batch"], max(0, offsets_taken(record) - record["rows_out"]), spans))
            for partition, (start, end) in parts.items():
                fresh.setdefault(partition, []).append((start, end))
        covered = {p: union([*covered.get(p, ()), *fresh.get(p, ())]) for p in {*covered, *fresh}}
    return result


def losses(absent: Mapping[int, Absent], extents: Mapping[int, Span], batches: Sequence[Claim]) -> list[Loss]:
    """Return what was lost. `absent` maps each partition to all absent offsets after its first record.

    `extents` maps each partition to the span from its first record to past its last. Inside it an offset that no batch read
    is lost too, up to the end of the batches; without any batch, all absent offsets are lost.
    """
    result = []
    covered: dict[int, list[Span]] = {}
    for claim in batches:
        lacking = 0
        for partition, spans in claim.spans.items():
            covered.setdefault(partition, []).extend(spans)
            lacking += sum(absent[partition].count(*span) for span in spans if partition in absent)
        if lacking > claim.empty:
            where = {
                p: inside
                for p, spans in claim.spans.items()
                if p in absent and (inside := [gap for span in spans for gap in absent[p].within(*span)])
            }
            result.append(Loss(lacking - claim.empty, claim.batch, where))
    for partition, (first, past) in sorted(extents.items()):
        known = union(covered.get(partition, ()))
        until = min(past, known[-1][1]) if known else past
        holes = [gap for span in outside((first, until), known) for gap in absent[partition].within(*span)]
        if holes:
            result.append(Loss(sum(end - start for start, end in holes), None, {partition: holes}))
    return result


def outside(span: Span, covered: Sequence[Span]) -> list[Span]:
    """Return the parts of a span that ascending spans do not cover."""
    first, past = span
    parts = []
    for low, high in covered:
        if low >= past:
            break
        if high > first:
            if low > first:
                parts.append((first, low))
            first = high
    if first < past:
        parts.append((first, past))
    return parts


def union(spans: Iterable[Span]) -> list[Span]:
    """Return the same offsets as ascending spans that do not touch."""
    merged: list[Span] = []
    for first, past in sorted(span for span in spans if span[0] < span[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(past, merged[-1][1]))
        else:
            merged.append((first, past))
    return merged
