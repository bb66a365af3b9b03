"""The sinks and suites of all pipelines, by name. A sink's properties follow from the contract (`contract.checked_sinks`)."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.contract import names
from headrace.contract.checked_sinks import (
    AHEAD,
    ARCHIVE_COLUMNS,
    BEHIND,
    OFFSET_IN_GRID,
    SCHEMA_ERROR,
    STANDS,
    WINDOW_END,
    WINDOW_START,
    CheckedSink,
    Kind,
    added_columns,
    parts_query,
    sinks_of,
    totals_query,
)
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError

__all__ = [
    "AHEAD",
    "ARCHIVE_COLUMNS",
    "BEHIND",
    "OFFSET_IN_GRID",
    "SCHEMA_ERROR",
    "STANDS",
    "WINDOW_END",
    "WINDOW_START",
    "CheckedSink",
    "Kind",
    "added_columns",
    "find",
    "parts_query",
    "sinks_of",
    "stages_of",
    "suites_of",
    "totals_query",
]


def stages_of(pipeline: Pipeline) -> dict[str, str]:
    """Return the dimension of each stage: of every dimension that is refreshed, by the name of its stage."""
    refreshed = [name for name, dimension in pipeline.dimensions.items() if dimension.refresh]
    return {names.stage_name(pipeline.name, name): name for name in refreshed}


def suites_of(pipeline: Pipeline) -> list[str]:
    """Return the names of all suites of a pipeline: of its sinks, and of the stage of each dimension that is refreshed."""
    return [*(sink.name for sink in sinks_of(pipeline)), *stages_of(pipeline)]


def find(pipelines: Iterable[Pipeline], sink: str) -> CheckedSink:
    """Return the sink with a name. Raises HeadraceError that lists the known sinks."""
    known = {checked.name: checked for pipeline in pipelines for checked in sinks_of(pipeline)}
    if sink not in known:
        raise HeadraceError(f"Unknown sink {sink!r}. Known sinks: {', '.join(sorted(known))}.")
    return known[sink]
