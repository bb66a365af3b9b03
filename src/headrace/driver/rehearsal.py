"""The first minute of a driver without servers, so that its JVM can record which classes it needs.

    python -m headrace.driver.rehearsal ARCHIVE [CLASS_PATH]

ARCHIVE is a JVM's dynamic class archive (JEP 350, Java 17). A driver with the same Java and the same class path maps it
instead of reading, verifying and linking ten thousand classes: half of the CPU time of a start. A driver that differs in
any way ignores it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import CapturedException

from headrace.access.bindings import CassandraBinding, KafkaBinding
from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.driver import archive_table, session, source
from headrace.store import paths, spark_conf

RECORDS = 2_000
NO_SERVER = "127.0.0.1:1"  # no server listens here: clients are created, and refused at once

PIPELINE = Pipeline.model_validate({
    "name": "rehearsal",
    "owner": "headrace",
    "description": "What every driver does, without servers.",
    "version": 1,
    "sources": {
        "records": {
            "key": "k",
            "columns": {
                "k": {"type": "string", "required": True},
                "amount": {"type": "decimal(12,2)", "required": True},
                "at": {"type": "timestamp", "required": True},
            },
            "event_time": {"column": "at"},
        }
    },
    "queries": {
        "sums": {
            "sources": ["records"],
            "mode": "update",
            "watermark": {"records": "10 minutes"},
            "late": "drop",
            "aggregate": {"keys": ["k"], "window": {"column": "at", "size": "5 minutes"}},
            "columns": {
                "window_start": {"type": "timestamp", "required": True},
                "k": {"type": "string", "required": True},
                "total": {"type": "decimal(22,2)", "required": True},
            },
            "sinks": [{"kind": "cassandra", "partition_key": ["window_start"], "clustering_key": ["k"]}],
        }
    },
})  # fmt: skip


def rehearse(archive: Path, class_path: str = "") -> None:
    """Run every part of a driver that needs no server; `archive` exists once its JVM has ended."""
    with tempfile.TemporaryDirectory() as folder:
        conf = spark_conf.spark_conf(PIPELINE, paths.lake(folder)) | {
            "spark.master": "local[2]",
            "spark.driver.memory": "512m",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": f"{spark_conf.JAVA_OPTIONS} -XX:ArchiveClassesAtExit={archive} -Xlog:cds=off",
            "spark.sql.warehouse.dir": f"{folder}/warehouse",
        }
        if class_path:
            conf["spark.driver.extraClassPath"] = class_path
        binding = CassandraBinding(("127.0.0.1",), 1, "datacenter1", "nobody", "nothing")
        spark = session.start("rehearsal", conf, binding)
        jvm = spark.sparkContext._gateway.proc
        _streams(spark, Path(folder))
        for client in (_kafka, _cassandra, _kubernetes):
            with contextlib.suppress(Py4JError, CapturedException):
                client(spark)
        spark.stop()
        spark.sparkContext._gateway.shutdown()
        jvm.stdin.close()  # tells a JVM of pyspark to exit
        jvm.wait()


def _streams(spark: SparkSession, folder: Path) -> None:
    """Send records, as Kafka would deliver them, through decoding, state, JSON files and the archive."""
    contract, query = PIPELINE.sources["records"], PIPELINE.queries["sums"]
    value = 'format_string(\'{"k":"k%d","amount":0.1,"at":"2026-01-01T%02d:00:00"}\', id % 9, id % 24)'
    laid = spark.range(RECORDS).selectExpr(
        "cast(id AS binary) key", f"cast({value} AS binary) value", "'records' topic", "0 `partition`", "id offset",
        "array(struct('h' key, cast('v' AS binary) value)) headers", "timestamp'2026-02-01 00:00:00' timestamp",
    )  # fmt: skip
    laid.write.parquet(str(folder / "input"))
    raw = spark.readStream.schema(laid.schema).parquet(str(folder / "input"))
    typed = source.watermarked(source.accepted(raw, contract, ()), "records", query, contract)
    sums = typed.groupBy(F.window("at", "5 minutes"), "k").agg(F.sum("amount").alias("total"))
    archive_table.create(spark, PIPELINE.name, "records")

    def to_files(frame: DataFrame, number: int) -> None:
        frame.persist()
        frame.write.json(str(folder / "files" / str(number)))
        frame.agg(F.count("*")).collect()
        frame.unpersist()

    def to_archive(frame: DataFrame, _number: int) -> None:
        frame.writeTo(names.archive_table(PIPELINE.name, "records")).append()

    for name, frame, write in (("sums", sums, to_files), ("archive", source.judged(raw, contract), to_archive)):
        started = (
            frame.writeStream.queryName(name)
            .outputMode("update" if name == "sums" else "append")
            .trigger(availableNow=True)
            .option("checkpointLocation", str(folder / "checkpoints" / name))
            .foreachBatch(write)
            .start()
        )
        started.awaitTermination()


def _kafka(spark: SparkSession) -> None:
    """Create the admin client, the consumer and the producer of Spark's Kafka source and sink."""
    binding = KafkaBinding(NO_SERVER, "SASL_PLAINTEXT", "SCRAM-SHA-512", "nobody", "nothing")
    options = session.kafka_options(binding) | {"kafka.default.api.timeout.ms": "1000", "kafka.max.block.ms": "1000"}
    properties = spark._jvm.java.util.HashMap()
    for key, value in options.items():
        properties[key.removeprefix("kafka.")] = value
    apache, common = spark._jvm.org.apache.kafka.clients, spark._jvm.org.apache.kafka.common.serialization
    apache.consumer.KafkaConsumer(properties, common.ByteArrayDeserializer(), common.ByteArrayDeserializer()).close()
    with contextlib.suppress(Py4JError, CapturedException):
        spark.range(1).selectExpr("'v' value").write.format("kafka").options(**options, topic="records").save()
    options |= {"kafka.request.timeout.ms": "500", "fetchOffset.numRetries": "0"}
    spark.read.format("kafka").options(**options, subscribe="records").load().collect()


def _cassandra(spark: SparkSession) -> None:
    """Let the connector look for a table."""
    spark.table(f"{names.CASSANDRA_CATALOG}.rehearsal.sums").collect()


def _kubernetes(spark: SparkSession) -> None:
    """Submit to a cluster that does not exist, as Airflow's spark-submit does."""
    jvm = spark._jvm
    jvm.java.lang.System.setProperty("kubernetes.request.retry.backoffLimit", "0")
    command = [
        "--master", f"k8s://http://{NO_SERVER}", "--deploy-mode", "cluster", "--name", "rehearsal",
        "--conf", "spark.kubernetes.container.image=nothing", "local:///nothing.py",
    ]  # fmt: skip
    arguments = spark.sparkContext._gateway.new_array(jvm.java.lang.String, len(command))
    for place, argument in enumerate(command):
        arguments[place] = argument
    jvm.org.apache.spark.deploy.SparkSubmit().doSubmit(arguments)


def main() -> int:
    """Rehearse, with the arguments of the command line."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    began = time.monotonic()
    archive = Path(sys.argv[1])
    rehearse(archive, *sys.argv[2:3])
    print(f"{archive}: {archive.stat().st_size >> 20} MiB after {time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
