"""Reconciliation for operators: plan a run, judge its report, and show the results over time.

Spark does the comparison (`batch/reconcile/reconciliation.py`). This module has what DAGs and the command line need.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation

from headrace.contract import names
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations import lake
from headrace.operations.batch import job_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.deployment import Deployment
from headrace.store import paths, small_files
from headrace.store.job_reports import Account, ReconcileReport

DAY_MS = 86_400_000


def plan(
    deployment: Deployment,
    pipeline: str,
    *,
    queries: Sequence[str] | None = None,
    days: float | None = None,
    tolerance: str = "0",
    only_new: bool = False,
    run: str | None = None,
) -> BatchRun:
    """Write the job spec of a reconciliation and return the run.

    `queries`: short names (None: all). `days`: only windows, joined rows and batches of single rows of the last `days` days;
    running totals are left out, because they span all days (None: everything). `tolerance`: the largest accepted difference
    of a sum. `only_new`: what no earlier run of this sort compared, and all whose rows in the sink have changed since.
    Raises HeadraceError for an unknown query, an invalid tolerance, or `only_new` with another limit.
    """
    known = deployment.pipeline(pipeline).queries
    unknown = [query for query in queries or () if query not in known]
    if unknown:
        raise HeadraceError(f"Unknown query {unknown[0]!r} of {pipeline}. Known queries: {', '.join(known)}.")
    try:
        tolerated = Decimal(tolerance)
    except InvalidOperation as error:
        raise HeadraceError(f"A tolerance is a number such as 0 or 0.01, not {tolerance!r}.") from error
    if not tolerated.is_finite() or tolerated < 0:
        raise HeadraceError(f"A tolerance is a number such as 0 or 0.01, not {tolerance!r}.")
    if only_new and (days is not None or tolerated):
        raise HeadraceError("A run of what is new has no limit on days and no tolerance: its results are kept.")
    now = time.time_ns() // 1_000_000
    spec = ReconcileSpec(
        queries=tuple(queries) if queries else None,
        since_ms=max(0, now - int(days * DAY_MS)) if days is not None else 0,
        tolerance=str(tolerated),
        at_ms=now,
        only_new=only_new,
    )
    return job_runs.prepare(deployment.root, "reconcile", pipeline, spec, run)


def queries_of(pipeline: str, chosen: Sequence[str]) -> list[str] | None:
    """Return the short names of a pipeline's queries among `<pipeline>.<query>`; None (all queries) if `chosen` is empty.

    Raises HeadraceError for a name without a pipeline: two pipelines may have queries with the same name.
    """
    bare = [name for name in chosen if not name.partition(".")[2]]
    if bare:
        raise HeadraceError(f"{bare[0]!r} names no query: write PIPELINE.QUERY, such as pos_sales.tumbling.")
    parts = [name.partition(".") for name in chosen]
    return [query for name, _, query in parts if name == pipeline] if chosen else None


def has_run(root: str, pipeline: str) -> bool:
    """Return whether a query of the pipeline ever ran: before that, nothing can be compared.

    A query has a folder. Operators, supervisor and driver write files beside it, whose names contain a dot.
    """
    return any("." not in name for name in small_files.list_names(paths.pipeline_folder(root, pipeline)))


def summary(report: ReconcileReport, named: int = 3) -> ReconcileReport:
    """Return a report that is small enough for an XCom: of each account the first `named` differences."""
    accounts = (replace(account, differences=account.differences[:named]) for account in report.accounts)
    return replace(report, accounts=tuple(accounts))


def require_even(report: ReconcileReport) -> None:
    """Raise HeadraceError with the first difference of each account that does not add up, and with what was not compared.

    An account that could not be compared is a failure. So is a report in which nothing was compared.
    """
    messages = []
    differing = [account for account in report.accounts if account.differing]
    if differing:
        named = "; ".join(f"{account.query}: {account.differing} ({words(account)})" for account in differing)
        messages.append(f"{report.pipeline} does not add up: {named}.")
    uncompared = not_compared(report)
    if uncompared:
        messages.append(f"{report.pipeline} was not compared: {'; '.join(uncompared)}.")
    if messages:
        raise HeadraceError(f"{' '.join(messages)} See docs/runbooks/ReconcileDifference.md, run {report.run}.")


def not_compared(report: ReconcileReport) -> list[str]:
    """Return a text for each account that should have been compared but was not, or one text if no account compared anything.

    A report without accounts (nothing ran) has nothing to compare.
    """
    accounts = report.accounts
    messages = [f"{account.query} ({account.note})" for account in accounts if account.status == "NOT_COMPARED"]
    if not messages and accounts and not any(account.compared for account in accounts):
        notes = sorted({account.note for account in accounts if account.note})
        messages = [f"nothing of it ({', '.join(notes) or 'no record, no closed window'})"]
    return messages


def words(account: Account) -> str:
    """Return the first difference of an account as text: what, key, batches and offsets."""
    if not account.differences:
        return "none named"
    first = account.differences[0]
    key = ", ".join(f"{name}={value}" for name, value in first.key.items())
    batches = _short(first.batches)
    offsets = ", ".join(f"{partition} {low}-{high}" for partition, (low, high) in sorted(first.offsets.items()))
    parts = [f"{first.what} {key}".strip(), f"batches {batches}" if batches else "", offsets]
    return printable(", ".join(part for part in parts if part))


@dataclass(frozen=True)
class ComparedRow:
    """A row of the table of all runs: an account. `at` and `closed` are times; `closed` is that of the newest closed window."""

    run: str
    at: datetime
    query: str
    sink: str
    kind: str
    generation: int
    cut: int
    closed: datetime | None
    compared: int
    late: int
    pending: int
    differing: int
    note: str
    status: str | None = None


@dataclass(frozen=True)
class DifferenceRow:
    """A row of the table of differences. `key`, `offsets` and `detail` are JSON."""

    run: str
    at: datetime
    query: str
    sink: str
    what: str
    key: str
    batches: tuple[int, ...]
    offsets: str
    detail: str


def trend(root: str, pipeline: str, limit: int = 100) -> list[ComparedRow]:
    """Return the newest accounts of all runs, newest first: what was compared and how many rows differed."""
    rows = lake.rows(ComparedRow, root, names.reconcile_table(pipeline, "runs"))
    return sorted(rows, key=lambda row: (row.at, row.query, row.sink), reverse=True)[:limit]


def differences(root: str, pipeline: str, run: str) -> list[DifferenceRow]:
    """Return the differences of one run as stored in the report table."""
    rows = lake.rows(DifferenceRow, root, names.reconcile_table(pipeline, "differences"))
    return [row for row in rows if row.run == run]


def _short(batches: Sequence[int]) -> str:
    if len(batches) <= 5:
        return ", ".join(map(str, batches))
    return f"{batches[0]}, {batches[1]} ... {batches[-1]} ({len(batches)})"
