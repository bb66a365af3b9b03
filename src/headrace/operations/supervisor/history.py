"""The last hour of a pipeline, for the plots of the Streams page: history.json next to its checkpoints.

The supervisor is its only writer, so the history also shows the time in which no driver ran. If the file is lost or broken,
only the plots of the last hour are lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from headrace.contract import names
from headrace.errors import HeadraceError
from headrace.operations.drivers.interface import heartbeat_of
from headrace.operations.supervisor.verdict import Observation
from headrace.store import paths, records
from headrace.store.driver_files import QueryState

EVERY_MS = 30_000
KEPT_MS = 3_600_000
RECENT_MS = 60_000
"""A heartbeat, or a batch, that is older says nothing about now."""


@dataclass(frozen=True)
class Measure:
    """One query at one moment: lag in offsets, offsets taken per second, duration of a recent batch. None: not known."""

    lag: int | None = None
    rate: float | None = None
    took_ms: int | None = None


@dataclass(frozen=True)
class Point:
    """All queries, by short name, at one time (milliseconds since 1970)."""

    at_ms: int = 0
    queries: dict[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """history.json: the points of the last hour, oldest first."""

    points: tuple[Point, ...] = ()


def read(root: str, pipeline: str) -> History:
    """Return the history of a pipeline; it is empty if the file is missing or cannot be read.

    On a disk a file that has not changed is not read again: the Streams page asks for it at every refresh.
    """
    path = paths.history(root, pipeline)
    with contextlib.suppress(HeadraceError, OSError, TypeError, ValueError):
        if "://" in path:
            return records.read(History, path) or History()
        now = Path(path).stat()
        return _unchanged(path, now.st_ino, now.st_mtime_ns)
    return History()


@lru_cache(maxsize=64)
def _unchanged(path: str, inode: int, changed_ns: int) -> History:
    """Return the history in a file. Every write makes a new file (`small_files.write_text`), so its inode or time differs."""
    del inode, changed_ns
    return records.read(History, path) or History()


def add(root: str, pipeline: str, observation: Observation, queries: Iterable[str]) -> None:
    """Add a pass to the history, at most one every EVERY_MS. A history that cannot be written ends no pass."""
    points = read(root, pipeline).points
    now_ms = observation.now_ms
    if points and 0 <= now_ms - points[-1].at_ms < EVERY_MS:
        return
    kept = tuple(point for point in points if now_ms - KEPT_MS <= point.at_ms < now_ms)
    with contextlib.suppress(HeadraceError, OSError):
        records.write(paths.history(root, pipeline), History((*kept, _point(pipeline, observation, queries))))


def _point(pipeline: str, observation: Observation, queries: Iterable[str]) -> Point:
    driver = observation.drivers[0] if observation.drivers else None
    beat = heartbeat_of(observation.heartbeat, driver) if driver else None
    if beat is None or beat.exit or observation.now_ms - beat.at_ms > RECENT_MS:
        beat = None
    measures = {}
    for query in queries:
        position = observation.positions.get(query)
        state = beat.query(names.query_name(pipeline, query)) if beat else None
        measures[query] = _measure(position.lag if position else None, state, observation.now_ms)
    return Point(observation.now_ms, measures)


def _measure(lag: int | None, state: QueryState | None, now_ms: int) -> Measure:
    if state is None:
        return Measure(lag)
    if now_ms - (state.batch_written_ms or 0) > RECENT_MS:
        return Measure(lag, 0.0 if lag == 0 else None)
    return Measure(lag, state.taken_rate, state.batch_duration_ms)
