"""A key that no row of a dimension can have finds no row. On a real Cassandra: tests/platform/test_generated_pipelines.py.

The tables are Iceberg's, which may hold such keys: a row that is found nevertheless shows a lookup that was not guarded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Pipeline
from headrace.driver import spark_plan
from headrace.driver.lookup_keys import guarded
from tests.support.sink_ends import load

pytestmark = pytest.mark.spark

TEXT = """
name: looking
owner: tests
description: Logins that look up their user.
version: 1
sources:
  logins:
    key: id
    columns:
      id: {type: string, required: true}
      login: {type: string}
      shop: {type: int}
dimensions:
  users:
    keyspace: looking_up
    table: users
    key: [login]
    columns:
      login: {type: string, required: true}
      name: {type: string}
  staff:
    keyspace: looking_up
    table: staff
    key: [shop, login]
    columns:
      shop: {type: int, required: true}
      login: {type: string, required: true}
      name: {type: string}
  shops:
    keyspace: looking_up
    table: shops
    key: [shop]
    columns:
      shop: {type: int, required: true}
      name: {type: string}
queries:
  named:
    sources: [logins]
    dimensions: [users, staff, shops]
    mode: append
    columns:
      id: {type: string, required: true}
      name: {type: string}
    sinks: [{kind: kafka, topic: named, key: id}]
