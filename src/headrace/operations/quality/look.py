"""Checks one sink: reads its rows in steps, validates each step, keeps the results, and moves the position past the rows it read.

An error while a sink is read is the result of that sink alone (UNREADABLE).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.contract.model import Pipeline
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.quality import findings, merge, plan, position, read, read_cassandra, steps, store
from headrace.operations.quality.faults import words
from headrace.operations.quality.plan import Check
from headrace.operations.quality.sinks import CheckedSink, find
from headrace.operations.quality.status import Status
from headrace.operations.quality.suites import suite_of
from headrace.operations.quality.summary import Summary, failures, status_of
from headrace.operations.quality.validate import CRITICAL, Outcome, json_safe, validate
from headrace.operations.quality.windows import iso

# Open findings of one sink whose windows are read again by one check, oldest first.
READ_AGAIN = 5
# Expectations on all rows together: they are not validated where a table takes more than one step.
_OF_THE_WHOLE = (
    "expect_table_row_count",
    "expect_column_sum",
    "expect_column_mean",
    "expect_column_median",
    "expect_column_stdev",
    "expect_column_proportion",
    "expect_column_unique_value_count",
    "expect_column_distinct_values_to_contain",
    "expect_column_distinct_values_to_equal",
)


@dataclass
class _Progress:
    """The results of the steps of a check so far."""

    outcomes: list[list[Outcome]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    batches: int = 0
    windows: int = 0
    steps: int = 0
    lacking: list[dict[str, int]] = field(default_factory=list)
    found: list[findings.Finding] = field(default_factory=list)
    reached: dict[str, Any] = field(default_factory=dict)
    offsets: dict[str, list[int]] = field(default_factory=dict)
    complete: bool = True
    fault: str = ""


def look(deployment: Deployment, pipeline: Pipeline, check: Check, until: float) -> dict[str, Any]:
    """Carry out a check and return its summary (`summary.Summary`) as plain JSON values. A fault of the sink is a result.

    `until` is the time (`time.monotonic`) after which no further step begins. The first step always runs.
    """
    began = time.monotonic()
    try:
        summary = _look(deployment, pipeline, check, began, until)
    except Exception as error:  # a sink's fault is its own result
        traceback.print_exc()
        summary = unreadable(check, words(error), seconds=time.monotonic() - began)
        store.write_unread(deployment, summary)
    return summary.to_json_dict()


def unreadable(check: Check, reason: str, seconds: float = 0.0) -> Summary:
    """Return the summary of a sink that could not be read."""
    now_ms = int(check.parameters.get("now_ms", time.time_ns() // 1_000_000))
    window = {"kind": "unreadable", "name": "not checked", "reason": reason}
    return Summary(check.sink, check.pipeline, check.query, "UNREADABLE", window, now_ms, seconds=round(seconds, 3))


def _look(deployment: Deployment, pipeline: Pipeline, check: Check, began: float, until: float) -> Summary:
    if check.window["kind"] == "unreadable":
        summary = unreadable(check, check.window["reason"])
        store.write_unread(deployment, summary)
        return summary
    root, sink = deployment.root, find([pipeline], check.sink)
    known = findings.read(root, check.sink)
    progress = _Progress()
    if check.window["kind"] != "nothing" or known["open"]:
        suite = suite_of(pipeline, check.sink)
        known = _read_again(deployment, pipeline, sink, check, suite, known)
        if check.window["kind"] != "nothing":
            progress = _read_steps(deployment, pipeline, sink, check, suite, until)
    now_ms = int(check.parameters["now_ms"])
    outcomes = merge.outcomes(progress.outcomes, progress.rows) if progress.outcomes else []
    known = _with_found(known, check, progress, outcomes, now_ms)
    window = _window_read(check, progress)
    done = Check(check.sink, check.pipeline, check.query, window, check.parameters)
    failed = _with_acceptance(failures(outcomes), known)
    rows = store.quarantine_rows(done, outcomes, sink.key)
    stale = _stale(root, check)
    summary = Summary(
        sink=check.sink,
        pipeline=check.pipeline,
        query=check.query,
        status=_status(progress, outcomes, failed, known, stale),
        window=window,
        checked_at_ms=now_ms,
        seconds=round(time.monotonic() - began, 3),
        rows=progress.rows,
        sampled=not progress.complete,
        expectations=len(outcomes),
        quarantined=len(rows),
        failed=failed,
        batches=json_safe(progress.lacking[:20]),
        report=store.report_path(root, done) if outcomes else "",
        coverage=_coverage(check, progress),
        open=[_shown(each) for each in known["open"]],
        stale=stale,
    )
    store.record(deployment.bindings, summary, rows)
    store.write_report(root, summary, merge.results(progress.results) if progress.results else None)
    findings.write(root, check.sink, known)
    _move(root, check, progress)  # last: the next check reads again what was not kept
    return summary


def _read_steps(
    deployment: Deployment, pipeline: Pipeline, sink: CheckedSink, check: Check, suite: Mapping[str, Any], until: float
) -> _Progress:
    progress = _Progress()
    try:
        for step in steps.steps(deployment, sink, check):
            _validate_step(deployment, pipeline, sink, check, suite, step, progress)
            if time.monotonic() > until:
                break
    except Exception as error:
        if not progress.steps:
            raise
        traceback.print_exc()  # the earlier steps are kept; the next check continues after them
        progress.fault = words(error)
    return progress


def _validate_step(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Mapping[str, Any],
    step: steps.Step,
    progress: _Progress,
) -> None:
    """Validate one step and add its results to the progress."""
    partial = check.window["kind"] == "table" and (
        check.window["token"] is not None or step.reached["token"] is not None
    )
    frame = read.frame(deployment, pipeline, sink, check, step.rows, step.found)
    progress.complete = progress.complete and not partial
    progress.rows += len(frame)
    progress.batches += step.batches
    progress.steps += 1
    progress.windows += len(step.window.get("starts_ms", ()))
    progress.reached = step.reached
    for partition, (start, end) in step.offsets.items():
        progress.offsets[partition] = [progress.offsets.get(partition, [start])[0], end]
    if frame.empty and not _expects_rows(deployment, sink, check, step):
        return
    parameters = _parameters(deployment, pipeline, sink, check, step)
    step_suite = _of_rows(suite) if partial else suite
    outcomes, result = validate(step_suite, frame, sink.key, parameters)
    progress.outcomes.append(outcomes)
    progress.results.append(result)
    progress.lacking += read.missing_batches(step.window, frame)
    critical = [each for each in failures(outcomes) if each["severity"] == CRITICAL]
    if critical:
        progress.found.append(findings.make(check.sink, step.window, critical, int(check.parameters["now_ms"])))


def _parameters(
    deployment: Deployment, pipeline: Pipeline, sink: CheckedSink, check: Check, step: steps.Step
) -> dict[str, float]:
    """Return the values of the suite's parameters in a step. Every step has all of them, so a suite may use any."""
    parameters = {"rows_least": 0.0} | check.parameters | {"rows_out": step.rows_out}
    if check.window["kind"] == "table":
        parameters |= plan.moving(deployment, pipeline, sink, check.parameters.get("rows_taken", 0))
    return parameters


