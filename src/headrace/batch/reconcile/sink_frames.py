"""The content of the sinks as frames: each row once, with the information which batch wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.access.bindings import READ_COMMITTED, read_kafka
from headrace.batch.finite_job import Job
from headrace.contract import names
from headrace.contract.cassandra import directory_columns
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Query, Sink
from headrace.contract.spark_types import ddl
from headrace.driver import cassandra_times, sinks
from headrace.driver.session import kafka_options
from headrace.store.file_sink import Directory

WRITTEN = "_written"  # microseconds: the newest writetime of a Cassandra row's cells
ENTERED = "_entered"  # microseconds: when a directory's refresh wrote the row, in a table shared with a stream
BATCH, GENERATION = "_batch", "_generation"
PARTITION, OFFSET = "_partition", "_offset"


def sink_name(job: Job, name: str, sink: Sink) -> str:
    """Return the name of a sink in reports."""
    match sink:
        case CassandraSink():
            return f"table {'.'.join(names.cassandra_table(job.pipeline.name, name, sink))}"
        case KafkaSink():
            return f"topic {sink.topic}"
        case FilesSink():
            return f"files {job.pipeline.name}/{name}"
        case _:
            assert_never(sink)


def rows(job: Job, name: str, query: Query, sink: Sink, directories: Sequence[Directory]) -> DataFrame:
    """Return the rows of a sink; of a file sink those in `directories`."""
    match sink:
        case CassandraSink():
            return cassandra(job, name, query, sink)
        case KafkaSink():
            return topic(job, sink.topic)
        case FilesSink():
            return files(job, query, directories)
        case _:
            assert_never(sink)


def cassandra(job: Job, name: str, query: Query, sink: CassandraSink) -> DataFrame:
    """Return the query's columns of its table, with WRITTEN, read at LOCAL_QUORUM.

    If a refresh also writes the table there is also ENTERED, the oldest writetime of the refresh's cells: between an earlier
    deletion and this time the row did not exist.
    """
    keyspace, table = names.cassandra_table(job.pipeline.name, name, sink)
    key = {*sink.partition_key, *sink.clustering_key}
    cells = [column for column in query.columns if column not in key]
    full = f"{names.CASSANDRA_CATALOG}.{keyspace}.{table}"
    # writetime() is a function of the connector; a cell written by hand has the clock's time, whatever the others have.
    times = [F.expr(f"writetime(`{cell}`)").alias(f"_written_{cell}") for cell in cells]
    directory = [
        column
        for dimension, spec in job.pipeline.dimensions.items()
        if (spec.keyspace, spec.table) == (keyspace, table)
        for column in directory_columns(job.pipeline, dimension)
    ]
    times += [F.expr(f"writetime(`{column}`)").alias(f"_entered_{column}") for column in directory]
    rows = job.spark.table(full).select(*query.columns, *times)
    # A table with key columns only has no cell, and so no write time to read.
    nothing = F.lit(None).cast("bigint")
    newest = F.greatest(*(F.col(f"_written_{cell}") for cell in cells), nothing, nothing)
    rows = rows.withColumn(WRITTEN, newest)
    if directory:
        rows = rows.withColumn(
            ENTERED, F.least(*(F.col(f"_entered_{column}") for column in directory), nothing, nothing)
        )
    return cassandra_times.read(typed(rows.select(*query.columns, WRITTEN, *([ENTERED] if directory else [])), query))


def typed(rows: DataFrame, query: Query) -> DataFrame:
    """Return the rows with the contract's types: Cassandra's decimal has no fixed scale."""
    wanted = {name: column.type for name, column in query.columns.items()}
    cast = [
        F.col(name).cast(wanted[name]).alias(name) if wanted.get(name, "").startswith("decimal(") else F.col(name)
        for name in rows.columns
    ]
    return rows.select(*cast)


def topic(job: Job, name: str) -> DataFrame:
    """Return every record of a topic that we write: key, value, partition, offset, timestamp, and the headers by name."""
    options = kafka_options(read_kafka(job.bindings)) | {
        "subscribe": name,
        "includeHeaders": "true",
        "kafka.isolation.level": READ_COMMITTED,
    }
    raw = job.spark.read.format("kafka").options(**options).load()
    return raw.select(
        "key",
        "value",
        "partition",
        "offset",
        "timestamp",
        header(sinks.HEADER_ID).alias("_id"),
        header("headrace.generation").cast("int").alias(GENERATION),
        header("headrace.batch").cast("bigint").alias(BATCH),
        header(sinks.HEADER_REASON).alias("_reason"),
        header(sinks.HEADER_CUT).alias("_cut"),
        header("headrace.query").alias("_query"),
    )


def header(name: str) -> Column:
    """Return the text of a header, or null if it is absent."""
    return F.expr(f"filter(headers, h -> h.key = '{name}')[0].value").cast("string")


def newest_of_each(records: DataFrame) -> DataFrame:
    """Return one record per id: of the newest generation, and of its newest batch. Repeats of one batch are equal."""
    others = [name for name in records.columns if name != "_id"]
    ordered = F.struct(GENERATION, BATCH, *(name for name in others if name not in (GENERATION, BATCH)))
    return records.groupBy("_id").agg(F.max(ordered).alias("row")).select("_id", "row.*")


def rows_of(records: DataFrame, query: Query, sink: KafkaSink) -> DataFrame:
    """Return the rows of a topic, each once: the newest record's, with the query's columns and GENERATION."""
    newest = newest_of_each(identified(records, query, sink))
    return newest.select(*(F.col(f"_row.{name}").alias(name) for name in query.columns), GENERATION)


def identified(records: DataFrame, query: Query, sink: KafkaSink) -> DataFrame:
    """Return the records of a topic with `_row`, the query's columns, and of their own columns those that begin with `_`.

    Rows with a declared identity get the `_id` of their columns: an id of an older release may stand for two rows
    (`sinks.identity`).
    """
    row = F.from_json(F.col("value").cast("string"), ddl(query.columns), {"timestampFormat": sinks.JSON_TIMESTAMP})
    parsed = records.withColumn("_row", row)
    inner = [name for name in parsed.columns if name[0] == "_"]
    if sink.identity == "source":
        return parsed.select(*inner)
    rows = parsed.select(*(F.col(f"_row.{name}") for name in query.columns), *inner)
    return rows.withColumn("_id", sinks.identity(sink)).select(*inner)


def placed_by_id(records: DataFrame, source: str) -> DataFrame:
    """Return the records whose id is coordinates in `source`, with PARTITION and OFFSET of the source record."""
    parts = F.split("_id", "/")
    return (
        records.withColumn(PARTITION, parts[1].cast("int"))
        .withColumn(OFFSET, parts[2].cast("bigint"))
        .where((parts[0] == source) & F.col(OFFSET).isNotNull())
    )


def files(job: Job, query: Query, directories: Sequence[Directory]) -> DataFrame:
    """Return the rows of a file sink's valid directories with `batch_id`, the first batch in the directory."""
    schema = ddl(query.columns)
    if not directories:
        return job.spark.createDataFrame([], f"{schema}, batch_id BIGINT")
    reader = job.spark.read.schema(schema).option("timestampFormat", sinks.JSON_TIMESTAMP)
    rows = reader.json([directory.path for directory in directories])
    first = F.regexp_extract(F.input_file_name(), r"batch_id=(\d+)", 1).cast("bigint")
    return rows.withColumn("batch_id", first)
