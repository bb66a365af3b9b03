"""The Spark engines: Spark's own noop query, the source document's code, and ours. Harness side and child in one file.

    python -m bench.spark_peers ENGINE OUTPUT FOLDER     (the environment is made by `environment`)

The child speaks the protocol of bench/measure.py; a load is TOPIC EVENTS ROWS. ROWS is how many rows ours must write.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.access.bindings import binding_root, read_cassandra, read_kafka
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.driver import queries, session, source, writer
from headrace.driver.consumer_groups import GroupCommitter
from headrace.local.launcher import starting_launcher
from headrace.local.settings import Settings
from headrace.store import generation, paths, spark_conf, topic_identity

PROJECT = Path(__file__).resolve().parent.parent
PIPELINE = "pos_sales"
OURS = {"ours_items": "items", "ours_windows": "final_windows"}
WRITTEN = {"as_written": None, "textbook": "200000"}
POLL_SECONDS = 0.05
WAIT_SECONDS = 840.0


def command(engine: str, output: str, folder: Path) -> list[str]:
    """Return what starts the child for an engine."""
    return [sys.executable, "-m", "bench.spark_peers", engine, output, str(folder)]


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


def main(engine: str, output: str, folder: str) -> None:
    """Do the loads that stdin names, a report after each one."""
    spark = start_session(engine, reading("pos", Path(folder)))
    for number, line in enumerate(sys.stdin):
        topic, events, rows = line.split()
        pipeline = reading(topic, Path(folder))
        if engine in OURS:
            report = ours(spark, pipeline, OURS[engine], int(events), int(rows))
        else:
            report = plain(spark, plain_frame(spark, pipeline, engine, topic), number, output)
        print(json.dumps(report), flush=True)
    spark.stop()


def reading(topic: str, folder: Path) -> Pipeline:
    """Return `pos_sales` over another topic than its file names."""
    declared = yaml.safe_load((PROJECT / "pipelines" / f"{PIPELINE}.yaml").read_text())
    declared["sources"]["pos"]["topic"] = topic
    place = folder / topic / f"{PIPELINE}.yaml"
    place.parent.mkdir(exist_ok=True)
    place.write_text(yaml.safe_dump(declared, sort_keys=False))
    return load_pipeline(place).by_topic()


def start_session(engine: str, pipeline: Pipeline) -> SparkSession:
    """Start Spark as a driver does; the document's code gets its own settings on the same heap, cores and classes."""
    fixed = spark_conf.local_conf(pipeline, 0) | json.loads(os.environ["HEADRACE_SPARK_CONF"])
    conf = spark_conf.spark_conf(pipeline, paths.lake(root())) | fixed
    if engine not in OURS:  # the report adds up all batches of a load
        conf["spark.sql.streaming.numRecentProgressUpdates"] = "1000"
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


def plain_frame(spark: SparkSession, pipeline: Pipeline, engine: str, topic: str) -> DataFrame:
    """Return the raw records of a topic, or the document's sums as rows for Kafka."""
    kafka = session.kafka_options(read_kafka(binding_root()))
    if engine not in WRITTEN:
        return source.stream(spark, pipeline, topic, kafka)
    limit = WRITTEN[engine]
    sums: DataFrame = written().window_totals(spark, topic, kafka | ({"maxOffsetsPerTrigger": limit} if limit else {}))
    return sums.select(F.col("product_id").alias("key"), F.to_json(F.struct("*")).alias("value"))


def plain(spark: SparkSession, frame: DataFrame, number: int, output: str) -> dict[str, int]:
    """Run a query that Spark runs alone over everything that its topic has, to a topic or to nothing ("-")."""
    stream = frame.writeStream.trigger(availableNow=True).option("checkpointLocation", f"{root()}/load{number}")
    if output == "-":
        stream = stream.format("noop")
    else:
        kafka = session.kafka_options(read_kafka(binding_root()))
        stream = stream.outputMode("update").format("kafka").options(**kafka, topic=output)
    query = stream.start()
    query.awaitTermination()
    recent = query.recentProgress
    return {"events": sum(batch["numInputRows"] for batch in recent), "batches": len(recent)}


def ours(spark: SparkSession, pipeline: Pipeline, name: str, events: int, rows: int) -> dict[str, int]:
    """Run one of our queries, as its driver starts it, in a new generation until everything is written."""
    kafka = read_kafka(binding_root())
    transforms = queries.transforms_of(pipeline, queries.load_module(PROJECT / "spark_jobs" / f"{PIPELINE}.py"))
    driver = queries.DriverContext(
        spark, pipeline, transforms, root(), kafka, GroupCommitter(spark, kafka), writer.Gate()
    )
    query = pipeline.queries[name]
    frame = queries.build(driver, name, query, streaming=True)
    chosen = generation.begin(root(), pipeline.name, name, {})
    topic_identity.require_same(chosen.paths(root()), driver.groups.topic_ids(query.sources), pipeline.name)
    running = queries._start(driver, 0, name, frame, chosen)
    deadline = time.monotonic() + WAIT_SECONDS
    done = running.counters
    while done.rows_in < events or done.rows_out < rows:
        if time.monotonic() > deadline or not running.query.isActive:
            raise SystemExit(f"{name}: {done.rows_in} of {events} in, {done.rows_out} of {rows} out")
        time.sleep(POLL_SECONDS)
    running.query.stop()
    driver.groups.close()
    return {"events": done.rows_in, "rows": done.rows_out, "batches": done.batches}


if __name__ == "__main__":
    main(*sys.argv[1:])
