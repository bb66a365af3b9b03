"""The lineage events of runs. The time of an event is when it happened, not when it was noticed.

A run of a stream is one driver instance, for each query: START when the driver started, RUNNING with its newest batch, COMPLETE
when it was stopped, ABORT when it was killed or cut off, FAIL when it failed. A finite job emits START when it begins and
COMPLETE or FAIL when it ends. A run that ended without an exit record (its process was killed) gets ABORT at the next START.

Lineage never fails the job itself: an event that cannot be made or written is only logged.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment
from headrace.operations.lineage.graph import (
    Dataset,
    LineageJob,
    drop_folder,
    places,
    quality_job,
    refresh_job,
    runs,
    stream_jobs,
    view_jobs,
)
from headrace.store import driver_files, generation, ledger, small_files
from headrace.store.driver_files import Heartbeat
from headrace.store.job_reports import ViewsReport

if TYPE_CHECKING:
    from headrace.operations.lineage.emit import Kind
    from headrace.operations.quality.summary import Summary

log = logging.getLogger(__name__)
_RUNS = uuid.UUID("6b1f5a52-2f3b-4c57-9d51-7d1e0a8f4e11")  # the namespace of run ids
_ENDS: dict[str, Kind] = {"FINISHED": "COMPLETE", "CUT_OFF": "ABORT"}


@dataclass(frozen=True)
class Emitted:
    """The number of emitted events. `http` is the error of the post to the endpoint, or ""."""

    pipeline: str
    events: int
    http: str


def emit_streams(deployment: Deployment, pipeline: str) -> Emitted:
    """Emit the new events of each query's run."""
    from headrace.operations.lineage import emit

    described, where, root = deployment.pipeline(pipeline), places(deployment), deployment.root
    heartbeat = driver_files.heartbeat(root, pipeline)
    instance = heartbeat.instance if heartbeat else ""
    running = deployment.launcher().find(pipeline)
    started_ms = int(running[0].started * 1000) if running and heartbeat and running[0].instance == instance else None
    events = []
    for name, job in stream_jobs(described, where).items():
        current = generation.current(root, pipeline, name)
        newest = ledger.newest(current.paths(root).ledger) if current else None
        if current is None or newest is None or heartbeat is None:
            continue
        run = str(uuid.uuid5(_RUNS, f"{job.name}/{current.number}/{current.started_micros}/{instance}"))
        details = {"generation": current.number, "batch": newest["batch"], "offsets": newest["offsets"]}
        first_ms = min(started_ms or current.started_micros // 1000, newest["written_ms"])
        events += _aborted(root, job, but=run)
        events.append(emit.event(job, run, "START", first_ms, {"generation": current.number}))
        events.append(emit.event(job, run, "RUNNING", newest["written_ms"], details))
        ended = _end(root, pipeline, heartbeat, alive=started_ms is not None)
        if ended:
            kind, at_ms, error = ended
            events.append(emit.event(job, run, kind, max(at_ms, newest["written_ms"]), details, error=error))
    return Emitted(pipeline, len(events), emit.emit(root, events))


def _end(root: str, pipeline: str, heartbeat: Heartbeat, *, alive: bool) -> tuple[Kind, int, str] | None:
    """Return how and when the driver of a heartbeat ended; None while it runs."""
    if heartbeat.exit:
        error = "" if heartbeat.exit in _ENDS else f"{heartbeat.exit} {heartbeat.why}".strip()
        return _ENDS.get(heartbeat.exit, "FAIL"), heartbeat.at_ms, error
    if alive:
        return None
    record = driver_files.exit_record(root, pipeline)
    return "ABORT", record.at_ms if record and record.instance == heartbeat.instance else heartbeat.at_ms, ""


def start_views(deployment: Deployment, pipeline: str, run: str) -> None:
    """Emit START for each batch view of a run that begins."""
    with _quietly(pipeline):
        for job in view_jobs(deployment.pipeline(pipeline), places(deployment)).values():
            _emit(deployment, job, _view_run(job, run), "START", {"run": run})


def fail_views(deployment: Deployment, pipeline: str, run: str, error: str) -> None:
    """Emit FAIL for each batch view of a run that failed."""
    with _quietly(pipeline):
        for job in view_jobs(deployment.pipeline(pipeline), places(deployment)).values():
            _emit(deployment, job, _view_run(job, run), "FAIL", {"run": run}, error=error)


def emit_views(deployment: Deployment, report: ViewsReport) -> Emitted:
    """Emit one COMPLETE event for each view after a run of batch views, with the number of written rows."""
    from headrace.operations.lineage import emit

    described, where = deployment.pipeline(report.pipeline), places(deployment)
    details = {"days": list(report.days), "run": report.run}
    events = [
        emit.event(
            job, _view_run(job, report.run), "COMPLETE", _now_ms(), details, report.rows[name], parent=emit.dag_run()
        )
        for name, job in view_jobs(described, where).items()
    ]
    return Emitted(report.pipeline, len(events), emit.emit(deployment.root, events))


def emit_refresh(
    deployment: Deployment,
    pipeline: str,
    dimension: str,
    version: str,
    kind: Kind,
    *,
    rows: int | None = None,
    error: str = "",
) -> None:
    """Emit an event of the refresh of a dimension to a version."""
    with _quietly(f"{pipeline}.{dimension}"):
        described, where = deployment.pipeline(pipeline), places(deployment)
        job = refresh_job(described, dimension, where, _source(deployment, described, dimension))
        run = str(uuid.uuid5(_RUNS, f"{job.name}/{version}/{_attempt(deployment, pipeline, dimension, version)}"))
        _emit(deployment, job, run, kind, {"version": version}, rows, error)


@contextmanager
def refreshing(deployment: Deployment, pipeline: str, dimension: str, version: str) -> Iterator[None]:
    """Emit FAIL for the refresh if the block raises HeadraceError. The error is raised again."""
    try:
        yield
    except HeadraceError as error:
        emit_refresh(deployment, pipeline, dimension, version, "FAIL", error=str(error))
        raise


@contextmanager
def checking(deployment: Deployment, pipeline: Pipeline, summaries: Sequence[Summary]) -> Iterator[None]:
    """Emit START for the quality job of each query, and its end with the results that `summaries` then contains."""
    run = uuid.uuid4()
    jobs: dict[str, LineageJob] = {}
    with _quietly(pipeline.name):
        where = places(deployment)
        jobs = {query: quality_job(pipeline, query, where) for query in names.query_names(pipeline)}
    for job in jobs.values():
        with _quietly(pipeline.name):
            _emit(deployment, job, str(uuid.uuid5(run, job.name)), "START", {})
    try:
        yield
    except BaseException as error:
        for job in jobs.values():
            with _quietly(pipeline.name):
                kind: Kind = "FAIL" if isinstance(error, Exception) else "ABORT"
                _emit(deployment, job, str(uuid.uuid5(run, job.name)), kind, {}, error=str(error))
        raise
    for query, job in jobs.items():
        with _quietly(pipeline.name):
            query_summaries = [summary for summary in summaries if summary.query == query]
            details = {"statuses": {one.sink: one.status for one in query_summaries}}
            _emit(
                deployment,
                job,
                str(uuid.uuid5(run, job.name)),
                "COMPLETE",
                details,
                checks=_assertions(pipeline, job, query_summaries),
            )


def _assertions(pipeline: Pipeline, job: LineageJob, summaries: Sequence[Summary]) -> dict[str, list[Any]]:
    """Return the results of expectations by the name of their dataset. A sink that was not checked has none."""
    from openlineage.client.generated.data_quality_assertions_dataset import Assertion

    from headrace.operations.quality.suites import suite_of

    assertions: dict[str, list[Any]] = {}
    for summary in (summary for summary in summaries if summary.expectations):
        name = next((read.name for read in job.inputs if summary.sink.endswith(read.name)), job.inputs[0].name)
        failed = {failure.id for failure in summary.failed}
        for one in suite_of(pipeline, summary.sink).expectations:
            severity = "error" if one.severity == "critical" else "warn"
            column = one.kwargs.get("column")
            assertions.setdefault(name, []).append(Assertion(one.type, one.id not in failed, column, severity))
    return assertions


def _emit(
    deployment: Deployment,
    job: LineageJob,
    run: str,
    kind: Kind,
    details: Mapping[str, Any],
    rows: int | None = None,
    error: str = "",
    checks: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    from headrace.operations.lineage import emit

    before = _aborted(deployment.root, job, but=run) if kind == "START" else []
    event = emit.event(job, run, kind, _now_ms(), details, rows, error, checks, parent=emit.dag_run())
    if fault := emit.emit(deployment.root, [*before, event]):
        log.warning("lineage: %s", fault)


def _aborted(root: str, job: LineageJob, *, but: str) -> list[Any]:
    """Return an ABORT event for each run of a job that has no end, except the current run (`but`)."""
    from headrace.operations.lineage import emit

    aborts = []
    for recorded in runs(root, job.name):
        last, run = recorded[-1], recorded[0]["run"]["runId"]
        if run != but and last["eventType"] not in emit.ENDS:
            at_ms = max(_now_ms(), int(datetime.fromisoformat(last["eventTime"]).timestamp() * 1000))
            aborts.append(emit.event(job, run, "ABORT", at_ms, {}))
    return aborts


def _view_run(job: LineageJob, run: str) -> str:
    return str(uuid.uuid5(_RUNS, f"{job.name}/{run}"))


def _source(deployment: Deployment, pipeline: Pipeline, dimension: str) -> Dataset:
    from headrace.access.bindings import read_database

    refresh = pipeline.dimensions[dimension].refresh
    if refresh is None or refresh.source == "files":
        return drop_folder(pipeline, dimension, places(deployment))
    binding = read_database(deployment.bindings, f"{dimension}-source")
    scheme = binding.driver.partition("+")[0].replace("postgresql", "postgres")
    return Dataset(f"{scheme}://{binding.host}:{binding.port}", f"{binding.database}.{refresh.table}", {})


def _attempt(deployment: Deployment, pipeline: str, dimension: str, version: str) -> int:
    from headrace.store import paths

    folder = f"{paths.refresh(deployment.root, pipeline, dimension)}/{version}"
    return int((small_files.read_json(f"{folder}/staged.json") or {}).get("at_ms", 0))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _quietly(what: str) -> Iterator[None]:
    try:
        yield
    except (HeadraceError, OSError, ValueError, KeyError) as error:
        log.warning("no lineage event of %s: %s", what, error)
