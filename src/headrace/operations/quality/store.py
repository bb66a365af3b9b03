"""Storage of results: full reports and the newest of the series as files, the series and the quarantine as tables of Cassandra.

Every write may be repeated: a retry of a check writes the same report, the same row of the series and the same rows of
the quarantine (key: sink, window, expectation, row key), at the check's own time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from headrace.contract import names
from headrace.contract.cassandra import Table, quoted
from headrace.operations import clients
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.operations.quality import faults, trend
from headrace.operations.quality.plan import Check
from headrace.operations.quality.summary import Failure, Report, Summary, coverage_words
from headrace.operations.quality.validate import CRITICAL, Outcome
from headrace.store import paths, records, small_files, trees
from headrace.store.records import Json

SERIES_KEPT = timedelta(days=90)
QUARANTINE_KEPT = timedelta(days=30)
# Full reports of one sink that are kept, and so shown in the Data Docs and on the Streams page.
REPORTS_KEPT = trend.CHECKS_KEPT

RESULTS = Table(
    names.QUALITY_KEYSPACE,
    names.QUALITY_RESULTS,
    {
        "sink": "text",
        "checked_at": "timestamp",
        "status": "text",
        "window": "text",
        "rows": "bigint",
        "expectations": "int",
        "failed": "text",
        "critical": "int",
        "warnings": "int",
        "seconds": "double",
        "coverage": "text",
    },
    ("sink",),
    ("checked_at",),
    {"default_time_to_live": str(SERIES_KEPT // timedelta(seconds=1))},
)
QUARANTINE = Table(
    names.QUALITY_KEYSPACE,
    names.QUARANTINE,
    {
        "sink": "text",
        "window": "text",
        "expectation_id": "text",
        "row_key": "text",
        "expectation": "text",
        "severity": "text",
        "why": "text",
        "row": "text",
        "found_at": "timestamp",
    },
    ("sink", "window"),
    ("expectation_id", "row_key"),
    {"default_time_to_live": str(QUARANTINE_KEPT // timedelta(seconds=1))},
)


@dataclass(frozen=True)
class SeriesRow:
    """One check of the series; `checked_at` in ISO form, the number of failed expectations by severity."""

    sink: str
    checked_at: str
    status: str
    window: str
    rows: int
    expectations: int
    failed: tuple[Failure, ...]
    critical: int
    warnings: int
    seconds: float
    coverage: str | None


@dataclass(frozen=True)
class QuarantinedRow:
    """A failing row of an expectation; `row_key` and `row` are JSON text, `found_at` in ISO form."""

    sink: str
    window: str
    expectation_id: str
    row_key: str
    expectation: str
    severity: str
    why: str
    row: str
    found_at: str


def ensure_tables(session: Session) -> None:
    """Create both tables if they are missing, and add to the series the columns that an earlier release did not have."""
    keyspace = session.cluster.metadata.keyspaces.get(RESULTS.keyspace)
    existing = (
        keyspace.tables[RESULTS.name].columns if keyspace and RESULTS.name in keyspace.tables else RESULTS.columns
    )
    clients.ensure_tables(session, (RESULTS, QUARANTINE))
    for name, kind in RESULTS.columns.items():
        if name not in existing:
            session.execute(
                f"ALTER TABLE {quoted(RESULTS.keyspace, RESULTS.name)} ADD IF NOT EXISTS {quoted(name)} {kind}"
            )


def quarantine_rows(check: Check, outcomes: Sequence[Outcome], key: Sequence[str]) -> list[QuarantinedRow]:
    """Return one row for each failing row of each failed expectation."""
    rows: dict[tuple[str, str], QuarantinedRow] = {}
    for outcome in (outcome for outcome in outcomes if not outcome.success):
        for row in outcome.rows:
            row_key = json.dumps([row.get(name) for name in key], ensure_ascii=False)
            rows[outcome.id, row_key] = QuarantinedRow(
                sink=check.sink,
                window=check.window.name,
                expectation_id=outcome.id,
                row_key=row_key,
                expectation=outcome.text,
                severity=outcome.severity,
                why=outcome.why,
                row=json.dumps(row, ensure_ascii=False, sort_keys=True),
                found_at=_utc(check.parameters.get("now_ms", 0)),
            )
    return list(rows.values())


def record(bindings: Path, summary: Summary, quarantined: Sequence[QuarantinedRow]) -> None:
    """Write a check's row of the series and its failing rows; a repeat changes nothing."""
    critical = sum(failure.severity == CRITICAL for failure in summary.failed)
    result = SeriesRow(
        sink=summary.sink,
        checked_at=_utc(summary.checked_at_ms),
        status=summary.status,
        window=summary.window.name,
        rows=summary.rows,
        expectations=summary.expectations,
        failed=summary.failed,
        critical=critical,
        warnings=len(summary.failed) - critical,
        seconds=summary.seconds,
        coverage=coverage_words(summary.coverage),
    )
    with cassandra_session(bindings) as session:
        ensure_tables(session)
        _write(session, RESULTS, [result], summary.checked_at_ms * 1000)
        _write(session, QUARANTINE, quarantined, summary.checked_at_ms * 1000)