"""
LIMIT = 65_535
KEYS = {
    "known": "ada",
    "unknown": "bo",
    "null": None,
    "empty": "",
    "longest": "l" * LIMIT,
    "too long": "l" * (LIMIT + 1),
}
Join = Callable[[DataFrame, DataFrame], DataFrame]


@pytest.fixture
def pipeline(spark: SparkSession, tmp_path: Path) -> Pipeline:
    for table in ("users", "staff"):
        spark.sql(f"DROP TABLE IF EXISTS lake.looking_up.{table}")
        spark.sql(f"CREATE TABLE lake.looking_up.{table} (shop int, login string, name string) USING iceberg")
        rows = [(1, key, name) for name, key in KEYS.items() if key is not None and name != "unknown"]
        spark.createDataFrame(rows, "shop int, login string, name string").writeTo(f"lake.looking_up.{table}").append()
    return load(tmp_path, TEXT)


def users_of(spark: SparkSession) -> DataFrame:
    return spark.table("lake.looking_up.users").drop("shop")


def names_by_record(frame: DataFrame) -> dict[str, str | None]:
    """Return which row each record found, by the names of their keys."""
    return {row["id"]: row["name"] for row in frame.collect()}


def logins(spark: SparkSession) -> DataFrame:
    rows = [(name, key, 1) for name, key in KEYS.items()]
    return spark.createDataFrame(rows, "id string, login string, shop int").alias(spark_plan.SOURCE)


def renamed_twice(logins: DataFrame, users: DataFrame) -> DataFrame:
    users = users.withColumnRenamed("login", "x").select("name", F.col("x").alias("y"))
    return logins.join(users, F.col("login") == F.col("y"), "left")


@pytest.mark.parametrize(
    "join",
    [
        lambda logins, users: logins.join(users, "login", "left"),
        lambda logins, users: logins.join(users, users.login == logins.login, "left"),
        lambda logins, users: users.join(logins, "login", "right"),
        renamed_twice,
        lambda logins, users: logins.withColumn("k", F.lower("login")).join(users, F.col("k") == users.login, "left"),
        lambda logins, users: logins.join(users, F.concat(logins.login, F.lit("")) == users.login, "left").where(
            "id <> ''"
        ),
    ],
    ids=[
        "by name",
        "the other way round",
        "from the right",
        "renamed twice",
        "by a computed column",
        "by an expression",
    ],
)
def test_a_record_with_a_key_that_no_row_can_have_finds_no_row(
    spark: SparkSession, pipeline: Pipeline, join: Join
) -> None:
    frame = join(logins(spark), users_of(spark))
    assert names_by_record(frame) == {name: None if name in ("unknown", "null") else name for name in KEYS}
    guarded_frame = guarded(frame, pipeline, pipeline.queries["named"])
    assert names_by_record(guarded_frame) == {name: name if name in ("known", "longest") else None for name in KEYS}
    assert guarded_frame.schema == frame.schema


def test_an_inner_join_leaves_such_a_record_out_and_compares_other_columns_as_they_are(
    spark: SparkSession, pipeline: Pipeline
) -> None:
    users, records = users_of(spark), logins(spark).withColumn("of", F.col("id"))
    frame = records.join(users, (records.login == users.login) & (records.of == users.name) & (records.shop > 0))
    assert set(names_by_record(frame)) == {"known", "empty", "longest", "too long"}
    assert set(names_by_record(guarded(frame, pipeline, pipeline.queries["named"]))) == {"known", "longest"}


def test_a_key_of_several_columns_may_have_an_empty_one_and_is_limited_as_a_whole(
    spark: SparkSession, pipeline: Pipeline
) -> None:
    """An int takes 4 bytes and each part 3 more."""
    longest = LIMIT - 10
    for size, name in ((longest, "fits"), (longest + 1, "beyond")):
        spark.sql(f"INSERT INTO lake.looking_up.staff VALUES (2, repeat('l', {size}), '{name}')")
    rows: list[tuple[Any, ...]] = [("empty", "", 1), ("fits", "l" * longest, 2), ("beyond", "l" * (longest + 1), 2)]
    records = spark.createDataFrame([*rows, ("null", None, 1)], "id string, login string, shop int")
    frame = records.join(spark.table("lake.looking_up.staff"), ["shop", "login"], "left")
    assert names_by_record(frame) == {"empty": "empty", "fits": "fits", "beyond": "beyond", "null": None}
    expected = {"empty": "empty", "fits": "fits", "beyond": None, "null": None}
    assert names_by_record(guarded(frame, pipeline, pipeline.queries["named"])) == expected


@pytest.mark.parametrize("kind", ["left", "right", "inner"])
def test_a_null_of_another_type_than_text_finds_no_row_whatever_made_it(
    spark: SparkSession, pipeline: Pipeline, kind: str
) -> None:
    """No row of the table is left for it: 0 is a key too. Cassandra gets no null, so the plan compares none."""
    rows = [("known", "1"), ("zero", "0"), ("unknown", "7"), ("null", None), ("no number", "x")]
    records = spark.createDataFrame(rows, "id string, text string").alias(spark_plan.SOURCE)
    shops = spark.createDataFrame([(0, "nil"), (1, "one")], "shop int, name string")
    shops.writeTo("lake.looking_up.shops").createOrReplace()
    table, names_found = spark.table("lake.looking_up.shops"), {"known": "one", "zero": "nil"}
    given = F.expr("try_cast(text AS int)") * 1
    frames = {
        "left": lambda: records.join(table, given == table.shop, "left"),
        "right": lambda: table.join(records, table.shop == given, "right"),
        "inner": lambda: records.join(table, given == table.shop),
    }
    frame = frames[kind]()
    all_, key = names_found if kind == "inner" else dict.fromkeys(dict(rows)) | names_found, {"known": 1, "zero": 0}
    guarded_frame = guarded(frame, pipeline, pipeline.queries["named"])
    for result in (frame, guarded_frame):
        assert names_by_record(result) == all_
        assert {row["id"]: row["shop"] for row in result.collect()} == {name: key.get(name) for name in all_}
        assert result.where("name IS NULL AND shop IS NULL").count() == len(all_) - len(names_found)
    assert guarded_frame.schema == frame.schema
    assert (guarded_frame is frame) == (kind == "inner"), "an inner join leaves null out by itself"
    if kind != "inner":
        nodes = spark_plan.nodes_of(guarded_frame._jdf.queryExecution().analyzed())
        (join,) = [node for node in nodes if node.nodeName() == "Join"]
        assert "CASE WHEN" in join.condition().get().toString()


def test_a_key_of_several_columns_with_a_null_that_is_no_text_finds_no_row(
    spark: SparkSession, pipeline: Pipeline
) -> None:
    spark.sql("INSERT INTO lake.looking_up.staff VALUES (0, 'ada', 'of shop 0')")
    records = spark.createDataFrame([("null", None, "ada"), ("zero", 0, "ada")], "id string, shop int, login string")
    frame = records.join(spark.table("lake.looking_up.staff"), ["shop", "login"], "left")
    guarded_frame = guarded(frame, pipeline, pipeline.queries["named"])
    assert names_by_record(guarded_frame) == {"null": None, "zero": "of shop 0"}
    values = guarded_frame.select("shop", "login").collect()
    assert sorted(values, key=str) == [(0, "ada"), (None, "ada")], "the record keeps its columns"


def test_a_stream_is_guarded_and_a_join_by_a_part_of_the_key_or_with_another_table_remains_as_it_is(
    spark: SparkSession, pipeline: Pipeline, tmp_path: Path
) -> None:
    query = pipeline.queries["named"]
    logins(spark).write.parquet(str(tmp_path / "logins"))
    stream = spark.readStream.schema("id string, login string, shop int").parquet(str(tmp_path / "logins"))
    written: list[dict[str, str | None]] = []
    guarded_stream = guarded(stream.join(users_of(spark), "login", "left"), pipeline, query)
    running = (
        guarded_stream.writeStream.option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .foreachBatch(lambda frame, _: written.append(names_by_record(frame)))
        .start()
    )
    assert running.awaitTermination(300)
    assert written == [{name: name if name in ("known", "longest") else None for name in KEYS}]

    part = logins(spark).join(spark.table("lake.looking_up.staff").drop("login"), "shop", "left")
    assert guarded(part, pipeline, query) is part
    other = logins(spark).join(spark.createDataFrame([("", "x")], "login string, name string"), "login", "left")
    assert guarded(other, pipeline, query) is other
