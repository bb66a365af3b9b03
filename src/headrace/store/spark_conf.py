"""The fixed settings of a pipeline's Spark application, and those for starting it on a cluster with `spark-submit`.

None of them is secret: endpoints and passwords come from the bindings, inside the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headrace.access import object_store
from headrace.access.bindings import READ_COMMITTED
from headrace.contract import state
from headrace.contract.freshness import waits
from headrace.contract.kafka import WRITTEN_RECORD_BYTES
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.contract.names import (
    BINDING_MOUNT,
    CASSANDRA_CATALOG,
    DRIVER_ACCOUNT,
    EXECUTOR_ACCOUNT,
    LAKE_CATALOG,
    LIFE_LABEL,
    PIPELINE_LABEL,
    RELEASE_LABEL,
    SETTINGS_LABEL,
    VERSION_LABEL,
    binding_secret,
    driver_pod,
    group_prefix,
    kubernetes_name,
    label_value,
)
from headrace.store import pace

ARCHIVE_TRIGGER = timedelta(seconds=10)
"""Trigger interval of the archive queries, which no pipeline file declares."""

ARCHIVE_OFFSETS = 5_000
"""This many new records make an archive batch at once. Fewer wait for more, at most ARCHIVE_DELAY."""

BATCH_OFFSETS = 2_000
"""This many new records make a batch of a declared query at once. Fewer wait as long as its `freshness` allows."""

ARCHIVE_DELAY = "spark.headrace.archive.delay"
"""The setting for how long an archive, and with it the dead letters, waits for more records."""

# Throughput collector (streams tolerate pauses). An exhausted heap ends the driver instead of leaving it half dead.
# The compilers start five times later than usual: a driver runs for weeks, and on few cores they dominate its first minutes.
_JAVA_OPTIONS = (
    "-XX:+UseParallelGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:CompileThresholdScaling=5",
    "-Duser.timezone=UTC",
    "-Duser.language=en",
)
JAVA_OPTIONS = " ".join(_JAVA_OPTIONS)

# Without Hadoop's native library, which pyspark does not ship, Hadoop runs `chmod` or `readlink` for every file that it
# creates or renames: a hundred processes a second for four drivers. These two settings use the JVM instead (ADR 0016).
_LOCAL_FILES = {
    "spark.hadoop.fs.file.impl": "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem",
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.FileSystemBasedCheckpointFileManager"
    ),
}

# An object store has no rename: Spark writes each checkpoint file under its final name, completely or not at all.
_OBJECTS = {
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.internal.io.cloud.AbortableStreamBasedCheckpointFileManager"
    ),
    # Otherwise every file that is written costs an extra request, for folder markers that no one reads.
    "spark.hadoop.fs.s3a.directory.marker.retention": "keep",
    # Upload buffers: next to Spark's scratch files, because the root file system may be read-only.
    "spark.hadoop.fs.s3a.buffer.dir": "${env.SPARK_LOCAL_DIRS:-${hadoop.tmp.dir}}",
}

_SECRET_KEYS = "(?i)secret|password|passwd|token|access[.]?key|jaas|credential|cassandra[.]auth"  # noqa: S105 - a pattern that hides secrets
# Quoted text may contain escaped quotes, as JAAS lines do.
_SECRET_TEXT = r"""(?i)(password|secret)\s*[=:]\s*("[^"\\]*(?:\\.[^"\\]*)*"|\S+)"""  # noqa: S105


def spark_conf(pipeline: Pipeline, warehouse: str) -> dict[str, str]:
    """Return the settings of a pipeline's driver that apply everywhere. `warehouse` is `paths.lake(root)`.

    ANSI mode is OFF: with it, one value that a transform cannot cast or add ends the entire stream, and again after every
    restart. Without it such a value is null (Spark SQL reference, "ANSI Compliance"), and a row with null in a
    required column is a dead letter. The one silent case that remains, an overflowing sum of longs, is why amounts are decimals.
    """
    return {
        **_streams(pipeline),
        **_LOCAL_FILES,
        **(_OBJECTS if object_store.is_object(warehouse) else {}),
        **_catalogs(warehouse),
        **_upkeep(),
        "spark.app.name": pipeline.name,
        "spark.driver.cores": str(pipeline.driver.cores),
        "spark.driver.memory": pipeline.driver.memory,
        "spark.driver.extraJavaOptions": JAVA_OPTIONS,
        "spark.executor.extraJavaOptions": JAVA_OPTIONS,
        "spark.redaction.regex": _SECRET_KEYS,
        # A listener that takes a second is logged with its event, and a job's start event contains all settings, unredacted.
        "spark.scheduler.listenerbus.logSlowEvent": "false",
        "spark.redaction.string.regex": _SECRET_TEXT,
        "spark.sql.redaction.options.regex": f"{_SECRET_KEYS}|url",
        "spark.sql.redaction.string.regex": _SECRET_TEXT,
    }


def _streams(pipeline: Pipeline) -> dict[str, str]:
    return {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "false",
        # By default, one text that only Spark 2 parsed ("2026-3-1" as yyyy-MM-dd) ends a query that calls to_date.
        "spark.sql.legacy.timeParserPolicy": "CORRECTED",
        # Fixed in the checkpoint by the first batch (SPARK-19873).
        "spark.sql.shuffle.partitions": str(pipeline.driver.state_partitions),
        **state.ROCKSDB_CONF,
        # Adaptive plans are disabled for stateful streams anyway, and the fingerprint describes a fixed plan.
        "spark.sql.adaptive.enabled": "false",
        **pace.LEVELS[0].conf,
        # Java's serializer keeps what it has written until a reset, by default after 100 objects. Part of a persisted batch that
        # does not fit into memory is written to disk in objects of 4 MB and more: 100 of them exceed a heap.
        "spark.serializer.objectStreamReset": "1",
        # The classes of all plans of a driver. Spark's default, 100, is less than seven queries have: they would push each other
        # out, and be compiled again in every batch.
        "spark.sql.codegen.cache.maxEntries": "1000",
        # Spark's default costs 0.12 CPU seconds before every task, more than decoding a small batch.
        "spark.python.daemon.module": "headrace.driver.python_daemon",
        "spark.sql.streaming.metricsEnabled": "true",
        ARCHIVE_DELAY: "30s",
        "spark.sql.streaming.minBatchesToRetain": "100",
        # The slower source holds the watermark back: waiting loses nothing, but running ahead makes its rows late.
        "spark.sql.streaming.multipleWatermarkPolicy": "min",
        # Emits closed windows and unmatched rows even if no new record arrives.
        "spark.sql.streaming.noDataMicroBatches.enabled": "true",
        # Queries share the cores in turns instead of in order of arrival (Spark guide, "Job Scheduling").
        "spark.scheduler.mode": "FAIR",
        # A batch that cannot be interrupted must not keep the driver from ending. Zero, the default, waits forever.
        "spark.sql.streaming.stopTimeout": "20s",
        # The fingerprint reads the plan's text; truncated text would hide a change.
        "spark.sql.debug.maxToStringFields": "1000",
    }


def _catalogs(warehouse: str) -> dict[str, str]:
    cassandra, lake = f"spark.sql.catalog.{CASSANDRA_CATALOG}", f"spark.sql.catalog.{LAKE_CATALOG}"
    extensions = (
        "com.datastax.spark.connector.CassandraSparkExtensions",
        "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    )
    return {
        "spark.sql.extensions": ",".join(extensions),
        cassandra: "com.datastax.spark.connector.datasource.CassandraCatalog",
        # "auto" compares sizes, but a stream's size is unknown: it would scan the table in every batch.
        f"{cassandra}.directJoinSetting": "on",
        # Every read sees a dimension row written at LOCAL_QUORUM, whichever replica answers. By default the connector reads
        # one replica, which may lack it, and a known user becomes a dead letter.
        "spark.cassandra.input.consistency.level": "LOCAL_QUORUM",
        # Pods change their addresses: resolve on each connect.
        "spark.cassandra.connection.resolveContactPoints": "false",
        # A recovered node is used again at once; by default it takes up to a minute.
        "spark.cassandra.connection.reconnectionDelayMS.max": "5000",
        lake: "org.apache.iceberg.spark.SparkCatalog",
        f"{lake}.type": "hadoop",
        f"{lake}.warehouse": warehouse,
        # The writer asks the table which batches it has: a cached answer could be stale.
        f"{lake}.cache-enabled": "false",
    }


def _upkeep() -> dict[str, str]:
    """Return bounds that keep a driver small even after weeks."""
    return {
        "spark.cleaner.periodicGC.interval": "10min",
        "spark.eventLog.enabled": "false",
        "spark.sql.streaming.numRecentProgressUpdates": "20",
        "spark.sql.streaming.ui.retainedProgressUpdates": "20",
        "spark.sql.streaming.ui.retainedQueries": "20",
        # The UI stores the plan text of every batch, whether or not someone looks: use the short form.
        "spark.sql.ui.explainMode": "simple",
        "spark.sql.ui.retainedExecutions": "20",
        "spark.ui.dagGraph.retainedRootRDDs": "20",
        "spark.ui.retainedDeadExecutors": "5",
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.ui.retainedTasks": "500",
        "spark.ui.showConsoleProgress": "false",
    }


def local_conf(pipeline: Pipeline, ui_port: int) -> dict[str, str]:
    """Return the additional settings for one machine: the driver is the application and listens on loopback only.

    The web UI listens on SPARK_LOCAL_IP, so a launcher also sets `local_environment()`.
    """
    return {
        "spark.master": f"local[{pipeline.driver.cores}]",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.port": str(ui_port),
    }


def local_environment() -> dict[str, str]:
    """Return the environment of a local driver."""
    return {"SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC"}


def source_options(pipeline: Pipeline, source: str) -> dict[str, str]:
    """Return the options of Spark's Kafka source for one topic; the binding adds servers and login.

    `kafka.group.id` is never set: queries that share a group would each read only a part (Kafka integration guide).
    """
    return {
        "subscribe": source,
        # Used only by the first batch of a generation; afterwards the checkpoint determines where to continue.
        "startingOffsets": "earliest",
        # Records deleted by retention before they were read stop the query instead of being skipped silently.
        "failOnDataLoss": "true",
        "maxOffsetsPerTrigger": str(pipeline.driver.max_offsets_per_trigger),
        "groupIdPrefix": f"{group_prefix(pipeline.name)}reader",
        # The default is half a second, longer than a small batch.
        "kafka.fetch.max.wait.ms": "20",
        # An aborted and repeated transaction must not count twice; by default Kafka reads aborted records (ADR 0031).
        "kafka.isolation.level": READ_COMMITTED,
    }


def archive_options(pipeline: Pipeline, delay: str) -> dict[str, str]:
    """Return the Kafka source options of an archive query besides `source_options`: few records wait up to `delay`."""
    return _waiting(pipeline, ARCHIVE_OFFSETS, delay)


def query_options(pipeline: Pipeline, query: Query) -> dict[str, str]:
    """Return the Kafka source options of a declared query besides `source_options`: few records wait as `freshness` allows."""
    milliseconds = waits(query) // timedelta(milliseconds=1)
    return _waiting(pipeline, BATCH_OFFSETS, f"{milliseconds}ms") if milliseconds else {}


def _waiting(pipeline: Pipeline, offsets: int, delay: str) -> dict[str, str]:
    """Return the options by which a batch begins at this many waiting offsets, or `delay` after the batch before.

    A batch, its commit and its files cost the same for ten records as for a thousand. The first batch after a start does
    not wait (KafkaMicroBatchStream.delayBatch).
    """
    least = min(offsets, pipeline.driver.max_offsets_per_trigger)
    return {"minOffsetsPerTrigger": str(least), "maxTriggerDelay": delay}


def sink_options() -> dict[str, str]:
    """Return the options of Spark's Kafka sink: large compressed batches, all replicas acknowledge, no reordering."""
    return {
        "kafka.acks": "all",
        "kafka.enable.idempotence": "true",
        "kafka.compression.type": "lz4",
        "kafka.batch.size": "262144",
        # Milliseconds. Spark flushes at the end of a task, so this only fills batches under load.
        "kafka.linger.ms": "20",
        "kafka.max.request.size": str(WRITTEN_RECORD_BYTES),
    }


def cassandra_sink_options(sink: CassandraSink) -> dict[str, str]:
    """Return the connector's options of one sink; the writer adds keyspace, table and writetime."""
    options = {
        # Null means "unknown" and writes nothing; without this setting it would write a tombstone.
        "spark.cassandra.output.ignoreNulls": "true",
        "spark.cassandra.output.consistency.level": sink.consistency,
        # Rows of one partition are sent as one unlogged batch of up to this many bytes (the connector's default: 1024).
        # Cassandra limits only batches that span several partitions (CASSANDRA-10876).
        "spark.cassandra.output.batch.size.bytes": "16384",
        # Concurrent batches per task. The connector's default, five, waits for the commit log most of the time.
        "spark.cassandra.output.concurrent.writes": "32",
    }
    if sink.ttl is not None:
        # Seconds. Also the table's default; set here as well for tables that existed before.
        options["ttl"] = str(sink.ttl // timedelta(seconds=1))
    return options


@dataclass(frozen=True)
class ClusterStart:
    """One start of a driver on Kubernetes: namespace, image, pod templates, and its identifiers."""

    namespace: str
    image: str
    warehouse: str
    driver_template: str
    executor_template: str
    life: str
    settings: str
    release: str = ""
    executors: int = 1


def cluster_conf(pipeline: Pipeline, start: ClusterStart) -> dict[str, str]:
    """Return the settings with which spark-submit creates the driver pod; none of them is secret.

    The driver pod's name is fixed: the API server refuses a second one (AlreadyExists), which is the fence. Bindings
    are Secrets mounted by name; the pod templates define the rest (Spark guide, "Running Spark on Kubernetes").
    """
    name = kubernetes_name(pipeline.name)
    return {
        **spark_conf(pipeline, start.warehouse),
        "spark.kubernetes.namespace": start.namespace,
        "spark.kubernetes.container.image": start.image,
        "spark.kubernetes.driver.pod.name": driver_pod(pipeline.name),
        "spark.kubernetes.executor.podNamePrefix": name,
        "spark.kubernetes.authenticate.driver.serviceAccountName": DRIVER_ACCOUNT,
        "spark.kubernetes.authenticate.executor.serviceAccountName": EXECUTOR_ACCOUNT,
        "spark.kubernetes.driver.podTemplateFile": start.driver_template,
        "spark.kubernetes.driver.podTemplateContainerName": "driver",
        "spark.kubernetes.executor.podTemplateFile": start.executor_template,
        "spark.kubernetes.executor.podTemplateContainerName": "executor",
        # spark-submit exits once the pod is created, so no Airflow task runs as long as a stream.
        "spark.kubernetes.submission.waitAppCompletion": "false",
        # The service is removed with the driver pod by its owner reference, and there are no volume claims: fewer rights.
        "spark.kubernetes.driver.service.deleteOnTermination": "false",
        "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
        "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
        "spark.executor.instances": str(start.executors),
        # By default the session waits for its executors; here queries are planned while the executors start.
        "spark.scheduler.minRegisteredResourcesRatio": "0",
        "spark.executor.cores": str(pipeline.driver.cores),
        "spark.executor.memory": pipeline.driver.memory,
        "spark.executorEnv.SERVICE_BINDING_ROOT": BINDING_MOUNT,
        **_bindings(pipeline),
        **_labels(pipeline, start),
    }


def _bindings(pipeline: Pipeline) -> dict[str, str]:
    """Return the mounts of the pipeline's binding Secrets; executors log in to both systems too."""
    return {
        f"spark.kubernetes.{role}.secrets.{binding_secret(system, pipeline.name)}": f"{BINDING_MOUNT}/{system}"
        for role in ("driver", "executor")
        for system in ("kafka", "cassandra")
    }


def _labels(pipeline: Pipeline, start: ClusterStart) -> dict[str, str]:
    labels = {
        "app.kubernetes.io/part-of": "headrace",
        PIPELINE_LABEL: pipeline.name,
        VERSION_LABEL: str(pipeline.version),
        LIFE_LABEL: start.life,
    }
    of_driver = {f"spark.kubernetes.driver.label.{SETTINGS_LABEL}": start.settings}
    if start.release:
        labels[RELEASE_LABEL] = label_value(start.release)
        # Image names contain characters that labels may not: the complete name is an annotation.
        of_driver[f"spark.kubernetes.driver.annotation.{RELEASE_LABEL}"] = start.release
    pods = {
        f"spark.kubernetes.{role}.label.{key}": value
        for role in ("driver", "executor")
        for key, value in labels.items()
    }
    return pods | of_driver
