"""views.json: which days the batch views of a pipeline hold. Days are ISO, times milliseconds since 1970, in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from headrace.contract import view_shapes
from headrace.contract.batch_views import CHUNK_RECORDS
from headrace.contract.model import Pipeline
from headrace.store import paths, records


@dataclass(frozen=True)
class ViewDay:
    """The newest computation of a day: its run, and how many records the day had.

    An early release did not count them: such a day counts as a seventh of a group (`batch_views.chunks`).
    """

    run: str = ""
    at_ms: int = 0
    records: int = CHUNK_RECORDS // 7


@dataclass(frozen=True)
class ViewState:
    """The state of a pipeline's batch views.

    `horizon`: the first day that the views do not hold; None before their first run. `covered`: topic -> partition -> offset
    up to which they contain the archive. `stale`: days that lack a column. `sums`: whether the running totals of a query are
    sums, so that days add up. `quarantined`: the offset ranges that a query passed over (`store.quarantine`). `shapes`: view ->
    the shape (`contract.view_shapes`) from which all its days were computed, except those `outdated` (view -> days). A release
    before 1 December 2026 noted no shapes; then those of the next run hold.
    """

    days: dict[str, ViewDay] = field(default_factory=dict)
    horizon: str | None = None
    covered: dict[str, dict[str, int]] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    sums: dict[str, bool] = field(default_factory=dict)
    quarantined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: dict[str, dict[str, Any]] = field(default_factory=dict)
    outdated: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def horizon_day(self) -> date | None:
        """Return the horizon as a date."""
        return date.fromisoformat(self.horizon) if self.horizon else None


def changes(state: ViewState, pipeline: Pipeline, name: str) -> list[str]:
    """Return what changed in the pipeline file since the days of a view were computed, as phrases.

    A view without a shape beside others with one is a new query's, or was not kept up to date for a time.
    """
    if not state.shapes:
        return []
    if name not in state.shapes:
        return [f"{name} was added"]
    return view_shapes.changes(state.shapes[name], view_shapes.shape(pipeline, name))


def outdated(state: ViewState, pipeline: Pipeline, name: str) -> set[str]:
    """Return the days of a view that were computed from another shape than the pipeline file has now."""
    return set(state.days) if changes(state, pipeline, name) else set(state.outdated.get(name, ()))


def read(root: str, pipeline: str) -> ViewState:
    """Return the state of a pipeline's views; without a file the one before their first run."""
    return records.read(ViewState, paths.view_state(root, pipeline)) or ViewState()


def write(root: str, pipeline: str, state: ViewState) -> None:
    """Replace the state of a pipeline's views."""
    records.write(paths.view_state(root, pipeline), state)
