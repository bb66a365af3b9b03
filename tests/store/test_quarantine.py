"""The quarantine: which offsets which generation of which query passes over, and the document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.store import generation, ledger, quarantine, small_files
from headrace.store.checkpoint_log import BatchRange
from headrace.store.generation import Generation
from headrace.store.quarantine import Entry, OffsetRange, Quarantine

ENTRY = Entry("pos", 1, 40, 42, query="items", reason="fails", since=2)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def made(number: int, lineage: tuple[tuple[int, int], ...] = (), query: str = "items") -> Generation:
    return Generation("p", query, number, number * 1_000_000, {}, lineage=lineage)


def keep(root: str, *entries: Entry) -> None:
    quarantine.write(root, "p", Quarantine(entries))


def test_without_a_document_nothing_is_passed_over_and_no_topic_is_looked_up(root: str) -> None:
    assert quarantine.passed_by(root, made(1)) == ()
    assert quarantine.passed_by_query(root, "p", "items") == ()


def test_what_was_written_is_read_again(root: str) -> None:
    keep(root, ENTRY)
    assert quarantine.read(root, "p") == Quarantine((ENTRY,))


@pytest.mark.parametrize(
    ("reader", "passes"),
    [
        (made(1), False),  # it processed the record before the transform was changed
        (made(2), True),
        (made(3, ((2, 7),)), True),  # restored from 2
        (made(3, ((1, 7),)), False),  # restored from 1
        (made(3), True),  # reset
        (made(2, query="totals"), False),
    ],
)
def test_an_entry_is_for_the_lines_of_its_query_since_it_was_made(root: str, reader: Generation, passes: bool) -> None:
    keep(root, ENTRY)
    assert quarantine.passed_by(root, reader) == ((ENTRY,) if passes else ())


def test_after_an_entry_was_taken_out_only_lines_that_begin_later_read_the_record(root: str) -> None:
    out = replace(ENTRY, until=3)
    keep(root, out)
    assert quarantine.passed_by(root, made(2)) == (out,), "it has passed over the record, and reconciliation knows"
    assert quarantine.passed_by(root, made(4, ((2, 7), (3, 9)))) == (out,), (
        "restored from a generation that passed over it"
    )
    assert quarantine.passed_by(root, made(3)) == ()


def test_offsets_of_a_topic_that_was_recreated_are_others(root: str) -> None:
    keep(root, replace(ENTRY, topic_id="old"))
    assert quarantine.passed_by(root, made(2), {"pos": "new"}) == ()
    assert len(quarantine.passed_by(root, made(2), {"pos": "old"})) == 1
    small_files.write_json(made(3).paths(root).topics, {"pos": "new"})
    assert quarantine.passed_by(root, made(3)) == ()


def test_the_generation_that_a_query_would_begin_has_a_line_of_its_own(root: str) -> None:
    begun = generation.begin(root, "p", "items", {})
    following = generation.next_of(root, "p", "items")
    assert (begun.number, following.number, following.line) == (1, 2, 2)
    assert generation.current(root, "p", "items") == begun


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [(0, 40, None), (0, 41, (40, 40)), (41, 90, (41, 42)), (42, 43, (42, 42)), (43, 90, None), (0, 90, (40, 42))],
)
def test_a_batch_takes_the_part_of_an_entry_that_it_reads(start: int, end: int, left: tuple[int, int] | None) -> None:
    inside = quarantine.inside([ENTRY], {"pos": {1: start}}, {"pos": {1: end}})
    assert [(entry.first, entry.last) for entry in inside] == ([left] if left else [])
    assert quarantine.inside([ENTRY], {}, {"pos": {0: 90}, "other": {1: 90}}) == ()


@pytest.mark.parametrize(
    "text", ["pos", "pos:1", "pos:1:2-1", "pos:1:-2", "pos:a:1", "pos:1:1-2-3", "p os:1:1", "pos:1:"]
)
def test_what_is_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(HeadraceError, match="TOPIC:PARTITION:FIRST-LAST such as pos:0:120-120"):
        quarantine.parse_range(text)


@pytest.mark.parametrize("text", ["shop.orders-v1:12:7-9", "pos:0:5-5"])
def test_a_range_is_read_as_it_is_written(text: str) -> None:
    assert str(quarantine.parse_range(text)) == text
    assert quarantine.parse_range("pos:0:5") == OffsetRange("pos", 0, 5, 5)


def test_the_ledger_counts_quarantined_records_only_where_there_are_any() -> None:
    taken = BatchRange(1, {"pos": {0: 0}}, {"pos": {0: 5}}, 0, 0)
    without = ledger.make_record("p.items", 1, taken, rows_out=5, began_ms=0, written_ms=0)
    record = ledger.make_record("p.items", 1, taken, rows_out=4, began_ms=0, written_ms=0, quarantined=1)
    assert "quarantined" not in without
    assert record["quarantined"] == 1
