"""Find the offsets on which a function fails, by bisection: few runs, each over a part of the offsets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from headrace.store.quarantine import OffsetRange

Run = Callable[[Sequence[OffsetRange]], str | None]
"""Runs the function over some offsets; returns the error, or None if it succeeds."""


@dataclass(frozen=True)
class SearchResult:
    """The result: each offset that fails alone, with its error, and the error of all offsets together (None: they succeed).

    `complete` is False if the search stopped at its limit, and more offsets may fail.
    """

    alone: tuple[tuple[OffsetRange, str], ...]
    together: str | None
    complete: bool


def find(ranges: Sequence[OffsetRange], run: Run, limit: int) -> SearchResult:
    """Return the offsets that fail alone, at most `limit`, in order.

    At most 2 log2(n) + 2 runs for each offset found among n. A failure that needs several records has no such offset.
    """
    together = run(ranges) if ranges else None
    alone: list[tuple[OffsetRange, str]] = []
    if together is None:
        return SearchResult((), None, True)
    for part, error in _failing(ranges, run, known=True):
        if len(alone) == limit:
            return SearchResult(tuple(alone), together, False)
        alone.append((part, error))
    return SearchResult(tuple(alone), together, True)


def _failing(ranges: Sequence[OffsetRange], run: Run, *, known: bool) -> Generator[tuple[OffsetRange, str], None, bool]:
    """Yield the failing offsets of a part, and return whether the part fails. `known`: it must fail, so it is not run first."""
    single = sum(part.size for part in ranges) == 1
    if single or not known:
        error = run(ranges)
        if error is not None and single:
            yield ranges[0], error
        if error is None or single:
            return error is not None
    left, right = halves(ranges)
    failed = yield from _failing(left, run, known=False)
    # If the left half succeeds, the right one fails.
    yield from _failing(right, run, known=not failed)
    return True


def halves(ranges: Sequence[OffsetRange]) -> tuple[list[OffsetRange], list[OffsetRange]]:
    """Return two halves of at least two offsets, as equal in their number of offsets as possible."""
    left: list[OffsetRange] = []
    right: list[OffsetRange] = []
    room = sum(part.size for part in ranges) // 2
    for part in ranges:
        taken = min(part.size, room)
        room -= taken
        if taken:
            left.append(replace(part, last=part.first + taken - 1))
        if taken < part.size:
            right.append(replace(part, first=part.first + taken))
    return left, right
