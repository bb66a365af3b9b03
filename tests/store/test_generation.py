"""Generations: each has its own folders and a later start, and an unsafe plan change is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.driver.sinks import Batch
from headrace.errors import HeadraceError
from headrace.store import small_files, trees
from headrace.store.generation import Generation, begin, current, resume_or_begin
from tests.support import checkpoints

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


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Return a storage root."""
    return str(tmp_path)


def _batch(made: Generation, number: int) -> int:
    return Batch("p.q", made, number).writetime_micros


def test_each_writetime_of_a_later_generation_is_above_all_of_the_earlier_ones_also_when_the_clock_was_put_back(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 2_000_000_000)
    first = checkpoints.begin(root, stateful=False)
    checkpoints.run(root, first, range(30), stateful=False)
    checkpoints.plan_batch(root, first, 30)  # runs, or was killed between the sinks and the ledger
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    second = checkpoints.begin(root, stateful=False)
    checkpoints.run(root, second, range(3), stateful=False)
    small_files.write_text(
        second.paths(root).checkpoint + "/offsets/9", ""
    )  # damaged, and the ledger lags: still a batch
    third = checkpoints.begin(root, stateful=False)
    assert _batch(second, 0) > _batch(first, 30)
    assert _batch(third, 0) > _batch(second, 9)


def test_a_later_generation_wins_over_one_whose_checkpoint_is_gone_and_over_one_that_lost_its_manifest(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000_000)
    first = checkpoints.begin(root, stateful=False)
    checkpoints.run(root, first, range(300), stateful=False)
    trees.remove(first.paths(root).checkpoint)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    second = checkpoints.begin(root, stateful=False)
    checkpoints.run(root, second, range(7), stateful=False)
    trees.remove_file(second.paths(root).manifest)
    third = checkpoints.begin(root, stateful=False)
    assert third.number == 3
    assert _batch(second, 0) > _batch(first, 299)
    assert _batch(third, 0) > _batch(second, 6)


def test_a_generation_that_lost_its_manifest_is_never_passed_over_for_the_one_before(root: str) -> None:
    plan = checkpoints.STATEFUL
    first = checkpoints.begin(root)
    checkpoints.run(root, first, range(3))
    second = checkpoints.begin(root)
    checkpoints.run(root, second, range(2))
    for left in (second, first):  # then the only one: the query would begin as if it had never run
        trees.remove_file(left.paths(root).manifest)
        with pytest.raises(HeadraceError, match=r"manifest\.json is missing \(MANIFEST_GONE\)") as refused:
            resume_or_begin(root, "pos_sales", "tumbling", plan)
        assert refused.value.exit_code == Exit.DAMAGED
        assert "headrace checkpoint restore pos_sales.tumbling --reset; the command that it prints" in str(
            refused.value
        )
    assert begin(root, "pos_sales", "tumbling", plan).number == 3  # an operator's new generation is a way out too
    assert resume_or_begin(root, "pos_sales", "tumbling", plan).number == 3


def test_a_manifest_of_a_newer_release_is_read_without_what_this_one_does_not_know(root: str) -> None:
    made = checkpoints.begin(root)
    values = small_files.read_json(made.paths(root).manifest)
    assert values is not None
    small_files.write_json(made.paths(root).manifest, values | {"of_tomorrow": 1})
    assert current(root, "pos_sales", "tumbling") == made


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
