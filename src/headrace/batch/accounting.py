"""Arithmetic of the batch layer: which records Spark dropped as late, and whether batch = speed + late for every key.

The stream counts nothing for this. The ledger says which batch read an offset and with which watermark, and the archive
holds the record; the rest is Spark's rule (guide, "Handling Late Data and Watermarking"). In batch n, with W(n - 1) the
ledger's `late_watermark_ms` (SPARK-42376: not the watermark of the batch itself):
- aggregate: a row is dropped from each of its windows whose end <= W(n - 1), and stays in its others;
- join: a row of either side is dropped if its event time <= W(n - 1).
Complete mode and aggregates without a watermark drop nothing. W is read, never recomputed: a restart loses the maximum
event time of each topic, so the watermark of a join can advance later than the events alone would suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from functools import reduce

import numpy as np
import pandas as pd
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from headrace.contract.model import Window
from headrace.contract.platform_columns import SOURCE
from headrace.store.ledger import BatchRecord

_MICROSECOND = timedelta(microseconds=1)
BATCH, LATE_MARK, ROWS = "_headrace_batch", "_headrace_late_watermark_ms", "_headrace_rows"
"""Columns added to records and rows; their prefix keeps them apart from user columns."""
_TAKEN = f"{BATCH} bigint, {LATE_MARK} bigint"

_Ranges = dict[tuple[str, int], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


@contextmanager
def persisted(frame: DataFrame) -> Iterator[DataFrame]:
    """Keep a frame in memory, or on disk where that is full, as long as the block runs."""
    frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield frame
    finally:
        frame.unpersist()


def batch_of(records: DataFrame, ledger: Sequence[BatchRecord]) -> DataFrame:
    """Return accepted archive records (any frame with SOURCE) with BATCH and LATE_MARK (milliseconds).

    Both are null if no batch of this ledger (one generation of one query) has read the record yet.
    """
    ranges = _ranges(ledger)

    def find(topic: pd.Series, partition: pd.Series, offset: pd.Series) -> pd.DataFrame:
        return _find(topic, partition, offset, ranges)

    taken = F.pandas_udf(find, _TAKEN)(
        F.col(f"{SOURCE}.topic"), F.col(f"{SOURCE}.partition"), F.col(f"{SOURCE}.offset")
    )
    return records.withColumn("_taken", taken).select("*", "_taken.*").drop("_taken")


def late_windows(records: DataFrame, window: Window, transform: Callable[[DataFrame], DataFrame]) -> DataFrame:
    """Return the transform's rows over exactly those (record, window) pairs that Spark dropped.

    `records` comes from `batch_of`; `transform` is the query's transform and returns `window_start`.
    """
    return _by_class(records, window, transform, lambda end: end <= F.col(LATE_MARK) * 1000)


def in_time_windows(records: DataFrame, window: Window, transform: Callable[[DataFrame], DataFrame]) -> DataFrame:
    """Return the transform's rows over all other pairs: what the sink must hold, whatever the transform computes."""
    return _by_class(records, window, transform, lambda end: end > F.col(LATE_MARK) * 1000)


def _by_class(
    records: DataFrame, window: Window, transform: Callable[[DataFrame], DataFrame], keep: Callable[[Column], Column]
) -> DataFrame:
    """Return the transform's rows over the (record, window) pairs for whose window end (microseconds) `keep` is true.

    A record can be late only for its first windows, so windows are processed in classes that do not overlap (one if
    tumbling, two for 10/5 minutes). Inside a class a record has at most one window, so it is either late or not.
    """
    size, slide = window.size // _MICROSECOND, (window.slide or window.size) // _MICROSECOND
    offset = window.offset // _MICROSECOND
    classes = -(-size // slide)
    period = classes * slide
    time = F.unix_micros(window.column)
    parts = []
    for shift in range(0, period, slide):
        end = time - F.pmod(time - F.lit(shift + offset), F.lit(period)) + F.lit(size)
        rows = transform(records.where((end > time) & keep(end)))
        parts.append(rows.where(F.pmod(F.unix_micros("window_start") - F.lit(offset), F.lit(period)) == shift))
    return reduce(DataFrame.unionByName, parts)


def split_late(records: DataFrame, event_time: str) -> tuple[DataFrame, DataFrame]:
    """Split one side of a join, from `batch_of`, into (rows that Spark joined, rows that it dropped as late)."""
    late = F.unix_micros(event_time) <= F.col(LATE_MARK) * 1000
    return records.where(~late), records.where(late)


def counted(frame: DataFrame) -> DataFrame:
    """Return the distinct rows of a frame with ROWS, their number of occurrences."""
    return frame.groupBy(*frame.columns).agg(F.count(F.lit(1)).alias(ROWS))


def side_by_side(
    batch: DataFrame, speed: DataFrame, late: DataFrame, keys: Sequence[str], values: Sequence[str]
) -> DataFrame:
    """Return every key with its sums in all three: keys, then _batch_<value>, _speed_<value>, _late_<value> for each value.

    All three have `keys` and the numeric `values` (no floats: their sums depend on order). A key that is absent from
    one counts as 0 there, null keys are equal, and a duplicate key counts twice.
    """
    sides = {"batch": batch, "speed": speed, "late": late}
    parts = [
        frame.select(
            *keys,
            *(
                (F.col(value) if side == side_name else F.lit(None)).alias(f"_{side}_{value}")
                for value in values
                for side in sides
            ),
        )
        for side_name, frame in sides.items()
    ]
    sums = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in parts[0].columns if name not in keys]
    return reduce(DataFrame.unionByName, parts).groupBy(*keys).agg(*sums)


