"""What the sinks hold beside plain upserts: times in a key, ids that cannot collide, results that lose rows, keys only."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader, views
from headrace.batch.reconcile import kinds, single_rows, sink_frames
from headrace.contract import names
from headrace.contract.model import CassandraSink, KafkaSink, Query
from headrace.driver import cassandra_guard, complete, sinks
from headrace.store.generation import Generation
from headrace.store.job_reports import Account
from tests.support.frames import frame
from tests.support.replay import plain
from tests.support.sink_ends import load, record, write_batch

pytestmark = pytest.mark.spark

SENSORS = """
name: sensors
owner: tests
description: Every reading as a row of a time series.
version: 1
sources:
  readings:
    key: sensor_id
    columns:
      sensor_id: {type: string, required: true}
      celsius: {type: "decimal(5,2)"}
      read_at: {type: timestamp, required: true}
    event_time: {column: read_at}
queries:
  history:
    sources: [readings]
    mode: append
    columns:
      sensor_id: {type: string, required: true}
      read_at: {type: timestamp, required: true}
      celsius: {type: "decimal(5,2)"}
    sinks:
      - {kind: cassandra, partition_key: [sensor_id], clustering_key: [read_at], writetime: read_at}
"""
PLACED = (
    "headrace_source struct<topic:string,partition:int,offset:bigint>, "
    f"{accounting.BATCH} bigint, {accounting.LATE_MARK} bigint"
)
TEN = datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_a_time_series_has_the_time_in_its_key_and_as_write_time(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """C01: the first table most people make ended in its first batch."""
    given = [
        record(sensor_id=sensor, celsius=celsius, read_at=at)
        for sensor, celsius, at in (
            ("s1", "20.50", "2026-03-01 10:00:00"),
            ("s1", None, "2026-03-01 10:00:00"),
            ("s1", "21.00", "2026-03-01 10:05:00"),
            ("s2", None, "2026-03-01 10:00:00"),
        )
    ]
    pipeline = load(tmp_path, SENSORS)
    ends = write_batch(spark, monkeypatch, tmp_path, pipeline, "history", lambda readings: readings, given)
    ten = int(TEN.timestamp() * 1_000_000)
    rows = {
        (r["sensor_id"], r["writetime"]): r["celsius"] and str(r["celsius"]) for r in ends.tables["sensors.history"]
    }
    assert rows == {("s1", ten): "20.50", ("s1", ten + 300_000_000): "21.00", ("s2", ten): None}


def _query(*columns: str, **extra: Any) -> Query:
    spec = {name: {"type": "string", "required": True} for name in columns}
    content = {"sources": ["x"], "mode": "append", "columns": spec, "sinks": [{"kind": "files"}], **extra}
    return Query.model_validate(content)


def test_two_rows_have_two_ids_and_those_without_a_bar_have_the_ids_of_old(spark: SparkSession) -> None:
    """C25: glued by `|`, (a|b, c) and (a, b|c) had one id, and readers who drop repeats lost a row."""
    sink = KafkaSink(kind="kafka", topic="t", key="one", identity=["one", "two", "three"])
    texts = ["", "a", "|", "\\", "a|b", "|a", "a\\", "\\|", "$1", "b|c|d"]
    rows = [(one, two, three) for one in texts for two in texts for three in ("x", "x|", "")]
    given = frame(spark, "one string, two string, three string", rows)
    ids = [row[0] for row in given.select(sinks.identity(sink)).collect()]
    assert len(set(ids)) == len(rows)
    plain_rows = [row for row in rows if not any(c in text for text in row for c in "|\\")]
    assert {"|".join(row) for row in plain_rows} <= set(ids)


def test_a_topic_with_ids_of_an_older_release_is_read_by_its_rows(spark: SparkSession) -> None:
    """Records of before have one id for two rows, and a row may stand there under its old and its new id."""
    query = _query("one", "two", "value")
    sink = KafkaSink(kind="kafka", topic="t", key="one", identity=["one", "two"])
    rows = [
        ('{"one": "a|b", "two": "c", "value": "1"}', "a|b|c", "1", "1"),
        ('{"one": "a", "two": "b|c", "value": "2"}', "a|b|c", "1", "1"),
        ('{"one": "a|b", "two": "c", "value": "3"}', "a\\|b|c", "2", "0"),
    ]
    records = frame(spark, "value string, _id string, _generation int, _batch bigint", rows)
    read_rows = sink_frames.rows_of(records, query, sink).drop(sink_frames.GENERATION)
    assert sorted(plain(read_rows)) == [("a", "b|c", "2"), ("a|b", "c", "3")]


PODIUM = """
name: podium
owner: tests
description: The players with the most points.
version: 1
sources:
  scores:
    key: score_id
    columns:
      score_id: {type: string, required: true}
      player: {type: string, required: true, max_distinct: 1000}
      points: {type: long, required: true}
      scored_at: {type: timestamp, required: true}
    event_time: {column: scored_at}
