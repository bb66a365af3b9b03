"""Times of the generator: when a record is sent, and its event time.

    event time(t) = start + t - since * max(0, 1 - t / catch_up)        t = seconds after the start of the plan

So event time begins `since` before the start, runs faster than the clock until `catch_up`, equals the present from then
on, and never exceeds the clock as long as no record is sent before its planned time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Made = tuple[bytes | None, bytes | None, str]  # key, value, kind

BLOCK = 2048  # records generated at once: large enough for numpy, small enough for the caches
_GRID = 4096  # points at which the daily rhythm is sampled

# Relative load of each hour of the day (UTC). Never zero: a demo at night needs events too.
SHOP_HOURS = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.5, 1, 2, 2.5, 3, 3.5, 3, 2.5, 2.5, 3, 4, 4, 3, 1.5, 0.5, 0.2, 0.1)
ONLINE_HOURS = (1, 0.6, 0.4, 0.3, 0.3, 0.4, 0.8, 1.5, 2, 2, 2, 2.2, 2.5, 2.2, 2, 2, 2.2, 2.5, 3, 3.5, 4, 4, 3, 2)


@dataclass(frozen=True)
class Timeline:
    """Maps planned send times (seconds after the start) to event times (seconds since 1970) and back."""

    start: float  # seconds since 1970
    since: float  # seconds
    catch_up: float  # seconds, at most `duration`
    duration: float  # seconds

    def event_at(self, planned: Floats) -> Floats:
        """Return the event time of records planned `planned` seconds after the start."""
        return np.interp(planned, *self._knots())

    def planned_at(self, event: Floats) -> Floats:
        """Return when event times are reached, in seconds after the start."""
        planned, at = self._knots()
        return np.interp(event, at, planned)

    @property
    def end(self) -> float:
        """Return the last event time."""
        return self.start + self.duration

    def _knots(self) -> tuple[list[float], list[float]]:
        at = [self.start - self.since, self.start + self.catch_up, self.start + self.duration]
        return [0.0, self.catch_up, self.duration], at


@dataclass(frozen=True)
class Draft:
    """A block of records before the faults: when they are sent, their event times, and how to write them."""

    planned: Floats
    event: Floats
    build: Callable[[Floats], list[Made]]


def planned_blocks(
    count: int, timeline: Timeline, hours: tuple[float, ...], rng: np.random.Generator
) -> Iterator[Floats]:
    """Yield `count` ascending planned times in blocks, denser in hours of their event time with a higher load."""
    grid = np.linspace(0.0, timeline.duration, _GRID)
    hour = timeline.event_at(grid) / 3600.0 % 24.0
    weight = np.interp(hour, np.arange(25), [*hours, hours[0]])
    mass = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    mass /= mass[-1]
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        # One record in each of `count` equal shares of the mass: ascending and exactly `count`, yet irregular.
        quantile = (np.arange(begin, begin + size) + rng.random(size)) / count
        yield np.interp(quantile, mass, grid)


def zipf(count: int, exponent: float) -> Floats:
    """Return the cumulative probabilities of `count` items, where the n-th has a weight of n^-exponent."""
    cumulative: Floats = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -exponent)
    cumulative /= cumulative[-1]
    return cumulative


def draw(cumulative: Floats, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `size` indices by cumulative probabilities."""
    return np.searchsorted(cumulative, rng.random(size), side="right").clip(max=len(cumulative) - 1)


@lru_cache(maxsize=100_000)
def second_text(second: int) -> str:
    """Format whole seconds since 1970 as `yyyy-MM-dd HH:mm:ss`, UTC. Cached: adjacent events share the second."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")


def second_texts(event: Floats) -> list[str]:
    """Format event times as `yyyy-MM-dd HH:mm:ss`, truncated (rounding up could yield a future time)."""
    return [second_text(second) for second in event.astype(np.int64).tolist()]


def milli_texts(event: Floats) -> list[str]:
    """Format event times as `yyyy-MM-dd HH:mm:ss.fff`, truncated."""
    millis = np.floor(event * 1000.0).astype(np.int64).tolist()
    return [f"{second_text(milli // 1000)}.{milli % 1000:03d}" for milli in millis]
