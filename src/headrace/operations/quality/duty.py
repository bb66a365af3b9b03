"""The plain functions that DAGs and the command line call. Values between them are plain JSON.

plan_checks fixes windows, batches and offsets; run_checks reads, validates and keeps, and fails for no finding; gate, one
a sink, raises where a critical expectation failed; act pauses a pipeline whose file says so; build_docs is one writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.errors import HeadraceError
from headrace.operations import control, lineage_runs
from headrace.operations.deployment import Deployment
from headrace.operations.quality import plan
from headrace.operations.quality.sinks import find, sinks_of, suites_of
from headrace.operations.quality.summary import gate

__all__ = [
    "act",
    "build_docs",
    "gate",
    "plan_checks",
    "require_suite",
    "run_checks",
    "sink_names",
    "suite_names",
    "trend",
]

Progress = Callable[[str, float], None]


def sink_names(deployment: Deployment, pipeline: str | None = None) -> list[str]:
    """Return the names of all sinks of one pipeline or of all: their suites, results and assets have these names."""
    return [sink.name for one in _pipelines(deployment, pipeline) for sink in sinks_of(one)]


def suite_names(deployment: Deployment) -> list[str]:
    """Return the names of all suites: of every sink, and of the stage of every dimension that is refreshed."""
    return [name for pipeline in deployment.pipelines().values() for name in suites_of(pipeline)]


def require_suite(deployment: Deployment, name: str) -> None:
    """Raise HeadraceError that lists the suites where there is none of this name."""
    there = suite_names(deployment)
    if name not in there:
        raise HeadraceError(f"There is no sink or stage {name!r}: there is {', '.join(sorted(there))}.")


def plan_checks(deployment: Deployment, pipeline: str, *, since_ms: int | None = None) -> list[dict[str, Any]]:
    """Return what is to be checked of each sink of a pipeline, as plain JSON values (see `plan.Check`)."""
    one = deployment.pipeline(pipeline)
    return [check.to_json_dict() for check in plan.plan(deployment, one, since_ms=since_ms)]


def run_checks(
    deployment: Deployment,
    pipeline: str,
    checks: Sequence[Mapping[str, Any]],
    report: Progress | None = None,
) -> list[dict[str, Any]]:
    """Carry out checks of one pipeline in this process and return their summaries (see `summary.Summary`).

    Findings are results, not errors: `gate` turns them into one. Great Expectations is imported here, once for all.
    """
    one = deployment.pipeline(pipeline)
    found: list[dict[str, Any]] = []
    with lineage_runs.checking(deployment, one, found):
        for done, check in enumerate(checks):
            found.append(_run(deployment, one, plan.Check(**check)))
            if report:
                report(str(check["sink"]), (done + 1) / len(checks))
    return found


def _run(deployment: Deployment, pipeline: Any, check: plan.Check) -> dict[str, Any]:  # noqa: ANN401 - a Pipeline
    from headrace.operations.quality import read, store
    from headrace.operations.quality.summary import Summary, failures, status_of
    from headrace.operations.quality.validate import json_safe, load_suite, validate

    began, now_ms = time.monotonic(), int(check.parameters.get("now_ms", time.time_ns() // 1_000_000))
    if check.window["kind"] == "nothing":
        return Summary(check.sink, check.pipeline, check.query, "EMPTY", check.window, now_ms).to_json_dict()
    suite = load_suite(deployment.project, check.sink)
    sink = find([pipeline], check.sink)
    frame, sampled = read.read(deployment, pipeline, sink, check)
    if frame.empty and not read.expects_rows(deployment, sink, check):
        window = check.window | {"reason": "nothing was written there"}
        summary = Summary(check.sink, check.pipeline, check.query, "EMPTY", window, now_ms)
        store.write_report(deployment.root, summary, None)
        return summary.to_json_dict()
    moving = {"rows_in": plan.rows_there(deployment, pipeline, sink)} if check.window["kind"] == "table" else {}
    outcomes, result = validate(suite, frame, sink.key, check.parameters | moving)
    rows = store.quarantine_rows(check, outcomes, sink.key)
    summary = Summary(
        sink=check.sink,
        pipeline=check.pipeline,
        query=check.query,
        status=status_of(outcomes),
        window=check.window,
        checked_at_ms=now_ms,
        seconds=round(time.monotonic() - began, 3),
        rows=len(frame),
        sampled=sampled,
        expectations=len(outcomes),
        quarantined=len(rows),
        failed=failures(outcomes),
        batches=json_safe(read.missing_batches(check.window, frame)),
        report=store.report_path(deployment.root, check),
    )
    store.record(deployment.bindings, summary, rows)
    store.write_report(deployment.root, summary, result)
    return summary.to_json_dict()


def act(deployment: Deployment, summaries: Sequence[Mapping[str, Any]], *, by: str) -> list[str]:
    """Pause the pipelines with a failed critical expectation whose file says `quality: {on_critical: pause}`.

    Returns the names of those paused. The reason names the sinks; `headrace stream resume` goes on.
    """
    paused = []
    pipelines = deployment.pipelines()
    for name in dict.fromkeys(str(each["pipeline"]) for each in summaries if each["status"] == "FAILED"):
        if name not in pipelines or pipelines[name].quality.on_critical != "pause":
            continue
        sinks = [each["sink"] for each in summaries if each["pipeline"] == name and each["status"] == "FAILED"]
        reason = f"critical expectations failed for {', '.join(sinks)}: see `headrace quality show {sinks[0]}`"
        control.pause(deployment.launcher(), name, by=by, reason=reason)
        paused.append(name)
    return paused


def build_docs(deployment: Deployment) -> str:
    """Build the Data Docs of all kept reports and return the path of their first page."""
    from headrace.operations.quality import docs

    return docs.build(deployment.root, deployment.project, suite_names(deployment))


def trend(deployment: Deployment, sinks: Sequence[str] | None = None, limit: int = 50) -> dict[str, list[Any]]:
    """Return sink -> its newest checks, newest first, as plain JSON values."""
    from headrace.operations.quality import store

    return store.trend(deployment.bindings, sinks or suite_names(deployment), limit)


def _pipelines(deployment: Deployment, name: str | None) -> list[Any]:
    return [deployment.pipeline(name)] if name is not None else list(deployment.pipelines().values())
