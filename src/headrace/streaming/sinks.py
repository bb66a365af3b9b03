"""The sinks. Each write is safe to repeat: foreachBatch is at least once (Spark guide, "ForeachBatch").

Cassandra: upsert by full primary key with an explicit writetime. Files: a directory a batch, there whole or not at all.
Kafka: a deterministic id in the headers. Iceberg: the offsets that the table has stand in its snapshot, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import archived, limits, names, objects, outputs, submit
from headrace.contract.checkpoint import Offsets
from headrace.contract.generation import Generation
from headrace.contract.model import CassandraSink, KafkaSink, Pipeline, Query
from headrace.streaming import java

WRITETIME = "headrace_writetime"
SOURCE = "source"
"""The column with a row's coordinates (topic, partition, offset), which decoding adds (`decode.ADDED_COLUMNS`)."""
HEADER_ID = "headrace.id"
HEADER_REASON = "headrace.reason"
HEADER_CUT = "headrace.cut"
OWN_HEADERS = (HEADER_ID, HEADER_REASON, HEADER_CUT, "headrace.query", "headrace.generation", "headrace.batch",
               "headrace.topic", "headrace.partition", "headrace.offset")  # fmt: skip
RECORD_HEADER = "record."
"""What a letter puts before a header of its record that has the name of one of ours: a record may have been a letter."""
_HEADERS = "array<struct<key:string,value:binary>>"
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
        writetime = writetime_column(frame.columns)
        rows = newest_cells(frame, [*sink.partition_key, *sink.clustering_key], sink.writetime)
    options = submit.cassandra_sink_options(sink) | {"keyspace": keyspace, "table": table, "writetime": writetime}
    _upsert(together(rows, sink), options)


def together(rows: DataFrame, sink: CassandraSink) -> DataFrame:
    """Return the rows with those of one Cassandra partition side by side in each task, where a partition has several.

    The connector sends rows of one partition as one unlogged batch if it meets them among its newest 1,000 partitions
    (`output.batch.grouping.buffer.size`); rows of a state store come in the order of its hashes.
    """
    return rows.sortWithinPartitions(*sink.partition_key) if sink.clustering_key else rows


def writetime_column(taken: Sequence[str]) -> str:
    """Return the name of the column that holds a row's write time, none of those that are taken.

    The connector makes a CQL variable of it without quotes, so it cannot begin with an underscore like our others.
    """
    name = WRITETIME
    while name in taken:
        name += "_"
    return name


def newest_cells(frame: DataFrame, key: list[str], time: str) -> DataFrame:
    """Reduce to the newest cells of each key; the `writetime_column` (microseconds) is when a row's cells were true.

    Cassandra's own rule (Cells.reconcile), applied before it is asked: per cell the newest value wins, at equal times
    the greater, and a null does not overwrite, it says "unknown". Rows of one key in one batch would share a
    statement's timestamp otherwise. A cell that is older than its key's newest row is a row of its own, with its own
    time: under the newer one it would win over a value that an earlier batch wrote in between. `time` may be part of
    the key, as in a time series: all rows of a key then have one time.
    """
    written = writetime_column(frame.columns)
    others = [name for name in frame.columns if name not in key]
    known = [
        F.max(F.when(F.col(name).isNotNull(), F.struct(F.col(time).alias("at"), F.col(name).alias("value")))).alias(
            f"_cell_{name}"
        )
        for name in others
    ]
    if time in key:
        cells = frame.groupBy(*key).agg(F.max(F.unix_micros(time)).alias("_headrace_at"), *known)
        values = [F.col(f"_cell_{name}.value").alias(name) for name in others]
        return cells.select(*key, *values, F.col("_headrace_at").alias(written))
    cells = frame.groupBy(*key).agg(*known)
    newest = F.col(f"_cell_{time}.at")

    def row(at: Column, kept: dict[str, Column]) -> Column:
        values = [kept[name].alias(name) if name in kept else _unknown(frame, name) for name in others]
        return F.struct(*values, F.unix_micros(at).alias(written))

    same_time = {name: F.when(F.col(f"_cell_{name}.at") == newest, F.col(f"_cell_{name}.value")) for name in others}
    older = [
        F.when(F.col(f"_cell_{name}.at") < newest, row(F.col(f"_cell_{name}.at"), {name: F.col(f"_cell_{name}.value")}))
        for name in others
        if name != time
    ]
    rows = cells.select(*key, F.explode(F.array(row(newest, same_time), *older)).alias("_row"))
    return rows.where("_row IS NOT NULL").select(*key, *(f"_row.{name}" for name in (*others, written)))


def _unknown(frame: DataFrame, name: str) -> Column:
    return F.lit(None).cast(frame.schema[name].dataType).alias(name)


def json_of(query: Query) -> Column:
    """Return the JSON text that a row has in a topic and in a dead letter."""
    return F.to_json(F.struct(*query.columns), {"timestampFormat": JSON_TIMESTAMP, "ignoreNullFields": "false"})


