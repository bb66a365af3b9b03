"""The functions that the tasks of the DAG `quality` and the command line call.

`plan_checks` fixes windows, batches and offsets. `run_checks` reads, validates and keeps the results: a finding and an unreadable
sink are results, not errors. `gate` raises HeadraceError for one sink whose gate is closed. `act` pauses a pipeline whose file
declares it. Only one process runs `build_docs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headrace.contract.checked_sinks import sinks_of, suites_of
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import control
from headrace.operations.lineage import run_events
from headrace.operations.quality import bounds, findings, plan
from headrace.operations.quality.faults import words
from headrace.operations.quality.findings import ClosedFinding
from headrace.operations.quality.plan import Check
from headrace.operations.quality.suites import suites
from headrace.operations.quality.summary import Summary, gate, is_good

if TYPE_CHECKING:
    from headrace.operations.quality.store import SeriesRow

__all__ = [
    "accept",
    "act",
    "build_docs",
    "complete",
    "gate",
    "is_good",
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
    """Raise HeadraceError that lists the known suites for an unknown name."""
    known = suite_names(deployment)
    if name not in known:
        raise HeadraceError(f"Unknown sink or stage {name!r}. Known sinks and stages: {', '.join(sorted(known))}.")


def plan_checks(deployment: Deployment, pipeline: str, *, since_ms: int | None = None) -> list[Check]:
    """Return the planned check of each sink of a pipeline.

    A sink whose check cannot be planned gets an `unreadable` check with the reason. A pipeline whose file does not load gets one
    such check in its name.
    """
    try:
        one = deployment.pipeline(pipeline)
    except HeadraceError as fault:
        return [plan.unreadable(pipeline, pipeline, "", str(fault))]
    try:
        return plan.plan(deployment, one, since_ms=since_ms)
    except Exception as error:  # a pipeline's fault is its own result
        return [plan.unreadable(sink.name, pipeline, sink.query, words(error)) for sink in sinks_of(one)]


def run_checks(
    deployment: Deployment,
    pipeline: str,
    checks: Sequence[Check],
    report: Progress | None = None,
    seconds: float = bounds.CHECK_SECONDS,
) -> list[Summary]:
    """Carry out checks of one pipeline in this process and return their summaries.

    Findings and unreadable sinks are results, not errors: `gate` raises for them. No check begins a further step after its even
    share of `seconds`; the next run reads the rest. Great Expectations is imported once for all checks.
    """
    from headrace.operations.quality.checks import run_check, unreadable

    if [check.sink for check in checks] == [pipeline]:  # its file does not load
        return [unreadable(checks[0], checks[0].window.reason)]
    one, began = deployment.pipeline(pipeline), time.monotonic()
    summaries: list[Summary] = []
    with run_events.checking(deployment, one, summaries):
        for done, check in enumerate(checks):
            until = began + seconds * (done + 1) / len(checks)
            summaries.append(run_check(deployment, one, check, until))
            if report:
                report(check.sink, (done + 1) / len(checks))
    return summaries


def complete(deployment: Deployment, chosen: Sequence[str], summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries of all sinks of the chosen pipelines. A sink whose task died is UNREADABLE."""
    from headrace.operations.quality.checks import unreadable

    reason = "the task that plans or runs its checks failed: see the log of plan_checks and run_checks"
    missing = set(chosen) - {summary.pipeline for summary in summaries}
    sinks = [(sink, name) for name in chosen if name in missing for sink in _sinks_or_self(deployment, name)]
    return [*summaries, *(unreadable(plan.unreadable(sink, name, "", reason), reason) for sink, name in sinks)]


def _sinks_or_self(deployment: Deployment, pipeline: str) -> list[str]:
    try:
        return sink_names(deployment, pipeline)
    except HeadraceError:
        return [pipeline]


def act(deployment: Deployment, summaries: Sequence[Summary], *, by: str) -> list[str]:
    """Pause the pipelines with a failed critical expectation whose file says `quality: {on_critical: pause}`.

    Returns the names of the paused pipelines. The reason names the sinks; `headrace stream resume` resumes a stream.
    """
    paused = []
    pipelines = deployment.pipelines()
    # An older finding does not pause a resumed stream again.
    broken = [summary for summary in summaries if any(failure.closes_gate for failure in summary.failed)]
    for name in dict.fromkeys(summary.pipeline for summary in broken):
        if name not in pipelines or pipelines[name].quality.on_critical != "pause":
            continue
        sinks = [summary.sink for summary in broken if summary.pipeline == name]
        reason = f"critical expectations failed for {', '.join(sinks)}: see `headrace quality show {sinks[0]}`"
        control.pause(deployment.launcher(), name, by=by, reason=reason)
        paused.append(name)
    return paused


def accept(deployment: Deployment, sink: str, ids: Sequence[str], *, by: str, reason: str) -> list[ClosedFinding]:
    """Accept open critical findings of a sink and return them: the next check opens its gate. Raises HeadraceError."""
    require_suite(deployment, sink)
    return findings.accept(deployment.root, sink, ids, by=by, reason=reason)


def build_docs(deployment: Deployment) -> str:
    """Build the Data Docs of all kept reports and return the path of their first page."""
    from headrace.operations.quality import docs

    pipelines = deployment.pipelines().values()
    return docs.build(deployment.root, [suite for pipeline in pipelines for suite in suites(pipeline).values()])


def trend(deployment: Deployment, sinks: Sequence[str] | None = None, limit: int = 50) -> dict[str, list[SeriesRow]]:
    """Return sink -> its newest checks, newest first."""
    from headrace.operations.quality import store

    return store.series(deployment.bindings, sinks or suite_names(deployment), limit)


def _pipelines(deployment: Deployment, name: str | None) -> list[Pipeline]:
    return [deployment.pipeline(name)] if name is not None else list(deployment.pipelines().values())
