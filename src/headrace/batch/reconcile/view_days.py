"""Compare the batch views with the archive: each day of a view must equal the result over that day's records.

A view's day is computed once, and again when records change it. Each run compares the newest days and some of the older
ones in rotation, so that all are compared within some nights at constant cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F

from headrace.batch import accounting, views
from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.batch.reconcile.kinds import KEEP, cells
from headrace.contract import batch_views as contract
from headrace.contract import names
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.model import Query
from headrace.store import view_state
from headrace.store.job_reports import Account, Difference
from headrace.store.view_state import ViewState

KIND = "batch view"
NEWEST, OLDER = 7, 7  # number of days that one run compares
DAY_MS = 86_400_000


def compare(
    job: Job, wanted: Mapping[str, Query], archives: Mapping[str, Archive], spec: ReconcileSpec
) -> list[Account]:
    """Return one account for each view of the given queries that holds any day; it counts days and reports differing rows.

    A day that is stale or outdated, or has new records since the newest run of the views, is pending: the next run computes it.
    """
    state = view_state.read(job.root, job.pipeline.name)
    held = sorted(date.fromisoformat(day) for day in state.days)
    served = {name: query for name, query in contract.views(job.pipeline).items() if name in wanted}
    if not held or not served:
        return []
    days = chosen(held, spec.at_ms, spec.since_ms)
    topics = {topic for query in served.values() for topic in query.sources}
    moving = views.touched(job, {topic: archives[topic] for topic in topics}, state)[0]
    moving |= {date.fromisoformat(day) for day in state.stale}
    settled = [day for day in days if day not in moving]
    accounts = [Account(name, f"view {names.batch_view_table(job.pipeline.name, name)}", KIND) for name in served]
    chosen_days = {name: _current(job, state, name, settled) for name in served}
    for account in accounts:
        account.pending = len(days) - len(chosen_days[account.query])
        if not _has_all_columns(job, account.query, served[account.query]):
            account.block(f"its table has other columns than the query. Run headrace batch views {job.pipeline.name}")
    if settled:
        sides, times = views.sides(job, {topic: archives[topic] for topic in topics}, served, settled)
        try:
            for account in (candidate for candidate in accounts if not candidate.blocked):
                query = served[account.query]
                mine = chosen_days[account.query]
                if mine:
                    _compare(account, job, query, views.inputs(job, account.query, sides), times, mine)
        finally:
            for side in sides.values():
                side.unpersist()
    return accounts


def chosen(held: Sequence[date], at_ms: int, since_ms: int) -> list[date]:
    """Return which of the views' days (ascending) to compare: the newest, and the next of the older ones.

    The run of the next day (`at_ms`) takes the next older days. With `since_ms`, only days from that time on are chosen.
    """
    if since_ms:
        since = datetime.fromtimestamp(since_ms / 1000, UTC).date()
        return [day for day in held if day >= since][-NEWEST - OLDER :]
    older, newest = held[:-NEWEST], held[-NEWEST:]
    first = at_ms // DAY_MS * OLDER
    turn = {older[(first + n) % len(older)] for n in range(OLDER)} if older else set()
    return [*sorted(turn), *newest]


def _current(job: Job, state: ViewState, name: str, days: Sequence[date]) -> list[date]:
    """Return the days that were computed with the current pipeline file."""
    outdated = view_state.outdated(state, job.pipeline, name)
    return [day for day in days if str(day) not in outdated]


def _has_all_columns(job: Job, name: str, query: Query) -> bool:
    table = names.batch_view_table(job.pipeline.name, name)
    return job.spark.catalog.tableExists(table) and set(contract.columns(query)) <= set(job.spark.table(table).columns)


def _compare(
    account: Account,
    job: Job,
    query: Query,
    sides: Mapping[str, DataFrame],
    times: Mapping[str, str],
    days: Sequence[date],
) -> None:
    keys = list(dict.fromkeys([contract.day(query), *contract.key(query)]))
    values = [column for column in contract.columns(query) if column not in keys]
    due = views.compute(query, sides, times, job.transforms[account.query], days)
    table = job.spark.table(names.batch_view_table(job.pipeline.name, account.query))
    held = table.where(F.col(contract.day(query)).isin(*days)).select(*contract.columns(query))
    together = accounting.matched(
        {"due": _with_count(due, keys), "speed": _with_count(held, keys)}, keys, [*values, accounting.ROWS]
    )
    unlike = accounting.unlike(together, "due", "speed", [*values, accounting.ROWS])
    with accounting.persisted(unlike) as differing:
        account.compared, account.differing = len(days), differing.count()
        for row in differing.orderBy(*keys).limit(KEEP).collect():
            account.differences.append(_difference(row, keys, values))


def _with_count(rows: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Return the rows with the number of rows of their key: a view that holds a row twice serves it twice."""
    return rows.withColumn(accounting.ROWS, F.count(F.lit(1)).over(Window.partitionBy(*keys)))


def _difference(row: Row, keys: Sequence[str], values: Sequence[str]) -> Difference:
    present, wanted = bool(row["_has_speed"]), bool(row["_has_due"])
    twice = present and row[f"_speed_{accounting.ROWS}"] > 1
    if not present:
        what = "missing in the view"
    elif not wanted:
        what = "in the view without records"
    else:
        what = "in the view more than once" if twice else "differs"
    return Difference(
        what,
        cells((key, row[key]) for key in keys),
        due=cells((value, row[f"_due_{value}"]) for value in values) if wanted else None,
        speed=cells((value, row[f"_speed_{value}"]) for value in values) if present else None,
    )
