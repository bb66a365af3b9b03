"""The sinks. Each write is idempotent, because foreachBatch is at least once (Spark guide, "ForeachBatch").

Cassandra: upsert by full primary key with an explicit writetime. Files: one directory per batch, complete or absent.
Kafka: a deterministic id in the headers. Iceberg: the snapshot records which offsets the table has; they are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, IntegerType, LongType, TimestampType

from headrace.access import object_store
from headrace.contract import limits, names
from headrace.contract.model import CassandraSink, KafkaSink, Pipeline, Query
from headrace.contract.platform_columns import SOURCE
from headrace.driver import cassandra_times, java
from headrace.store import archive_notes, file_sink, spark_conf
from headrace.store.checkpoint_log import Offsets
from headrace.store.generation import Generation

WRITETIME = "headrace_writetime"
HEADER_ID = "headrace.id"
HEADER_REASON = "headrace.reason"
HEADER_CUT = "headrace.cut"
OWN_HEADERS = (HEADER_ID, HEADER_REASON, HEADER_CUT, "headrace.query", "headrace.generation", "headrace.batch",
               "headrace.topic", "headrace.partition", "headrace.offset")  # fmt: skip
RECORD_HEADER = "record."
"""The prefix for a record's header if its name is one of ours: the record may itself have been a dead letter."""
_HEADERS = "array<struct<key:string,value:binary>>"
JSON_TIMESTAMP = "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"


@dataclass(frozen=True)
class Batch:
    """One batch of one query's generation; determines the identity and the writetime of its rows.

    `refused` is the number of its rows that go to the dead letters; None if they were not counted.
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
        """Return the writetime of state totals: later batches and later generations win (Cassandra cell timestamps)."""
        return self.generation.started_micros + self.number


def write_cassandra(frame: DataFrame, pipeline: Pipeline, query: str, sink: CassandraSink, batch: Batch) -> None:
    """Upsert the frame's columns into the sink's table, each cell once, nulls unset (never tombstones)."""
    keyspace, table = names.cassandra_table(pipeline.name, query, sink)
    writetime = str(batch.writetime_micros)
    rows = frame
    if sink.writetime != "batch":
        writetime = writetime_column(frame.columns)
        rows = newest_cells(frame, [*sink.partition_key, *sink.clustering_key], sink.writetime)
    options = spark_conf.cassandra_sink_options(sink) | {"keyspace": keyspace, "table": table, "writetime": writetime}
    _upsert(together(rows, sink), options)


def together(rows: DataFrame, sink: CassandraSink) -> DataFrame:
    """Return the rows with those of one Cassandra partition adjacent in each task, if partitions have several rows.

    The connector sends rows of one partition as one unlogged batch if it finds them among its newest 1,000 partitions
    (`output.batch.grouping.buffer.size`); rows of a state store come in hash order.
    """
    return rows.sortWithinPartitions(*sink.partition_key) if sink.clustering_key else rows


def writetime_column(taken: Sequence[str]) -> str:
    """Return the name for the column with a row's write time, different from all names in `taken`.

    The connector turns it into an unquoted CQL variable, so it cannot begin with an underscore like our others.
    """
    name = WRITETIME
    while name in taken:
        name += "_"
    return name


def newest_cells(frame: DataFrame, key: list[str], time: str) -> DataFrame:
    """Reduce to the newest cells of each key; the `writetime_column` (microseconds) is the time of a row's cells.

    Applies Cassandra's own rule (Cells.reconcile) in advance: per cell the newest value wins, at equal times the greater one
    (`cell_order`), and null means "unknown" and overwrites nothing. Otherwise rows of one key in one batch would share a
    statement's timestamp. A cell that is older than its key's newest row becomes a separate row with its own time: with the
    newer time it would win over a value that an earlier batch wrote in between. `time` may be part of the key, as in a time
    series: all rows of a key then have one time.
    """
    written = writetime_column(frame.columns)
    others = [name for name in frame.columns if name not in key]
    known = [
        F.max(F.when(F.col(name).isNotNull(), F.struct(F.col(time).alias("at"), *cell_order(frame, name)))).alias(
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


def cell_order(frame: DataFrame, name: str) -> list[Column]:
    """Return columns that order values as Cassandra orders equally old cells: by their bytes. The last is the `value`.

    Numbers are written in two's complement, so a negative one is greater than all others; the bytes of a decimal are as many
    as its digits need (org.apache.cassandra.serializers; Cells.reconcile).
    """
    value, kind = F.col(name).alias("value"), frame.schema[name].dataType
    if isinstance(kind, TimestampType):
        return [(F.unix_millis(name) < 0).alias("negative"), value]
    if isinstance(kind, (IntegerType, LongType)):
        return [(F.col(name) < 0).alias("negative"), value]
    if isinstance(kind, DecimalType):
        return [_varint(F.regexp_replace(F.format_number(name, kind.scale), "[,.]", "")).alias("bytes"), value]
    return [value]


def _varint(digits: Column) -> Column:
    """Return the shortest two's complement of a whole number (text of up to 38 digits) as hexadecimal text."""
    number, half = digits.cast("decimal(38,0)"), F.lit(str(2**64)).cast("decimal(20,0)")
    rest, quotient = number % half, F.call_function("div", number, half)
    borrowed = rest < 0
    low, high = F.when(borrowed, rest + half).otherwise(rest), quotient - borrowed.cast("bigint")
    word = F.lit(str(2**32)).cast("decimal(10,0)")
    parts = [(high, 16), (F.call_function("div", low, word), 8), ((low % word).cast("bigint"), 8)]
    text = F.concat(*(F.lpad(F.hex(part), size, "0") for part, size in parts))
    return F.regexp_replace(text, "^((00)+(?=[0-7])|(FF)+(?=[89A-F]))", "")