def _of_rows(suite: Mapping[str, Any]) -> dict[str, Any]:
    kept = [each for each in suite["expectations"] if not each["type"].startswith(_OF_THE_WHOLE)]
    return {**suite, "expectations": kept}


def _expects_rows(deployment: Deployment, sink: CheckedSink, check: Check, step: steps.Step) -> bool:
    """Return whether a step without rows should have rows: by the ledger of its batches, or of all batches for a table."""
    if step.window["kind"] == "batches":
        return bool(step.rows_out)
    if not check.parameters.get("rows_min"):
        return False
    if step.window["kind"] == "table":
        return check.window["token"] is None
    return read_cassandra.is_empty(deployment.bindings, sink)


def _read_again(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Mapping[str, Any],
    known: dict[str, list[findings.Finding]],
) -> dict[str, list[findings.Finding]]:
    """Close the open findings whose window now meets every expectation. A window that cannot be read again keeps its finding."""
    repaired = []
    for finding in known["open"][:READ_AGAIN]:
        if finding["window"]["kind"] == "table":
            continue  # the check itself reads the table
        try:
            if _keeps(deployment, pipeline, sink, check, suite, finding):
                repaired.append(finding["id"])
        except Exception:  # such as rows that retention has removed
            traceback.print_exc()
    reason = "the same window was read again and meets its expectations"
    at_ms = int(check.parameters["now_ms"])
    return findings.closed(known, repaired, findings.REPAIRED, by="a later check", reason=reason, at_ms=at_ms)


def _keeps(
    deployment: Deployment,
    pipeline: Pipeline,
    sink: CheckedSink,
    check: Check,
    suite: Mapping[str, Any],
    finding: findings.Finding,
) -> bool:
    """Return whether a finding's window has all its rows and meets every critical expectation.

    Missing rows repair nothing. Nor does a suite without the broken expectation: then a person accepts the finding.
    """
    if not {each["id"] for each in finding["expectations"]} <= {each["id"] for each in suite["expectations"]}:
        return False
    step = steps.again(deployment, sink, finding["window"])
    as_then = Check(check.sink, check.pipeline, check.query, step.window, check.parameters, check.references)
    frame = read.frame(deployment, pipeline, sink, as_then, step.rows, step.found)
    outcomes, _ = validate(suite, frame, sink.key, {"rows_least": 0.0} | check.parameters | {"rows_out": step.rows_out})
    broken = any(outcome.severity == CRITICAL and not outcome.success for outcome in outcomes)
    return not broken and not read.missing_batches(step.window, frame)


