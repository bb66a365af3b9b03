"""Wall and CPU seconds of the batch layer over an archive of POS records: batch views, then the reconciliation of each query.

    python bench/batch.py [--records 5000000] [--products 500] [--heap 1536m]

A week of records, 1 % of them late, 0.1 % dead letters, in a real Iceberg archive, with a ledger of 70 batches. The content
of each sink is computed first, not measured, and read from memory: neither Kafka nor Cassandra runs, so their time is not
included. A query that does not reconcile ends the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader, views
from headrace.batch.finite_job import BATCH_CONF, Job
from headrace.batch.reconcile import kinds, reconciliation, single_rows, sink_frames
from headrace.batch.reconcile.kinds import Account, Cut
from headrace.contract.job_files import ViewsSpec
from headrace.contract.load import load_pipeline
from headrace.contract.platform_columns import SOURCE
from headrace.driver import archive_table, queries, session, sinks
from headrace.local import jars
from headrace.local.java import find_java
from headrace.local.settings import Settings
from headrace.store import spark_conf
from headrace.store.generation import Generation

PROJECT = Path(__file__).resolve().parent.parent
OUT = PROJECT / "bench" / "out" / "batch"
START = 1_772_323_200  # 2026-03-01 00:00 UTC
WEEK = 7 * 86_400
BATCHES = 70
WATERMARK_SECONDS = 600
NEVER = 10**15  # milliseconds; marks a sink as written after everything else


@dataclass
class Clock:
    """Wall and CPU seconds (this process, its JVM and its Python workers) of the measured parts."""

    total: dict[str, list[float]] = field(default_factory=dict)
    at: tuple[float, float] = (0.0, 0.0)

    def begin(self) -> None:
        """Restart the measurement."""
        self.at = (time.monotonic(), _cpu())

    def lap(self, part: str, what: str) -> None:
        """Print the time since `begin`, and add it to a part."""
        wall, cpu = time.monotonic() - self.at[0], _cpu() - self.at[1]
        print(f"{part:10s} {what:20s} {wall:7.1f} s wall {cpu:7.1f} s CPU", flush=True)
        sums = self.total.setdefault(part, [0.0, 0.0])
        sums[0], sums[1] = sums[0] + wall, sums[1] + cpu
        self.begin()


def _cpu() -> float:
    seconds = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
            seconds += times.user + times.system
        except psutil.Error:
            continue
    return seconds


def main() -> None:
    """Create the archive, recompute, reconcile, print."""
    options = _options()
    shutil.rmtree(OUT, ignore_errors=True)
    job, clock = _start(options.heap), Clock()
    try:
        _archive(job.spark, options.records, options.products)
        clock.begin()
        report = views.run(job, ViewsSpec(closed_until="2026-03-08"))
        clock.lap("views", "7 days")
        print(f"           rows {report['rows']}")
        _reconcile(job, clock, options.records)
        for part, (wall, cpu) in clock.total.items():
            print(f"{part:10s} {'in total':20s} {wall:7.1f} s wall {cpu:7.1f} s CPU")
        print(f"load {os.getloadavg()[0]:.1f}")
    finally:
        job.spark.stop()
        shutil.rmtree(OUT, ignore_errors=True)


def _start(heap: str) -> Job:
    settings = Settings.load()
    java = find_java(settings)
    jars.ensure("spark", settings, java)
    os.environ.update(spark_conf.local_environment())
    os.environ |= {
        "JAVA_HOME": str(java.home), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_DIRS": str(OUT / "scratch"),
    }  # fmt: skip
    pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
    module = queries.load_module(PROJECT / "spark_jobs" / "pos_sales.py")
    conf = spark_conf.spark_conf(pipeline, str(OUT / "lake")) | BATCH_CONF | spark_conf.local_conf(pipeline, 0) | {
        "spark.driver.memory": heap, "spark.ui.enabled": "false",
        "spark.driver.extraClassPath": os.pathsep.join(map(str, jars.spark_jars(settings))),
    }  # fmt: skip
    spark = session.start("bench-batch", conf)
    spark.sparkContext.setLogLevel("ERROR")
    return Job(spark, pipeline, queries.transforms_of(pipeline, module), str(OUT), OUT, "bench")


def _archive(spark: SparkSession, count: int, products: int) -> None:
    archive_table.create(spark, "pos_sales", "pos")
    rows = spark.range(0, count, 1, BATCHES // 5).selectExpr(
        "id", f"timestamp_micros(CAST(({START} + id * {WEEK} / {count}) * 1000000 AS BIGINT)) AS at"
    )
    happened = "CASE WHEN id % 100 = 7 THEN at - make_interval(0, 0, 0, 0, 0, pmod(id, 97)) ELSE at END"
    value = (
        f"""concat('{{"product_id":"product-', pmod(id * 7919, {products}), '","amount":', pmod(id * 31, 9973) div 100, '.', """
        f"""lpad(pmod(id, 100), 2, '0'), ',"create_date":"', date_format({happened}, 'yyyy-MM-dd HH:mm:ss'), '"}}')"""
    )
    rows.selectExpr(
        "CAST(NULL AS BINARY) key", f"CAST({value} AS BINARY) value",
        "CAST(NULL AS ARRAY<STRUCT<key: STRING, value: BINARY>>) headers", "'pos' topic", "CAST(id % 2 AS INT) `partition`",
        "id DIV 2 AS `offset`", "at AS timestamp", "CASE WHEN id % 1000 = 3 THEN 'missing: x' END reason",
    ).writeTo("lake.pos_sales.archive_pos").append()  # fmt: skip


def _ledger(count: int) -> list[dict[str, Any]]:
    """Return the ledger of a stream that read the archive in BATCHES batches of two partitions."""
    records: list[dict[str, Any]] = []
    size = count // 2 // BATCHES
    for number in range(BATCHES):
        first, end = number * size, (number + 1) * size if number < BATCHES - 1 else count // 2
        records.append({
            "query": "q", "generation": 1, "batch": number, "offsets": {"pos": {"0": [first, end], "1": [first, end]}},
            "watermark_ms": int((START + 2 * end * WEEK / count - WATERMARK_SECONDS) * 1000),
            "late_watermark_ms": records[-1]["watermark_ms"] if records else 0,
            "rows_in": 2 * (end - first), "rows_out": 0, "began_ms": 0, "written_ms": 0,
        })  # fmt: skip
    return records


def _reconcile(job: Job, clock: Clock, count: int) -> None:
    ledger: Any = _ledger(count)
    cut = Cut(Generation("pos_sales", "q", 1, NEVER, {}), ledger, BATCHES - 1, BATCHES - 1)
    archive = archive_reader.pin(job.spark, "pos_sales", "pos")
    clock.lap("reconcile", "pin the archive")
    typed = reconciliation._typed(job, "pos", archive)
    declared = job.pipeline.queries

    def placed() -> DataFrame:
        return (
            accounting.batch_of(typed, ledger)
            .where(f"{accounting.BATCH} IS NOT NULL")
            .persist(StorageLevel.MEMORY_AND_DISK)
        )

    def measured(
        name: str, kind: str, sink: DataFrame, compare: Callable[[Account, DataFrame, DataFrame], None]
    ) -> None:
        held = sink.persist(StorageLevel.MEMORY_AND_DISK)
        held.count()
        clock.begin()
        account, rows = Account(name, "t", kind), placed()
        compare(account, rows, held)
        rows.unpersist()
        clock.lap("reconcile", name)
        held.unpersist()
        if account.differing or not account.compared:
            raise SystemExit(f"{name}: {account.differing} of {account.compared} keys differ")

    for name in ("tumbling", "sliding", "final_windows"):
        query, transform = declared[name], job.transforms[name]
        sink = accounting.in_time_windows(placed(), query.aggregate.window, transform).withColumn(
            "_written", F.lit(NEVER)
        )
        measured(name, "windows", sink, lambda account, rows, held, query=query, transform=transform:
                 kinds.windows(account, query, transform, rows, held, cut, 0, Decimal(0)))  # fmt: skip
    for name in ("product_totals", "leaderboard"):
        query, transform = declared[name], job.transforms[name]
        sink = transform(typed).withColumn("_written", F.lit(NEVER + BATCHES - 1))
        measured(name, "running", sink, lambda account, rows, held, query=query, transform=transform:
                 kinds.running(account, query, transform, rows, held, cut, Decimal(0)))  # fmt: skip
    items = declared["items"]
    sent = job.transforms["items"](typed).select(
        F.concat_ws("/", *(F.col(f"{SOURCE}.{part}") for part in ("topic", "partition", "offset"))).alias("_id"),
        sinks.json_of(items).alias("value"), F.lit(1).alias("_generation"), F.lit(1).alias("_batch"),
    )  # fmt: skip
    measured("items", "rows", sent, lambda account, rows, held: single_rows.in_topic(
        account, items, job.transforms["items"](rows), sink_frames.placed_by_id(held, "pos"), ledger))  # fmt: skip
    archived = archive_reader.records(job.spark, archive)
    letters = archived.where("reason IS NOT NULL").selectExpr(
        "partition _partition", "offset _offset", "key", "value", "CAST(NULL AS STRING) _cut")  # fmt: skip
    measured("archive", "archive", letters, lambda account, rows, held: single_rows.archive(
        account, archive, archived, held, 0, rows.count()))  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--products", type=int, default=500)
    parser.add_argument("--heap", default="1536m", help="heap of the Spark JVM")
    return parser.parse_args()


if __name__ == "__main__":
    main()
