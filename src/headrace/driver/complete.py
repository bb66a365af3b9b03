"""Complete mode in a table: rows that are no longer in the result are deleted from the table (ADR 0030).

Each batch delivers the complete result, which is upserted. Rows that an earlier batch wrote and this one lacks are
deleted with the batch's write time. This is exact under replay: a repeated batch has the same result, so it deletes and
writes the same rows with the same time, and no key is both written and deleted in one batch. Later batches have later
times, so a key that returns overwrites its deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.contract.names import cassandra_table
from headrace.contract.spark_types import ddl_type
from headrace.driver import cassandra_guard, cassandra_times, java

_DRIVER = "com.datastax.oss.driver.api.core"


@dataclass
class Result:
    """The result of one query in one table, with a summary of the last batch's keys: the table is read only if it changes."""

    query: Query
    sink: CassandraSink
    keyspace: str
    table: str
    shared: bool = False  # another query or a refresh writes other columns of the same rows
    _last: tuple[Any, ...] | None = field(default=None, init=False)

    def settle(self, rows: DataFrame, writetime: int) -> None:
        """Delete the table's rows that the result (`rows`, already written) lacks, with this write time (microseconds)."""
        key = [*self.sink.partition_key, *self.sink.clustering_key]
        summary = rows.agg(F.count(F.lit(1)), F.sum(F.xxhash64(*key).cast("decimal(38,0)"))).first()
        assert summary is not None
        if tuple(summary) == self._last:
            return
        spark = rows.sparkSession
        # The connector reads every decimal as decimal(38,18), and as a partition key 1.250 is not 1.25.
        types = {name: ddl_type(self.query.columns[name].type) for name in key}
        existing = _keys(spark, self.keyspace, self.table, key)
        existing = existing.select(*(F.col(name).cast(types[name]).alias(name) for name in key))
        kept = rows.select(*(_stored(rows, name).alias(name) for name in key))
        gone = existing.join(kept, key, "left_anti").select(*(_literal(existing, name).alias(name) for name in key))
        _execute(spark, self._deletions(gone.collect(), writetime), self.sink.consistency)
        self._last = tuple(summary)

    def _deletions(self, rows: Iterable[Row], writetime: int) -> Iterator[str]:
        key = {*self.sink.partition_key, *self.sink.clustering_key}
        cells = [quoted(name) for name in self.query.columns if name not in key] if self.shared else []
        what = f"DELETE {', '.join(cells)}".rstrip() + f" FROM {quoted(self.keyspace, self.table)}"
        for row in rows:
            where = " AND ".join(f"{quoted(name)} = {literal(value)}" for name, value in row.asDict().items())
            yield f"{what} USING TIMESTAMP {writetime} WHERE {where}"


def results(pipeline: Pipeline, name: str, query: Query) -> list[Result]:
    """Return the tables of a query in complete mode; none for other modes, whose rows stay."""
    if query.mode != "complete":
        return []
    written = [
        cassandra_table(pipeline.name, other_name, sink)
        for other_name, other in pipeline.queries.items()
        for sink in other.sinks
        if isinstance(sink, CassandraSink)
    ]
    written += [(dimension.keyspace, dimension.table) for dimension in pipeline.dimensions.values()]
    places = [
        (sink, cassandra_table(pipeline.name, name, sink)) for sink in query.sinks if isinstance(sink, CassandraSink)
    ]
    return [Result(query, sink, *place, shared=written.count(place) > 1) for sink, place in places]


def literal(value: object) -> str:
    """Return a key's value as a CQL literal: quoted text with inner quotes doubled; times in milliseconds."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Decimal)):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    text = value.isoformat() if isinstance(value, date) else str(value)
    return "'" + text.replace("'", "''") + "'"


def _stored(rows: DataFrame, name: str) -> Column:
    """Return a key column as Cassandra stores it: timestamps with millisecond precision."""
    is_time = rows.schema[name].dataType.simpleString() == "timestamp"
    return F.date_trunc("millisecond", name) if is_time else F.col(name)


def _literal(rows: DataFrame, name: str) -> Column:
    return F.unix_millis(name) if rows.schema[name].dataType.simpleString() == "timestamp" else F.col(name)


def _keys(spark: SparkSession, keyspace: str, table: str, key: list[str]) -> DataFrame:
    """Return the keys of all rows of a table, read with the usual consistency (`store.spark_conf.spark_conf`)."""
    options = {"keyspace": keyspace, "table": table}
    return cassandra_times.read(
        spark.read.format("org.apache.spark.sql.cassandra").options(**options).load().select(*key)
    )


def _execute(spark: SparkSession, statements: Iterable[str], consistency: str) -> None:
    """Execute CQL statements one by one in the connector's session."""
    waiting = list(statements)
    if not waiting:
        return
    level = java.named(spark, f"{_DRIVER}.DefaultConsistencyLevel").valueOf(consistency)
    made = java.named(spark, f"{_DRIVER}.cql.SimpleStatement")
    session = cassandra_guard.connector_of(spark).openSession()
    try:
        for statement in waiting:
            session.execute(made.builder(statement).setConsistencyLevel(level).build())
    finally:
        session.close()  # returned to the connector, which keeps it open
