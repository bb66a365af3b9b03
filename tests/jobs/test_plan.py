"""The plan's part of the fingerprint: stable where a restart is safe, different where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Pipeline
from headrace.driver.spark_plan import SOURCE, keeps_state, require_direct_join, state_inputs, stateful_nodes
from headrace.errors import HeadraceError
from spark_jobs import ad_attribution, pos_sales
from tests.support.replay import Input, Job, frame_of

pytestmark = pytest.mark.spark

Transform = Callable[[DataFrame], DataFrame]


@pytest.fixture(scope="module")
def laid(pos_sales_file: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Input:
    given = Input(tmp_path_factory.mktemp("plan"), pos_sales_file)
    given.lay([{}])
    return given


def nodes(spark: SparkSession, laid: Input, query: str, transform: Callable[..., DataFrame]) -> list[str]:
    return stateful_nodes(frame_of(spark, laid, Job(query, transform)))


def inputs(spark: SparkSession, laid: Input, query: str, transform: Callable[..., DataFrame]) -> dict[str, str]:
    def over_an_alias(**sources: DataFrame) -> DataFrame:
        return transform(*(frame.alias(SOURCE) for frame in sources.values()))

    return state_inputs(frame_of(spark, laid, Job(query, over_an_alias)))


def test_the_plan_of_a_query_is_the_same_in_another_session(spark: SparkSession, laid: Input) -> None:
    for query in ("tumbling", "sliding", "product_totals"):
        first = nodes(spark, laid, query, getattr(pos_sales, query))
        spark.range(3).groupBy("id").count().collect()  # expression ids move on
        assert nodes(spark.newSession(), laid, query, getattr(pos_sales, query)) == first
        assert first
        assert not any("#" in node for node in first)


def test_spark_keeps_state_for_groups_duplicates_and_streams_that_are_joined_and_not_for_a_table(
    spark: SparkSession, laid: Input
) -> None:
    def kept(query: str, transform: Callable[..., DataFrame]) -> bool:
        return keeps_state(frame_of(spark, laid, Job(query, transform)))

    table = spark.createDataFrame([("p-1", "x")], "product_id string, name string")
    latest = table.groupBy("product_id").count()
    assert kept("tumbling", pos_sales.tumbling)
    assert kept("items", lambda pos: pos.dropDuplicates(["product_id"]))
    assert kept("items", lambda pos: pos.select("product_id").distinct())
    assert kept("items", lambda pos: pos.join(pos.select("product_id").where("product_id <> ''"), "product_id"))
    assert not kept("items", lambda pos: pos.join(table, "product_id", "left"))
    assert not kept("items", lambda pos: pos.join(latest, "product_id"))
    assert not kept("items", pos_sales.items)


def test_the_plan_does_not_change_with_the_watermark_delay_or_a_filter(spark: SparkSession, laid: Input) -> None:
    """Both may change on a live checkpoint (Spark guide, "Recovery semantics after changes")."""
    first = nodes(spark, laid, "tumbling", pos_sales.tumbling)
    query = laid.pipeline.queries["tumbling"]
    longer = query.model_copy(update={"watermark": {"pos": query.watermark["pos"] * 3}})
    changed = laid.pipeline.model_copy(update={"queries": laid.pipeline.queries | {"tumbling": longer}})
    assert nodes(spark, Input(laid.folder, changed), "tumbling", pos_sales.tumbling) == first
    assert nodes(spark, laid, "tumbling", lambda pos: pos_sales.tumbling(pos.where("amount > 0"))) == first


@pytest.mark.parametrize(
    "changed",
    [
        lambda pos: (
            pos_sales.tumbling(pos.withColumn("product_id", F.upper("product_id"))).groupBy("product_id").count()
        ),
        lambda pos: pos.groupBy(F.window("create_date", "6 minutes"), "product_id").agg(F.sum("amount")),
        lambda pos: pos.groupBy(F.window("create_date", "5 minutes")).agg(F.sum("amount"), F.count(F.lit(1))),
        lambda pos: pos.groupBy(F.window("create_date", "5 minutes"), "product_id").agg(
            F.max("amount"), F.count(F.lit(1))
        ),
        lambda pos: pos_sales.tumbling(pos.dropDuplicates(["product_id"])),
        lambda pos: pos_sales.tumbling(pos.withColumn("create_date", F.lit("2026-01-01").cast("timestamp"))),
    ],
    ids=["second aggregate", "window", "keys", "aggregate", "deduplication", "event time"],
)
def test_the_plan_changes_with_whatever_the_state_is_made_of(
    spark: SparkSession, laid: Input, changed: Transform
) -> None:
    assert nodes(spark, laid, "tumbling", changed) != nodes(spark, laid, "tumbling", pos_sales.tumbling)


def test_what_state_is_made_of_is_described_by_the_sources_columns(spark: SparkSession, laid: Input) -> None:
    assert inputs(spark, laid, "product_totals", pos_sales.product_totals) == {
        "sales": "count(1)", "total_amount": "sum(amount)"
    }  # fmt: skip
    renamed = inputs(
        spark, laid, "product_totals", lambda pos: pos.withColumnRenamed("product_id", "p").groupBy("p").count()
    )
    assert renamed == {"count": "count(1)", "p": "product_id"}


def test_a_filter_another_column_and_the_watermark_delay_are_not_what_state_is_made_of(
    spark: SparkSession, laid: Input
) -> None:
    first = inputs(spark, laid, "tumbling", pos_sales.tumbling)
    wider = lambda pos: pos_sales.tumbling(pos.where("amount > 0").withColumn("x", F.lit(1)))  # noqa: E731
    assert inputs(spark, laid, "tumbling", wider) == first
    query = laid.pipeline.queries["tumbling"]
    longer = query.model_copy(update={"watermark": {"pos": query.watermark["pos"] * 3}})
    changed = laid.pipeline.model_copy(update={"queries": laid.pipeline.queries | {"tumbling": longer}})
    assert inputs(spark, Input(laid.folder, changed), "tumbling", pos_sales.tumbling) == first


@pytest.mark.parametrize(
    "changed",
    [
        lambda pos: pos_sales.sliding(pos.withColumn("product_id", F.upper("product_id"))),
        lambda pos: pos_sales.sliding(pos.withColumn("amount", F.col("amount") * 2)),
        lambda pos: pos_sales.sliding(pos.withColumn("create_date", F.expr("create_date + INTERVAL 1 MINUTE"))),
        lambda pos: pos_sales._windowed(pos, F.window("create_date", "10 minutes", "5 minutes", "1 minute")),
    ],
    ids=["key", "sum", "event time", "window"],
)
def test_a_key_a_sum_or_a_window_that_is_computed_in_another_way_is_seen(
    spark: SparkSession, laid: Input, changed: Transform
) -> None:
    assert inputs(spark, laid, "sliding", changed) != inputs(spark, laid, "sliding", pos_sales.sliding)


def test_the_plan_changes_with_the_join(spark: SparkSession, ad_attribution_file: Pipeline, tmp_path: Path) -> None:
    laid = Input(tmp_path, ad_attribution_file)
    laid.lay([{}])

    def joined(kind: str, upper: str) -> list[str]:
        def transform(impressions: DataFrame, clicks: DataFrame) -> DataFrame:
            left, right = impressions.alias("l"), clicks.alias("r")
            within = F.expr(f"r.create_date >= l.create_date AND r.create_date <= l.create_date + INTERVAL {upper}")
            return left.join(right, (F.col("l.uuid") == F.col("r.uuid")) & within, kind)

        return nodes(spark, laid, "attributed", transform)

    first = joined("left_outer", "5 MINUTES")
    assert first == joined("left_outer", "5 MINUTES")
    assert first != joined("inner", "5 MINUTES")
    assert first != joined("left_outer", "6 MINUTES")
    assert nodes(spark, laid, "attributed", ad_attribution.attributed) == nodes(
        spark, laid, "attributed", ad_attribution.attributed
    )


def test_a_join_that_is_not_direct_is_refused(spark: SparkSession) -> None:
    scanned = spark.range(3).join(spark.range(3).withColumnRenamed("id", "login_id"), F.col("id") == F.col("login_id"))
    with pytest.raises(HeadraceError, match=r"user_logins\.last_login would scan its Cassandra dimension"):
        require_direct_join(scanned, "user_logins", "last_login")


FILTERED, COMPUTED, COMPARED = (
    "rows of the table are filtered",
    "a column of the table is computed",
    "more than the key is compared",
)


@pytest.mark.parametrize(
    ("join", "fault"),
    [
        (lambda logins, users: logins.join(users.where("active"), logins.login == users.id, "left"), FILTERED),
        (lambda logins, users: users.where("active").join(logins, F.col("login") == users.id, "right"), FILTERED),
        (lambda logins, users: logins.join(users.select("id", F.lit(1)), logins.login == users.id, "left"), COMPUTED),
        (lambda logins, users: logins.join(users, (logins.login == users.id) & users.active, "left"), COMPARED),
        (lambda logins, users: logins.join(users, (logins.login == users.id) & (users.active == F.lit(True)), "left"), COMPARED),
        (lambda logins, users: logins.join(users, logins.login == users.id, "left"), None),
        (lambda logins, users: logins.join(users.where("active"), logins.login == users.id), None),
        (lambda logins, users: logins.join(users.withColumnRenamed("id", "login"), "login", "left").where("active"), None),
    ],
)  # fmt: skip
def test_an_outer_join_with_a_dimension_that_the_connector_would_not_answer_is_refused(
    spark: SparkSession, join: Callable[[DataFrame, DataFrame], DataFrame], fault: str | None
) -> None:
    """On a real Cassandra each of them lost the records without a match, or gave them the computed value."""
    spark.sql("CREATE TABLE IF NOT EXISTS lake.plans.users (id string, active boolean) USING iceberg")
    logins = spark.createDataFrame([("ada",)], "login string")
    frame = join(logins, spark.table("lake.plans.users"))
    sentence = "would scan its Cassandra dimension" if fault is None else f"{fault} in an outer join"
    with pytest.raises(HeadraceError, match=sentence):
        require_direct_join(frame, "user_logins", "last_login")
