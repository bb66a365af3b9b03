"""One measured process: drain a topic once with one variant and one sink, report, and wait for permission to exit.

    drain.py VARIANT SINK TOPIC FOLDER     (smoke.py sets the environment)

It prints one JSON line when everything is drained, while its JVM and Python workers still run, so that their CPU time can
be read completely; then it waits for a line on stdin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from pyspark.sql import DataFrame, SparkSession

from headrace.access.bindings import binding_root, read_cassandra, read_kafka
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.driver import counted, refusals, session, source, writer
from headrace.driver.consumer_groups import GroupCommitter
from headrace.store import generation, spark_conf

PROJECT = Path(__file__).resolve().parent.parent
QUERY = "tumbling"
TEXTBOOK_OFFSETS = "200000"

Sink = Callable[[DataFrame, int], None]


def ours(spark: SparkSession, pipeline: Pipeline, topic: str) -> DataFrame:
    """Return `pos_sales.tumbling` over a topic, as a driver builds it."""
    query, contract = pipeline.queries[QUERY], pipeline.sources["pos"]
    raw = source.stream(spark, pipeline, topic, session.kafka_options(read_kafka(binding_root())))
    typed = source.watermarked(
        source.accepted(raw, contract, source.added_columns(query, contract)), "pos", query, contract
    )
    return module("spark_jobs/pos_sales.py").tumbling(typed)


def as_written(spark: SparkSession, topic: str, *, textbook: bool) -> DataFrame:
    """Return the document's query over a topic; the textbook form bounds its batches."""
    kafka = session.kafka_options(read_kafka(binding_root()))
    limit = {"maxOffsetsPerTrigger": TEXTBOOK_OFFSETS} if textbook else {}
    return module("bench/as_written/pos_windows.py").window_totals(spark, topic, kafka | limit)


def module(path: str) -> ModuleType:
    """Load a Python file of the project that is not in a package."""
    sys.path.insert(0, str((PROJECT / path).parent))
    return __import__(Path(path).stem)


def start_session(variant: str, pipeline: Pipeline, folder: str) -> SparkSession:
    """Start the session with the variant's settings; heap, cores and class path are the same for all."""
    settings = spark_conf.spark_conf(pipeline, f"{folder}/lake") if variant == "ours" else written_settings()
    conf = settings | json.loads(os.environ["BENCH_CONF"])
    return session.start(f"bench-{variant}", conf, read_cassandra(binding_root()))


def written_settings() -> dict[str, str]:
    """Return the document's settings, plus the time zone that its strings assume."""
    settings: dict[str, str] = module("bench/as_written/pos_windows.py").SETTINGS
    return settings | {"spark.sql.session.timeZone": "UTC"}


def cassandra_sink(variant: str, pipeline: Pipeline, topic: str, folder: str) -> tuple[Sink, str]:
    """Return a variant's write to Cassandra (the document's foreachBatch, or our complete writer) and its checkpoint."""
    if variant != "ours":
        return module("bench/as_written/pos_windows.py").cassandra_writer, f"{folder}/checkpoint"
    binding = read_kafka(binding_root())
    begun = generation.begin(folder, pipeline.name, QUERY, {})
    paths = begun.paths(folder)
    query, kafka, spark = pipeline.queries[QUERY], session.kafka_options(binding), SparkSession.active()
    letters = writer.letters_write(query, kafka, partial(source.reread, spark, pipeline, topic, kafka))
    write = writer.declared_write(pipeline, QUERY, query, paths, kafka, letters)
    complete = writer.Writer(
        spark, begun, paths, write, GroupCommitter(spark, binding), writer.Gate(), writer.Counters(), letters=letters
    )  # fmt: skip
    return complete, paths.checkpoint


def main(variant: str, sink: str, topic: str, folder: str) -> None:
    """Drain and report `{"wall_s", "rows", "batches"}`."""
    pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
    spark = start_session(variant, pipeline, folder)
    frame = (
        ours(spark, pipeline, topic) if variant == "ours" else as_written(spark, topic, textbook=variant == "textbook")
    )
    checkpoint = f"{folder}/checkpoint"
    if sink == "cassandra" and variant == "ours":
        frame = counted.observed(refusals.judged(frame, pipeline, pipeline.queries[QUERY]))
    stream = frame.writeStream.outputMode("update").trigger(availableNow=True)
    if sink == "noop":
        stream = stream.format("noop")
    elif sink == "check":
        stream = stream.foreachBatch(lambda rows, number: rows.write.parquet(f"{folder}/rows/batch={number}"))
    else:
        write, checkpoint = cassandra_sink(variant, pipeline, topic, folder)
        stream = stream.foreachBatch(write)
    began = time.monotonic()
    query = stream.option("checkpointLocation", checkpoint).start()
    query.awaitTermination()
    progress = query.recentProgress
    rows = sum(entry["numInputRows"] for entry in progress)
    print(json.dumps({"wall_s": time.monotonic() - began, "rows": rows, "batches": len(progress)}), flush=True)
    sys.stdin.readline()
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
