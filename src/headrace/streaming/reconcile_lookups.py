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
from headrace.streaming.reconcile_kinds import KEEP, Account
from headrace.streaming.reconcile_sinks import OFFSET, PARTITION


def newest(
    account: Account, query: Query, sink: CassandraSink, rows: DataFrame, letters: DataFrame, speed: DataFrame
) -> None:
    """Compare the newest cells of each key with the sink, to the millisecond that Cassandra keeps.

    `rows` is the transform over the cut's records and today's table, with `source`, `batch` and the query's matched
    column; `letters` are the unmatched ones, from `reconcile_sinks.placed_by_id`. A sink that is newer is pending.
    """
    assert query.matched is not None
    key, time = [*sink.partition_key, *sink.clustering_key], sink.writetime
    cells = [name for name in query.columns if name not in key]
    unmatched = letters.select(PARTITION, OFFSET).distinct()
    at = (F.col("source.partition") == F.col(PARTITION)) & (F.col("source.offset") == F.col(OFFSET))
    matched = rows.where(F.col(query.matched)).join(unmatched, at, "left_anti")
    due = matched.groupBy(*key).agg(
        *(
            F.max(F.when(F.col(c).isNotNull(), F.struct(F.col(time).alias("at"), F.col(c).alias("value"), "batch", "source")))
            .alias(f"due_{c}")
            for c in cells
        )
    )  # fmt: skip
    there = speed.select(*key, *(F.col(c).alias(f"is_{c}") for c in cells))
    both = due.join(there, key, "left").persist(StorageLevel.MEMORY_AND_DISK)
    try:
        newer = _milliseconds(f"is_{time}") > _milliseconds(f"due_{time}.at")
        wrong = F.lit(False)
        for c in cells:
            old = F.col(f"is_{time}").isNull() | (_milliseconds(f"is_{time}") < _milliseconds(f"due_{c}.at"))
            same = _milliseconds(f"is_{time}") == _milliseconds(f"due_{c}.at")
            is_, value = F.col(f"is_{c}"), F.col(f"due_{c}.value")
            if isinstance(speed.schema[c].dataType, TimestampType):
                is_, value = _milliseconds(f"is_{c}"), _milliseconds(f"due_{c}.value")
            wrong = wrong | (F.col(f"due_{c}").isNotNull() & (old | (same & ~value.eqNullSafe(is_))))
        account.compared = both.count()
        account.pending = both.where(newer & ~wrong).count()
        found = both.where(wrong)
        account.differing = found.count()
        for row in found.orderBy(*key).limit(KEEP).collect():
            account.differences.append(_difference(row.asDict(recursive=True), key, cells, time))
    finally:
        both.unpersist()


def _difference(row: Mapping[str, Any], key: Sequence[str], cells: Sequence[str], time: str) -> dict[str, Any]:
    behind = [row[f"due_{c}"] for c in cells if row[f"due_{c}"]]
    offsets: dict[str, list[int]] = {}
    for cell in behind:
        place = f"{cell['source']['topic']}/{cell['source']['partition']}"
        low, high = offsets.get(place, [cell["source"]["offset"]] * 2)
        offsets[place] = [min(low, cell["source"]["offset"]), max(high, cell["source"]["offset"])]
    return {
        "what": "missing in the sink" if row[f"is_{time}"] is None else "differs",
        "key": {name: row[name] for name in key},
        "due": {c: row[f"due_{c}"] and row[f"due_{c}"]["value"] for c in cells},
        "speed": {c: row[f"is_{c}"] for c in cells},
        "batch": None,
        "late": None,
        "batches": sorted({cell["batch"] for cell in behind}),
        "offsets": offsets,
    }


def _milliseconds(name: str) -> Column:
    return F.unix_millis(F.col(name))
