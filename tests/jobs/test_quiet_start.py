"""A limit of Spark that the README states: after a start, the watermark of the batch before waits for the next record."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

pytestmark = pytest.mark.spark

NO_DATA = "spark.sql.streaming.noDataMicroBatches.enabled"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_closed_window_waits_for_the_next_record_when_its_driver_ended_before_the_batch_without_records(
    spark: SparkSession, tmp_path: Path
) -> None:
    starts: list[datetime] = []

    def lay(minutes: int) -> None:
        times = pa.array([BEGIN + timedelta(minutes=minutes)], pa.timestamp("us", "UTC"))
        file = tmp_path / "input" / f"{minutes:03}.parquet"
        pq.write_table(pa.table({"at": times}), file)
        os.utime(file, (minutes, minutes))  # Spark takes the oldest first

    def keep(rows: DataFrame, _: int) -> None:
        starts.extend(row.start for row in rows.collect())

    def run(folder: str, *, batches_without_records: bool) -> None:
        spark.conf.set(NO_DATA, str(batches_without_records).lower())
        read = spark.readStream.schema("at timestamp").option("maxFilesPerTrigger", 1).parquet(str(tmp_path / "input"))
        windows = read.withWatermark("at", "1 minute").groupBy(F.window("at", "5 minutes")).count()
        query = (
            windows.select("window.start")
            .writeStream.foreachBatch(keep)
            .option("checkpointLocation", str(tmp_path / folder))
            .trigger(availableNow=True)
            .start()
        )
        assert query.awaitTermination(300)

    (tmp_path / "input").mkdir()
    lay(0)
    lay(30)
    try:
        run("whole", batches_without_records=True)
        assert len(starts) == 1, "the batch without records closes the window"
        starts.clear()
        run("ended", batches_without_records=False)  # as if the driver had been killed before that batch
        run("ended", batches_without_records=True)
        assert not starts, "Spark now runs it after a start: take the limit out of the README"
        lay(31)
        run("ended", batches_without_records=True)
        assert len(starts) == 1
    finally:
        spark.conf.set(NO_DATA, "true")
