"""What an operator wants of a pipeline: run, pause or stop, by whom and why. Written by operators, never by the supervisor.

Kept beside the checkpoints, so that the command line, Airflow and a supervisor that was restarted all see the same.
What the supervisor remembers is a file of its own (`supervision`): each file has one writer (ADR 0012).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from headrace.contract import paths, storage
from headrace.contract.records import known_fields
from headrace.operations.drivers import Order

Want = Literal["RUNNING", "PAUSED", "STOPPED"]


@dataclass(frozen=True)
class Intent:
    """The wish for one pipeline. Times are milliseconds since 1970.

    `release` is what its driver runs: a folder with pipelines/ and spark_jobs/, or an image; "" is the deployment's own.
    `new_generations` are the queries that this start begins anew, `request` names it: every restart by the supervisor
    repeats both, and a generation that a request has begun is not begun again (`contract.generation.begin`).
    Restarts before `budget_reset_ms` are not counted against the budget any more. Before `held_until_ms` the supervisor
    looks and does nothing, an upgrade is at work: a time, not a flag, so that an upgrade that dies lets go by itself.
    """

    want: Want = "STOPPED"
    reason: str = "nobody has started it yet"
    by: str = ""
    at_ms: int = 0
    release: str = ""
    budget_reset_ms: int = 0
    new_generations: tuple[str, ...] = ()
    request: str = ""
    held_until_ms: int = 0

    def order(self) -> Order:
        """Return what a driver is started with under this wish."""
        return Order(self.new_generations, self.release, self.request)

    def held(self, now_ms: int) -> bool:
        """Return whether the supervisor still waits for an upgrade at this time (milliseconds since 1970)."""
        return now_ms < self.held_until_ms


def read(root: str, pipeline: str) -> Intent:
    """Return the wish for a pipeline; one that nobody started is wanted STOPPED."""
    found = storage.read_json(paths.intent(root, pipeline))
    if not found:
        return Intent()
    return replace(known_fields(Intent, found), new_generations=tuple(found.get("new_generations", ())))


def hold(root: str, pipeline: str, seconds: float) -> Intent:
    """Hold the supervisor off for so long, from now; 0 lets it go. What is wanted stays as an operator wrote it."""
    now = time.time_ns() // 1_000_000
    wish = replace(read(root, pipeline), held_until_ms=_hold_end(now, seconds))
    storage.write_json(paths.intent(root, pipeline), asdict(wish))
    return wish


def run_release(root: str, pipeline: str, by: str, reason: str, release: str, *, hold_seconds: float = 0) -> Intent:
    """Make a release the one that the pipeline runs. One that is paused or stopped stays so, with its own reason."""
    if read(root, pipeline).want == "RUNNING":
        return write(root, pipeline, "RUNNING", by, reason, release=release, hold_seconds=hold_seconds)
    wish = replace(hold(root, pipeline, hold_seconds), release=release)
    storage.write_json(paths.intent(root, pipeline), asdict(wish))
    return wish


def write(
    root: str,
    pipeline: str,
    want: Want,
    by: str,
    reason: str,
    *,
    release: str | None = None,
    new_generations: Sequence[str] = (),
    request: str = "",
    hold_seconds: float = 0,
) -> Intent:
    """Record a wish; a start or a resume also gives the restart budget back. The release stays unless one is named."""
    before, now = read(root, pipeline), time.time_ns() // 1_000_000
    wish = replace(before, want=want, by=by, reason=reason, at_ms=now, held_until_ms=_hold_end(now, hold_seconds))
    if want == "RUNNING":
        wish = replace(
            wish, budget_reset_ms=now, new_generations=tuple(new_generations), request=request or uuid.uuid4().hex
        )
    if release is not None:
        wish = replace(wish, release=release)
    storage.write_json(paths.intent(root, pipeline), asdict(wish))
    return wish


def _hold_end(now_ms: int, seconds: float) -> int:
    """Return when a hold that begins now ends; 0 for no hold, which no clock is before."""
    return int(now_ms + seconds * 1000) if seconds else 0
