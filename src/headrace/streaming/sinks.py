"""The sinks. Each write is safe to repeat: foreachBatch is at least once (Spark guide, "ForeachBatch").

Cassandra: upsert by full primary key with an explicit writetime. Files: a directory a batch, there whole or not at all.
Kafka: a deterministic id in the headers. Iceberg: the offsets that the table has stand in its snapshot, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import archived, names, objects, outputs, submit
from headrace.contract.checkpoint import Offsets
from headrace.contract.generation import Generation
from headrace.contract.model import CassandraSink, KafkaSink, Pipeline, Query
from headrace.streaming import java

WRITETIME = "headrace_writetime"
HEADER_ID = "headrace.id"
HEADER_REASON = "headrace.reason"
JSON_TIMESTAMP = "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"


@dataclass(frozen=True)
class Batch:
    """One batch of one query's generation: what makes a row's identity and its writetime.

    `refused` is how many of its rows go to the dead letters; None: nobody counted them.
    """

    query: str
    generation: Generation
    number: int
    starts: Offsets = field(default_factory=dict)
    ends: Offsets = field(default_factory=dict)
    refused: int | None = None

    @property
    def identity(self) -> str:
        """Return `<pipeline>.<query>/<generation>/<batch>`."""
        return f"{self.query}/{self.generation.number}/{self.number}"

    @property
    def writetime_micros(self) -> int:
        """Return the writetime of state totals: later batches and later generations win (CASSANDRA cell timestamps)."""
        return self.generation.started_micros + self.number


def write_cassandra(frame: DataFrame, pipeline: Pipeline, query: str, sink: CassandraSink, batch: Batch) -> None:
    """Upsert the frame's columns into the sink's table, each cell once, nulls unset (never tombstones)."""
    keyspace, table = names.cassandra_table(pipeline.name, query, sink)
    writetime = str(batch.writetime_micros)
    rows = frame
    if sink.writetime != "batch":
        rows = newest_cells(frame, [*sink.partition_key, *sink.clustering_key], sink.writetime)
        writetime = WRITETIME
    options = submit.cassandra_sink_options(sink) | {"keyspace": keyspace, "table": table, "writetime": writetime}
    writing = together(rows, sink).write.format("org.apache.spark.sql.cassandra").mode("append")
    writing.options(**options).save()


def together(rows: DataFrame, sink: CassandraSink) -> DataFrame:
    """Return the rows with those of one Cassandra partition side by side in each task, where a partition has several.

    The connector sends rows of one partition as one unlogged batch if it meets them among its newest 1,000 partitions
    (`output.batch.grouping.buffer.size`); rows of a state store come in the order of its hashes.
    """
    return rows.sortWithinPartitions(*sink.partition_key) if sink.clustering_key else rows


def newest_cells(frame: DataFrame, key: list[str], time: str) -> DataFrame:
    """Reduce to the newest cells of each key; WRITETIME (microseconds) is when a row's cells were true.

    Cassandra's own rule (Cells.reconcile), applied before it is asked: per cell the newest value wins, at equal times
    the greater, and a null does not overwrite, it says "unknown". Rows of one key in one batch would share a
    statement's timestamp otherwise. A cell that is older than its key's newest row is a row of its own, with its own
    time: under the newer one it would win over a value that an earlier batch wrote in between.
    """
    others = [name for name in frame.columns if name not in key]
    known = [
        F.max(F.when(F.col(name).isNotNull(), F.struct(F.col(time).alias("at"), F.col(name).alias("value")))).alias(
            name
        )
        for name in others
    ]
    cells = frame.groupBy(*key).agg(*known)
    newest = F.col(f"{time}.at")

    def row(at: Column, kept: dict[str, Column]) -> Column:
        values = [kept[name].alias(name) if name in kept else _unknown(frame, name) for name in others]
        return F.struct(*values, F.unix_micros(at).alias(WRITETIME))

    same_time = {name: F.when(F.col(f"{name}.at") == newest, F.col(f"{name}.value")) for name in others}
    older = [
        F.when(F.col(f"{name}.at") < newest, row(F.col(f"{name}.at"), {name: F.col(f"{name}.value")}))
        for name in others
        if name != time
    ]
    rows = cells.select(*key, F.explode(F.array(row(newest, same_time), *older)).alias("row"))
    return rows.where("row IS NOT NULL").select(*key, *(f"row.{name}" for name in (*others, WRITETIME)))


def _unknown(frame: DataFrame, name: str) -> Column:
    return F.lit(None).cast(frame.schema[name].dataType).alias(name)


def write_kafka(frame: DataFrame, query: Query, sink: KafkaSink, batch: Batch, kafka: Mapping[str, str]) -> None:
    """Write one JSON record a row to the sink's topic, with id, query, generation and batch in its headers."""
    value = F.to_json(F.struct(*query.columns), {"timestampFormat": JSON_TIMESTAMP, "ignoreNullFields": "false"})
    identity = _coordinates() if sink.identity == "source" else F.concat_ws("|", *map(_text, sink.identity))
    rows = frame.select(
        F.col(sink.key).cast("string").alias("key"),
        value.alias("value"),
        headers(batch, {HEADER_ID: identity}).alias("headers"),
    )
    _send(rows, sink.topic, kafka)


