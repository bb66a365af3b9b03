"""What a check found, small and JSON-safe: for XCom, for the trend, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from headrace.errors import HeadraceError
from headrace.operations.quality.validate import CRITICAL, Outcome

Status = Literal["PASSED", "WARNED", "FAILED", "EMPTY"]
EXAMPLES = 3


@dataclass(frozen=True)
class Summary:
    """One check of one sink. EMPTY: there was nothing to check, and `window.reason` says why.

    `failed` has for each failed expectation: id, expectation, severity, why, unexpected, percent, observed, error,
    examples. `batches` are those that do not hold as many rows as the ledger says.
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

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `Summary(**...)` takes them back."""
        return asdict(self)


def status_of(outcomes: Sequence[Outcome]) -> Status:
    """Return FAILED if a critical expectation failed, WARNED if another did, else PASSED."""
    failed = {outcome.severity for outcome in outcomes if not outcome.success}
    return "FAILED" if CRITICAL in failed else "WARNED" if failed else "PASSED"


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


def gate(summary: Mapping[str, Any]) -> str:
    """Return one line about a check that may go on. Raises HeadraceError, one sentence, where a critical one failed."""
    critical = [each for each in summary["failed"] if each["severity"] == CRITICAL]
    where = f"{summary['sink']} ({summary['window']['name']})"
    if critical:
        told = "; ".join(_phrase(each) for each in critical)
        raise HeadraceError(
            f"{where} breaks {len(critical)} critical expectation(s): {told}; see `headrace quality show "
            f"{summary['sink']}` and the runbook QualityCritical."
        )
    warned = "".join(f"; warning: {_phrase(each)}" for each in summary["failed"])
    return f"{where}: {summary['status']}, {summary['rows']} rows, {summary['expectations']} expectations{warned}"


def _phrase(failure: Mapping[str, Any]) -> str:
    if failure["error"]:
        return f"{failure['expectation']} cannot be judged ({failure['error']})"
    if failure["unexpected"]:
        return f"{failure['expectation']} in {failure['unexpected']} rows, such as {failure['examples'][:1]}"
    return f"{failure['expectation']}, found {failure['observed']}"
