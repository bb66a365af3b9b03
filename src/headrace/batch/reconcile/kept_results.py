"""What earlier reconciliations compared, kept so that a nightly one compares only what is new (ADR 0015).

Closed days: once the rows of a day match the archive, a digest of the sink's rows is kept for each range of keys. A later
run reads the sink, not the archive: a day whose digest is the same is as it was compared. The first other day, or new day,
is where the comparison with the archive begins. Running totals: the totals that the archive gave up to a batch are kept;
to those a later run adds the records of later batches. Both hold for one generation and one set of columns. Single rows:
the newest batch of a query, and the ends of an archive, up to which they were compared.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch import accounting, lake_tables
from headrace.batch.finite_job import Job
from headrace.batch.reconcile.kinds import Cut
from headrace.contract import batch_views, names
from headrace.contract.model import Query
from headrace.contract.spark_types import ddl
from headrace.driver import iceberg_maintenance
from headrace.store.generation import Generation

RANGES = 16
DAY_MS = 86_400_000
NO_ROWS = "{}"
BEGINNING = date(1000, 1, 1)  # Spark takes no earlier year
ROWS_DDL = "query STRING, generation INT, began_ms BIGINT, ends STRING, run STRING, at TIMESTAMP"
DAYS_DDL = "account STRING, stamp STRING, day DATE, digests STRING, run STRING, at TIMESTAMP"

Digests = Mapping[date, str]
"""day -> key range -> [number of rows, sum of their hashes], as JSON."""


@dataclass(frozen=True)
class Days:
    """The closed days [.., past) of one sink with their digests now, and the time from which to compare with the archive."""

    account: str
    stamp: str
    past: date
    digests: Digests
    since_ms: int = 0
    known: int = 0  # days before `since_ms` that are as they were compared

    @property
    def known_rows(self) -> int:
        """Return the number of the sink's rows on days that are as they were compared."""
        before = [text for day, text in self.digests.items() if midnight_ms(day) < self.since_ms] if self.known else []
        return sum(count for text in before for count, _ in json.loads(text).values())

    def rows(self) -> list[tuple[date, str]]:
        """Return every closed day from the first with rows or compared, with its digests."""
        begins = [*self.digests, *([_day(self.since_ms)] if self.since_ms else [])]
        days = batch_views.between(min(begins), self.past) if begins else []
        return [(day, self.digests.get(day, NO_ROWS)) for day in days]


@dataclass(frozen=True)
class Rows:
    """How far single rows were compared: when the newest compared batch began, and for an archive its ends, in offsets."""

    began_ms: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)


KeptDays = Mapping[tuple[str, str], Mapping[date, str]]
"""(account, stamp) -> day -> digests: what earlier runs of a pipeline kept of closed days."""


def read(job: Job) -> KeptDays:
    """Return what earlier runs kept of closed days."""
    table = names.reconcile_table(job.pipeline.name, "days")
    kept: dict[tuple[str, str], dict[date, str]] = {}
    if job.spark.catalog.tableExists(table):
        for row in job.spark.table(table).collect():
            kept.setdefault((row.account, row.stamp), {})[row.day] = row.digests
    return kept


def stamp_of(query: Query, now: Generation) -> str:
    """Return what a kept result holds for: the generation, and the names and types of the columns."""
    return f"{now.number}: {ddl(query.columns)}"


def days_of(kept: KeptDays | None, account: str, query: Query, rows: DataFrame, cut: Cut, complete_ms: int) -> Days:
    """Return the closed days of a sink of windows or joined rows, and from when to compare them.

    `rows` are the sink's; `complete_ms` is the time from which it is complete (0: always was). `kept` None: compare all.
    """
    margin = batch_views.margin(query) // timedelta(milliseconds=1)
    past = _day(max(cut.closed_ms - margin - 1, 0))
    first = _day(complete_ms) + timedelta(days=1) if complete_ms else BEGINNING
    stamp, now = stamp_of(query, cut.generation), digests(query, rows, first, past)
    known = {day: text for day, text in (kept or {}).get((account, stamp), {}).items() if day >= first}
    day = first_unlike(known, now, past)
    same = sum(other < day for other in known) if day else 0
    return Days(account, stamp, past, now, midnight_ms(day) if day else 0, same)


def digests(query: Query, rows: DataFrame, first: date, past: date) -> dict[date, str]:
    """Return the digests of the days [first, past) that have rows."""
    day = F.to_date(batch_views.day_column(query))
    key_range = F.pmod(F.xxhash64(*batch_views.key(query)), F.lit(RANGES))
    sums = (
        rows.where((day >= F.lit(first)) & (day < F.lit(past)))
        .groupBy(day.alias("day"), key_range.alias("range"))
        .agg(F.count(F.lit(1)).alias("rows"), F.sum(F.xxhash64(*query.columns)).alias("hash"))
    )
    ranges: dict[date, dict[str, list[int]]] = {}
    for row in sums.collect():
        ranges.setdefault(row.day, {})[str(row["range"])] = [row["rows"], row["hash"]]
    return {day: json.dumps(parts, sort_keys=True) for day, parts in ranges.items()}