def _unknown(frame: DataFrame, name: str) -> Column:
    return F.lit(None).cast(frame.schema[name].dataType).alias(name)


def json_of(query: Query) -> Column:
    """Return the JSON text of a row in a topic and in a dead letter."""
    return F.to_json(F.struct(*query.columns), {"timestampFormat": JSON_TIMESTAMP, "ignoreNullFields": "false"})


def write_kafka(frame: DataFrame, query: Query, sink: KafkaSink, batch: Batch, kafka: Mapping[str, str]) -> None:
    """Write one JSON record per row to the sink's topic, with id, query, generation and batch in its headers."""
    rows = frame.select(
        F.col(sink.key).cast("string").alias("key"),
        json_of(query).alias("value"),
        headers(batch, {HEADER_ID: identity(sink)}).alias("headers"),
    )
    _send(rows, sink.topic, kafka)


def identity(sink: KafkaSink) -> Column:
    r"""Return the id of a row in a topic: equal rows have equal ids, different rows have different ids.

    The texts of the identity columns, joined by `|`; `|` and `\` inside a text are escaped with `\`. Releases without the
    escape wrote the same ids, except for rows with such characters, whose ids could collide (ADR 0030).
    """
    if sink.identity == "source":
        return coordinates(f"{SOURCE}.")
    return F.concat_ws("|", *(F.regexp_replace(_text(name), r"([|\\])", r"\\$1") for name in sink.identity))


def write_dead_letters(frame: DataFrame, topic: str, batch: Batch, kafka: Mapping[str, str]) -> None:
    """Write refused records, unchanged, to the dead-letter topic of `topic`.

    The frame has key, value and headers of the record, its topic, partition and offset (null for a row that is not a single
    record), reason and id. The letter has the record's own headers after ours, which hold reason and coordinates. A letter
    that is too large for Kafka is truncated: value, key and headers are cut to what fits, and the header `headrace.cut`
    holds their original lengths.
    """
    letters = frame.select(
        F.col("key").cast("binary").alias("key"),
        F.col("value").cast("binary").alias("value"),
        F.coalesce("headers", F.array().cast(_HEADERS)).alias("headers"),
        *(F.col(name).cast("string").alias(name) for name in ("topic", "partition", "offset", "reason", "id")),
    )
    _send(letters.select(*_cut(batch)), names.dead_letter_topic(topic), kafka)


