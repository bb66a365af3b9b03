"""CPU per row written to Cassandra: the driver's and Cassandra's, for the connector's default settings and ours, alternating.

    python bench/cassandra_rows.py [--rows 100000] [--windows 2000] [--rounds 2]

The table is that of `pos_sales.tumbling`; the rows come in random order, `rows / windows` of them per window.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.smoke import _settings
from headrace.access.bindings import read_cassandra
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink
from headrace.driver import session, sinks
from headrace.local import jars, platform
from headrace.local.java import child_environment, find_java
from headrace.operations.clients import cassandra_session
from headrace.operations.provision.run import provision
from headrace.store import generation, spark_conf

PROJECT = Path(__file__).resolve().parent.parent
OWN = ("batch.size.bytes", "concurrent.writes")


def main() -> None:
    """Start Cassandra, write the same rows with each variant alternately, and print the medians."""
    options = _options()
    settings = _settings()
    shutil.rmtree(settings.home, ignore_errors=True)
    try:
        platform.up(settings)
        pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
        provision([pipeline], settings.bindings(), settings.home / "bindings")
        sink = pipeline.queries["tumbling"].sinks[0]
        assert isinstance(sink, CassandraSink)
        os.environ |= dict(child_environment(find_java(settings))) | spark_conf.local_environment()
        conf = spark_conf.spark_conf(pipeline, str(settings.home / "lake")) | spark_conf.local_conf(pipeline, 0)
        conf |= {
            "spark.driver.extraClassPath": jars.spark_class_path(settings),
            "spark.driver.extraJavaOptions": f"{spark_conf.JAVA_OPTIONS} {settings.driver_java_options}",
        }
        spark = session.start("rows", conf, read_cassandra(settings.home / "bindings" / "pos_sales"))
        begun = generation.begin(str(settings.home / "storage"), "pos_sales", "tumbling", {})
        rows = _rows(spark, options.rows, options.windows).persist()
        rows.count()
        ours = spark_conf.cassandra_sink_options
        theirs = sinks.DataFrame.sortWithinPartitions
        results: dict[str, list[tuple[float, float]]] = {"connector's own": [], "ours": []}
        for turn in range(-1, options.rounds):  # the first turn warms up both
            for name, measured in results.items():
                is_ours = name == "ours"
                spark_conf.cassandra_sink_options = ours if is_ours else lambda sink: _without(ours(sink))
                DataFrame.sortWithinPartitions = theirs if is_ours else lambda frame, *_: frame
                with cassandra_session(settings.bindings()) as asked:
                    asked.execute("TRUNCATE pos_sales.tumbling")
                before = _cpu(settings.home)
                batch = sinks.Batch("pos_sales.tumbling", begun, turn + 2)
                sinks.write_cassandra(rows, pipeline, "tumbling", sink, batch)
                after = _cpu(settings.home)
                if turn >= 0:
                    measured.append(tuple((b - a) / options.rows * 1e6 for a, b in zip(before, after, strict=True)))
        result = {
            name: {"driver_us_a_row": _middle(samples, 0), "cassandra_us_a_row": _middle(samples, 1)}
            for name, samples in results.items()
        }
        print(json.dumps({"rows": options.rows, "windows": options.windows, "load": os.getloadavg()[0]} | result))
        spark.stop()
    finally:
        platform.down(settings)
        shutil.rmtree(settings.home, ignore_errors=True)


def _without(options: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if not name.endswith(OWN)}


def _rows(spark: SparkSession, rows: int, windows: int) -> DataFrame:
    numbers = spark.range(0, rows, 1, 2).withColumn("n", F.xxhash64("id"))
    return numbers.select(
        F.timestamp_seconds(F.pmod("n", F.lit(windows)) * 300 + 1_750_000_000).alias("window_start"),
        F.timestamp_seconds(F.pmod("n", F.lit(windows)) * 300 + 1_750_000_300).alias("window_end"),
        F.concat(F.lit("p"), F.col("id").cast("string")).alias("product_id"),
        F.col("id").cast("decimal(38,2)").alias("total_amount"),
        F.lit(1).cast("long").alias("sales"),
    )


def _cpu(home: Path) -> tuple[float, float]:
    """Return user and system seconds of this process's tree, and of Cassandra."""
    process = psutil.Process()
    cassandra = next(
        candidate
        for candidate in psutil.process_iter(["cmdline"])
        if _is_cassandra(" ".join(candidate.info["cmdline"] or ()), home)
    )
    return sum(map(_spent, [process, *process.children(recursive=True)])), _spent(cassandra)


def _is_cassandra(line: str, home: Path) -> bool:
    return (str(home) in line and "CassandraDaemon" in line) or f"@{home}/etc/cassandra" in line


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _middle(pairs: list[tuple[float, float]], place: int) -> float:
    return round(statistics.median(pair[place] for pair in pairs), 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=2_000, help="number of Cassandra partitions of the rows")
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
