"""What the streams do, for people and tools: one row per query, from heartbeats, running drivers and verdicts."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.operations.drivers import interface
from headrace.operations.drivers.interface import Launcher, LauncherSilentError
from headrace.operations.supervisor import cycle, memory
from headrace.operations.supervisor.driver_health import silent_seconds
from headrace.operations.supervisor.memory import Supervision
from headrace.operations.supervisor.observe import KafkaEnds
from headrace.store import driver_files
from headrace.store.driver_files import Heartbeat

DriverState = Literal["RUNNING", "STARTING", "SILENT", "STOPPED", "DEAD", "NEVER RAN", "UNKNOWN"]


@dataclass(frozen=True)
class QueryRow:
    """One query. Ages in seconds, durations in milliseconds, times in milliseconds since 1970, lag in offsets.

    `running_batch` has run for `running_seconds`; `tasks` counts those of its jobs so far. `waits` names what it waits for.
    Rates are in offsets per second over the newest batches.

    `verdict` and `reason` are the query's (`supervision`); `wanted` and `restarts_left` the pipeline's. They are empty
    before the first pass of a supervisor, unless Kafka was asked.
    """

    COMPUTED: ClassVar[tuple[str, ...]] = ("running", "catch_up_rate", "caught_up_seconds")
    pipeline: str
    query: str
    driver: DriverState
    generation: int | None = None
    batch: int | None = None
    rows_in: int = 0
    rows_out: int = 0
    lag: int | None = None
    batch_age: float | None = None
    batch_duration_ms: int | None = None
    trigger_ms: int | None = None
    watermark_ms: int | None = None
    state_rows: int = 0
    running_batch: int | None = None
    running_seconds: float | None = None
    tasks: int | None = None
    tasks_done: int | None = None
    waits: str = ""
    taken_rate: float | None = None
    arrival_rate: float | None = None
    detail: str = ""
    verdict: str = ""
    reason: str = ""
    wanted: str = ""
    restarts_left: int | None = None

    @property
    def running(self) -> str:
        """Return the running batch in a few words, or "" if none runs."""
        if self.running_batch is None or self.running_seconds is None:
            return ""
        return self.waits or f"{self.tasks_done} of {self.tasks} tasks, {self.running_seconds:.0f} s"

    @property
    def catch_up_rate(self) -> float | None:
        """Return by how many offsets per second the lag falls (negative: it grows); None if that is unknown."""
        if self.taken_rate is None or self.arrival_rate is None:
            return None
        return round(self.taken_rate - self.arrival_rate, 2)

    @property
    def caught_up_seconds(self) -> float | None:
        """Return in how many seconds the lag is gone at this rate; None if it does not fall or is unknown."""
        if self.lag == 0:
            return 0.0
        rate = self.catch_up_rate
        return None if self.lag is None or rate is None or rate <= 0 else round(self.lag / rate, 1)


def rows(launcher: Launcher, pipelines: Iterable[Pipeline], bindings: Path | None = None) -> list[QueryRow]:
    """Return one row for each query of the pipelines, whether it runs or not.

    With `bindings` (an admin's binding root) the verdicts are new: Kafka is asked, and nothing is changed. Without
    them, the verdicts are the newest that a supervisor wrote.
    """
    ends = KafkaEnds(bindings) if bindings else None
    result = []
    for pipeline in pipelines:
        judged = (
            cycle.describe(cycle.Context(launcher, pipeline, ends))
            if ends
            else memory.read(launcher.root, pipeline.name)
        )
        result += _pipeline_rows(launcher, pipeline, judged)
    return result


def strays(launcher: Launcher, pipelines: Collection[str], broken: Mapping[str, str]) -> dict[str, str]:
    """Return pipeline -> why it cannot be judged: its file does not load, or is gone while its driver runs.

    `pipelines` are the names that load, `broken` those that do not, with the reason (`contract.load.Folder`).
    """
    reasons = {name: f"its pipeline file does not load: {why}" for name, why in broken.items()}
    try:
        running = launcher.running()
    except LauncherSilentError:  # then each pipeline's row says so
        running = []
    for name in running:
        if name not in pipelines and name not in reasons:
            reasons[name] = (
                f"its pipeline file is gone and its driver still runs: end it with `headrace stream stop {name}`"
            )
    return dict(sorted(reasons.items()))


def stray_rows(launcher: Launcher, pipeline: str, reason: str) -> list[QueryRow]:
    """Return one row for each query of the last heartbeat, or one row of the pipeline: UNKNOWN, with the reason."""
    heartbeat = driver_files.heartbeat(launcher.root, pipeline)
    state, detail = driver_state(launcher, pipeline, heartbeat)
    queries = [entry.query.partition(".")[2] for entry in heartbeat.queries] if heartbeat else []
    rows = [_row(pipeline, name, state, detail, heartbeat) for name in queries]
    return [
        replace(row, verdict="UNKNOWN", reason=reason)
        for row in rows or [QueryRow(pipeline, pipeline, state, detail=detail)]
    ]


def driver_state(
    launcher: Launcher, pipeline: str, heartbeat: Heartbeat | None, moved_ms: int = 0
) -> tuple[DriverState, str]:
    """Return what a pipeline's driver does, and in words how that is known.

    `moved_ms` is when the supervisor last observed a batch of it. SILENT follows the rule of the supervisor
    (`driver_health`), so that state and verdict agree.
    """
    try:
        running = launcher.find(pipeline)
    except LauncherSilentError as silence:
        return "UNKNOWN", str(silence)
    now_ms = time.time_ns() // 1_000_000
    if not running:
        if heartbeat is None:
            return "NEVER RAN", ""
        if heartbeat.exit:
            return ("STOPPED" if heartbeat.exit in {"FINISHED", "CUT_OFF"} else "DEAD"), f"ended with {heartbeat.exit}"
        return "DEAD", f"no process; last heartbeat {(now_ms - heartbeat.at_ms) / 1000:.0f} s ago"
    where = running[0].where
    heartbeat = interface.heartbeat_of(heartbeat, running[0])
    if heartbeat is None or heartbeat.exit:
        return "STARTING", where
    silent = silent_seconds(heartbeat, moved_ms, now_ms)
    if silent is not None:
        return "SILENT", f"{where} runs, but its last heartbeat is {silent:.0f} s old"
    return "RUNNING", f"{where}, Spark UI {heartbeat.ui}, metrics port {heartbeat.metrics_port}"


def _pipeline_rows(launcher: Launcher, pipeline: Pipeline, judged: Supervision | None) -> list[QueryRow]:
    heartbeat = driver_files.heartbeat(launcher.root, pipeline.name)
    moved_ms = judged.memory.moved_ms if judged else 0
    state, detail = driver_state(launcher, pipeline.name, heartbeat, moved_ms)
    names_of_queries = names.query_names(pipeline)
    return [_with_verdict(_row(pipeline.name, name, state, detail, heartbeat), judged) for name in names_of_queries]


def _with_verdict(row: QueryRow, judged: Supervision | None) -> QueryRow:
    query = judged.query(row.query) if judged else None
    if judged is None or query is None:
        return row
    return replace(
        row,
        verdict=query.verdict,
        reason=query.reason,
        wanted=judged.wanted,
        restarts_left=judged.restarts_left,
        lag=row.lag if query.lag is None else query.lag,
    )


def _row(pipeline: str, name: str, driver: DriverState, detail: str, heartbeat: Heartbeat | None) -> QueryRow:
    query = names.query_name(pipeline, name)
    state = heartbeat.query(query) if heartbeat else None
    if state is None:
        return QueryRow(pipeline, query, driver, detail=detail)
    written_ms = state.batch_written_ms
    row = QueryRow(
        pipeline,
        query,
        driver,
        generation=state.generation,
        batch=state.batch,
        rows_in=state.rows_in,
        rows_out=state.rows_out,
        lag=state.lag,
        batch_age=None if written_ms is None else round(time.time() - written_ms / 1000, 1),
        batch_duration_ms=state.batch_duration_ms,
        trigger_ms=state.trigger_ms,
        watermark_ms=state.watermark_ms,
        state_rows=state.state_rows,
        taken_rate=state.taken_rate,
        arrival_rate=state.arrival_rate,
        detail=state.error or detail,
    )
    if state.work is None or driver != "RUNNING":
        return row
    return replace(
        row,
        running_batch=state.running_batch,
        running_seconds=round(max(0.0, time.time() - state.work.since_ms / 1000), 1),
        tasks=state.work.tasks,
        tasks_done=state.work.tasks_done,
        waits=state.work.waits,
    )
