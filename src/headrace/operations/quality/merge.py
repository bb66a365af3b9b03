"""The results of several steps of one check as one result: an expectation is met if it is met in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace.operations.quality.validate import MAX_KEYS, Outcome
from headrace.store.records import Json


def outcomes(steps: Sequence[Sequence[Outcome]], rows: int) -> list[Outcome]:
    """Return one outcome for each expectation: the sum of unexpected rows, and the rows of all steps up to MAX_KEYS.

    `rows` is the number of rows of all steps. The observed value and the error are those of the first step that failed.
    """
    if len(steps) == 1:
        return list(steps[0])
    merged: dict[str, Outcome] = {}
    for step in steps:
        for outcome in step:
            merged[outcome.id] = _both(merged[outcome.id], outcome) if outcome.id in merged else outcome
    return [replace(outcome, percent=round(100 * outcome.unexpected / max(1, rows), 4)) for outcome in merged.values()]


def _both(first: Outcome, second: Outcome) -> Outcome:
    worse = first if not first.success or second.success else second
    return replace(
        worse,
        success=first.success and second.success,
        unexpected=first.unexpected + second.unexpected,
        rows=(*first.rows, *second.rows)[:MAX_KEYS],
    )


def results(steps: Sequence[Json]) -> Json:
    """Return Great Expectations' results of all steps as one: for each expectation, that of the first failed step."""
    merged = dict(steps[0])
    chosen: Json = {}
    for step in steps:
        for result in step["results"]:
            name = result["expectation_config"]["id"]
            if name not in chosen or (chosen[name]["success"] and not result["success"]):
                chosen[name] = result
    merged["results"] = list(chosen.values())
    met = sum(bool(result["success"]) for result in merged["results"])
    count = len(merged["results"])
    merged["success"] = met == count
    merged["statistics"] = {
        "evaluated_expectations": count,
        "successful_expectations": met,
        "unsuccessful_expectations": count - met,
        "success_percent": 100 * met / count if count else None,
    }
    return merged