def first_unlike(known: Digests, now: Digests, past: date) -> date | None:
    """Return the first day before `past` that no run compared or whose rows are others now; `past` if none; None: compare all."""
    if not known:
        return None
    day = min([*known, *now])
    while day < past and known.get(day) == now.get(day, NO_ROWS):
        day += timedelta(days=1)
    return day


def keep_days(job: Job, even: Sequence[Days], at: datetime) -> None:
    """Keep the closed days of sinks that matched the archive, in place of what was kept of them."""
    rows = [(days.account, days.stamp, day, text, job.run, at) for days in even for day, text in days.rows()]
    if rows:
        replace_rows(job, "days", DAYS_DDL, "account", {row[0] for row in rows}, rows)


def rows_of(job: Job) -> dict[tuple[str, int], Rows]:
    """Return (query, generation) -> how far its single rows were compared."""
    table = names.reconcile_table(job.pipeline.name, "rows")
    if not job.spark.catalog.tableExists(table):
        return {}
    rows = job.spark.table(table).collect()
    return {(row["query"], row["generation"]): Rows(row["began_ms"], json.loads(row["ends"])) for row in rows}


def keep_rows(job: Job, compared: Mapping[tuple[str, int], Rows], at: datetime) -> None:
    """Keep how far the single rows of queries were compared without a difference, in place of what was kept of them."""
    rows = [
        (query, number, done.began_ms, json.dumps(done.ends, sort_keys=True), job.run, at)
        for (query, number), done in sorted(compared.items())
    ]
    if rows:
        replace_rows(job, "rows", ROWS_DDL, "query", {query for query, _ in compared}, rows)


def replace_rows(
    job: Job, kind: str, columns: str, by: str, values: Collection[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Write rows into a report table (`names.reconcile_table`) in place of those whose column `by` has one of the values."""
    table = names.reconcile_table(job.pipeline.name, kind)
    lake_tables.ensure(job.spark, table, columns, by)
    replaced = F.col(by).isin(sorted(values))
    job.spark.createDataFrame(rows, columns).coalesce(1).writeTo(table).overwrite(replaced)
    iceberg_maintenance.maintain_own(job.spark, job.root, table)


@dataclass(frozen=True)
class Totals:
    """Running totals that the archive gave: all records up to a batch, one row for each key."""

    batch: int
    rows: DataFrame


def totals_of(job: Job, name: str, query: Query, cut: Cut) -> Totals | None:
    """Return the kept totals of a query if they hold for its generation and columns."""
    table = names.reconcile_table(job.pipeline.name, f"totals_{name}")
    if not job.spark.catalog.tableExists(table):
        return None
    rows = job.spark.table(table)
    first = rows.select("_stamp", "_batch").first()
    if first is None or first["_stamp"] != stamp_of(query, cut.generation) or first["_batch"] > cut.seen:
        return None
    return Totals(first["_batch"], rows.select(*query.columns).localCheckpoint())  # this run replaces them


def keep_totals(job: Job, name: str, query: Query, due: DataFrame, cut: Cut) -> None:
    """Keep the totals as of the newest batch that was certainly in the sink."""
    table = names.reconcile_table(job.pipeline.name, f"totals_{name}")
    columns = f"{ddl(query.columns)}, _stamp STRING, _batch BIGINT"
    lake_tables.ensure(job.spark, table, columns, "_stamp")
    rows = due.select(
        *query.columns, F.lit(stamp_of(query, cut.generation)).alias("_stamp"), F.lit(cut.seen).alias("_batch")
    )
    typed = [F.col(field.name).cast(field.dataType) for field in job.spark.table(table).schema]
    rows.select(*typed).coalesce(1).writeTo(table).overwrite(F.lit(True))
    iceberg_maintenance.maintain_own(job.spark, job.root, table)


def added(query: Query, *parts: DataFrame) -> DataFrame:
    """Return the totals of parts: the sums of the numeric columns (`accounting.added_up`), for each value of the others."""
    values = batch_views.values(query)
    together = parts[0]
    for part in parts[1:]:
        together = together.unionByName(part)
    sums = [accounting.added_up(parts[0], value, required=query.columns[value].required) for value in values]
    return together.groupBy(*others(query)).agg(*sums).select(*query.columns) if sums else together.distinct()


def others(query: Query) -> list[str]:
    """Return the columns of running totals that are not summed: a total is kept only if all of them are as fixed as the key."""
    return [name for name in query.columns if name not in batch_views.values(query)]


def midnight_ms(day: date) -> int:
    """Return the beginning of a day, UTC, in milliseconds since 1970."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def _day(milliseconds: int) -> date:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()
