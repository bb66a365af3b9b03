"""What the streams do, for people and tools: one row a query, from heartbeats, living drivers and the verdicts."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.operations import drivers, supervision, supervisor
from headrace.operations.drivers import Launcher, LauncherSilentError
from headrace.operations.supervisor_observe import KafkaEnds

DriverState = Literal["RUNNING", "STARTING", "SILENT", "STOPPED", "DEAD", "NEVER RAN", "UNKNOWN"]
SILENT_AFTER_SECONDS = 20


@dataclass(frozen=True)
class QueryRow:
    """One query. Ages in seconds, durations in milliseconds, times in milliseconds since 1970, lag in offsets.

    `running_batch` is the batch that runs, since `running_seconds`, with the tasks that are known of it; `waits` says for
    what it waits. Rates are in offsets a second over the newest batches.

    `verdict` and `reason` are the query's (`supervision`); `wanted` and `restarts_left` the pipeline's. They are empty
    where no supervisor has looked yet and Kafka was not asked.
    """

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
        """The running batch in a few words, or "" where none runs."""
        if self.running_batch is None or self.running_seconds is None:
            return ""
        return self.waits or f"{self.tasks_done} of {self.tasks} tasks, {self.running_seconds:.0f} s"

    @property
    def catch_up_rate(self) -> float | None:
        """Offsets a second by which the lag falls (negative: it grows); None if not known."""
        if self.taken_rate is None or self.arrival_rate is None:
            return None
        return round(self.taken_rate - self.arrival_rate, 2)

    @property
    def caught_up_seconds(self) -> float | None:
        """In how many seconds the lag is gone at this rate; None if it does not fall or is not known."""
        if self.lag == 0:
            return 0.0
        rate = self.catch_up_rate
        return None if self.lag is None or rate is None or rate <= 0 else round(self.lag / rate, 1)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        found = ("running", "catch_up_rate", "caught_up_seconds")
        return asdict(self) | {name: getattr(self, name) for name in found}


def rows(launcher: Launcher, pipelines: Iterable[Pipeline], bindings: Path | None = None) -> list[QueryRow]:
    """Return one row for each query of the pipelines, whether it runs or not.

    With `bindings` (an admin's binding root) the verdicts are those of now: Kafka is asked, nothing is done. Without,
    they are the last ones that a supervisor wrote.
    """
    ends = KafkaEnds(bindings) if bindings else None
    found = []
    for pipeline in pipelines:
        told = (
            supervisor.describe(supervisor.Scene(launcher, pipeline, ends))
            if ends
            else supervision.read(launcher.root, pipeline.name)
        )
        found += [_with_verdict(row, told) for row in _pipeline_rows(launcher, pipeline)]
    return found


def strays(launcher: Launcher, pipelines: Collection[str], broken: Mapping[str, str]) -> dict[str, str]:
    """Return by name why a pipeline cannot be judged: its file does not load, or it is gone while its driver lives.

    `pipelines` are the names that load, `broken` those that do not, with the reason (`contract.load.Folder`).
    """
    found = {name: f"its pipeline file does not load: {why}" for name, why in broken.items()}
    try:
        living = launcher.running()
    except LauncherSilentError:  # then each pipeline's own row says so
        living = []
    for name in living:
        if name not in pipelines and name not in found:
            found[name] = (
                f"its pipeline file is gone and its driver still runs: end it with `headrace stream stop {name}`"
            )
    return dict(sorted(found.items()))


def stray_rows(launcher: Launcher, pipeline: str, reason: str) -> list[QueryRow]:
    """Return one row for each query of the last heartbeat, or one row of the pipeline: UNKNOWN, with the reason."""
    beat = drivers.heartbeat(launcher.root, pipeline)
    state, detail = driver_state(launcher, pipeline, beat)
    known = {entry["query"]: entry for entry in beat["queries"]} if beat else {}
    queries = [name.partition(".")[2] for name in known]
    rows = [_row(pipeline, name, state, detail, known) for name in queries]
    return [
        replace(row, verdict="UNKNOWN", reason=reason)
        for row in rows or [QueryRow(pipeline, pipeline, state, detail=detail)]
    ]


def driver_state(launcher: Launcher, pipeline: str, beat: dict[str, Any] | None) -> tuple[DriverState, str]:
    """Return what a pipeline's driver does, and in words why it is thought so."""
    try:
        living = launcher.find(pipeline)
    except LauncherSilentError as silence:
        return "UNKNOWN", str(silence)
    age = time.time() - beat["at_ms"] / 1000 if beat else None
    if not living:
        if beat is None:
            return "NEVER RAN", ""
        if beat["exit"]:
            return ("STOPPED" if beat["exit"] in {"FINISHED", "CUT_OFF"} else "DEAD"), f"ended with {beat['exit']}"
        return "DEAD", f"no process; last heartbeat {age:.0f} s ago"
    beat = drivers.own_beat(beat, living[0])
    if beat is None or age is None or beat["exit"]:
        return "STARTING", living[0].where
    if age > SILENT_AFTER_SECONDS:
        return "SILENT", f"{living[0].where} runs, but its last heartbeat is {age:.0f} s old"
    return "RUNNING", f"{living[0].where}, Spark UI {beat.get('ui')}, metrics port {beat.get('metrics_port')}"


def _pipeline_rows(launcher: Launcher, pipeline: Pipeline) -> list[QueryRow]:
    beat = drivers.heartbeat(launcher.root, pipeline.name)
    state, detail = driver_state(launcher, pipeline.name, beat)
    known = {entry["query"]: entry for entry in beat["queries"]} if beat else {}
    return [_row(pipeline.name, name, state, detail, known) for name in names.query_names(pipeline)]


def _with_verdict(row: QueryRow, told: dict[str, Any] | None) -> QueryRow:
    query = next((each for each in (told or {}).get("queries", ()) if each["query"] == row.query), None)
    if told is None or query is None:
        return row
    return replace(
        row,
        verdict=query["verdict"],
        reason=query["reason"],
        wanted=told["wanted"],
        restarts_left=told["restarts_left"],
        lag=row.lag if query["lag"] is None else query["lag"],
    )


def _row(pipeline: str, name: str, state: DriverState, detail: str, known: dict[str, Any]) -> QueryRow:
    query = names.query_name(pipeline, name)
    entry = known.get(query)
    if entry is None:
        return QueryRow(pipeline, query, state, detail=detail)
    written, work = entry["batch_written_ms"], entry.get("work")
    running: dict[str, Any] = {}
    if work and state == "RUNNING":
        running = {key: work[key] for key in ("tasks", "tasks_done", "waits")} | {
            "running_batch": entry["running_batch"],
            "running_seconds": round(max(0.0, time.time() - work["since_ms"] / 1000), 1),
        }
    return QueryRow(
        pipeline,
        query,
        state,
        taken_rate=entry.get("taken_rate"),
        arrival_rate=entry.get("arrival_rate"),
        **running,
        batch_age=None if written is None else round(time.time() - written / 1000, 1),
        detail=entry["error"] or detail,
        **{
            key: entry[key]
            for key in (
                "generation",
                "batch",
                "rows_in",
                "rows_out",
                "lag",
                "batch_duration_ms",
                "trigger_ms",
                "watermark_ms",
                "state_rows",
            )
        },
    )
