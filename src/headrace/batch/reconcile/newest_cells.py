"""The identity of rows that a table keeps by event time: the newest known cells of each key (Cassandra, Cells.reconcile).

A table has one row for each key, whatever was written before. So each cell of a record that the query took, or a newer one,
is in the sink. In a table with a ttl a cell is due if it was certainly written less than a ttl ago.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from headrace.batch import accounting
from headrace.batch.reconcile.kinds import KEEP, cells, placed
from headrace.batch.reconcile.sink_frames import ENTERED
from headrace.contract.model import CassandraSink, Query
from headrace.contract.platform_columns import SOURCE
from headrace.driver import sinks
from headrace.store.job_reports import Account, Difference


def compare(
    account: Account, query: Query, sink: CassandraSink, rows: DataFrame, speed: DataFrame, sure_from: int = 0,
    left_since: int = 0, *, complete: bool = True,
) -> None:  # fmt: skip
    """Compare the newest cells of each key with the sink, to the millisecond, Cassandra's precision.

    `rows` are those that the query made of the cut's records, with `accounting.BATCH`, and SOURCE if it is known. `sure_from`
    is the first batch whose rows are certainly in the sink: an older row is compared only if it is there. `left_since` is the
    first batch whose cells cannot have expired. `speed` may have ENTERED: a deletion came before, and covers everything older.
    A newer row in the sink is pending, if the rows are `complete`: otherwise an earlier batch may have written it.
    """
    key, time = [*sink.partition_key, *sink.clustering_key], sink.writetime
    columns = [name for name in query.columns if name not in key]
    for name in key:  # Cassandra stores milliseconds, in keys too
        if isinstance(rows.schema[name].dataType, TimestampType):
            rows = rows.withColumn(name, F.date_trunc("millisecond", name))

    place = F.col(SOURCE) if SOURCE in rows.columns else F.lit(None).alias(SOURCE)

    def newest_of(cell: str, name: str, taken: Column) -> Column:
        fields = (
            F.col(time).alias("at"),
            *sinks.cell_order(rows, cell),
            F.col(accounting.BATCH).alias("batch"),
            place,
        )
        return F.max(F.when(F.col(cell).isNotNull() & taken, F.struct(*fields))).alias(f"_{name}_{cell}")

    sure, any_ = F.col(accounting.BATCH) >= F.lit(sure_from), F.lit(True)
    newest = [newest_of(cell, name, which) for cell in columns for name, which in (("due", sure), ("may", any_))]
    left = F.col(accounting.BATCH) >= F.lit(left_since)
    due = rows.groupBy(*key).agg(*newest) if columns else rows.where(sure & left).select(*key).distinct()
    # In a time series the time is part of the key: a row exists or not, and is never newer.
    is_time = time if time in key else f"_is_{time}"
    entered = F.col(ENTERED) if ENTERED in speed.columns else F.lit(None).cast("bigint")
    present = speed.select(
        *key, F.lit(True).alias("_there"), entered.alias(ENTERED), *(F.col(c).alias(f"_is_{c}") for c in columns)
    )
    absent = F.col("_there" if time in key else is_time).isNull()
    with accounting.persisted(due.join(present, key, "left").withColumn("_absent", absent)) as both:
        newer = F.lit(False) if time in key else _milliseconds(is_time) > _milliseconds(f"_due_{time}.at")
        # A table with key columns only: a row exists or not.
        wrong, fields = (F.col("_absent"), F.lit(True)) if not columns else (F.lit(False), F.lit(False))
        for c in columns:
            at = F.unix_micros(f"_due_{c}.at")
            is_due = F.col(f"_due_{c}").isNotNull() & (F.col(ENTERED).isNull() | (at > F.col(ENTERED)))
            # With the cell of the time a row loses its age.
            for cell in {c} if time in key else {c, time}:
                is_due = is_due & (F.col(f"_due_{cell}.batch") >= F.lit(left_since))
            old = F.col("_absent") | (_milliseconds(is_time) < _milliseconds(f"_due_{c}.at"))
            wrong, fields = wrong | (is_due & old), fields | is_due
            for side in ("due", "may"):
                is_, value = F.col(f"_is_{c}"), F.col(f"_{side}_{c}.value")
                if isinstance(speed.schema[c].dataType, TimestampType):
                    is_, value = _milliseconds(f"_is_{c}"), _milliseconds(f"_{side}_{c}.value")
                same = F.coalesce(_milliseconds(is_time) == _milliseconds(f"_{side}_{c}.at"), F.lit(False))
                wrong, fields = wrong | (same & ~value.eqNullSafe(is_)), fields | same
        wrong, fields = F.coalesce(wrong, F.lit(False)), F.coalesce(fields, F.lit(False))
        account.compared = both.where(fields).count()
        unknown = both.where(~fields).count()
        if unknown:
            account.note = f"{unknown} keys are not compared: {_why_unknown(query, left_since)}"
        account.pending = both.where(newer & ~wrong).count() if complete else 0
        differing = both.where(wrong)
        account.differing = differing.count()
        for row in differing.orderBy(*key).limit(KEEP).collect():
            account.differences.append(_difference(row.asDict(recursive=True), key, columns))


def _why_unknown(query: Query, left_since: int) -> str:
    reasons = ["their cells may have expired by the table's ttl"] if left_since else []
    if query.matched:
        reasons.append("it is no longer known which records were matched")
    return ", or ".join(reasons)


def _difference(row: Mapping[str, Any], key: Sequence[str], names: Sequence[str]) -> Difference:
    newest = {name: row[f"_due_{name}"] or row[f"_may_{name}"] for name in names}
    difference = Difference(
        "missing in the sink" if row["_absent"] else "differs",
        cells((name, row[name]) for name in key),
        due=cells((name, cell and cell["value"]) for name, cell in newest.items()),
        speed=cells((name, row[f"_is_{name}"]) for name in names),
    )
    for cell in filter(None, newest.values()):
        source = cell[SOURCE]
        if source is None:
            continue
        difference = placed(difference, source["topic"], source["partition"], (source["offset"],) * 2, [cell["batch"]])
    return difference


def _milliseconds(name: str) -> Column:
    return F.unix_millis(F.col(name))
