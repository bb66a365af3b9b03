"""Times of all years in a real Cassandra are those that were written, though the connector's calendar is Julian before 1582."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.batch.reconcile import sink_frames
from headrace.contract.model import CassandraSink
from headrace.driver import complete, sinks
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session, stored_time
from headrace.store.generation import Generation
from tests.support.generated_stage import await_known, connected
from tests.support.sink_ends import load

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

PIPELINE = """
name: old_times
owner: tests
description: Times of all years.
version: 1
sources:
  events:
    key: id
    columns:
      id: {type: string, required: true}
      at: {type: timestamp, required: true}
queries:
  kept:
    sources: [events]
    mode: append
    columns:
      id: {type: string, required: true}
      at: {type: timestamp, required: true}
      day: {type: date, required: true}
      seen: {type: timestamp, required: true}
      born: {type: date}
    sinks:
      - {kind: cassandra, partition_key: [id], clustering_key: [at, day], writetime: seen}
"""
TEXTS = [
    "0001-01-01 00:00:00.000", "0004-02-29 12:00:00.001", "0900-03-01 00:00:00.000", "1500-02-28 23:59:59.999",
    "1500-03-01 00:00:00.000", "1500-03-09 00:00:00.000", "1582-10-04 23:59:59.999", "1582-10-05 00:00:00.000",
    "1582-10-14 23:59:59.999", "1582-10-15 00:00:00.000", "1700-03-01 00:00:00.000", "1969-12-31 23:59:59.999",
    "2026-03-01 10:00:00.000", "9999-12-31 23:59:59.999",
]  # fmt: skip


def test_a_time_of_any_year_is_stored_and_compared_as_it_was_written(
    spark: SparkSession, platform: Settings, tmp_path: Path
) -> None:
    pipeline = load(tmp_path, PIPELINE)
    query = pipeline.queries["kept"]
    sink = query.sinks[0]
    assert isinstance(sink, CassandraSink)
    times = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in TEXTS]
    rows = spark.createDataFrame(
        [(f"k{n}", text, text[:10]) for n, text in enumerate(TEXTS)], "id string, t string, d string"
    )
    frame = rows.selectExpr("id", "timestamp(t) at", "date(d) day", "timestamp(t) seen", "date(d) born")
    batch = sinks.Batch("old_times.kept", Generation("old_times", "kept", 1, 0, {}), 0)
    with cassandra_session(platform.bindings()) as session, connected(spark, platform):
        for statement in (
            "CREATE KEYSPACE old_times WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE old_times.kept (id text, at timestamp, day date, seen timestamp, born date, PRIMARY KEY (id, at, day))",
        ):
            session.execute(statement, timeout=120)
        try:
            await_known(spark, "old_times", "kept")
            sinks.write_cassandra(frame, pipeline, "kept", sink, batch)
            stored = {row.id: row for row in session.execute("SELECT id, at, day, seen, born FROM old_times.kept")}
            wanted = {f"k{n}": (at, at.date(), at, at.date()) for n, at in enumerate(times)}
            assert {key: (*map(plain, row[1:]),) for key, row in stored.items()} == wanted
            job: Any = SimpleNamespace(spark=spark, pipeline=pipeline)
            table = sink_frames.cassandra(job, "kept", query, sink)
            gap = "born BETWEEN '1582-10-05' AND '1582-10-14'"
            missing = frame.exceptAll(table.select(*frame.columns)).where(f"NOT {gap}").collect()
            assert missing == []
            keys = complete._keys(spark, "old_times", "kept", ["id", "at"])
            assert frame.select("id", "at").exceptAll(keys).collect() == []
        finally:
            session.execute("DROP KEYSPACE old_times", timeout=120)


def plain(value: Any) -> Any:
    """Return what Cassandra's driver read as a value of the standard library."""
    if isinstance(value, datetime):
        return stored_time(value)
    return date.fromordinal(date(1970, 1, 1).toordinal() + value.days_from_epoch)
