"""A record finds the row whose key equals its value in a real Cassandra, or none: never the row of another value."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Pipeline
from headrace.contract.names import CASSANDRA_CATALOG
from headrace.driver import spark_plan
from headrace.driver.lookup_keys import guarded
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session
from tests.support.generated_stage import await_known, connected
from tests.support.sink_ends import load

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

PIPELINE = """
name: lookup_values
owner: tests
description: Records that look up a row by a time and by a day.
version: 1
sources:
  events:
    key: text
    columns:
      text: {type: string, required: true}
      at: {type: timestamp}
      day: {type: date}
dimensions:
  times:
    keyspace: lookup_values
    table: times
    key: [k]
    columns:
      k: {type: timestamp, required: true}
      name: {type: string}
  days:
    keyspace: lookup_values
    table: days
    key: [k]
    columns:
      k: {type: date, required: true}
      name: {type: string}
queries:
  named:
    sources: [events]
    dimensions: [times, days]
    mode: append
    columns:
      text: {type: string, required: true}
      name: {type: string}
    sinks: [{kind: kafka, topic: lookup_values_named, key: text}]
"""
OLD = ("0001-01-01 00:00:00.000", "1500-02-28 10:00:00.000", "1500-03-09 10:00:00.000", "1582-10-04 12:00:00.000")
NO_DAY = ("1582-10-05 00:00:00.000", "1582-10-10 00:00:00.000", "1582-10-14 23:59:59.999")
KEPT = (
    "1582-10-15 00:00:00.000", "1582-10-20 00:00:00.000", "1969-12-31 23:59:59.999", "2026-03-01 10:00:00.123",
    "9999-12-31 23:59:59.999",
)  # fmt: skip
FINER = ("1969-12-31 23:59:59.999001", "2026-03-01 10:00:00.123456", "2026-03-01 10:00:00.122999")


@pytest.fixture
def tables(spark: SparkSession, platform: Settings) -> Iterator[None]:
    """Give Cassandra a row for every time, and for its day, named by its text."""
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    with cassandra_session(platform.bindings()) as session, connected(spark, platform):
        session.execute(f"CREATE KEYSPACE lookup_values WITH replication = {replication}", timeout=120)
        try:
            for table, kind in (("times", "timestamp"), ("days", "date")):
                session.execute(f"CREATE TABLE lookup_values.{table} (k {kind} PRIMARY KEY, name text)", timeout=120)
                insert = session.prepare(f"INSERT INTO lookup_values.{table} (k, name) VALUES (?, ?)")
                for text in (*OLD, *NO_DAY, *KEPT):
                    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
                    session.execute(insert, [moment, text] if table == "times" else [moment.date(), text[:10]])
                await_known(spark, "lookup_values", table)
            yield
        finally:
            session.execute("DROP KEYSPACE lookup_values", timeout=120)


def names_by_text(frame: DataFrame, pipeline: Pipeline) -> dict[str, str | None]:
    """Return the row that each record finds, by its name; the plan must ask for it by its key."""
    result = guarded(frame, pipeline, pipeline.queries["named"])
    spark_plan.require_direct_join(result, pipeline.name, "named")
    return {row["text"]: row["name"] for row in result.select("text", "name").collect()}


@pytest.mark.usefixtures("tables")
def test_a_time_or_a_day_finds_the_row_with_this_key_and_none_if_the_connector_would_change_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    pipeline = load(tmp_path, PIPELINE)
    texts = (*OLD, *NO_DAY, *KEPT, *FINER)
    events = spark.createDataFrame([(text,) for text in texts], "text string").selectExpr(
        "text", "timestamp(text) at", "date(text) day"
    )
    times, days = (spark.table(f"{CASSANDRA_CATALOG}.lookup_values.{name}") for name in ("times", "days"))
    by_time = {text: text if text in KEPT else None for text in texts}
    by_day = {text: None if text in NO_DAY else text[:10] for text in texts}
    for table, given, wanted in ((times, F.col("at"), by_time), (days, F.col("day"), by_day)):
        inner = {text: name for text, name in wanted.items() if name}
        assert names_by_text(events.join(table, given == table.k, "left"), pipeline) == wanted
        assert names_by_text(table.join(events, table.k == given, "right"), pipeline) == wanted
        assert names_by_text(events.join(table, given == table.k), pipeline) == inner
        assert names_by_text(table.join(events, given == table.k), pipeline) == inner
    truncated = events.join(times, F.date_trunc("millisecond", "at") == times.k)
    assert names_by_text(truncated, pipeline)["2026-03-01 10:00:00.123456"] == "2026-03-01 10:00:00.123"
