"""The status of a check of a sink, and its consequences for the gate, the asset and the exit code.

They are in one module, so that the gate, the command line, the Streams page and the documents agree (docs/howto/quality.md).
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
    "NOTHING": "there was nothing new to check",
}
"""From the worst to the best for a run of several sinks."""

GOOD: frozenset[Status] = frozenset({"PASSED", "WARNED"})
"""Only these statuses emit an event of the sink's asset: rows were checked, and may be used."""

EXIT_CODES: dict[Status, int] = {"FAILED": 1, "UNREADABLE": 3, "STALE": 4, "WARNED": 0, "PASSED": 0, "NOTHING": 5}
"""Exit codes of `headrace quality run`, by the worst status of its sinks. NOTHING is the worst only if no sink had a row."""


def worst(statuses: Iterable[str]) -> Status:
    """Return the worst of several statuses; NOTHING if there are no statuses."""
    present = set(statuses)
    return next((status for status in MEANING if status in present), "NOTHING")


def exit_code(statuses: Iterable[str]) -> int:
    """Return the exit code of a run with these statuses."""
    return EXIT_CODES[worst(statuses)]
