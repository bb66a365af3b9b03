"""Complete mode in a table: a row that the result no longer has goes from the table too (ADR 0030).

The whole result comes with each batch and is upserted; what an earlier batch wrote, and this one has no more, is deleted
with the batch's own write time. That is exact under replay: a batch that runs again has the same result, so it deletes
and writes the same rows with the same time, and no key is both written and deleted in one batch. Later batches have
later times, so a key that comes back is written over its deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.contract.names import cassandra_table
from headrace.streaming import java, link

_DRIVER = "com.datastax.oss.driver.api.core"


@dataclass
class Result:
    """The result of one query in one table, and what its last batch's keys were: only where they changed is it looked at."""

    query: Query
    sink: CassandraSink
    keyspace: str
    table: str
    shared: bool = False  # another query or a refresh writes other columns of the same rows
    _last: tuple[Any, ...] | None = field(default=None, init=False)

    def settle(self, rows: DataFrame, writetime: int) -> None:
        """Delete the table's rows that the result (`rows`, written already) lacks, with this write time (microseconds)."""
        key = [*self.sink.partition_key, *self.sink.clustering_key]
        seen = rows.agg(F.count(F.lit(1)), F.sum(F.xxhash64(*key).cast("decimal(38,0)"))).first()
        assert seen is not None
        if tuple(seen) == self._last:
            return
        spark = rows.sparkSession
        there = _keys(spark, self.keyspace, self.table, key)
        kept = rows.select(*(_stored(rows, name).alias(name) for name in key))
        gone = there.join(kept, key, "left_anti").select(*(_literal(there, name).alias(name) for name in key))
        _execute(spark, self._deletions((row.asDict() for row in gone.collect()), writetime), self.sink.consistency)
        self._last = tuple(seen)

    def _deletions(self, rows: Iterable[dict[str, Any]], writetime: int) -> Iterator[str]:
        key = {*self.sink.partition_key, *self.sink.clustering_key}
        cells = [quoted(name) for name in self.query.columns if name not in key] if self.shared else []
        what = f"DELETE {', '.join(cells)}".rstrip() + f" FROM {quoted(self.keyspace, self.table)}"
        for row in rows:
            where = " AND ".join(f"{quoted(name)} = {literal(value)}" for name, value in row.items())
            yield f"{what} USING TIMESTAMP {writetime} WHERE {where}"


def results(pipeline: Pipeline, name: str, query: Query) -> list[Result]:
    """Return the tables of a query in complete mode; of a query in another mode, none: its rows stay."""
    if query.mode != "complete":
        return []
    written = [
        cassandra_table(pipeline.name, each, sink)
        for each, other in pipeline.queries.items()
        for sink in other.sinks
        if isinstance(sink, CassandraSink)
    ]
    written += [(own.keyspace, own.table) for own in pipeline.dimensions.values()]
    places = [
        (sink, cassandra_table(pipeline.name, name, sink)) for sink in query.sinks if isinstance(sink, CassandraSink)
    ]
    return [Result(query, sink, *place, shared=written.count(place) > 1) for sink, place in places]


def literal(value: object) -> str:
    """Return a key's value as CQL writes it: text in quotes, of which one inside is doubled; times come as milliseconds."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Decimal)):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    text = value.isoformat() if isinstance(value, date) else str(value)
    return "'" + text.replace("'", "''") + "'"


def _stored(rows: DataFrame, name: str) -> Column:
    """Return a key column as Cassandra keeps it: a timestamp to the millisecond."""
    is_time = rows.schema[name].dataType.simpleString() == "timestamp"
    return F.date_trunc("millisecond", name) if is_time else F.col(name)


def _literal(rows: DataFrame, name: str) -> Column:
    return F.unix_millis(name) if rows.schema[name].dataType.simpleString() == "timestamp" else F.col(name)


def _keys(spark: SparkSession, keyspace: str, table: str, key: list[str]) -> DataFrame:
    """Return the keys of all rows of a table, read as all reads that decide are (`contract.submit.spark_conf`)."""
    options = {"keyspace": keyspace, "table": table}
    return spark.read.format("org.apache.spark.sql.cassandra").options(**options).load().select(*key)


def _execute(spark: SparkSession, statements: Iterable[str], consistency: str) -> None:
    """Execute CQL statements one by one in the connector's own session."""
    waiting = list(statements)
    if not waiting:
        return
    level = java.named(spark, f"{_DRIVER}.DefaultConsistencyLevel").valueOf(consistency)
    made = java.named(spark, f"{_DRIVER}.cql.SimpleStatement")
    session = link.connector_of(spark).openSession()
    try:
        for statement in waiting:
            session.execute(made.builder(statement).setConsistencyLevel(level).build())
    finally:
        session.close()  # given back to the connector, which keeps it
