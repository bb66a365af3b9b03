"""Checks one sink: reads its rows in steps, validates each step, keeps the results, and moves the position past the rows it read.

An error while a sink is read is the result of that sink alone (UNREADABLE).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from headrace.contract.checked_sinks import CheckedSink, find
from headrace.contract.model import Pipeline
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.quality import (
    faults,
    findings,
    merge,
    plan,
    position,
    read,
    read_cassandra,
    steps,
    store,
    whole_tables,
)
from headrace.operations.quality.findings import Findings
from headrace.operations.quality.plan import Check
from headrace.operations.quality.position import Position
from headrace.operations.quality.status import Status
from headrace.operations.quality.steps import Step
from headrace.operations.quality.suites import Suite, suite_of
from headrace.operations.quality.summary import (
    Acceptance,
    Coverage,
    Failure,
    Stale,
    Summary,
    WrongBatch,
    failures,
    status_of,
)
from headrace.operations.quality.validate import CRITICAL, Outcome, validate
from headrace.operations.quality.windows import (
    Batches,
    BatchesStep,
    Closed,
    Nothing,
    Ranges,
    TableWindow,
    Unreadable,
    Window,
    batches_name,
    windows_name,
)
from headrace.store.records import Json

# Open findings of one sink whose windows are read again by one check, oldest first.
READ_AGAIN = 5


@dataclass
class _Progress:
    """The results of the steps of a check so far."""

    outcomes: list[list[Outcome]] = field(default_factory=list)
    results: list[Json] = field(default_factory=list)
    rows: int = 0
    batches: int = 0
    windows: int = 0
    steps: int = 0
    wrong: list[WrongBatch] = field(default_factory=list)
    new_findings: list[findings.Finding] = field(default_factory=list)
    reached: Position = field(default_factory=Position)
    offsets: Ranges = field(default_factory=dict)
    complete: bool = True
    fault: str = ""
    totals: whole_tables.TableTotals = field(default_factory=whole_tables.TableTotals)


def run_check(deployment: Deployment, pipeline: Pipeline, check: Check, until: float) -> Summary:
    """Carry out a check and return its summary. A fault of the sink is a result.

    `until` is the time (`time.monotonic`) after which no further step begins. The first step always runs.
    """
    began = time.monotonic()
    try:
        return _run_check(deployment, pipeline, check, began, until)
    except Exception as error:  # a sink's fault is its own result
        faults.log(check.sink, error)
        summary = unreadable(check, faults.words(error), seconds=time.monotonic() - began)
        store.write_unread(deployment, summary)
        return summary


def unreadable(check: Check, reason: str, seconds: float = 0.0) -> Summary:
    """Return the summary of a sink that could not be read."""
    now_ms = int(check.parameters.get("now_ms", time.time_ns() // 1_000_000))
    window = Unreadable(reason=reason)
    return Summary(check.sink, check.pipeline, check.query, "UNREADABLE", window, now_ms, seconds=round(seconds, 3))


def _run_check(deployment: Deployment, pipeline: Pipeline, check: Check, began: float, until: float) -> Summary:
    if isinstance(check.window, Unreadable):
        summary = unreadable(check, check.window.reason)
        store.write_unread(deployment, summary)
        return summary
    root, sink = deployment.root, find([pipeline], check.sink)
    known = findings.read(root, check.sink)
    progress = _Progress()
    is_new = not isinstance(check.window, Nothing)
    if is_new or known.open:
        suite = suite_of(pipeline, check.sink)
        known = _read_again(deployment, pipeline, sink, check, suite, known)
        if is_new:
            progress = _read_steps(deployment, pipeline, sink, check, suite, until)
    now_ms = int(check.parameters["now_ms"])
    outcomes = merge.outcomes(progress.outcomes, progress.rows) if progress.outcomes else []
    known = _with_found(known, check, progress, outcomes, now_ms)
    done = replace(check, window=_window_read(check, progress))
    failed = _with_acceptance(failures(outcomes), known)
    rows = store.quarantine_rows(done, outcomes, sink.key)
    stale = _stale(root, check)
    summary = Summary(
        sink=check.sink,
        pipeline=check.pipeline,
        query=check.query,
        status=_status(progress, outcomes, failed, known, stale),
        window=done.window,
        checked_at_ms=now_ms,
        seconds=round(time.monotonic() - began, 3),
        rows=progress.rows,
        sampled=not progress.complete,
        expectations=len(outcomes),
        quarantined=len(rows),
        failed=failed,
        batches=tuple(progress.wrong[:20]),
        report=store.report_path(root, done) if outcomes else "",
        coverage=_coverage(check, progress),
        open=tuple(finding.shown for finding in known.open),
        stale=stale,
    )
    store.record(deployment.bindings, summary, rows)
    store.write_report(root, summary, merge.results(progress.results) if progress.results else None)
    findings.write(root, check.sink, known)
    _move(root, check, progress)  # last: the next check reads again what was not kept
    return summary


def _read_steps(
    deployment: Deployment, pipeline: Pipeline, sink: CheckedSink, check: Check, suite: Suite, until: float
) -> _Progress:
    progress = _Progress()
    try:
        for step in steps.steps(deployment, sink, check):
            _validate_step(deployment, pipeline, sink, check, suite, step, progress)
            if _ends_table(check, step) and not progress.complete:
                _validate_whole(deployment, pipeline, sink, check, suite, step, progress)
            if time.monotonic() > until:
                break
    except Exception as error:
        if not progress.steps:
            raise
        faults.log(check.sink, error)  # the earlier steps are kept; the next check continues after them
        progress.fault = faults.words(error)
    return progress


def _validate_step(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Suite,
    step: Step,
    progress: _Progress,
) -> None:
    """Validate one step and add its results to the progress."""
    partial = isinstance(check.window, TableWindow) and not (_ends_table(check, step) and progress.steps == 0)
    frame = read.frame(deployment, pipeline, sink, check, step.window, step.rows, step.columns)
    progress.complete = progress.complete and not partial
    progress.rows += len(frame)
    progress.steps += 1
    progress.reached = step.reached
    if isinstance(step.window, Closed):
        progress.windows += len(step.window.starts_ms)
    if isinstance(step.window, BatchesStep):
        progress.batches += step.window.count
        offsets = step.window.spans if sink.kind == "iceberg" else step.window.ranges
        for partition, (start, end) in offsets.items():
            progress.offsets[partition] = [progress.offsets.get(partition, [start])[0], end]
    if frame.empty and not _expects_rows(deployment, sink, check, step):
        return
    parameters = _parameters(deployment, pipeline, sink, check, step)
    if partial:
        progress.totals.add(suite, frame)
    step_suite = whole_tables.of_rows(suite) if partial else suite
    outcomes, result = validate(step_suite, frame, sink.key, parameters)
    progress.wrong += read.wrong_batches(step.window, frame)
    _keep(check, step, progress, outcomes, [result])


def _ends_table(check: Check, step: Step) -> bool:
    """Return whether a step is the last one of a table that the check reads from its beginning."""
    return isinstance(check.window, TableWindow) and check.window.token is None and step.reached.token is None


def _validate_whole(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Suite,
    step: Step,
    progress: _Progress,
) -> None:
    """Validate what is asked of all rows of a table together, after its last step."""
    parameters = _parameters(deployment, pipeline, sink, check, step)
    _keep(check, step, progress, *whole_tables.validated(suite, progress.totals, parameters))
    progress.complete = True


def _keep(check: Check, step: Step, progress: _Progress, outcomes: list[Outcome], results: list[Json]) -> None:
    progress.outcomes.append(outcomes)
    progress.results += results
    critical = [failure for failure in failures(outcomes) if failure.severity == CRITICAL]
    if critical:
        progress.new_findings.append(findings.make(check.sink, step.window, critical, int(check.parameters["now_ms"])))


def _parameters(
    deployment: Deployment, pipeline: Pipeline, sink: CheckedSink, check: Check, step: Step
) -> dict[str, float]:
    """Return the values of the suite's parameters in a step. Every step has all of them, so a suite may use any."""
    parameters = {"rows_least": 0.0} | check.parameters | {"rows_out": step.rows_out}
    if isinstance(check.window, TableWindow):
        parameters |= plan.moving(deployment, pipeline, sink, check.parameters)
    return parameters


