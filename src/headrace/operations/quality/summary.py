"""The result of a check: for XCom, the reports, the trend and people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import HeadraceError
from headrace.operations.quality.status import GOOD, Status
from headrace.operations.quality.validate import CRITICAL, Outcome
from headrace.operations.quality.windows import NamedWindow, Nothing, Passed, Window
from headrace.store import records
from headrace.store.records import Json, Row

EXAMPLES = 3
BEHIND = "_behind_seconds"


@dataclass(frozen=True)
class Acceptance:
    """Who accepted a failed expectation, and why."""

    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Failure:
    """A failed expectation. `unexpected` rows, `percent` of all, break it; `examples` are a few of them.

    `observed` is the value of an expectation on all rows, `error` says why the expectation could not be judged.
    """

    id: str = ""
    expectation: str = ""
    severity: str = ""
    why: str = ""
    unexpected: int = 0
    percent: float = 0.0
    observed: Any = None
    error: str = ""
    examples: tuple[Row, ...] = ()
    accepted: Acceptance | None = records.optional()

    @property
    def closes_gate(self) -> bool:
        """Return whether it is critical, and no person accepted it."""
        return self.severity == CRITICAL and self.accepted is None


@dataclass(frozen=True)
class WrongBatch:
    """A batch whose row count differs from the ledger."""

    batch: int = 0
    expected: int = 0
    rows: int = records.key("found", 0)


@dataclass(frozen=True)
class Coverage:
    """What a check read and what it left, by unit; None: not in this unit. Without `rows` nothing is known.

    `more`: the table has further rows. `expired` and `replaced` count batches that were never checked.
    """

    rows: int | None = records.optional()
    batches: int | None = records.optional()
    windows: int | None = records.optional()
    more: bool | None = records.optional()
    left: dict[str, int] | None = records.optional()
    expired: Passed | None = records.optional()
    replaced: int = records.optional(0)


@dataclass(frozen=True)
class Stale:
    """How long records have waited, what the pipeline promises, and what the stream is `wanted` to do ("": not stale)."""

    behind_seconds: float = records.optional(0.0)
    freshness_seconds: float = records.optional(0.0)
    wanted: str = records.optional("")


@dataclass(frozen=True)
class OpenExpectation:
    """A broken expectation of an open finding."""

    expectation: str = ""
    why: str = ""
    unexpected: int = 0


@dataclass(frozen=True)
class OpenFinding:
    """An open finding (`findings.Finding`) without what only reading it again needs."""

    id: str = ""
    window: NamedWindow = field(default_factory=NamedWindow)
    found_at_ms: int = 0
    expectations: tuple[OpenExpectation, ...] = ()


@dataclass(frozen=True)
class Summary:
    """One check of one sink. `status` is one of `status.MEANING`; `window.reason` says why nothing was checked.

    `batches` are the batches whose row count differs from the ledger. `open` are the critical findings that keep the gate closed.
    `sampled`: the table was read in part. `report` is the file of the full report, "" without one.
    """

    sink: str = ""
    pipeline: str = ""
    query: str = ""
    status: Status = "NOTHING"
    window: Window = field(default_factory=Nothing)
    checked_at_ms: int = 0
    seconds: float = 0.0
    rows: int = 0
    sampled: bool = False
    expectations: int = 0
    quarantined: int = 0
    failed: tuple[Failure, ...] = ()
    batches: tuple[WrongBatch, ...] = ()
    report: str = ""
    coverage: Coverage = Coverage()
    open: tuple[OpenFinding, ...] = ()
    stale: Stale = Stale()


@dataclass(frozen=True)
class Report:
    """The full report of a check: its summary, and the result in Great Expectations' own JSON."""

    summary: Summary = Summary()
    result: Json = field(default_factory=dict)


def status_of(outcomes: Sequence[Outcome]) -> Status:
    """Return FAILED if a critical expectation failed, STALE if the age of the newest batch did, WARNED if another one did."""
    failed = [outcome for outcome in outcomes if not outcome.success]
    if any(outcome.severity == CRITICAL for outcome in failed):
        return "FAILED"
    if any(BEHIND in outcome.columns for outcome in failed):
        return "STALE"
    return "WARNED" if failed else "PASSED"


