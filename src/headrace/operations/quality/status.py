"""What a check of a sink can end with, and what follows: for the gate, for the asset, for the exit code.

One place, so that the gate, the command line, the Streams page and the documents say the same (docs/howto/quality.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Status = Literal["PASSED", "WARNED", "FAILED", "UNREADABLE", "NOTHING", "STALE"]

MEANING: dict[Status, str] = {
    "FAILED": "a critical expectation failed, or an earlier critical finding is still open",
    "UNREADABLE": "the sink could not be read",
    "STALE": "records wait, and no batch has finished for longer than the pipeline promises",
    "WARNED": "every critical expectation held, and another one did not",
    "PASSED": "every expectation held for the checked rows",
    "NOTHING": "there was nothing new to look at",
}
"""From the worst to the best for a run of several sinks."""

GOOD: frozenset[Status] = frozenset({"PASSED", "WARNED"})
"""Only these give the sink's asset an event: rows were checked, and may be used."""

EXIT_CODES: dict[Status, int] = {"FAILED": 1, "UNREADABLE": 3, "STALE": 4, "WARNED": 0, "PASSED": 0, "NOTHING": 5}
"""Of `headrace quality run`, by the worst status of all its sinks. NOTHING is the worst only where no sink had a row."""


def worst(statuses: Iterable[str]) -> Status:
    """Return the worst status of several; NOTHING where there is none."""
    found = set(statuses)
    return next((each for each in MEANING if each in found), "NOTHING")


def exit_code(statuses: Iterable[str]) -> int:
    """Return the exit code of a run with these statuses."""
    return EXIT_CODES[worst(statuses)]
