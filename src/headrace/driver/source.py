"""From a topic to a typed frame: Kafka source, then decode once, then the watermark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Pipeline, Query, Source, format_duration
from headrace.driver import decode
from headrace.store import pace, spark_conf


def stream(
    spark: SparkSession,
    pipeline: Pipeline,
    topic: str,
    kafka: Mapping[str, str],
    *,
    headers: bool = False,
    starting_ms: int | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> DataFrame:
    """Return the raw stream of a topic: key, value, topic, partition, offset, timestamp, timestampType, and headers.

    Headers are read only on request, because Spark builds them for every record even if unused. `starting_ms` is the
    broker time (milliseconds since 1970) at which a generation's first batch begins; later batches follow the checkpoint.
    `more` are further options of the source.
    """
    options = _options(spark, pipeline, topic, kafka) | dict(more) | {"includeHeaders": str(headers).lower()}
    if starting_ms is not None:
        # a partition without a later record begins at its end
        options |= {"startingTimestamp": str(starting_ms), "startingOffsetsByTimestampStrategy": "latest"}
    return spark.readStream.format("kafka").options(**options).load()


def as_batch(spark: SparkSession, pipeline: Pipeline, topic: str, kafka: Mapping[str, str]) -> DataFrame:
    """Return the current content of a topic as a batch, in the columns of `stream` without headers."""
    options = _options(spark, pipeline, topic, kafka)
    del options["maxOffsetsPerTrigger"]
    return spark.read.format("kafka").options(**options).load()


def reread(
    spark: SparkSession, pipeline: Pipeline, topic: str, kafka: Mapping[str, str], places: DataFrame
) -> DataFrame:
    """Return records of a topic that were read before, by topic, partition and offset, in the columns of `stream`.

    `places` are a few rows of the running batch, so Kafka still has them; other records in between are returned as well.
    """
    bounds = places.groupBy("partition").agg(F.min("offset").alias("first"), F.max("offset").alias("last")).collect()
    options = _options(spark, pipeline, topic, kafka)
    name = options.pop("subscribe")
    for unused in ("maxOffsetsPerTrigger", "startingOffsets"):
        options.pop(unused, None)
    options |= {
        "assign": json.dumps({name: [row.partition for row in bounds]}),
        "startingOffsets": json.dumps({name: {str(row.partition): row["first"] for row in bounds}}),
        "endingOffsets": json.dumps({name: {str(row.partition): row["last"] + 1 for row in bounds}}),
        "includeHeaders": "true",
    }
    return spark.read.format("kafka").options(**options).load()


def _options(spark: SparkSession, pipeline: Pipeline, topic: str, kafka: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a Kafka source; the number of records per poll follows the driver's pace."""
    polled = {"kafka.max.poll.records": spark.conf.get(pace.POLL_RECORDS, str(pace.LEVELS[0].poll_records))}
    return spark_conf.source_options(pipeline, topic) | polled | dict(kafka)


def added_columns(query: Query, source: Source) -> tuple[str, ...]:
    """Return the columns that a query's rows carry besides the contract's; each costs the transfer to Python and back.

    A row of an aggregate or join consists of many records, so it has no coordinates. `raw`, the record's value, exists for
    transforms that select it, as those of older releases do; a dead letter reads the record again.
    """
    if query.aggregate or query.join:
        return () if source.event_time else ("kafka_timestamp",)
    return (*decode.USUAL, "raw") if query.matched else decode.USUAL


def accepted(raw: DataFrame, source: Source, added: tuple[str, ...] = decode.USUAL) -> DataFrame:
    """Return the accepted records of a raw frame (stream, archive or Kafka batch), typed by the contract.

    Columns: the source's columns, then those of `added`: `source` (topic, partition, offset), `kafka_timestamp`, `raw`.
    """
    decoder = decode.make_decoder(source, added)
    return raw.select(*decoder.needs).mapInArrow(decoder.accepted, decode.accepted_ddl(source, added))


def judged(raw: DataFrame, source: Source) -> DataFrame:
    """Return every record of a raw frame unchanged, with `reason` (null: accepted)."""
    columns = raw.select("key", "value", "headers", "topic", "partition", "offset", "timestamp")
    return columns.mapInArrow(decode.make_decoder(source).judged, decode.judged_ddl())


def watermarked(frame: DataFrame, topic: str, query: Query, source: Source) -> DataFrame:
    """Return the frame with the query's watermark for this topic, if it has one."""
    delay = query.watermark.get(topic)
    if delay is None or source.event_time is None:
        return frame
    return frame.withWatermark(source.event_time.column, format_duration(delay))
