"""What a driver writes beside its checkpoints: heartbeat.json, outcome.json, check.json. The rules of `records` hold.

All times are milliseconds since 1970, all durations milliseconds, lag and rates in offsets. None: not known (yet).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.store import paths, records


@dataclass(frozen=True)
class RunningBatch:
    """What the running batch of a query has done so far. `waits` says for what it waits, or is empty.

    `tasks` and `tasks_done` count the jobs that were observed; the batch may have more. `blind`: the tasks run on other
    machines, so the driver does not observe a task that only computes.
    """

    since_ms: int = 0
    tasks: int = 0
    tasks_done: int = 0
    records: int = 0
    waits: str = ""
    blind: bool = False


@dataclass(frozen=True)
class QueryState:
    """One query of a heartbeat. `query` is `<pipeline>.<query>`.

    `moved_ms` is when the query last moved, `work` what its running batch has done. `state_rows` counts all that the query
    remembers, `groups` the groups of its aggregates. Rates are in offsets a second over the newest batches: `taken_rate` of
    what the query takes, `arrival_rate` of what its topics receive. `reading_batches` counts the batches that took offsets,
    None where the driver's release does not count them.
    """

    query: str = ""
    generation: int = 0
    active: bool = True
    trigger_ms: int = 0
    batch: int | None = None
    batch_written_ms: int | None = None
    batch_duration_ms: int | None = None
    running_batch: int | None = None
    moved_ms: int | None = None
    work: RunningBatch | None = None
    taken_rate: float | None = None
    arrival_rate: float | None = None
    rows_in: int = 0
    rows_out: int = 0
    batches: int = 0
    reading_batches: int | None = records.optional()
    lag: int | None = None
    watermark_ms: int | None = None
    state_rows: int = 0
    groups: int = 0
    late_groups: int = 0
    offsets: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Heartbeat:
    """heartbeat.json: what a driver does, rewritten every few seconds.

    `instance` (JSON key `life`) names this run of the driver, `request` the start that asked for it. `exit` is how the
    driver ends (an `Exit` name), None while it runs; `why` gives the reason if the driver itself decided to end.
    """

    pipeline: str = ""
    pid: int = 0
    at_ms: int = 0
    queries: tuple[QueryState, ...] = ()
    metrics_port: int | None = None
    ui: str | None = None
    exit: str | None = None
    why: str = ""
    request: str = ""
    instance: str = records.key("life", "")

    def query(self, name: str) -> QueryState | None:
        """Return the state of a query by its full name, None if this driver does not run it."""
        return next((state for state in self.queries if state.query == name), None)


@dataclass(frozen=True)
class ExitRecord:
    """outcome.json: how a driver ended. `exit` is an `Exit` name, `error` the reason or empty.

    `instance` (JSON key `life`) and `request` say which driver this was; `release` is what it ran.
    """

    exit: str = ""
    error: str = ""
    at_ms: int = 0
    request: str = ""
    instance: str = records.key("life", "")
    release: str = ""


@dataclass(frozen=True)
class CheckResult(ExitRecord):
    """check.json: how the check of a release ended. `changes` lists, by query, what the checkpoint cannot take of the plan."""

    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)


def heartbeat(root: str, pipeline: str) -> Heartbeat | None:
    """Return the newest heartbeat of a pipeline's driver, None before the first."""
    return records.read(Heartbeat, paths.heartbeat(root, pipeline))


def exit_record(root: str, pipeline: str) -> ExitRecord | None:
    """Return how the newest driver ended that could write it down, None before the first."""
    return records.read(ExitRecord, paths.outcome(root, pipeline))


def check_result(root: str, pipeline: str) -> CheckResult | None:
    """Return the result of the newest check of a release, None before the first."""
    return records.read(CheckResult, paths.check(root, pipeline))