def write_kafka(frame: DataFrame, query: Query, sink: KafkaSink, batch: Batch, kafka: Mapping[str, str]) -> None:
    """Write one JSON record a row to the sink's topic, with id, query, generation and batch in its headers."""
    rows = frame.select(
        F.col(sink.key).cast("string").alias("key"),
        json_of(query).alias("value"),
        headers(batch, {HEADER_ID: identity(sink)}).alias("headers"),
    )
    _send(rows, sink.topic, kafka)


def identity(sink: KafkaSink) -> Column:
    r"""Return the id of a row in a topic: two rows of one id are one row, and two different rows have two ids.

    The texts of the identity columns, joined by `|`; a `|` or `\` inside of a text has a `\` before it. Rows of releases
    without that rule have the same id, but for those with such a character, whose ids could collide (ADR 0030).
    """
    if sink.identity == "source":
        return coordinates(f"{SOURCE}.")
    return F.concat_ws("|", *(F.regexp_replace(_text(name), r"([|\\])", r"\\$1") for name in sink.identity))


def write_dead_letters(frame: DataFrame, topic: str, batch: Batch, kafka: Mapping[str, str]) -> None:
    """Write refused records, as they came, to the dead-letter topic of `topic`.

    The frame has key, value and headers of the record, its topic, partition and offset (null for a row that is no single
    record), reason and id. The letter has the record's own headers behind ours, which tell reason and coordinates. A
    letter that Kafka would not take is cut: of its value, its key and its headers only so much as fits, and the header
    `headrace.cut` tells how long they were.
    """
    letters = frame.select(
        F.col("key").cast("binary").alias("key"),
        F.col("value").cast("binary").alias("value"),
        F.coalesce("headers", F.array().cast(_HEADERS)).alias("headers"),
        *(F.col(name).cast("string").alias(name) for name in ("topic", "partition", "offset", "reason", "id")),
    )
    _send(letters.select(*_cut(batch)), names.dead_letter_topic(topic), kafka)


def _cut(batch: Batch) -> list[Column]:
    """Return key, value and headers of letters, cut where the whole would be more than Kafka takes."""
    key, value, own = F.col("key"), F.col("value"), F.col("headers")
    lengths = [F.coalesce(F.octet_length(part), F.lit(0)) for part in (key, value)]
    of_headers = F.aggregate(
        own,
        F.lit(0),
        lambda sum_, h: sum_ + F.octet_length(h["key"]) + F.coalesce(F.octet_length(h["value"]), F.lit(0)) + 16,
    )
    limit = limits.KAFKA_RECORD_BYTES
    large = lengths[0] + lengths[1] + of_headers > limit
    kept_headers = of_headers <= limits.LETTER_KEY_BYTES
    left = limit - 2 * limits.LETTER_KEY_BYTES
    told = F.concat(F.lit("key of "), lengths[0], F.lit(" bytes, value of "), lengths[1], F.lit(" bytes, headers of "),
                    of_headers, F.lit(" bytes"))  # fmt: skip
    ours = headers(
        batch,
        {
            HEADER_ID: F.col("id"),
            HEADER_REASON: F.col("reason"),
            "headrace.topic": F.col("topic"),
            "headrace.partition": F.col("partition"),
            "headrace.offset": F.col("offset"),
            HEADER_CUT: F.when(large, told),
        },
    )
    ours = F.filter(ours, lambda h: h["value"].isNotNull())
    theirs = F.transform(
        own,
        lambda h: F.struct(
            F.when(h["key"].isin(*OWN_HEADERS), F.concat(F.lit(RECORD_HEADER), h["key"]))
            .otherwise(h["key"])
            .alias("key"),
            h["value"].alias("value"),
        ),
    )
    theirs = F.when(large & ~kept_headers, F.array().cast(_HEADERS)).otherwise(theirs)
    return [
        F.when(large, F.substring(key, 1, limits.LETTER_KEY_BYTES)).otherwise(key).alias("key"),
        F.when(large, F.substring(value, 1, left)).otherwise(value).alias("value"),
        F.concat(ours, theirs).alias("headers"),
    ]


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


def _upsert(rows: DataFrame, options: Mapping[str, str]) -> None:
    rows.write.format("org.apache.spark.sql.cassandra").mode("append").options(**options).save()


def _send(rows: DataFrame, topic: str, kafka: Mapping[str, str]) -> None:
    options = submit.sink_options() | dict(kafka) | {"topic": topic, "includeHeaders": "true"}
    rows.write.format("kafka").options(**options).save()


def coordinates(of: str = "") -> Column:
    """Return `<topic>/<partition>/<offset>` of the columns with these names, or of those of a struct: `of` = "source."."""
    return F.concat_ws("/", f"{of}topic", F.col(f"{of}partition"), F.col(f"{of}offset"))


def _text(name: str) -> Column:
    return F.col(name).cast("string")
