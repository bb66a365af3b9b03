"""The identity of rows that are looked up in a table and written back by event time: the newest known cells of each key.

The table of then is gone, but what it did not have is on record: an unmatched record is a dead letter. All other accepted
records were matched, so each of their cells, or a newer one, is in the sink. A key that the table no longer has is left
out: the refresh deleted it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from headrace.contract.model import CassandraSink, Query
from headrace.streaming import batch
from headrace.streaming.reconcile_kinds import KEEP, Account
from headrace.streaming.reconcile_sinks import OFFSET, PARTITION


def newest(
    account: Account, query: Query, sink: CassandraSink, rows: DataFrame, letters: DataFrame, speed: DataFrame
) -> None:
    """Compare the newest cells of each key with the sink, to the millisecond that Cassandra keeps.

    `rows` is the transform over the cut's records and today's table, with `source`, `batch.BATCH` and the query's matched
    column; `letters` are the unmatched ones, from `reconcile_sinks.placed_by_id`. A sink that is newer is pending.
    """
    assert query.matched is not None
    key, time = [*sink.partition_key, *sink.clustering_key], sink.writetime
    cells = [name for name in query.columns if name not in key]
    for name in key:  # Cassandra keeps milliseconds, in a key too
        if isinstance(rows.schema[name].dataType, TimestampType):
            rows = rows.withColumn(name, F.date_trunc("millisecond", name))
    unmatched = letters.select(PARTITION, OFFSET).distinct()
    at = (F.col("source.partition") == F.col(PARTITION)) & (F.col("source.offset") == F.col(OFFSET))
    matched = rows.where(F.col(query.matched)).join(unmatched, at, "left_anti")

    def newest_of(cell: str) -> Column:
        told = (F.col(time).alias("at"), F.col(cell).alias("value"), F.col(batch.BATCH).alias("batch"), F.col("source"))
        return F.max(F.when(F.col(cell).isNotNull(), F.struct(*told))).alias(f"_due_{cell}")

    due = matched.groupBy(*key).agg(*map(newest_of, cells)) if cells else matched.select(*key).distinct()
    # In a time series the time is in the key: a row is there or not, and is never newer.
    is_time = time if time in key else f"_is_{time}"
    there = speed.select(*key, F.lit(True).alias("_there"), *(F.col(c).alias(f"_is_{c}") for c in cells))
    both = due.join(there, key, "left")
    absent = F.col("_there" if time in key else is_time).isNull()
    both = both.withColumn("_absent", absent).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        newer = F.lit(False) if time in key else _milliseconds(is_time) > _milliseconds(f"_due_{time}.at")
        wrong = F.col("_absent")
        for c in cells:
            old = F.col("_absent") | (_milliseconds(is_time) < _milliseconds(f"_due_{c}.at"))
            same = _milliseconds(is_time) == _milliseconds(f"_due_{c}.at")
            is_, value = F.col(f"_is_{c}"), F.col(f"_due_{c}.value")
            if isinstance(speed.schema[c].dataType, TimestampType):
                is_, value = _milliseconds(f"_is_{c}"), _milliseconds(f"_due_{c}.value")
            wrong = wrong | (F.col(f"_due_{c}").isNotNull() & (old | (same & ~value.eqNullSafe(is_))))
        account.compared = both.count()
        account.pending = both.where(newer & ~wrong).count()
        found = both.where(wrong)
        account.differing = found.count()
        for row in found.orderBy(*key).limit(KEEP).collect():
            account.differences.append(_difference(row.asDict(recursive=True), key, cells))
    finally:
        both.unpersist()


def _difference(row: Mapping[str, Any], key: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    behind = [row[f"_due_{c}"] for c in cells if row[f"_due_{c}"]]
    offsets: dict[str, list[int]] = {}
    for cell in behind:
        place = f"{cell['source']['topic']}/{cell['source']['partition']}"
        low, high = offsets.get(place, [cell["source"]["offset"]] * 2)
        offsets[place] = [min(low, cell["source"]["offset"]), max(high, cell["source"]["offset"])]
    return {
        "what": "missing in the sink" if row["_absent"] else "differs",
        "key": {name: row[name] for name in key},
        "due": {c: row[f"_due_{c}"] and row[f"_due_{c}"]["value"] for c in cells},
        "speed": {c: row[f"_is_{c}"] for c in cells},
        "batch": None,
        "late": None,
        "batches": sorted({cell["batch"] for cell in behind}),
        "offsets": offsets,
    }


def _milliseconds(name: str) -> Column:
    return F.unix_millis(F.col(name))
