"""Rows that a sink cannot accept: each becomes a dead letter, with its reason and the original record (ADR 0030).

Every row of a declared query gets a reason, or null if all sinks accept it. A row with a reason goes to no sink.
- A row of one record (a projection, a lookup): the letter has the record's original key, value and headers. They are
  read again by the row's coordinates, so that good records do not have to carry them.
- A row of many records (an aggregate, a join): the letter has the row as JSON and no key.
The limits are those of `contract.limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import assert_never

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.contract import limits
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Pipeline, Query, decimal_digits
from headrace.contract.platform_columns import SOURCE
from headrace.contract.spark_types import ddl_type
from headrace.driver import sinks, source
from headrace.driver.columns import REASON_LENGTH
from headrace.store.quarantine import Entries

REASON = "_headrace_reason"
"""The column that `judged` adds. User columns never begin with an underscore (`contract.model.NAME_PATTERN`)."""

REFUSED = f"{REASON} IS NOT NULL"
"""SQL: the condition for rows that go to no sink."""

UNMATCHED, NOT_WRITTEN, QUARANTINED = "unmatched", "not_written", "quarantined"
"""The codes of reasons that a query gives. All other reasons are the contract's (`driver.decode`)."""

Transform = Callable[..., DataFrame]
Records = Callable[[DataFrame], DataFrame]
"""Maps the coordinates of refused rows (topic, partition, offset) to a frame of records with at least these columns:
key, value, headers, topic, partition, offset."""


def of_one_record(query: Query) -> bool:
    """Return whether each row comes from one record, whose bytes a letter can contain."""
    return query.aggregate is None and query.join is None


def judged(frame: DataFrame, pipeline: Pipeline, query: Query) -> DataFrame:
    """Return the rows with REASON (string, null if every sink accepts the row; at most 200 characters)."""
    rules = [F.when(broken, why) for broken, why in _rules(frame, pipeline, query)]
    reason = F.substring(F.coalesce(*rules), 1, REASON_LENGTH) if rules else F.lit(None).cast("string")
    return frame.withColumn(REASON, reason)


def accepted(frame: DataFrame, pipeline: Pipeline, query: Query) -> DataFrame:
    """Return the rows that go to the sinks, as reconciliation expects them there."""
    return judged(frame, pipeline, query).where(F.col(REASON).isNull()).drop(REASON)


def taken(transform: Transform, pipeline: Pipeline, query: Query) -> Transform:
    """Return the transform without the rows that go to no sink."""

    def rows(*args: DataFrame, **frames: DataFrame) -> DataFrame:
        return accepted(transform(*args, **frames), pipeline, query)

    return rows


def by_a_query(reason: Column) -> Column:
    """Return whether a reason (never null) was given by a query, not by the contract."""
    return F.substring_index(reason, ":", 1).isin(UNMATCHED, NOT_WRITTEN, QUARANTINED)


def letters(frame: DataFrame, query: Query, batch: sinks.Batch, records: Records) -> DataFrame:
    """Return the letters of the rows with a reason, in the columns that `sinks.write_dead_letters` takes.

    `frame` comes from `judged`. Several rows of one record become one letter, with the first of their reasons.
    """
    refused = frame.where(F.col(REASON).isNotNull())
    if of_one_record(query) and SOURCE in frame.columns:
        place = ("topic", "partition", "offset")
        reasons = refused.select(*(F.col(f"{SOURCE}.{name}").alias(name) for name in place), REASON)
        reasons = reasons.groupBy(*place).agg(F.min(REASON).alias("reason"))
        # An archive's records have their own `reason` column.
        originals = records(reasons).select("key", "value", "headers", *place)
        return originals.join(reasons, list(place)).withColumn("id", sinks.coordinates())
    row = sinks.json_of(query)
    identity = F.concat(F.lit(f"{batch.identity}/"), F.hex(F.xxhash64(row)))
    nothing = F.lit(None)
    return refused.select(
        nothing.cast("binary").alias("key"),
        row.alias("value"),
        nothing.cast("array<struct<key:string,value:binary>>").alias("headers"),
        nothing.cast("string").alias("topic"),
        nothing.cast("int").alias("partition"),
        nothing.cast("bigint").alias("offset"),
        F.col(REASON).alias("reason"),
        identity.alias("id"),
    )


def quarantined(records: DataFrame, passed: Entries) -> DataFrame:
    """Return the letters of the records that a query passes over, in the columns that `sinks.write_dead_letters` takes.

    `records` is any frame that has the records, with key, value, headers, topic, partition and offset.
    """
    reasons = (F.when(source.among([entry]), F.lit(f"{QUARANTINED}: {entry.reason}")) for entry in passed)
    reason = F.substring(F.coalesce(*reasons), 1, REASON_LENGTH)
    inside = records.where(source.among(passed)).select("key", "value", "headers", "topic", "partition", "offset")
    return inside.withColumn("reason", reason).withColumn("id", sinks.coordinates())