queries:
  best:
    sources: [scores]
    mode: complete
    late: include
    aggregate: {keys: [player]}
    columns:
      board: {type: string, required: true}
      player: {type: string, required: true}
      points: {type: long, required: true}
    sinks:
      - {kind: cassandra, partition_key: [board], clustering_key: [player]}
"""


def best(scores: DataFrame) -> DataFrame:
    sums = scores.groupBy("player").agg(F.sum("points").alias("points"))
    return sums.orderBy(F.desc("points")).limit(2).select(F.lit("all").alias("board"), "player", "points")


def test_a_row_that_a_complete_result_loses_is_deleted_with_the_batchs_write_time(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """D05: ben stayed on the podium for ever. A batch that runs again says exactly the same."""
    said: list[str] = []
    table: set[tuple[str, str]] = {("all", "o'hara"), ("old", "ada")}  # of an older generation
    looked: list[int] = []

    def keys(*_: Any) -> DataFrame:
        looked.append(1)
        return spark.createDataFrame(sorted(table), "board string, player string")

    monkeypatch.setattr(complete, "_keys", keys)
    monkeypatch.setattr(complete, "_execute", lambda _, statements, level: said.extend([*statements, level]))
    query = load(tmp_path, PODIUM).queries["best"]
    (result,) = complete.results(load(tmp_path, PODIUM), "best", query)

    def settle(points: dict[str, int], number: int) -> list[str]:
        said.clear()
        rows = spark.createDataFrame(list(points.items()), "player string, points bigint")
        result.settle(best(rows), number)
        return sorted(said)

    delete = 'DELETE FROM "podium"."best" USING TIMESTAMP {} WHERE "board" = \'{}\' AND "player" = \'{}\''
    first = [delete.format(7, "all", "o''hara"), delete.format(7, "old", "ada"), "LOCAL_QUORUM"]
    assert settle({"ada": 3, "ben": 2}, 7) == sorted(first)
    table.clear()
    table.update({("all", "ada"), ("all", "ben")})
    assert settle({"ada": 4, "ben": 3}, 8) == []
    assert len(looked) == 1, "the same keys again: the table was read although nothing can be lost"
    assert settle({"ada": 4, "ben": 3, "cid": 9}, 9) == sorted([delete.format(9, "all", "ben"), "LOCAL_QUORUM"])
    (again,) = complete.results(load(tmp_path, PODIUM), "best", query)  # a driver that starts anew
    again.settle(best(spark.createDataFrame([("ada", 4), ("ben", 3), ("cid", 9)], "player string, points bigint")), 9)
    assert said.count(delete.format(9, "all", "ben")) == 2


def test_a_decimal_key_that_is_lost_is_deleted_as_it_was_written(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The connector reads decimal(38,18). With other trailing zeros it is another partition key, and the row stayed."""
    said: list[str] = []
    table = spark.createDataFrame([("all", "1.25"), ("all", "2.5")], "board string, player string")
    table = table.withColumn("player", F.col("player").cast("decimal(38,18)"))
    monkeypatch.setattr(complete, "_keys", lambda *_: table)
    monkeypatch.setattr(complete, "_execute", lambda _, statements, level: said.extend(statements))
    pipeline = load(tmp_path, PODIUM.replace("player: {type: string", 'player: {type: "decimal(12,3)"'))
    (result,) = complete.results(pipeline, "best", pipeline.queries["best"])
    kept = spark.createDataFrame([("all", "2.5", 1)], "board string, player string, points bigint")
    result.settle(kept.withColumn("player", F.col("player").cast("decimal(12,3)")), 7)
    assert said == ['DELETE FROM "podium"."best" USING TIMESTAMP 7 WHERE "board" = \'all\' AND "player" = 1.250']


@pytest.mark.parametrize(
    ("value", "text"),
    [("a'b", "'a''b'"), (True, "true"), (-7, "-7"), (TEN.date(), "'2026-03-01'"), ("", "''")],
)
def test_a_key_is_written_as_cql(value: object, text: str) -> None:
    assert complete.literal(value) == text