def _expects_rows(deployment: Deployment, sink: CheckedSink, check: Check, step: Step) -> bool:
    """Return whether a step without rows should have rows: by the ledger of its batches, or of all batches for a table."""
    if isinstance(step.window, BatchesStep):
        return bool(step.rows_out)
    if not check.parameters.get("rows_min"):
        return False
    if isinstance(check.window, TableWindow):
        return check.window.token is None
    return read_cassandra.is_empty(deployment.bindings, sink)


def _read_again(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Suite,
    known: Findings,
) -> Findings:
    """Close the open findings whose window now meets every expectation. A window that cannot be read again keeps its finding."""
    repaired = []
    for finding in known.open[:READ_AGAIN]:
        try:
            if _keeps(deployment, pipeline, sink, check, suite, finding):
                repaired.append(finding.id)
        except Exception as error:  # such as rows that retention has removed
            faults.log(f"{check.sink}, finding {finding.id}", error)
    reason = "the same window was read again and meets its expectations"
    at_ms = int(check.parameters["now_ms"])
    return findings.closed(known, repaired, findings.REPAIRED, by="a later check", reason=reason, at_ms=at_ms)


def _keeps(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Suite,
    finding: findings.Finding,
) -> bool:
    """Return whether a finding's window has all its rows and meets every critical expectation.

    Missing rows repair nothing. Nor does a suite without the broken expectation: then a person accepts the finding. A table is
    not read again: the check itself reads it.
    """
    if isinstance(finding.window, TableWindow) or not finding.ids <= {
        expectation.id for expectation in suite.expectations
    }:
        return False
    step = steps.again(deployment, sink, finding.window)
    frame = read.frame(deployment, pipeline, sink, check, step.window, step.rows, step.columns)
    outcomes, _ = validate(suite, frame, sink.key, {"rows_least": 0.0} | check.parameters | {"rows_out": step.rows_out})
    broken = any(outcome.severity == CRITICAL and not outcome.success for outcome in outcomes)
    return not broken and not read.wrong_batches(step.window, frame)


