"""From a topic to a typed frame: Kafka source, then decode once, then the watermark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from headrace.contract import submit
from headrace.contract.model import Pipeline, Query, Source, format_duration
from headrace.streaming import decode


def stream(spark: SparkSession, pipeline: Pipeline, topic: str, kafka: Mapping[str, str]) -> DataFrame:
    """Return the raw stream of a topic: key, value, topic, partition, offset, timestamp, timestampType, headers."""
    options = submit.source_options(pipeline, topic) | dict(kafka)
    return spark.readStream.format("kafka").options(**options).load()


def whole(spark: SparkSession, pipeline: Pipeline, topic: str, kafka: Mapping[str, str]) -> DataFrame:
    """Return what a topic holds now as a batch, in the columns of `stream`."""
    options = submit.source_options(pipeline, topic) | dict(kafka)
    del options["maxOffsetsPerTrigger"]
    return spark.read.format("kafka").options(**options).load()


def accepted(raw: DataFrame, source: Source, *, keep_raw: bool = False) -> DataFrame:
    """Return the accepted records of a raw frame (stream, archive or Kafka batch), typed by the contract.

    Columns: the source's own, `source` (topic, partition, offset), `kafka_timestamp`, and `raw` (the bytes) if asked.
    """
    columns = raw.select("key", "value", "topic", "partition", "offset", "timestamp")
    return columns.mapInArrow(
        partial(_accepted, source=source, keep_raw=keep_raw), decode.accepted_ddl(source, keep_raw)
    )


def judged(raw: DataFrame, source: Source) -> DataFrame:
    """Return every record of a raw frame as it came, with `reason` (null: accepted)."""
    columns = raw.select("key", "value", "headers", "topic", "partition", "offset", "timestamp")
    return columns.mapInArrow(partial(_judged, source=source), decode.judged_ddl())


def watermarked(frame: DataFrame, topic: str, query: Query, source: Source) -> DataFrame:
    """Return the frame with the query's watermark for this topic, if it has one."""
    delay = query.watermark.get(topic)
    if delay is None or source.event_time is None:
        return frame
    return frame.withWatermark(source.event_time.column, format_duration(delay))


def _accepted(batches: Iterator[pa.RecordBatch], source: Source, keep_raw: bool) -> Iterator[pa.RecordBatch]:
    return decode.accepted(batches, source, keep_raw)


def _judged(batches: Iterator[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    return decode.judged(batches, source)
