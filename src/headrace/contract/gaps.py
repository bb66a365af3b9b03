"""Which of the offsets that an archive lacks were lost, and which never held a record that a reader gets (ADR 0031).

A marker of a transaction, an aborted record and a record that compaction removed take an offset and are never given. The
archive query writes each record that it reads, so the ledger of its batches is the witness: of the offsets that a batch
took, all but `rows_out` held none. What an archive lacks beyond that was lost after Kafka gave it; what it lacks outside
of all batches nobody ever read. Pure arithmetic over ledgers and offsets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from headrace.contract.ledger import Record, offsets_taken

Span = tuple[int, int]
"""[first offset, offset past the last) of one partition."""


@dataclass(frozen=True)
class Claim:
    """What one batch of an archive query took: the spans of each partition, and how many of its offsets held no record."""

    batch: int
    empty: int
    spans: Mapping[int, Sequence[Span]]


@dataclass(frozen=True)
class Loss:
    """How many records an archive lacks, in which offsets of which partitions; `batch` took them (None: none did)."""

    records: int
    batch: int | None
    spans: Mapping[int, Sequence[Span]]


@dataclass
class Absent:
    """Offsets that are not there, of one partition: ascending spans that do not touch."""

    spans: Sequence[Span]
    _firsts: list[int] = field(init=False, repr=False)
    _sums: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Prepare the sums."""
        self._firsts = [first for first, _ in self.spans]
        self._sums = [0, *accumulate(past - first for first, past in self.spans)]

    def count(self, first: int, past: int) -> int:
        """Return how many offsets of [first, past) are absent."""
        return self._before(past) - self._before(first)

    def within(self, first: int, past: int) -> list[Span]:
        """Return the absent spans inside [first, past)."""
        place = max(0, bisect_left(self._firsts, first) - 1)
        found = []
        for low, high in self.spans[place:]:
            if low >= past:
                break
            if high > first:
                found.append((max(low, first), min(high, past)))
        return found

    def _before(self, offset: int) -> int:
        place = bisect_left(self._firsts, offset)
        if not place:
            return 0
        first, past = self.spans[place - 1]
        return self._sums[place - 1] + min(past, offset) - first


def claims(ledgers: Iterable[Sequence[Record]], topic: str, reached: Mapping[int, int]) -> list[Claim]:
    """Return what the batches of an archive query say of a topic; `ledgers`: one of each generation, the newest first.

    Where a later generation has read offsets again, its word counts. Batches that end beyond `reached` are left out: the
    archive was looked at before they were in it.
    """
    covered: dict[int, list[Span]] = {}
    found = []
    for records in ledgers:
        fresh: dict[int, list[Span]] = {}
        for record in records:
            parts = {int(partition): span for partition, span in record["offsets"].get(topic, {}).items()}
            if any(end > reached.get(partition, 0) for partition, (_, end) in parts.items()):
                continue
            spans = {p: outside((start, end), covered.get(p, ())) for p, (start, end) in parts.items()}
            found.append(Claim(record["batch"], max(0, offsets_taken(record) - record["rows_out"]), spans))
            for partition, (start, end) in parts.items():
                fresh.setdefault(partition, []).append((start, end))
        covered = {p: union([*covered.get(p, ()), *fresh.get(p, ())]) for p in {*covered, *fresh}}
    return found


def losses(absent: Mapping[int, Absent], seen: Mapping[int, Span], said: Sequence[Claim]) -> list[Loss]:
    """Return what was lost. `absent`: of each partition, all offsets from its first record on that are not there.

    `seen`: from the first to past the last record of each partition. Inside it an offset that no batch took is lost too, up
    to where the batches end; without any batch, all of it.
    """
    found = []
    covered: dict[int, list[Span]] = {}
    for claim in said:
        lacking = 0
        for partition, spans in claim.spans.items():
            covered.setdefault(partition, []).extend(spans)
            lacking += sum(absent[partition].count(*span) for span in spans if partition in absent)
        if lacking > claim.empty:
            where = {
                p: each
                for p, spans in claim.spans.items()
                if p in absent and (each := [gap for span in spans for gap in absent[p].within(*span)])
            }
            found.append(Loss(lacking - claim.empty, claim.batch, where))
    for partition, (first, past) in sorted(seen.items()):
        known = union(covered.get(partition, ()))
        until = min(past, known[-1][1]) if known else past
        holes = [gap for span in outside((first, until), known) for gap in absent[partition].within(*span)]
        if holes:
            found.append(Loss(sum(end - start for start, end in holes), None, {partition: holes}))
    return found


def outside(span: Span, covered: Sequence[Span]) -> list[Span]:
    """Return the parts of a span that ascending spans do not cover."""
    first, past = span
    found = []
    for low, high in covered:
        if low >= past:
            break
        if high > first:
            if low > first:
                found.append((first, low))
            first = high
    if first < past:
        found.append((first, past))
    return found


def union(spans: Iterable[Span]) -> list[Span]:
    """Return the same offsets as ascending spans that do not touch."""
    found: list[Span] = []
    for first, past in sorted(span for span in spans if span[0] < span[1]):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(past, found[-1][1]))
        else:
            found.append((first, past))
    return found