def differing(sides: DataFrame, values: Sequence[str], tolerance: Decimal | int = 0) -> DataFrame:
    """Return the rows of `side_by_side` where a value differs by more than the tolerance."""
    differs = [
        F.abs(F.col(f"_batch_{v}") - F.col(f"_speed_{v}") - F.col(f"_late_{v}")) > F.lit(tolerance) for v in values
    ]
    return sides.where(reduce(lambda one, other: one | other, differs))


def added_up(parts: DataFrame, name: str, *, required: bool) -> Column:
    """Return the sum of a column of partial totals, in its type.

    A required sum is null if one of its parts is null, or if it does not fit: it remains a total that no sink takes (ADR 30).
    """
    total = F.sum(name).cast(parts.schema[name].dataType)
    unknown = F.count_if(F.col(name).isNull()) > 0 if required else F.lit(False)
    return F.when(~unknown, total).alias(name)


def matched(sides: Mapping[str, DataFrame], keys: Sequence[str], values: Sequence[str]) -> DataFrame:
    """Return every key with its values on each side: keys, _has_<side>, then _<side>_<value>; values may have any type.

    Each side has `keys`, which are unique, and `values`; if a side lacks a key its values are null.
    """
    parts = [
        frame.select(
            *keys,
            *(F.lit(True if side == side_name else None).cast("boolean").alias(f"_has_{side}") for side in sides),
            *(
                (
                    F.col(value) if side == side_name else F.lit(None).cast(sides[side_name].schema[value].dataType)
                ).alias(f"_{side}_{value}")
                for side in sides
                for value in values
            ),
        )
        for side_name, frame in sides.items()
    ]
    kept = [F.max(name).alias(name) for name in parts[0].columns if name not in keys]
    return reduce(DataFrame.unionByName, parts).groupBy(*keys).agg(*kept)


def unlike(sides: DataFrame, one: str, other: str, values: Sequence[str], tolerance: Decimal | int = 0) -> DataFrame:
    """Return the rows of `matched` on which two sides disagree: one lacks the key, or a value differs.

    Numbers may differ by the tolerance.
    """
    differs = [~F.col(f"_has_{one}").eqNullSafe(F.col(f"_has_{other}"))]
    for value in values:
        first, second = F.col(f"_{one}_{value}"), F.col(f"_{other}_{value}")
        if tolerance and isinstance(sides.schema[f"_{one}_{value}"].dataType, NumericType):
            differs.append(F.coalesce(F.abs(first - second), F.lit(0)) > F.lit(tolerance))
        else:
            differs.append(~first.eqNullSafe(second))
    return sides.where(reduce(lambda a, b: a | b, differs))


def _ranges(ledger: Sequence[BatchRecord]) -> _Ranges:
    """Return for each topic partition the sorted starts, ends, batches and late watermarks of its non-empty ranges."""
    ranges: dict[tuple[str, int], list[tuple[int, int, int, int]]] = {}
    for record in ledger:
        for topic, partitions in record["offsets"].items():
            for partition, (start, end) in partitions.items():
                if end > start:
                    taken = (start, end, record["batch"], record["late_watermark_ms"])
                    ranges.setdefault((topic, int(partition)), []).append(taken)
    return {key: tuple(np.array(sorted(rows), dtype=np.int64).T) for key, rows in ranges.items()}


def _find(topic: pd.Series, partition: pd.Series, offset: pd.Series, ranges: _Ranges) -> pd.DataFrame:
    """Find the range of each offset by binary search; a range join would compare each record with each batch."""
    result = pd.DataFrame({BATCH: None, LATE_MARK: None}, index=offset.index, dtype="Int64")
    for key, rows in offset.groupby([topic, partition]):
        if key in ranges:
            starts, ends, batches, marks = ranges[key]
            place = np.searchsorted(starts, rows.to_numpy(), side="right") - 1
            inside = (place >= 0) & (rows.to_numpy() < ends[place])
            result.loc[rows.index[inside], BATCH] = batches[place[inside]]
            result.loc[rows.index[inside], LATE_MARK] = marks[place[inside]]
    return result