def _cut(batch: Batch) -> list[Column]:
    """Return key, value and headers of letters, truncated if the letter would be larger than Kafka accepts."""
    key, value, own_headers = F.col("key"), F.col("value"), F.col("headers")
    lengths = [F.coalesce(F.octet_length(part), F.lit(0)) for part in (key, value)]
    of_headers = F.aggregate(
        own_headers,
        F.lit(0),
        lambda sum_, h: sum_ + F.octet_length(h["key"]) + F.coalesce(F.octet_length(h["value"]), F.lit(0)) + 16,
    )
    limit = limits.KAFKA_RECORD_BYTES
    large = lengths[0] + lengths[1] + of_headers > limit
    kept_headers = of_headers <= limits.LETTER_KEY_BYTES
    left = limit - 2 * limits.LETTER_KEY_BYTES
    lengths_text = F.concat(F.lit("key of "), lengths[0], F.lit(" bytes, value of "), lengths[1], F.lit(" bytes, headers of "),
                    of_headers, F.lit(" bytes"))  # fmt: skip
    ours = headers(
        batch,
        {
            HEADER_ID: F.col("id"),
            HEADER_REASON: F.col("reason"),
            "headrace.topic": F.col("topic"),
            "headrace.partition": F.col("partition"),
            "headrace.offset": F.col("offset"),
            HEADER_CUT: F.when(large, lengths_text),
        },
    )
    ours = F.filter(ours, lambda h: h["value"].isNotNull())
    theirs = F.transform(
        own_headers,
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
    """Write a batch as JSON lines to `<folder>/batch_id=<batch>`. A complete directory is kept: a replay has the same rows.

    On a disk: write to a temporary path, then rename. In an object store, where a rename copies each file: write in place,
    over anything left by a killed driver; it is complete once Spark has written its marker (`store.file_sink`).
    """
    path = java.named(frame.sparkSession, "org.apache.hadoop.fs.Path")
    final = path(f"{folder}/batch_id={batch}")
    fs = final.getFileSystem(frame.sparkSession._jsc.hadoopConfiguration())
    rows = frame.select(*query.columns).write.mode("overwrite").option("timestampFormat", JSON_TIMESTAMP)
    if object_store.is_object(folder):
        if fs.exists(path(final, file_sink.COMPLETE_MARK)):
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
        raise OSError(f"{aside.toString()} could not be renamed to {final.toString()}. Look for a second driver.")


def _only_read(frame: DataFrame) -> None:
    """Read a replayed batch whose rows are already written: its state must be built and its rows counted all the same."""
    frame.write.format("noop").mode("overwrite").save()


def _drop_empty(fs: Any, folder: Any) -> bool:  # noqa: ANN401 - Java objects
    """Remove what Spark wrote for a batch without rows, and return whether it did: such a batch has no folder."""
    empty = fs.getContentSummary(folder).getLength() == 0
    return empty and bool(fs.delete(folder, True))


def append_archive(frame: DataFrame, table: str, batch: Batch, topic_id: str) -> None:
    """Append a batch to the archive table, with a note up to which offsets of which topic the table is complete."""
    spark = frame.sparkSession
    ends = archive_notes.latest(newest_note(spark, table).ends, batch.ends)
    notes = {
        archive_notes.SNAPSHOT_BATCH: batch.identity,
        archive_notes.SNAPSHOT_OFFSETS: archive_notes.ends_text(ends),
        archive_notes.SNAPSHOT_TOPIC: topic_id,
    }
    writing = frame.writeTo(table)
    for name, value in notes.items():
        writing = writing.option(f"snapshot-property.{name}", value)
    writing.append()


def not_archived(frame: DataFrame, ends: Offsets, batch: Batch) -> DataFrame | None:
    """Return the records of a batch that lie at or beyond `ends`, or None if there can be none.

    A replayed batch has none. A batch of a restored or new generation may have some: the table has each offset once, whichever
    generation appended it.
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


def newest_note(spark: SparkSession, table: str) -> archive_notes.Note:
    """Return the newest note of the table: the batch that wrote it, and up to which offsets the table is complete."""
    loaded = java.named(spark, "org.apache.iceberg.spark.Spark3Util").loadIcebergTable(spark._jsparkSession, table)
    snapshot = loaded.currentSnapshot()
    while snapshot is not None:
        summary = snapshot.summary()
        identity = summary.get(archive_notes.SNAPSHOT_BATCH)
        if identity is not None:
            ends = archive_notes.ends_of(summary.get(archive_notes.SNAPSHOT_OFFSETS))
            return archive_notes.Note(identity, ends, summary.get(archive_notes.SNAPSHOT_TOPIC) or "")
        parent = snapshot.parentId()
        snapshot = None if parent is None else loaded.snapshot(parent)
    return archive_notes.Note("", {})


def _upsert(rows: DataFrame, options: Mapping[str, str]) -> None:
    cassandra_times.sent(rows).write.format("org.apache.spark.sql.cassandra").mode("append").options(**options).save()


def _send(rows: DataFrame, topic: str, kafka: Mapping[str, str]) -> None:
    options = spark_conf.sink_options() | dict(kafka) | {"topic": topic, "includeHeaders": "true"}
    rows.write.format("kafka").options(**options).save()


def coordinates(of: str = "") -> Column:
    """Return `<topic>/<partition>/<offset>` from the columns with these names, or from a struct, with a dot: `of`."""
    return F.concat_ws("/", f"{of}topic", F.col(f"{of}partition"), F.col(f"{of}offset"))


def _text(name: str) -> Column:
    return F.col(name).cast("string")