def test_statements_reach_the_drivers_own_builder(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the session is a stub: the Java driver's statement and its level are real."""
    given: list[Any] = []
    session = type("Session", (), {"execute": lambda _, statement: given.append(statement), "close": lambda _: None})()
    monkeypatch.setattr(cassandra_guard, "connector_of", lambda _: type("C", (), {"openSession": lambda _: session})())
    complete._execute(spark, ["DELETE 1", "DELETE 2"], "LOCAL_QUORUM")
    assert [(statement.getQuery(), str(statement.getConsistencyLevel())) for statement in given] == [
        ("DELETE 1", "LOCAL_QUORUM"),
        ("DELETE 2", "LOCAL_QUORUM"),
    ]


VISITS = """
name: visits
owner: tests
description: Which user has seen which page.
version: 1
sources:
  page_visits:
    key: user_id
    columns:
      user_id: {type: string, required: true, max_distinct: 9}
      page: {type: string, required: true, max_distinct: 9}
      seen_at: {type: timestamp, required: true}
    event_time: {column: seen_at}
queries:
  seen:
    sources: [page_visits]
    mode: update
    late: include
    aggregate: {keys: [user_id, page]}
    columns:
      user_id: {type: string, required: true}
      page: {type: string, required: true}
    sinks:
      - {kind: cassandra, partition_key: [user_id], clustering_key: [page]}
"""


def test_a_table_of_key_columns_only_has_a_view_and_is_compared(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """D09: reconciliation and batch views broke off, for the whole pipeline."""
    pipeline = load(tmp_path, VISITS)
    query = pipeline.queries["seen"]
    ddl = f"user_id string, page string, {PLACED}"
    given = [("u1", "a"), ("u1", "a"), ("u2", "a"), ("u1", "b")]
    visits = spark.createDataFrame([(*row, ("page_visits", 0, n), 0, 0) for n, row in enumerate(given)], ddl)

    def seen(page_visits: DataFrame) -> DataFrame:
        return page_visits.select("user_id", "page").distinct()

    assert views.are_sums(query, visits, seen)

    monkeypatch.setattr(names, "CASSANDRA_CATALOG", "lake")
    spark.sql("CREATE TABLE lake.visits.seen (user_id STRING, page STRING) USING iceberg")
    spark.sql("INSERT INTO lake.visits.seen VALUES ('u1', 'a'), ('u2', 'a')")
    sink = query.sinks[0]
    assert isinstance(sink, CassandraSink)
    speed = sink_frames.cassandra(SimpleNamespace(spark=spark, pipeline=pipeline), "seen", query, sink)  # type: ignore[arg-type]
    taken = {"batch": 0, "offsets": {"page_visits": {"0": [0, 4]}}, "watermark_ms": 0, "late_watermark_ms": 0}
    cut = kinds.Cut(Generation("visits", "seen", 1, 0, {}), [taken], 0, 0)  # type: ignore[list-item]
    speed = speed.withColumn(kinds.OLD, F.lit(True))
    account = Account("seen", "table", "running totals")
    kinds.running(account, query, seen, visits, speed, cut, Decimal(0))
    assert (account.compared, account.differing) == (3, 1)
    assert [(difference.what, difference.key) for difference in account.differences] == [
        ("missing in the sink", {"user_id": "u1", "page": "b"})
    ]


def test_a_cut_letter_is_compared_with_the_beginning_of_its_record(spark: SparkSession) -> None:
    """C04: a letter too large for Kafka is cut; only one that is no beginning of its record differs."""
    pinned = archive_reader.Archive("p", "things", 1, {0: archive_reader.Partition(0, 3, 3, 3, 0)})
    rows = frame(
        spark, "partition int, offset bigint, key binary, value binary, timestamp timestamp, reason string",
        [("0", str(n), None, "abcdef", "2026-03-01 10:00:00", "wrong_type: x") for n in range(3)],
    )  # fmt: skip
    letters = frame(
        spark, "_partition int, _offset bigint, key binary, value binary, _cut string",
        [("0", "0", None, "abc", "value of 6 bytes"), ("0", "1", None, "abc", None), ("0", "2", None, "bc", "value of 6 bytes")],
    )  # fmt: skip
    account = Account("archive_things", "topic", "archive")
    single_rows.archive(account, pinned, rows, letters, 0, 0)
    assert [(difference.what, difference.offsets) for difference in account.differences] == [
        ("a dead letter with other bytes than the archive", {"things/0": (1, 1)}),
        ("a dead letter with other bytes than the archive", {"things/0": (2, 2)}),
    ]