def _write(session: Session, table: Table, rows: Sequence[SeriesRow | QuarantinedRow], at_micros: int) -> None:
    columns = list(table.columns)
    insert = session.prepare(
        f"INSERT INTO {quoted(table.keyspace, table.name)} ({', '.join(map(quoted, columns))}) "  # noqa: S608 - quoted names
        f"VALUES ({', '.join('?' * len(columns))}) USING TIMESTAMP {at_micros}"
    )
    cells = [[_cell(row[name], kind) for name, kind in table.columns.items()] for row in map(records.to_json, rows)]
    execute_concurrent_with_args(session, insert, cells, concurrency=32)


def _cell(value: object, kind: str) -> object:
    """Return a JSON value as Cassandra takes it: times as such, lists as JSON text."""
    if kind == "timestamp":
        return datetime.fromisoformat(str(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def series(bindings: Path, sinks: Sequence[str], limit: int = 50) -> dict[str, list[SeriesRow]]:
    """Return sink -> its newest checks, newest first."""
    checks: dict[str, list[SeriesRow]] = {}
    with cassandra_session(bindings) as session:
        ensure_tables(session)
        select = session.prepare(
            f"SELECT * FROM {quoted(RESULTS.keyspace, RESULTS.name)} WHERE sink = ? "  # noqa: S608 - quoted names
            "ORDER BY checked_at DESC LIMIT ?"
        )
        for sink in sinks:
            checks[sink] = [
                records.from_json(
                    SeriesRow,
                    row._asdict() | {"checked_at": _iso(row.checked_at), "failed": json.loads(row.failed)},
                )
                for row in session.execute(select, (sink, limit))
            ]
    return checks


def quarantined(bindings: Path, sink: str, window: str, limit: int = 1_000) -> list[QuarantinedRow]:
    """Return the failing rows that a check of this window found."""
    with cassandra_session(bindings) as session:
        ensure_tables(session)
        select = session.prepare(
            f"SELECT * FROM {quoted(QUARANTINE.keyspace, QUARANTINE.name)} "  # noqa: S608 - quoted names
            "WHERE sink = ? AND window = ? LIMIT ?"
        )
        rows = session.execute(select, (sink, window, limit))
        return [QuarantinedRow(**row._asdict() | {"found_at": _iso(row.found_at)}) for row in rows]


def write_report(root: str, summary: Summary, result: Json | None) -> None:
    """Write the trend's file, the full report if there is one, then the newest summary of the sink.

    Reports beyond the newest REPORTS_KEPT are removed.
    """
    trend.remember(root, summary)
    if result is not None:
        records.write(summary.report, Report(summary, result))
        folder = paths.quality_results(root, summary.sink)
        for name in small_files.list_names(folder)[:-REPORTS_KEPT]:
            trees.remove_file(f"{folder}/{name}")
    records.write(paths.quality_latest(root, summary.sink), summary)


def write_unread(deployment: Deployment, summary: Summary) -> None:
    """Record that a sink could not be read. The store itself may be what failed, so its errors are only logged."""
    keeps: list[Callable[[], None]] = [
        lambda: write_report(deployment.root, summary, None),
        lambda: record(deployment.bindings, summary, []),
    ]
    for keep in keeps:
        try:
            keep()
        except Exception as error:  # the summary itself says that the sink could not be read
            faults.log(f"The result of {summary.sink} was not stored", error)


def report_path(root: str, check: Check) -> str:
    """Return the file of a check's report, named by time and window, so that a retry overwrites it."""
    at = f"{int(check.parameters.get('now_ms', 0)):015d}"
    window = re.sub(r"[^0-9A-Za-z]+", "-", check.window.name)
    return f"{paths.quality_results(root, check.sink)}/{at}-{window}.json"


def _utc(milliseconds: float) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def _iso(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="seconds")
