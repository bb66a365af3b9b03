"""From a topic to a typed frame: Kafka source, then decode once, then the watermark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from types import MappingProxyType

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Pipeline, Query, Source, format_duration
from headrace.contract.platform_columns import KAFKA_TIMESTAMP, RAW
from headrace.driver import decode
from headrace.store import pace, spark_conf
from headrace.store.quarantine import Entries, OffsetRange


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
    ranges = [OffsetRange(topic, row.partition, row["first"], row["last"]) for row in bounds]
    return between(spark, pipeline, kafka, topic, ranges)


def between(
    spark: SparkSession, pipeline: Pipeline, kafka: Mapping[str, str], topic: str, ranges: Sequence[OffsetRange]
) -> DataFrame:
    """Return the records of a topic between the first and the last of these offsets of each partition.

    Columns: those of `stream`, with headers. Kafka must still have all of them.
    """
    firsts: dict[str, int] = {}
    pasts: dict[str, int] = {}
    for part in ranges:
        number = str(part.partition)
        firsts[number] = min(part.first, firsts.get(number, part.first))
        pasts[number] = max(part.last + 1, pasts.get(number, 0))
    options = _options(spark, pipeline, topic, kafka)
    name = options.pop("subscribe")
    for unused in ("maxOffsetsPerTrigger", "startingOffsets"):
        options.pop(unused, None)
    options |= {
        "assign": json.dumps({name: [int(number) for number in firsts]}),
        "startingOffsets": json.dumps({name: firsts}),
        "endingOffsets": json.dumps({name: pasts}),
        "includeHeaders": "true",
    }
    return spark.read.format("kafka").options(**options).load()


def _options(spark: SparkSession, pipeline: Pipeline, topic: str, kafka: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a Kafka source; the number of records per poll follows the driver's pace."""
    polled = {"kafka.max.poll.records": spark.conf.get(pace.POLL_RECORDS, str(pace.LEVELS[0].poll_records))}
    return spark_conf.source_options(pipeline, topic) | polled | dict(kafka)


def added_columns(query: Query, source: Source) -> tuple[str, ...]:
    """Return the columns that a query's rows carry besides the contract's; each costs the transfer to Python and back.

    A row of an aggregate or join consists of many records, so it has no coordinates. RAW exists for transforms that
    select it, as those of older releases do; a dead letter reads the record again.
    """
    if query.aggregate or query.join:
        return () if source.event_time else (KAFKA_TIMESTAMP,)
    return (*decode.USUAL, RAW) if query.matched else decode.USUAL


def among(ranges: Sequence[OffsetRange], of: str = "") -> Column:
    """Return whether a record is in one of the ranges; `of` is empty, or the struct with its coordinates and a dot."""
    return reduce(
        or_,
        (
            (F.col(f"{of}topic") == part.topic)
            & (F.col(f"{of}partition") == part.partition)
            & F.col(f"{of}offset").between(part.first, part.last)
            for part in ranges
        ),
        F.lit(False),
    )


def without(frame: DataFrame, passed: Entries, of: str = "") -> DataFrame:
    """Return the records that a query does not pass over (ADR 0049); without entries the frame itself. `of` as in `among`."""
    return frame.where(~among(passed, of)) if passed else frame


def accepted(raw: DataFrame, source: Source, added: tuple[str, ...] = decode.USUAL, passed: Entries = ()) -> DataFrame:
    """Return the accepted records of a raw frame (stream, archive or Kafka batch), typed by the contract.

    Columns: the source's columns, then those of `added`, of `decode.ADDED_COLUMNS`.
    Records that the query passes over (`passed`) are left out before they are decoded.
    """
    decoder = decode.make_decoder(source, added)
    raw = without(raw, passed)
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
