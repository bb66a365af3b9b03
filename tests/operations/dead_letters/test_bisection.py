"""The search for offsets that fail finds exactly these, in few runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from headrace.batch import bisection
from headrace.store.quarantine import OffsetRange

Place = tuple[str, int, int]

RANGES = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=4).map(
    lambda parts: [OffsetRange("t", number, first, first + size - 1) for number, (first, size) in enumerate(parts)]
)


class Runner:
    """Fails on bad offsets, and on `pair` if both of its offsets are in the run; counts its runs."""

    def __init__(self, bad: set[Place] = frozenset(), pair: set[Place] | None = None) -> None:  # type: ignore[assignment]
        self.bad, self.pair, self.runs = bad, pair, 0

    def __call__(self, parts: Sequence[OffsetRange]) -> str | None:
        self.runs += 1
        inside = set(offsets(parts))
        return "bad" if inside & self.bad or (self.pair and self.pair <= inside) else None


def offsets(parts: Sequence[OffsetRange]) -> list[Place]:
    return [(part.topic, part.partition, offset) for part in parts for offset in range(part.first, part.last + 1)]


def places(result: bisection.SearchResult) -> list[Place]:
    assert all(part.size == 1 and error == "bad" for part, error in result.alone)
    return [(part.topic, part.partition, part.first) for part, _ in result.alone]


@given(RANGES, st.data())
def test_exactly_the_bad_offsets_are_found_with_logarithmically_many_runs_each(
    ranges: list[OffsetRange], data: st.DataObject
) -> None:
    every = offsets(ranges)
    bad = data.draw(st.sets(st.sampled_from(every), max_size=5))
    runner = Runner(bad)
    result = bisection.find(ranges, runner, limit=100)
    assert places(result) == [place for place in every if place in bad]
    assert (result.together is None) is (not bad)
    assert result.complete
    assert runner.runs <= 1 + len(bad) * (2 * math.ceil(math.log2(max(2, len(every)))) + 1)


@given(RANGES, st.data())
def test_a_failure_that_needs_two_records_has_no_offset_that_fails_alone(
    ranges: list[OffsetRange], data: st.DataObject
) -> None:
    every = offsets(ranges)
    pair = data.draw(st.sets(st.sampled_from(every), min_size=min(2, len(every)), max_size=2))
    if len(pair) < 2:
        return
    runner = Runner(pair=pair)
    result = bisection.find(ranges, runner, limit=100)
    assert (places(result), result.together) == ([], "bad")
    assert runner.runs <= 2 * math.ceil(math.log2(len(every))) + 2


@given(RANGES)
def test_halves_hold_every_offset_once(ranges: list[OffsetRange]) -> None:
    if len(offsets(ranges)) < 2:
        return
    left, right = bisection.halves(ranges)
    assert offsets(left) + offsets(right) == offsets(ranges)
    assert abs(len(offsets(left)) - len(offsets(right))) <= 1


def test_a_search_ends_at_its_limit_and_says_so() -> None:
    ranges = [OffsetRange("t", 0, 0, 1023)]
    runner = Runner(set(offsets(ranges)))
    result = bisection.find(ranges, runner, limit=3)
    assert places(result) == [("t", 0, 0), ("t", 0, 1), ("t", 0, 2)]
    assert not result.complete
    assert runner.runs < 20


def test_what_holds_no_offset_is_not_run() -> None:
    runner = Runner()
    assert bisection.find([], runner, limit=3) == bisection.SearchResult((), None, True)
    assert runner.runs == 0