def _rules(frame: DataFrame, pipeline: Pipeline, query: Query) -> Iterator[tuple[Column, Column]]:
    """Yield (condition, reason) in the order of application."""
    if query.matched:
        # Null is not true: each row is in exactly one of the two halves.
        key = pipeline.sources[query.sources[0]].key
        yield ~F.coalesce(F.col(query.matched), F.lit(False)), F.lit(f"{UNMATCHED}: {key}")
    yield from _nulls(query)
    yield from _values(frame, query)
    for sink in query.sinks:
        match sink:
            case CassandraSink():
                yield from _cassandra(query, sink)
            case KafkaSink():
                yield from _kafka(query, sink)
            case FilesSink():
                pass  # a JSON file has no limit that a row could exceed
            case _:
                assert_never(sink)


def _nulls(query: Query) -> Iterator[tuple[Column, Column]]:
    for name, column in query.columns.items():
        if column.required:
            yield F.col(name).isNull(), _reason(f"{name} is required, but the transform returned null")


def _values(frame: DataFrame, query: Query) -> Iterator[tuple[Column, Column]]:
    """Yield the rules for single values: years of times have four digits, and decimals fit their column."""
    for name, column in query.columns.items():
        if column.type in ("timestamp", "date"):
            year = F.year(name)
            why = f"{name} is not in the years {limits.FIRST_YEAR} to {limits.LAST_YEAR}"
            yield ~year.between(limits.FIRST_YEAR, limits.LAST_YEAR), _reason(why)
        wanted = ddl_type(column.type)
        if decimal_digits(column.type) and dict(frame.dtypes).get(name, wanted) != wanted:
            value = F.col(name)
            yield value.isNotNull() & value.cast(wanted).isNull(), _reason(f"{name} does not fit {column.type}")


def _cassandra(query: Query, sink: CassandraSink) -> Iterator[tuple[Column, Column]]:
    if len(sink.partition_key) == 1 and query.columns[sink.partition_key[0]].type == "string":
        (name,) = sink.partition_key
        yield F.col(name) == "", _reason(f"{name} is empty, but Cassandra accepts no empty partition key")
    several = len(sink.partition_key) > 1
    parts = limits.CASSANDRA_KEY_PART_BYTES * len(sink.partition_key) if several else 0
    for what, names, more in (("partition", sink.partition_key, parts), ("clustering", sink.clustering_key, 0)):
        if names:
            size = _bytes(query, names) + more
            yield from _too_large(size, limits.CASSANDRA_KEY_BYTES, f"the {what} key ({', '.join(names)})", "Cassandra")
    size = _bytes(query, list(query.columns)) + limits.CASSANDRA_CELL_BYTES * len(query.columns)
    yield from _too_large(size, limits.CASSANDRA_ROW_BYTES, "the row", "Cassandra")


def _kafka(query: Query, sink: KafkaSink) -> Iterator[tuple[Column, Column]]:
    identity = [] if sink.identity == "source" else sink.identity
    # A character takes at most six bytes in JSON (\u001f), so only rows that may be too large are serialised to measure them.
    rough = _bytes(query, list(query.columns)) * 6 + _bytes(query, [sink.key, *identity])
    rough = rough + sum(len(name) + 64 for name in query.columns)
    exact = F.octet_length(sinks.json_of(query)) + _bytes(query, [sink.key, *identity])
    size = F.when(rough > limits.KAFKA_RECORD_BYTES, exact).otherwise(F.lit(0))
    yield from _too_large(size, limits.KAFKA_RECORD_BYTES, f"the record of topic {sink.topic}", "Kafka")


def _bytes(query: Query, names: Sequence[str]) -> Column:
    """Return the total bytes of the columns' values: a text's own length, at most 24 for any other value."""
    sizes = [
        F.coalesce(F.octet_length(name), F.lit(0)) if query.columns[name].type == "string" else F.lit(24)
        for name in names
    ]
    return reduce(lambda one, other: one + other, sizes).cast("bigint")


def _too_large(size: Column, limit: int, what: str, store: str) -> Iterator[tuple[Column, Column]]:
    yield size > limit, F.concat(F.lit(f"{NOT_WRITTEN}: {what} has "), size, F.lit(f" bytes, {store} accepts {limit}"))


def _reason(text: str) -> Column:
    return F.lit(f"{NOT_WRITTEN}: {text}")
