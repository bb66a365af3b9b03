"""The batch layer's halves of windows that begin off the full step: in time and late, together all (D07)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting
from headrace.contract.model import Window

pytestmark = pytest.mark.spark

MINUTE = timedelta(minutes=1)
SIX = datetime(2026, 3, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(("size", "slide", "offset"), [(10, 10, 5), (10, 5, 3), (15, 10, 9)])
def test_windows_off_the_full_step_are_parted_by_their_own_ends(
    spark: SparkSession, size: int, slide: int, offset: int
) -> None:
    def transform(records: DataFrame) -> DataFrame:
        spans = F.window("at", *(f"{minutes} minutes" for minutes in (size, slide, offset)))
        return records.groupBy(spans.alias("w")).agg(F.count("*").alias("n")).select("w.start", "n").toDF(*columns)

    columns = ["window_start", "n"]
    window = Window(column="at", size=size * MINUTE, slide=slide * MINUTE, offset=offset * MINUTE)
    times = [SIX + minute * MINUTE for minute in range(0, 60, 3)]
    mark = int((SIX + 31 * MINUTE).timestamp() * 1000)
    records = spark.createDataFrame([(at, mark) for at in times], f"at timestamp, {accounting.LATE_MARK} bigint")
    counts: dict[datetime, int] = {}
    for at in times:
        for start in (SIX + (offset + slide * step) * MINUTE for step in range(-20, 20)):
            if start <= at < start + size * MINUTE:
                counts[start] = counts.get(start, 0) + 1
    late = {start: count for start, count in counts.items() if start + size * MINUTE <= SIX + 31 * MINUTE}
    assert late
    assert rows(accounting.late_windows(records, window, transform)) == late
    assert rows(accounting.in_time_windows(records, window, transform)) == {
        s: n for s, n in counts.items() if s not in late
    }


def rows(frame: DataFrame) -> dict[datetime, int]:
    collected = frame.selectExpr("unix_micros(window_start) micros", "n").collect()
    assert len({row.micros for row in collected}) == len(collected)
    return {datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row.micros): row.n for row in collected}
