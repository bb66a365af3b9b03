"""The desired state of a pipeline: run, pause or stop, by whom and why. Operators write it, the supervisor never does.

It is kept next to the checkpoints (intent.json), so that the command line, Airflow and a restarted supervisor all read the
same. What the supervisor remembers is a separate file (supervision.json): each file has one writer (ADR 0012).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from headrace.operations.drivers.interface import StartSpec
from headrace.store import paths, records

Want = Literal["RUNNING", "PAUSED", "STOPPED"]


@dataclass(frozen=True)
class DesiredState:
    """intent.json: what an operator wants of one pipeline. Times are milliseconds since 1970.

    `release` is what the driver runs: a folder with pipelines/ and spark_jobs/, or an image; "" is that of the deployment.
    `new_generations` lists the queries that begin a new generation. `request` is the id of the start. Each restart by the
    supervisor passes both again, and a request begins a generation only once (`store.generation.begin`).
    Restarts before `budget_reset_ms` no longer count against the budget. Until `held_until_ms` an upgrade runs and the
    supervisor only observes. A deadline, not a flag: a crashed upgrade releases the supervisor automatically.
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

    def start_spec(self) -> StartSpec:
        """Return what a driver is started with in this desired state."""
        return StartSpec(self.new_generations, self.release, self.request)

    def held(self, now_ms: int) -> bool:
        """Return whether the supervisor still waits for an upgrade at this time (milliseconds since 1970)."""
        return now_ms < self.held_until_ms


def read(root: str, pipeline: str) -> DesiredState:
    """Return the desired state of a pipeline: STOPPED if nobody started it. Raises HeadraceError on a broken file."""
    return records.read(DesiredState, paths.intent(root, pipeline)) or DesiredState()


def hold(root: str, pipeline: str, seconds: float) -> DesiredState:
    """Make the supervisor only observe for `seconds` from now; 0 ends the hold. The desired state does not change."""
    now = time.time_ns() // 1_000_000
    return _write(root, pipeline, replace(read(root, pipeline), held_until_ms=_hold_end(now, seconds)))


def run_release(
    root: str, pipeline: str, by: str, reason: str, release: str, *, hold_seconds: float = 0
) -> DesiredState:
    """Set the release of a pipeline. A paused or stopped pipeline stays paused or stopped and keeps its reason."""
    if read(root, pipeline).want == "RUNNING":
        return write(root, pipeline, "RUNNING", by, reason, release=release, hold_seconds=hold_seconds)
    return _write(root, pipeline, replace(hold(root, pipeline, hold_seconds), release=release))


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
) -> DesiredState:
    """Record a desired state; a start or a resume also resets the restart budget. Without `release` the release stays."""
    before, now = read(root, pipeline), time.time_ns() // 1_000_000
    desired = replace(before, want=want, by=by, reason=reason, at_ms=now, held_until_ms=_hold_end(now, hold_seconds))
    if want == "RUNNING":
        desired = replace(
            desired, budget_reset_ms=now, new_generations=tuple(new_generations), request=request or uuid.uuid4().hex
        )
    if release is not None:
        desired = replace(desired, release=release)
    return _write(root, pipeline, desired)


def _write(root: str, pipeline: str, desired: DesiredState) -> DesiredState:
    records.write(paths.intent(root, pipeline), desired)
    return desired


def _hold_end(now_ms: int, seconds: float) -> int:
    """Return when a hold that begins now ends; 0 (in the past) for no hold."""
    return int(now_ms + seconds * 1000) if seconds else 0
