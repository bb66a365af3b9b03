"""The records that a batch has read are counted by its scan, not by its rows or its offsets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from headrace.driver import counted

pytestmark = pytest.mark.spark


def test_a_batch_counts_what_its_scan_gave_whatever_rows_come_of_it_and_a_stream_that_is_scanned_twice_once(
    spark: SparkSession, tmp_path: Path
) -> None:
    counts: list[tuple[int | None, int]] = []

    def write(frame: DataFrame, _: int) -> None:
        frame.persist()
        rows = frame.count()
        counts.append((counted.records(counted.execution(spark)), rows))
        frame.unpersist()

    raw = spark.readStream.format("rate-micro-batch").options(rowsPerBatch="12", numPartitions="2").load()
    for name, frame in {"once": raw.where("value % 3 = 0"), "twice": raw.union(raw)}.items():
        running = (
            frame.writeStream.trigger(once=True)
            .option("checkpointLocation", str(tmp_path / name))
            .foreachBatch(write)
            .start()
        )
        running.awaitTermination()
    assert counts == [(12, 4), (12, 24)]