def _with_found(known: Findings, check: Check, progress: _Progress, outcomes: list[Outcome], now_ms: int) -> Findings:
    """Add new findings. Close the findings of a table that was read completely and now meets the broken expectations."""
    if isinstance(check.window, TableWindow) and progress.complete and progress.outcomes and not progress.fault:
        held = {outcome.id for outcome in outcomes if outcome.success}
        repaired = [
            finding.id for finding in known.open if isinstance(finding.window, TableWindow) and finding.ids <= held
        ]
        reason = "the complete table was read and meets its expectations"
        known = findings.closed(known, repaired, findings.REPAIRED, by="a later check", reason=reason, at_ms=now_ms)
    return findings.opened(known, progress.new_findings)


def _with_acceptance(failed: tuple[Failure, ...], known: Findings) -> tuple[Failure, ...]:
    """Return the failures; those that a person accepted, and that are open in no window, say who accepted them."""
    still_open = {one for finding in known.open for one in finding.ids}
    accepted = {
        one: Acceptance(finding.by, finding.reason)
        for finding in known.closed
        if finding.how == findings.ACCEPTED
        for one in finding.ids - still_open
    }
    return tuple(
        replace(failure, accepted=accepted.get(failure.id)) if failure.severity == CRITICAL else failure
        for failure in failed
    )


def _status(
    progress: _Progress, outcomes: list[Outcome], failed: tuple[Failure, ...], known: Findings, stale: Stale
) -> Status:
    if known.open or any(failure.closes_gate for failure in failed):
        return "FAILED"
    if progress.fault:
        return "UNREADABLE"
    if stale != Stale():
        return "STALE"
    if not outcomes:
        return "NOTHING"
    return "WARNED" if failed else status_of(outcomes)


def _window_read(check: Check, progress: _Progress) -> Window:
    """Return the check's window as far as it was read: the time limit may have ended it early."""
    window: Window = replace(check.window, sums=None)
    if isinstance(window, Batches) and progress.steps:
        last = progress.reached.last
        name = batches_name(window.generation, window.first, last)
        window = replace(window, last=last, name=name, offsets=progress.offsets)
    if isinstance(window, Closed):
        if progress.steps:
            until_ms = progress.reached.until_ms or 0
            window = replace(window, until_ms=until_ms, name=windows_name(window.starts_ms[0], until_ms))
        window = replace(window, starts_ms=())
    if progress.fault:
        return replace(window, reason=progress.fault)
    if progress.steps and not progress.outcomes:
        return replace(window, reason="nothing was written there")
    return window


def _coverage(check: Check, progress: _Progress) -> Coverage:
    """Return what was read and what is left."""
    window, coverage = check.window, Coverage(rows=progress.rows, left={})
    if isinstance(window, TableWindow):
        return replace(coverage, more=progress.reached.token is not None)
    if isinstance(window, Closed):
        left = window.left["windows"] + len(window.starts_ms) - progress.windows
        return replace(coverage, windows=progress.windows, left={"windows": left})
    if isinstance(window, Batches):
        unread = window.batches - progress.batches
        rows = max(0, window.rows - progress.rows) if unread > 0 else 0
        left_over = {"batches": window.left["batches"] + unread, "rows": window.left["rows"] + rows}
        coverage = replace(coverage, batches=progress.batches, left=left_over)
    if isinstance(window, Nothing):
        coverage = replace(coverage, left=window.left)
    if isinstance(window, Batches | Nothing):
        coverage = replace(coverage, expired=window.expired, replaced=window.replaced)
    return coverage


def _stale(root: str, check: Check) -> Stale:
    """Return how stale the sink is."""
    behind, promised = check.parameters.get("behind_seconds", 0.0), check.parameters["freshness_seconds"]
    if behind <= promised:
        return Stale()
    return Stale(behind, promised, desired_state.read(root, check.pipeline).want)


def _move(root: str, check: Check, progress: _Progress) -> None:
    """Move the position past the rows read and those that retention removed. A check with `since_ms` never moves it back."""
    before, window = position.read(root, check.sink), check.window
    reached = before
    if window.since_ms is None and progress.steps:
        reached = progress.reached
    elif window.since_ms is None and isinstance(window, Batches | Nothing) and window.passed >= 0:
        reached = replace(before, generation=window.generation, last=window.passed)
    reached = replace(reached, sums=window.sums or before.sums)
    if reached != before:
        position.write(root, check.sink, reached)
