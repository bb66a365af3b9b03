"""Generations: each has its own folders and a later start, and an unsafe plan change is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from headrace.contract.exits import Exit
from headrace.contract.generation import begin, current, resume_or_begin
from headrace.errors import HeadraceError

PLAN = {"aggregate": {"keys": ["product_id"]}, "plan": ["Aggregate [product_id]"]}


def test_a_query_that_never_ran_has_no_generation_and_begins_the_first(tmp_path: Path) -> None:
    assert current(str(tmp_path), "p", "q") is None
    first = resume_or_begin(str(tmp_path), "p", "q", PLAN)
    assert (first.number, first.fingerprint) == (1, PLAN)
    assert current(str(tmp_path), "p", "q") == first


def test_the_same_plan_goes_on_with_the_running_generation(tmp_path: Path) -> None:
    first = resume_or_begin(str(tmp_path), "p", "q", PLAN)
    assert resume_or_begin(str(tmp_path), "p", "q", PLAN) == first
    assert current(str(tmp_path), "p", "other") is None


def test_a_new_generation_has_new_folders_and_leaves_the_old_one_alone(tmp_path: Path) -> None:
    first = begin(str(tmp_path), "p", "q", PLAN)
    kept = Path(first.paths(str(tmp_path)).checkpoint) / "metadata"
    kept.parent.mkdir()
    kept.write_text("x")
    second = begin(str(tmp_path), "p", "q", PLAN)
    old, new = first.paths(str(tmp_path)), second.paths(str(tmp_path))
    assert second.number == 2
    assert {old.checkpoint, old.ledger, old.files, old.manifest}.isdisjoint(
        {new.checkpoint, new.ledger, new.files, new.manifest}
    )
    assert kept.read_text() == "x"
    assert current(str(tmp_path), "p", "q") == second


def test_generations_are_counted_as_numbers(tmp_path: Path) -> None:
    for _ in range(11):
        begin(str(tmp_path), "p", "q", PLAN)
    newest = current(str(tmp_path), "p", "q")
    assert newest is not None
    assert newest.number == 11


def test_a_later_generation_starts_later_even_when_the_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start is its writetime: an earlier one would lose against every row of the generation before."""
    monkeypatch.setattr(time, "time_ns", lambda: 2_000_000)
    first = begin(str(tmp_path), "p", "q", PLAN)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    second = begin(str(tmp_path), "p", "q", PLAN)
    assert (first.started_micros, second.started_micros > first.started_micros) == (2000, True)


def test_a_generation_without_manifest_was_never_begun(tmp_path: Path) -> None:
    first = begin(str(tmp_path), "p", "q", PLAN)
    (tmp_path / "checkpoints" / "p" / "q" / "0002").mkdir()
    assert current(str(tmp_path), "p", "q") == first


def test_an_unsafe_change_is_refused_and_the_sentence_names_it_and_the_way_out(tmp_path: Path) -> None:
    first = begin(str(tmp_path), "p", "q", PLAN)
    changed = PLAN | {"aggregate": {"keys": ["product_id", "city"]}}
    with pytest.raises(HeadraceError) as refused:
        resume_or_begin(str(tmp_path), "p", "q", changed)
    assert refused.value.exit_code == Exit.REFUSED
    for part in ("p.q", "generation 1", "aggregate.keys", '"city"', "headrace stream start p --new-generation q"):
        assert part in str(refused.value)
    assert current(str(tmp_path), "p", "q") == first
