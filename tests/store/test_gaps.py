"""What an archive lacks and lost is told from what no reader of Kafka ever gets, by ledgers and offsets alone."""

from __future__ import annotations

import random
from collections.abc import Mapping

from headrace.store.gaps import Absent, Claim, Loss, claims, losses, outside, union
from headrace.store.ledger import BatchRecord


def batch(number: int, rows_out: int, generation: int = 1, **ranges: tuple[int, int]) -> BatchRecord:
    """A batch of an archive query; `p0=(3, 9)` is what it took of partition 0."""
    offsets = {"pos": {name[1:]: list(span) for name, span in ranges.items()}}
    return BatchRecord(
        query="q", generation=generation, batch=number, offsets=offsets, watermark_ms=0, late_watermark_ms=0,
        rows_in=rows_out, rows_out=rows_out, began_ms=0, written_ms=0,
    )  # fmt: skip


def absent(present: Mapping[int, set[int]], until: int) -> dict[int, Absent]:
    return {
        p: Absent(union((o, o + 1) for o in range(min(there, default=0), until) if o not in there))
        for p, there in present.items()
    }


def lost(present: Mapping[int, set[int]], ledgers: list[list[BatchRecord]], reached: int) -> list[Loss]:
    said = claims(ledgers, "pos", dict.fromkeys(present, reached))
    seen = {p: (min(there), max(there) + 1) for p, there in present.items() if there}
    return losses(absent(present, reached), seen, said)


def test_markers_and_aborted_records_are_no_loss_where_a_batch_took_their_offsets() -> None:
    """Three records, a marker, three aborted, a marker, one record, a marker, as in C02."""
    ledger = [batch(0, 3, p0=(0, 4)), batch(1, 1, p0=(4, 10))]
    assert lost({0: {0, 1, 2, 8}}, [ledger], 10) == []
    assert lost({0: {0, 1, 2}}, [ledger], 10) == [Loss(1, 1, {0: [(4, 10)]})], "the last record was lost"
    assert lost({0: {0, 1, 8}}, [ledger], 10) == [Loss(1, 0, {0: [(2, 4)]})], "one of the two held a record"


def test_a_batch_of_markers_alone_has_nothing_to_lose() -> None:
    assert lost({0: {0}, 1: set()}, [[batch(0, 1, p0=(0, 1)), batch(1, 0, p0=(1, 3), p1=(0, 2))]], 3) == []


def test_what_no_batch_took_is_lost_and_what_is_not_in_the_ledger_yet_is_not_judged() -> None:
    hole = [[batch(0, 2, p0=(0, 2))], [batch(0, 2, p0=(5, 7))]]
    assert lost({0: {0, 1, 5, 6}}, hole, 7) == [Loss(3, None, {0: [(2, 5)]})]
    newest = [[batch(0, 2, p0=(0, 2))]]
    assert lost({0: {0, 1, 4, 6}}, newest, 7) == [], "a batch that was appended, and whose record is not written yet"
    assert lost({0: {0, 3}}, [[]], 4) == [Loss(2, None, {0: [(1, 3)]})], "without a ledger every gap is one"


def test_a_batch_that_the_archive_did_not_have_when_it_was_read_is_left_out() -> None:
    assert lost({0: {0}}, [[batch(0, 1, p0=(0, 1)), batch(1, 5, p0=(1, 6))]], 1) == []


def test_the_newest_generation_that_read_an_offset_counts() -> None:
    """Compaction removed two records before the archive query was reset and read the topic again, into a new table."""
    old, new = [batch(0, 6, 1, p0=(0, 6)), batch(1, 2, 1, p0=(6, 8))], [batch(0, 2, 2, p0=(2, 6))]
    assert lost({0: {2, 5, 6, 7}}, [new, old], 8) == []
    assert lost({0: {2, 5, 7}}, [new, old], 8) == [Loss(1, 1, {0: [(6, 7)]})]


def test_records_that_were_removed_before_the_first_are_no_loss() -> None:
    assert lost({0: {4, 5}}, [[batch(0, 6, p0=(0, 6))]], 6) == []


def test_whatever_is_lost_is_counted_to_the_record(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(300):
        kept: dict[int, set[int]] = {0: {0}, 1: {0}}
        ledger, ends, wanted = [], {0: 0, 1: 0}, 0
        for number in range(dice.randint(1, 8)):
            spans, rows = {}, 0
            for p in kept:
                start, end = ends[p], ends[p] + dice.randint(0, 9)
                given = {o for o in range(start, end) if o == 0 or dice.random() < 0.6}
                gone = {o for o in given if o and dice.random() < 0.1}
                kept[p] |= given - gone
                wanted, rows = wanted + len(gone), rows + len(given)
                spans[f"p{p}"], ends[p] = (start, end), end
            ledger.append(batch(number, rows, 1, **spans))
        reached = max(ends.values())
        said = claims([ledger], "pos", ends)
        there = {p: {o for o in offsets if o < ends[p]} for p, offsets in kept.items()}
        missing = {
            p: Absent(union((o, o + 1) for o in range(min(offsets, default=0), ends[p]) if o not in offsets))
            for p, offsets in there.items()
        }
        seen = {p: (min(offsets), max(offsets) + 1) for p, offsets in there.items() if offsets}
        counted = losses(missing, seen, said)
        assert sum(loss.records for loss in counted) == wanted, (seed, reached, ledger, kept)


def test_spans(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(300):
        some = [(low := dice.randint(0, 40), low + dice.randint(0, 9)) for _ in range(dice.randint(0, 6))]
        taken = {o for low, past in some for o in range(low, past)}
        low, past = sorted((dice.randint(0, 50), dice.randint(0, 50)))
        assert {o for a, b in outside((low, past), union(some)) for o in range(a, b)} == set(range(low, past)) - taken
        gone = Absent(union(some))
        assert gone.count(low, past) == len(taken & set(range(low, past)))
        assert {o for a, b in gone.within(low, past) for o in range(a, b)} == taken & set(range(low, past))
    assert claims([[batch(3, 2, p0=(0, 5), p1=(0, 1))]], "pos", {0: 5, 1: 1}) == [
        Claim(3, 4, {0: [(0, 5)], 1: [(0, 1)]})
    ]
