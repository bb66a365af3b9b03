"""The Spark engines: Spark's own noop query, the source document's code, and ours. Harness side and child in one file.

    python -m bench.spark_peers ENGINE TOPIC OUTPUT EVENTS ROWS     (the environment is made by `environment`)

The child speaks the protocol of bench/measure.py. ROWS is how many rows an engine of ours must write.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import generation, identity, paths, submit
from headrace.contract.bindings import binding_root, read_cassandra, read_kafka
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.local.launcher import starting_launcher
from headrace.local.settings import Settings
from headrace.streaming import queries, session, source, writer
from headrace.streaming.groups import GroupCommitter

PROJECT = Path(__file__).resolve().parent.parent
PIPELINE = "pos_sales"
OURS = {"ours_items": "items", "ours_windows": "final_windows"}
WRITTEN = {"as_written": None, "textbook": "200000"}
POLL_SECONDS = 0.05
WAIT_SECONDS = 840.0


def command(engine: str, topic: str, output: str, events: int, rows: int) -> list[str]:
    """Return what starts the child for an engine."""
    return [sys.executable, "-m", "bench.spark_peers", engine, topic, output, str(events), str(rows)]


def environment(settings: Settings, folder: Path) -> dict[str, str]:
    """Return the environment of a child: that of a driver of `pos_sales`, with its files below `folder`."""
    launcher = replace(
        starting_launcher(settings, PROJECT), root=str(folder / "storage"), run_dir=folder / "run", log_dir=folder,
        tmp_dir=folder / "tmp",
    )  # fmt: skip
    for place in (launcher.run_dir, launcher.tmp_dir / launcher.name(PIPELINE)):
        place.mkdir(parents=True, exist_ok=True)
    admin = {"SERVICE_BINDING_ROOT": str(settings.bindings()), "PYTHONPATH": str(PROJECT)}
    return launcher.driver_environment(PIPELINE) | admin


def main(engine: str, topic: str, output: str, events: int, rows: int) -> None:
    """Do one load after the other, a report after each one."""
    pipeline = load_pipeline(PROJECT / "pipelines" / f"{PIPELINE}.yaml").by_topic()
    spark = start_session(engine, pipeline)
    name = OURS.get(engine)
    load = ours(spark, pipeline, name, events, rows) if name else plain(spark, pipeline, engine, topic, output)
    number = 0
    while True:
        number += 1
        print(json.dumps({"load": number} | load(number)), flush=True)
        if not sys.stdin.readline():
            break
    spark.stop()


def start_session(engine: str, pipeline: Pipeline) -> SparkSession:
    """Start Spark as a driver does; the document's code gets its own settings on the same heap, cores and classes."""
    fixed = submit.local_conf(pipeline, 0) | json.loads(os.environ["HEADRACE_SPARK_CONF"])
    conf = submit.spark_conf(pipeline, paths.lake(root())) | fixed
    if engine in WRITTEN:
        kept = ("spark.master", "spark.driver.host", "spark.driver.bindAddress", "spark.driver.extraClassPath")
        conf = {name: fixed[name] for name in kept} | written().SETTINGS
        conf |= {"spark.sql.session.timeZone": "UTC", "spark.driver.memory": pipeline.driver.memory}
    return session.start(engine, conf | {"spark.ui.enabled": "false"}, read_cassandra(binding_root()))


def root() -> str:
    """Return the storage root of this child."""
    return os.environ["HEADRACE_STORAGE_ROOT"]


def written() -> ModuleType:
    """Return the module with the document's code."""
    return queries.load_module(PROJECT / "bench" / "as_written" / "pos_windows.py")


def plain(
    spark: SparkSession, pipeline: Pipeline, engine: str, topic: str, output: str
) -> Callable[[int], dict[str, int]]:
    """Return the load of an engine that Spark runs alone: everything that the topic has, then the end."""
    kafka = session.kafka_options(read_kafka(binding_root()))

    def frame() -> DataFrame:
        if engine not in WRITTEN:
            return source.stream(spark, pipeline, topic, kafka)
        limit = WRITTEN[engine]
        sums = written().window_totals(spark, topic, kafka | ({"maxOffsetsPerTrigger": limit} if limit else {}))
        return sums.select(F.col("product_id").alias("key"), F.to_json(F.struct("*")).alias("value"))

    def load(number: int) -> dict[str, int]:
        stream = frame().writeStream.trigger(availableNow=True).option("checkpointLocation", f"{root()}/load{number}")
        if engine in WRITTEN:
            stream = stream.outputMode("update").format("kafka").options(**kafka, topic=output)
        else:
            stream = stream.format("noop")
        query = stream.start()
        query.awaitTermination()
        recent = query.recentProgress
        return {"events": sum(each["numInputRows"] for each in recent), "batches": len(recent)}

    return load


def ours(spark: SparkSession, pipeline: Pipeline, name: str, events: int, rows: int) -> Callable[[int], dict[str, int]]:
    """Return the load of one of our queries, as its driver starts it: a new generation that runs until all is written."""
    kafka = read_kafka(binding_root())
    transforms = queries.transforms_of(pipeline, queries.load_module(PROJECT / "spark_jobs" / f"{PIPELINE}.py"))
    driver = queries.Driver(spark, pipeline, transforms, root(), kafka, GroupCommitter(spark, kafka), writer.Gate())
    query = pipeline.queries[name]

    def load(_number: int) -> dict[str, int]:
        frame = queries.build(driver, name, query, streaming=True)
        chosen = generation.begin(root(), pipeline.name, name, {})
        ids = driver.groups.topic_ids(query.sources)
        identity.require_same(chosen.paths(root()), ids, pipeline.name)
        running = queries._start(driver, 0, name, frame, chosen)
        deadline = time.monotonic() + WAIT_SECONDS
        done = running.counters
        while done.rows_in < events or done.rows_out < rows:
            if time.monotonic() > deadline or not running.query.isActive:
                raise SystemExit(f"{name}: {done.rows_in} of {events} in, {done.rows_out} of {rows} out")
            time.sleep(POLL_SECONDS)
        running.query.stop()
        return {"events": done.rows_in, "rows": done.rows_out, "batches": done.batches}

    return load


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))
