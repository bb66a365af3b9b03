"""What an operator wants of a pipeline: run, pause or stop, by whom and why. Written by operators, never by the supervisor.

Kept beside the checkpoints, so that the command line, Airflow and a supervisor that was restarted all see the same.
What the supervisor remembers is a file of its own (`supervisor`): each file has one writer (ADR 0012).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Literal

from headrace.contract import paths, storage

Want = Literal["RUNNING", "PAUSED", "STOPPED"]


@dataclass(frozen=True)
class Intent:
    """The wish for one pipeline. Times are milliseconds since 1970.

    `release` is what its driver runs: a folder with pipelines/ and spark_jobs/, or an image; "" is the deployment's own.
    Restarts before `budget_reset_ms` are not counted against the budget any more.
    """

    want: Want = "STOPPED"
    reason: str = "nobody has started it yet"
    by: str = ""
    at_ms: int = 0
    release: str = ""
    budget_reset_ms: int = 0


def read(root: str, pipeline: str) -> Intent:
    """Return the wish for a pipeline; one that nobody started is wanted STOPPED."""
    found = storage.read_json(paths.intent(root, pipeline))
    return Intent(**found) if found else Intent()


def write(root: str, pipeline: str, want: Want, by: str, reason: str, *, release: str | None = None) -> Intent:
    """Record a wish; a start or a resume also gives the restart budget back. The release stays unless one is named."""
    before, now = read(root, pipeline), time.time_ns() // 1_000_000
    wish = replace(before, want=want, by=by, reason=reason, at_ms=now)
    if want == "RUNNING":
        wish = replace(wish, budget_reset_ms=now)
    if release is not None:
        wish = replace(wish, release=release)
    storage.write_json(paths.intent(root, pipeline), asdict(wish))
    return wish
