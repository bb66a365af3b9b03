"""A column that a source gets needs no new generation of a query that does not read it: what counts as reading."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import EventTime, Source, SourceColumn
from headrace.driver import source, spark_plan

pytestmark = pytest.mark.spark

SALES = Source(
    key="shop",
    columns={
        "shop": SourceColumn(type="string", required=True),
        "amount": SourceColumn(type="long", required=True),
        "at": SourceColumn(type="timestamp", required=True),
        "till": SourceColumn(type="string"),
    },
    event_time=EventTime(column="at"),
)


def side(spark: SparkSession) -> DataFrame:
    raw = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 1).load()
    records = raw.selectExpr(
        "cast(value AS binary) value", "'t' topic", "0 `partition`", "value `offset`", "timestamp"
    )  # fmt: skip
    return source.accepted(records, SALES, ()).withWatermark("at", "1 minute").alias(spark_plan.SOURCE)


def sums(sales: DataFrame) -> DataFrame:
    return sales.groupBy(F.window("at", "5 minutes"), "shop").agg(F.sum("amount").alias("total"))


def joined(sales: DataFrame, more: DataFrame) -> DataFrame:
    near = (sales.shop == more.shop) & more.at.between(sales.at, sales.at + F.expr("INTERVAL 5 MINUTES"))
    return sales.join(more, near)


CASES: dict[str, tuple[Callable[[DataFrame, DataFrame], DataFrame], set[str]]] = {
    "sums of other columns": (lambda one, _: sums(one), set()),
    "sums after a column more": (lambda one, _: sums(one.withColumn("day", F.to_date("at"))), set()),
    "sums of some rows by it": (lambda one, _: sums(one.where("till = 'a'")), {"till"}),
    "sums by a key made of it": (lambda one, _: sums(one.withColumn("shop", F.concat("shop", "till"))), {"till"}),
    "the largest of it": (lambda one, _: one.groupBy("shop").agg(F.max("till")), {"till"}),
    "distinct shops": (lambda one, _: one.select("shop", "at").dropDuplicates(), set()),
    "distinct rows by shop": (lambda one, _: one.dropDuplicates(["shop"]), {"till"}),
    "a join of chosen columns": (lambda one, two: joined(one, two).select(one.shop, two.amount), set()),
    "a join of all columns": (lambda one, two: joined(one, two), {"till"}),
    "a projection": (lambda one, _: one.select("shop", F.upper("shop")), set()),
    "a projection with it": (lambda one, _: one.select("shop", F.upper("till")), {"till"}),
    "all columns, of which some are written": (lambda one, _: one.withColumn("x", F.lit(1)).select("shop", "x"), set()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_column_is_read_where_it_reaches_the_state_or_a_row(spark: SparkSession, name: str) -> None:
    transform, read = CASES[name]
    frame = transform(side(spark), side(spark))
    assert spark_plan.columns_read(frame, {"till"}) == read
    assert spark_plan.columns_read(frame, {"no_such_column"}) == set()