def failures(outcomes: Sequence[Outcome]) -> tuple[Failure, ...]:
    """Return the failed expectations, critical ones first, with a few examples each."""
    failed = sorted((o for o in outcomes if not o.success), key=lambda o: (o.severity != CRITICAL, o.text))
    return tuple(
        Failure(o.id, o.text, o.severity, o.why, o.unexpected, o.percent, o.observed, o.error, o.rows[:EXAMPLES])
        for o in failed
    )


def is_good(summary: Summary) -> bool:
    """Return whether a check read rows that may be used: only then does the sink's asset get an event."""
    return summary.status in GOOD


def gate(summary: Summary) -> str:
    """Return one line about a check. Raises HeadraceError with one sentence if the sink's gate is closed.

    A gate is closed by: an open critical finding, of this check or an earlier one; a sink that could not be read; a stream that
    is behind although it should run.
    """
    where = f"{summary.sink} ({summary.window.name})"
    see = f"see `headrace quality show {summary.sink}` and the runbook QualityCritical"
    if summary.status == "UNREADABLE":
        raise HeadraceError(f"{where} could not be read: {summary.window.reason}")
    critical = [failure for failure in summary.failed if failure.closes_gate]
    if critical:
        phrases = "; ".join(_phrase(failure) for failure in critical)
        raise HeadraceError(f"{where} breaks {len(critical)} critical expectation(s): {phrases}; {see}.")
    if summary.status == "FAILED":
        windows = ", ".join(finding.window.name for finding in summary.open[:3])
        raise HeadraceError(f"{where} has {len(summary.open)} open critical finding(s), of {windows}; {see}.")
    if summary.status == "STALE" and summary.stale.wanted in {"", "RUNNING"}:
        raise HeadraceError(f"{where} is stale: {stale_words(summary.stale)}; see `headrace stream status`.")
    warned = "".join(f"; warning: {_phrase(failure)}" for failure in summary.failed)
    covered = coverage_words(summary.coverage) or f"{summary.rows} rows"
    reason = f"; {summary.window.reason}" if summary.window.reason else ""
    return f"{where}: {summary.status}, {covered}, {summary.expectations} expectations{reason}{warned}"


def stale_words(stale: Stale) -> str:
    """Return as text how long records have waited."""
    if not stale.wanted:
        return "no batch has finished for longer than the pipeline promises"
    wanted = "" if stale.wanted == "RUNNING" else f"; the stream is wanted {stale.wanted}"
    return (
        f"records wait and no batch has finished for {stale.behind_seconds:.0f} s, "
        f"the pipeline promises {stale.freshness_seconds:.0f} s{wanted}"
    )


def coverage_words(coverage: Coverage) -> str:
    """Return as text what a check read and what it left: 1,200 of 5,000 rows, 3 of 9 batches; ..."""
    if coverage.rows is None:
        return ""
    left = coverage.left or {}
    read = {"rows": coverage.rows, "batches": coverage.batches, "windows": coverage.windows}
    parts = [_of(count, left.get(unit), unit) for unit, count in read.items() if count is not None]
    more = []
    if any(left.values()):
        more.append("the next check reads the rest")
    if coverage.more:
        more.append("the table has further rows, the next check reads them")
    if coverage.expired:
        more.append(f"{coverage.expired.batches:,} batches skipped: retention may have removed their rows")
    if coverage.replaced:
        more.append(f"{coverage.replaced:,} batches of an earlier generation were never checked")
    return "; ".join([", ".join(parts), *more])


def failed_words(summary: Summary) -> list[str]:
    """Return the failed expectations, and the open findings of earlier checks, as texts."""
    failed = [
        f"{failure.expectation} ({f'accepted by {failure.accepted.by}' if failure.accepted else failure.severity})"
        for failure in summary.failed
    ]
    names = (finding.window.name for finding in summary.open)
    return failed + [f"open: {name}" for name in names if name != summary.window.name]


def _of(read: int, left: int | None, unit: str) -> str:
    return f"{read:,} of {read + left:,} {unit}" if left else f"{read:,} {unit}"


def _phrase(failure: Failure) -> str:
    if failure.error:
        return f"{failure.expectation} cannot be judged ({failure.error})"
    if failure.unexpected:
        return f"{failure.expectation} in {failure.unexpected} rows, such as {list(failure.examples[:1])}"
    return f"{failure.expectation}, found {failure.observed}"
