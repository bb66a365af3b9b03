"""The results of several steps of one check as one result: an expectation held if it held in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.operations.quality.validate import MAX_KEYS, Outcome


def outcomes(steps: Sequence[Sequence[Outcome]], rows: int) -> list[Outcome]:
    """Return one outcome an expectation: unexpected rows summed, the rows of all steps up to MAX_KEYS.

    `rows` is how many rows all steps have. The observed value and the error are those of the first step that failed.
    """
    if len(steps) == 1:
        return list(steps[0])
    found: dict[str, Outcome] = {}
    for step in steps:
        for each in step:
            found[each.id] = _both(found[each.id], each) if each.id in found else each
    return [replace(each, percent=round(100 * each.unexpected / max(1, rows), 4)) for each in found.values()]


def _both(first: Outcome, second: Outcome) -> Outcome:
    worse = first if not first.success or second.success else second
    return replace(
        worse,
        success=first.success and second.success,
        unexpected=first.unexpected + second.unexpected,
        rows=(*first.rows, *second.rows)[:MAX_KEYS],
    )


def results(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return Great Expectations' results of the steps as one: of each expectation that of the first step that failed."""
    merged = dict(steps[0])
    chosen: dict[str, Any] = {}
    for step in steps:
        for each in step["results"]:
            name = each["expectation_config"]["id"]
            if name not in chosen or (chosen[name]["success"] and not each["success"]):
                chosen[name] = each
    merged["results"] = list(chosen.values())
    held = sum(bool(each["success"]) for each in merged["results"])
    count = len(merged["results"])
    merged["success"] = held == count
    merged["statistics"] = {
        "evaluated_expectations": count,
        "successful_expectations": held,
        "unsuccessful_expectations": count - held,
        "success_percent": 100 * held / count if count else None,
    }
    return merged
