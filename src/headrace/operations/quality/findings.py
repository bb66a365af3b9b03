"""Critical findings that stay open until a person accepts them or a later check shows them repaired.

Each sink has one file. A finding lists the expectations that one window broke. It is repaired when the same window, read again,
meets them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from headrace.errors import HeadraceError
from headrace.operations.quality.summary import Failure, OpenExpectation, OpenFinding
from headrace.operations.quality.windows import BatchesStep, NamedWindow, StepWindow, TableWindow
from headrace.store import paths, records
from headrace.store.records import Row

CLOSED_KEPT = 200
REPAIRED, ACCEPTED = "repaired", "accepted"


@dataclass(frozen=True)
class Broken:
    """An expectation that a window broke (see `summary.Failure`)."""

    id: str = ""
    expectation: str = ""
    why: str = ""
    unexpected: int = 0
    error: str = ""
    examples: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A window that broke critical expectations."""

    id: str = ""
    window: StepWindow = field(default_factory=BatchesStep)
    found_at_ms: int = 0
    expectations: tuple[Broken, ...] = ()

    @property
    def ids(self) -> set[str]:
        """Return the ids of the broken expectations."""
        return {expectation.id for expectation in self.expectations}

    @property
    def shown(self) -> OpenFinding:
        """Return what a summary says of an open finding."""
        broken = tuple(
            OpenExpectation(expectation.expectation, expectation.why, expectation.unexpected)
            for expectation in self.expectations
        )
        return OpenFinding(self.id, NamedWindow(self.window.kind, self.window.name), self.found_at_ms, broken)


@dataclass(frozen=True)
class ClosedFinding(Finding):
    """A finding that was REPAIRED or ACCEPTED (`how`), by whom, why and when."""

    how: str = ""
    by: str = ""
    reason: str = ""
    at_ms: int = 0


@dataclass(frozen=True)
class Findings:
    """The findings of a sink, oldest first; of the closed ones the newest CLOSED_KEPT."""

    open: tuple[Finding, ...] = ()
    closed: tuple[ClosedFinding, ...] = ()


def read(root: str, sink: str) -> Findings:
    """Return the findings of a sink. Raises HeadraceError if the file is broken."""
    return records.read(Findings, paths.quality_findings(root, sink)) or Findings()


def make(sink: str, window: StepWindow, failed: Sequence[Failure], at_ms: int) -> Finding:
    """Return the finding of a window whose critical expectations `failed`; the same window gives the same id."""
    place = window.kind if isinstance(window, TableWindow) else window.name
    broken = tuple(
        Broken(failure.id, failure.expectation, failure.why, failure.unexpected, failure.error, failure.examples)
        for failure in failed
    )
    return Finding(hashlib.sha256(f"{sink}/{place}".encode()).hexdigest()[:10], window, at_ms, broken)


def opened(known: Findings, new: Iterable[Finding]) -> Findings:
    """Return the findings with new ones added. A finding that is already open keeps the time when it was first found.

    A finding that a person accepted stays accepted while the same window breaks no further expectation. A table is one
    window.
    """
    open_findings = {finding.id: finding for finding in known.open}
    accepted = {finding.id: finding for finding in known.closed if finding.how == ACCEPTED}
    for finding in new:
        if finding.id in accepted and not _is_worse(accepted[finding.id], finding):
            continue
        open_findings[finding.id] = replace(finding, found_at_ms=open_findings.get(finding.id, finding).found_at_ms)
    return replace(known, open=tuple(open_findings.values()))


def _is_worse(accepted: Finding, finding: Finding) -> bool:
    """Return whether a finding has an expectation that was not accepted, or more rows that break one."""
    rows = {expectation.id: expectation.unexpected for expectation in accepted.expectations}
    return any(expectation.unexpected > rows.get(expectation.id, -1) for expectation in finding.expectations)


def closed(known: Findings, ids: Iterable[str], how: str, *, by: str, reason: str, at_ms: int) -> Findings:
    """Return the findings with those of `ids` closed."""
    closing = set(ids)
    closed_now = tuple(
        ClosedFinding(finding.id, finding.window, finding.found_at_ms, finding.expectations, how, by, reason, at_ms)
        for finding in known.open
        if finding.id in closing
    )
    kept = tuple(finding for finding in known.open if finding.id not in closing)
    return Findings(kept, (*known.closed, *closed_now)[-CLOSED_KEPT:])


def write(root: str, sink: str, content: Findings) -> None:
    """Replace a sink's findings."""
    records.write(paths.quality_findings(root, sink), content)


def accept(root: str, sink: str, ids: Sequence[str], *, by: str, reason: str) -> list[ClosedFinding]:
    """Accept open findings of a sink (all of them if `ids` is empty) and return them.

    Raises HeadraceError for a reason of fewer than three characters, and for an id that is not open.
    """
    if len(reason.strip()) < 3:
        raise HeadraceError("An acceptance needs a reason of at least three characters: --reason 'TEXT'.")
    known = read(root, sink)
    open_ids = [finding.id for finding in known.open]
    for finding_id in ids:
        if finding_id not in open_ids:
            raise HeadraceError(
                f"{sink} has no open finding {finding_id!r}. Open findings: {', '.join(open_ids) or 'none'}. "
                f"`headrace quality show {sink}` lists them."
            )
    if not open_ids:
        raise HeadraceError(f"{sink} has no open finding, so there is nothing to accept.")
    now_ms = time.time_ns() // 1_000_000
    chosen = list(ids) or open_ids
    updated = closed(known, chosen, ACCEPTED, by=by, reason=reason.strip(), at_ms=now_ms)
    write(root, sink, updated)
    return [finding for finding in updated.closed if finding.id in set(chosen) and finding.at_ms == now_ms]
