"""The newest checks of a sink in one file, which the Streams page and the exporter read instead of Cassandra."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import HeadraceError
from headrace.operations.quality.summary import Summary, coverage_words, failed_words
from headrace.store import paths, records, small_files

CHECKS_KEPT = 30


@dataclass(frozen=True)
class TrendPoint:
    """One check: `failed` and `coverage` are texts, `reason` says why nothing was checked, `report`: it has a full report."""

    checked_at_ms: int
    status: str
    window: str = ""
    rows: int = 0
    failed: tuple[str, ...] = ()
    coverage: str = ""
    reason: str = ""
    report: bool = True


def read(root: str, sink: str) -> list[TrendPoint]:
    """Return the newest checks of a sink, newest first. Raises HeadraceError for a file that is no such list."""
    path = paths.quality_trend(root, sink)
    content = small_files.read_json(path) or []
    if not isinstance(content, list):
        raise HeadraceError(f"{path} is no list: the next check of {sink} writes it again.")
    return [records.from_json(TrendPoint, point) for point in content]


def remember(root: str, summary: Summary) -> None:
    """Add a check to the file, with at most CHECKS_KEPT checks.

    If two checks of one sink end at the same moment, the file may have only one of them. The series in Cassandra has both.
    """
    point = TrendPoint(
        checked_at_ms=summary.checked_at_ms,
        status=summary.status,
        window=summary.window.name,
        rows=summary.rows,
        failed=tuple(failed_words(summary)),
        coverage=coverage_words(summary.coverage),
        reason=summary.window.reason,
        report=bool(summary.report),
    )
    try:
        known = {(checked.checked_at_ms, checked.window): checked for checked in read(root, summary.sink)}
        newest = max(known, default=None)
    except (HeadraceError, TypeError):  # no check fails because of its display
        known, newest = {}, None
    if newest and known[newest].status == point.status == "NOTHING":
        del known[newest]  # a quiet sink does not push out earlier results
    known[point.checked_at_ms, point.window] = point
    kept = [known[key] for key in sorted(known, reverse=True)][:CHECKS_KEPT]
    small_files.write_json(paths.quality_trend(root, summary.sink), [records.to_json(checked) for checked in kept])