def write_dead_letters(frame: DataFrame, topic: str, reason: Column, batch: Batch, kafka: Mapping[str, str]) -> None:
    """Write refused records, as they came, to the dead-letter topic of `topic`.

    The frame has key, value, source (topic, partition, offset). The headers tell the reason and the coordinates.
    """
    rows = frame.select(
        F.col("key").cast("binary").alias("key"),
        F.col("value").cast("binary").alias("value"),
        headers(
            batch,
            {
                HEADER_ID: _coordinates(),
                HEADER_REASON: reason,
                "headrace.topic": F.col("source.topic"),
                "headrace.partition": F.col("source.partition").cast("string"),
                "headrace.offset": F.col("source.offset").cast("string"),
            },
        ).alias("headers"),
    )
    _send(rows, names.dead_letter_topic(topic), kafka)


def headers(batch: Batch, extra: Mapping[str, Column]) -> Column:
    """Return the header array of a record: the query, generation and batch that wrote it, and `extra`."""
    fixed = {
        "headrace.query": F.lit(batch.query),
        "headrace.generation": F.lit(str(batch.generation.number)),
        "headrace.batch": F.lit(str(batch.number)),
    }
    return F.array(
        *(
            F.struct(F.lit(key).alias("key"), value.cast("binary").alias("value"))
            for key, value in (fixed | dict(extra)).items()
        )
    )


def write_files(frame: DataFrame, folder: str, query: Query, batch: int) -> None:
    """Write a batch as JSON lines to `<folder>/batch_id=<batch>`. One that is whole is kept: a replay has the same rows.

    On a disk: aside first, then one rename. In an object store, where a rename is a copy of each file: in its place, over
    what a driver that was killed left there, and whole once Spark has put its mark (`contract.outputs`).
    """
    path = java.named(frame.sparkSession, "org.apache.hadoop.fs.Path")
    final = path(f"{folder}/batch_id={batch}")
    fs = final.getFileSystem(frame.sparkSession._jsc.hadoopConfiguration())
    rows = frame.select(*query.columns).write.mode("overwrite").option("timestampFormat", JSON_TIMESTAMP)
    if objects.is_object(folder):
        if fs.exists(path(final, outputs.WHOLE)):
            _only_read(frame)
            return
        rows.json(final.toString())
        _drop_empty(fs, final)
        return
    if fs.exists(final):
        _only_read(frame)
        return
    aside = path(f"{folder}/.aside-{batch}")
    rows.json(aside.toString())
    if not _drop_empty(fs, aside) and not fs.rename(aside, final):
        raise OSError(f"{aside.toString()} could not be renamed to {final.toString()}: look for a second driver.")


def _only_read(frame: DataFrame) -> None:
    """Read a replayed batch whose rows are there: its state must be made and its rows counted all the same."""
    frame.write.format("noop").mode("overwrite").save()


def _drop_empty(fs: Any, folder: Any) -> bool:  # noqa: ANN401 - Java objects
    """Remove what Spark wrote for a batch without rows, and return whether it did: such a batch has no folder."""
    empty = fs.getContentSummary(folder).getLength() == 0
    return empty and bool(fs.delete(folder, True))


def append_archive(frame: DataFrame, table: str, batch: Batch, topic_id: str) -> None:
    """Append a batch to the archive table; the note that goes with it says up to which offsets of which topic it is whole."""
    spark = frame.sparkSession
    ends = archived.latest(newest_note(spark, table).ends, batch.ends)
    notes = {
        archived.SNAPSHOT_BATCH: batch.identity,
        archived.SNAPSHOT_OFFSETS: archived.ends_text(ends),
        archived.SNAPSHOT_TOPIC: topic_id,
    }
    writing = frame.writeTo(table)
    for name, value in notes.items():
        writing = writing.option(f"snapshot-property.{name}", value)
    writing.append()


def not_archived(frame: DataFrame, ends: Offsets, batch: Batch) -> DataFrame | None:
    """Return the records of a batch that lie at or beyond `ends`, or None where there can be none.

    A replayed batch has none. One of a restored or new generation may have some: whatever generation appended a record,
    the table has each offset once.
    """
    known = {(topic, p): end for topic, parts in ends.items() for p, end in parts.items()}
    read = {
        (topic, p): (batch.starts.get(topic, {}).get(p, 0), end)
        for topic, parts in batch.ends.items()
        for p, end in parts.items()
    }
    if all(end <= known.get(place, 0) for place, (_, end) in read.items()):
        return None
    overlapping = {place: known[place] for place, (start, _) in read.items() if known.get(place, 0) > start}
    for (topic, partition), end in overlapping.items():
        old = (F.col("topic") == topic) & (F.col("partition") == partition) & (F.col("offset") < end)
        frame = frame.where(~old)
    return frame


def newest_note(spark: SparkSession, table: str) -> archived.Note:
    """Return what the newest snapshot with a note says: whose batch it added, and up to which offsets the table is whole."""
    loaded = java.named(spark, "org.apache.iceberg.spark.Spark3Util").loadIcebergTable(spark._jsparkSession, table)
    snapshot = loaded.currentSnapshot()
    while snapshot is not None:
        said = snapshot.summary()
        identity = said.get(archived.SNAPSHOT_BATCH)
        if identity is not None:
            ends = archived.ends_of(said.get(archived.SNAPSHOT_OFFSETS))
            return archived.Note(identity, ends, said.get(archived.SNAPSHOT_TOPIC) or "")
        parent = snapshot.parentId()
        snapshot = None if parent is None else loaded.snapshot(parent)
    return archived.Note("", {})


def _send(rows: DataFrame, topic: str, kafka: Mapping[str, str]) -> None:
    options = submit.sink_options() | dict(kafka) | {"topic": topic, "includeHeaders": "true"}
    rows.write.format("kafka").options(**options).save()


def _coordinates() -> Column:
    return F.concat_ws("/", "source.topic", F.col("source.partition"), F.col("source.offset"))


def _text(name: str) -> Column:
    return F.col(name).cast("string")
