"""Spark interprets the plan of a small batch and compiles that of a large one (ADR 54)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.driver import compilation
from headrace.driver.java import named

pytestmark = pytest.mark.spark

LARGE = compilation.LARGE_OFFSETS


@pytest.fixture
def session(spark: SparkSession) -> Iterator[SparkSession]:
    """The session of a driver that starts a query: its streams have copies of it."""
    compilation.use(spark, compilation.INTERPRETED)
    yield spark
    compilation.use(spark, compilation.COMPILED)


def compilations(spark: SparkSession) -> int:
    """Return how many classes Spark has compiled in this JVM."""
    return int(named(spark, "org.apache.spark.metrics.source.CodegenMetrics").METRIC_COMPILATION_TIME().getCount())


def test_small_batches_compile_nothing_and_large_ones_do_with_the_same_result(
    session: SparkSession, tmp_path: Path
) -> None:
    sizes = [10, LARGE, LARGE, 10, 10]
    for number, size in enumerate(sizes):
        rows = session.range(size).selectExpr(f"concat('{number}-', id % 7) AS word")
        rows.coalesce(1).write.mode("append").text(str(tmp_path / "input"))
    mode, compiled, sums = compilation.Compilation(), [], {}
    before = compilations(session)

    def write(frame: DataFrame, batch: int) -> None:
        nonlocal before
        mode.follow(frame.sparkSession, sizes[batch])
        counts = frame.groupBy("value").agg(F.count(F.lit(1)).alias("rows")).where("rows > 0")
        sums[batch] = sorted((row.value, row.rows) for row in counts.collect())
        now = compilations(session)
        compiled.append(now - before)
        before = now

    frame = session.readStream.option("maxFilesPerTrigger", 1).text(str(tmp_path / "input"))
    query = (
        frame.where("value IS NOT NULL")
        .writeStream.foreachBatch(write)
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    assert query.awaitTermination(300)
    assert [sum(rows for _, rows in sums[batch]) for batch in range(len(sizes))] == sizes
    words = [word.partition("-")[2] for word, _ in sums[1]]
    assert words == [str(rest) for rest in range(7)]
    _, large, _, _, small = compiled  # what a batch reads is planned before its size is known: as the batch before it
    assert small == 0, f"a small batch is compiled: {compiled}"
    assert large > 0, f"no large batch is compiled: {compiled}"