def _with_found(
    known: dict[str, list[findings.Finding]],
    check: Check,
    progress: _Progress,
    outcomes: list[Outcome],
    now_ms: int,
) -> dict[str, list[findings.Finding]]:
    """Add new findings. Close the findings of a table that was read completely and now meets the broken expectations."""
    if check.window["kind"] == "table" and progress.complete and progress.outcomes and not progress.fault:
        held = {outcome.id for outcome in outcomes if outcome.success}
        repaired = [
            each["id"]
            for each in known["open"]
            if each["window"]["kind"] == "table" and {one["id"] for one in each["expectations"]} <= held
        ]
        reason = "the complete table was read and meets its expectations"
        known = findings.closed(known, repaired, findings.REPAIRED, by="a later check", reason=reason, at_ms=now_ms)
    return findings.opened(known, progress.found)


def _with_acceptance(failed: list[dict[str, Any]], known: Mapping[str, list[findings.Finding]]) -> list[dict[str, Any]]:
    """Return the failures; those that a person accepted, and that are open in no window, say who accepted them."""
    open_ids = {one["id"] for each in known["open"] for one in each["expectations"]}
    accepted = {
        one["id"]: {"by": each["by"], "reason": each["reason"]}
        for each in known["closed"]
        if each["how"] == findings.ACCEPTED
        for one in each["expectations"]
    }
    return [
        each | {"accepted": accepted[each["id"]]}
        if each["severity"] == CRITICAL and each["id"] in accepted and each["id"] not in open_ids
        else each
        for each in failed
    ]


def _status(
    progress: _Progress,
    outcomes: list[Outcome],
    failed: list[dict[str, Any]],
    known: Mapping[str, list[findings.Finding]],
    stale: Mapping[str, Any],
) -> Status:
    if known["open"] or any(each["severity"] == CRITICAL and not each.get("accepted") for each in failed):
        return "FAILED"
    if progress.fault:
        return "UNREADABLE"
    if stale:
        return "STALE"
    if not outcomes:
        return "NOTHING"
    return "WARNED" if failed else status_of(outcomes)


def _window_read(check: Check, progress: _Progress) -> dict[str, Any]:
    """Return the check's window as far as it was read: the time limit may have ended it early."""
    window = {name: value for name, value in check.window.items() if name not in {"starts_ms", "sums"}}
    if progress.steps and window["kind"] == "batches" and progress.reached["last"] < window["last"]:
        window["last"] = progress.reached["last"]
        window["name"] = f"generation {window['generation']} batches {window['first']} to {window['last']}"
    if progress.steps and window["kind"] == "closed" and progress.reached["until_ms"] < window["until_ms"]:
        window["until_ms"] = progress.reached["until_ms"]
        first = iso(check.window["starts_ms"][0])
        window["name"] = f"windows {first} to {iso(window['until_ms'])}"
    if progress.offsets:
        window["offsets"] = progress.offsets
    if progress.fault:
        window["reason"] = progress.fault
    elif progress.steps and not progress.outcomes:
        window["reason"] = "nothing was written there"
    return window


def _coverage(check: Check, progress: _Progress) -> dict[str, Any]:
    """Return what was read and what is left: rows, batches or windows. `more`: the table has further rows."""
    left = dict(check.window.get("left", {}))
    coverage: dict[str, Any] = {"rows": progress.rows}
    if check.window["kind"] == "batches":
        coverage["batches"] = progress.batches
        left["batches"] += check.window["batches"] - progress.batches
        left["rows"] += (
            max(0, check.window["rows"] - progress.rows) if progress.batches < check.window["batches"] else 0
        )
    if check.window["kind"] == "closed":
        coverage["windows"] = progress.windows
        left["windows"] += len(check.window["starts_ms"]) - progress.windows
    if check.window["kind"] == "table":
        coverage["more"] = progress.reached.get("token") is not None
    passed_over = {name: check.window[name] for name in ("expired", "replaced") if name in check.window}
    return coverage | {"left": left} | passed_over


def _shown(finding: findings.Finding) -> dict[str, Any]:
    """Return an open finding without what only reading it again needs."""
    window = {name: finding["window"][name] for name in ("kind", "name")}
    broken = [{name: each[name] for name in ("expectation", "why", "unexpected")} for each in finding["expectations"]]
    return {"id": finding["id"], "window": window, "found_at_ms": finding["found_at_ms"], "expectations": broken}


def _stale(root: str, check: Check) -> dict[str, Any]:
    """Return how stale the sink is; empty where it is not."""
    behind, promised = check.parameters.get("behind_seconds", 0.0), check.parameters["freshness_seconds"]
    if behind <= promised:
        return {}
    intended = desired_state.read(root, check.pipeline)
    return {"behind_seconds": behind, "freshness_seconds": promised, "wanted": intended.want}


def _move(root: str, check: Check, progress: _Progress) -> None:
    """Move the position past the rows read and those that retention removed. A check with `since_ms` never moves it back."""
    before = position.read(root, check.sink)
    reached = dict(progress.reached)
    if "passed" in check.window and "last" not in reached:
        reached |= {"generation": check.window["generation"], "last": check.window["passed"]}
    if "since_ms" in check.window:
        reached = {}
    if "sums" in check.window:
        reached["sums"] = check.window["sums"]
    if reached:
        position.write(root, check.sink, before, reached)
