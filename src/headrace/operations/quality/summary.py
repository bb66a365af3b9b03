"""The result of a check, small and JSON-safe: for XCom, the trend and people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.errors import HeadraceError
from headrace.operations.quality.status import GOOD, Status
from headrace.operations.quality.validate import CRITICAL, Outcome

EXAMPLES = 3
BEHIND = "_behind_seconds"


@dataclass(frozen=True)
class Summary:
    """One check of one sink. `status` is one of `status.MEANING`; `window.reason` says why nothing was checked.

    `failed` has for each failed expectation: id, expectation, severity, why, unexpected, percent, observed, error,
    examples, and `accepted` if a person accepted it. `batches` are the batches whose row count differs from the ledger.
    `coverage` is what was checked and what is left (`coverage_words`). `open` are the critical findings that keep the gate
    closed (`findings`). `stale` has behind_seconds, freshness_seconds and wanted if the sink is stale.
    """

    sink: str
    pipeline: str
    query: str
    status: Status
    window: dict[str, Any]
    checked_at_ms: int
    seconds: float = 0.0
    rows: int = 0
    sampled: bool = False
    expectations: int = 0
    quarantined: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, int]] = field(default_factory=list)
    report: str = ""
    coverage: dict[str, Any] = field(default_factory=dict)
    open: list[dict[str, Any]] = field(default_factory=list)
    stale: dict[str, Any] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `Summary(**...)` takes them back."""
        return asdict(self)


def status_of(outcomes: Sequence[Outcome]) -> Status:
    """Return FAILED if a critical expectation failed, STALE if the age of the newest batch did, WARNED if another one did."""
    failed = [outcome for outcome in outcomes if not outcome.success]
    if any(outcome.severity == CRITICAL for outcome in failed):
        return "FAILED"
    if any(BEHIND in outcome.columns for outcome in failed):
        return "STALE"
    return "WARNED" if failed else "PASSED"


def failures(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the failed expectations, critical ones first, with a few examples each."""
    failed = sorted((o for o in outcomes if not o.success), key=lambda o: (o.severity != CRITICAL, o.text))
    return [
        {
            "id": outcome.id,
            "expectation": outcome.text,
            "severity": outcome.severity,
            "why": outcome.why,
            "unexpected": outcome.unexpected,
            "percent": outcome.percent,
            "observed": outcome.observed,
            "error": outcome.error,
            "examples": list(outcome.rows[:EXAMPLES]),
        }
        for outcome in failed
    ]


def is_good(summary: Mapping[str, Any]) -> bool:
    """Return whether a check read rows that may be used: only then does the sink's asset get an event."""
    return summary["status"] in GOOD


def gate(summary: Mapping[str, Any]) -> str:
    """Return one line about a check. Raises HeadraceError with one sentence if the sink's gate is closed.

    A gate is closed by: an open critical finding, of this check or an earlier one; a sink that could not be read; a stream that
    is behind although it should run.
    """
    where = f"{summary['sink']} ({summary['window']['name']})"
    see = f"see `headrace quality show {summary['sink']}` and the runbook QualityCritical"
    if summary["status"] == "UNREADABLE":
        raise HeadraceError(f"{where} could not be read: {summary['window'].get('reason', '')}")
    critical = [each for each in summary["failed"] if each["severity"] == CRITICAL and not each.get("accepted")]
    if critical:
        phrases = "; ".join(_phrase(each) for each in critical)
        raise HeadraceError(f"{where} breaks {len(critical)} critical expectation(s): {phrases}; {see}.")
    if summary["status"] == "FAILED":
        windows = ", ".join(str(each["window"]["name"]) for each in summary["open"][:3])
        raise HeadraceError(f"{where} has {len(summary['open'])} open critical finding(s), of {windows}; {see}.")
    stale = summary.get("stale") or {}
    if summary["status"] == "STALE" and stale.get("wanted", "RUNNING") == "RUNNING":
        raise HeadraceError(f"{where} is stale: {stale_words(stale)}; see `headrace stream status`.")
    warned = "".join(f"; warning: {_phrase(each)}" for each in summary["failed"])
    covered = coverage_words(summary.get("coverage") or {}) or f"{summary['rows']} rows"
    reason = f"; {summary['window']['reason']}" if "reason" in summary["window"] else ""
    return f"{where}: {summary['status']}, {covered}, {summary['expectations']} expectations{reason}{warned}"


def stale_words(stale: Mapping[str, Any]) -> str:
    """Return as text how long records have waited."""
    if not stale:
        return "no batch has finished for longer than the pipeline promises"
    wanted = "" if stale["wanted"] == "RUNNING" else f"; the stream is wanted {stale['wanted']}"
    return (
        f"records wait and no batch has finished for {stale['behind_seconds']:.0f} s, "
        f"the pipeline promises {stale['freshness_seconds']:.0f} s{wanted}"
    )


def coverage_words(coverage: Mapping[str, Any]) -> str:
    """Return as text what a check read and what it left: 1,200 of 5,000 rows, 3 of 9 batches; ..."""
    if not coverage:
        return ""
    left = coverage.get("left", {})
    parts = [
        _of(coverage.get(unit, 0), left.get(unit), unit) for unit in ("rows", "batches", "windows") if unit in coverage
    ]
    more = []
    if any(left.values()):
        more.append("the next check reads the rest")
    if coverage.get("more"):
        more.append("the table has further rows, the next check reads them")
    if coverage.get("expired"):
        more.append(f"{coverage['expired']['batches']:,} batches skipped: retention may have removed their rows")
    if coverage.get("replaced"):
        more.append(f"{coverage['replaced']:,} batches of an earlier generation were never checked")
    return "; ".join([", ".join(parts), *more])


def _of(read: int, left: int | None, unit: str) -> str:
    return f"{read:,} of {read + left:,} {unit}" if left else f"{read:,} {unit}"


def _phrase(failure: Mapping[str, Any]) -> str:
    if failure["error"]:
        return f"{failure['expectation']} cannot be judged ({failure['error']})"
    if failure["unexpected"]:
        return f"{failure['expectation']} in {failure['unexpected']} rows, such as {failure['examples'][:1]}"
    return f"{failure['expectation']}, found {failure['observed']}"
