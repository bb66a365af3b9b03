"""The transforms as plain functions on small frames."""

from __future__ import annotations

import importlib
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from headrace.contract import spark_types as contract_spark
from headrace.contract.load import load_pipelines
from spark_jobs import ad_attribution, pos_sales, user_logins, web_events
from tests.jobs.events import BORDERS, MICRO
from tests.support.frames import assert_same, frame
from tests.support.replay import micros, plain

pytestmark = pytest.mark.spark

POS = "product_id string, amount decimal(12,2), create_date timestamp"
WINDOWS = "window_start timestamp, window_end timestamp, product_id string, total_amount decimal(22,2), sales bigint"
TOTALS = "product_id string, total_amount decimal(22,2), sales bigint"


def pos(spark: SparkSession, *rows: tuple[str, str, str]) -> DataFrame:
    return frame(spark, POS, rows).selectExpr(
        "*", "named_struct('topic', 'pos', 'partition', 0, 'offset', 1L) AS headrace_source"
    )


def test_web_events_are_lowered_and_joined(spark: SparkSession) -> None:
    rows = frame(
        spark, "city string, domain string, event string", [("ŁÓDŹ", "A.example", "Click"), ("東京", "", "buy:now")]
    )
    rows = rows.selectExpr("*", "1 AS headrace_source")
    for transform in (web_events.files, web_events.topic):
        expected = frame(
            spark,
            "lower_city string, domain string, behavior string, headrace_source int",
            [("łódź", "A.example", "A.example:Click", "1"), ("東京", "", ":buy:now", "1")],
        )
        assert_same(transform(rows), expected)


def test_items_are_the_named_columns_and_where_they_came_from(spark: SparkSession) -> None:
    assert pos_sales.items(pos(spark, ("p", "-1.50", "2026-01-01 00:00:00"))).collect() == [("p", -1.5, ("pos", 0, 1))]


def test_totals_are_exact_decimals_refunds_included(spark: SparkSession) -> None:
    rows = [("dimes", "0.10", "2026-01-01 00:00:00")] * 1000
    rows += [("refund", "-9999999999.99", "2026-01-01 00:00:00"), ("refund", "0.01", "2026-01-01 00:00:00")]
    rows += [("large", "9999999999.99", "2026-01-01 00:00:00")] * 200
    rows += [("nothing", "1.10", "2026-01-01 00:00:00"), ("nothing", "-1.10", "2026-01-01 00:00:00")]
    expected = frame(
        spark,
        TOTALS,
        [
            ("dimes", "100.00", "1000"),
            ("refund", "-9999999999.98", "2"),
            ("large", "1999999999998.00", "200"),
            ("nothing", "0.00", "2"),
        ],
    )
    assert_same(pos_sales.product_totals(pos(spark, *rows)), expected)
    boards = pos_sales.leaderboard(pos(spark, *rows))
    assert_same(boards, expected.selectExpr("'all' AS board", "*"))


def test_a_window_takes_its_start_and_not_its_end(spark: SparkSession) -> None:
    rows = pos(
        spark,
        ("p", "1", "2026-01-01 10:00:00"),
        ("p", "2", "2026-01-01 10:04:59.999999"),
        ("p", "4", "2026-01-01 10:05:00"),
        ("q", "8", "2026-01-01 10:05:00"),
    )
    tumbling = [
        ("2026-01-01 10:00:00", "2026-01-01 10:05:00", "p", "3", "2"),
        ("2026-01-01 10:05:00", "2026-01-01 10:10:00", "p", "4", "1"),
        ("2026-01-01 10:05:00", "2026-01-01 10:10:00", "q", "8", "1"),
    ]
    assert_same(pos_sales.tumbling(rows), frame(spark, WINDOWS, tumbling))
    assert_same(pos_sales.final_windows(rows), frame(spark, WINDOWS, tumbling))
    sliding = [
        ("2026-01-01 09:55:00", "2026-01-01 10:05:00", "p", "3", "2"),
        ("2026-01-01 10:00:00", "2026-01-01 10:10:00", "p", "7", "3"),
        ("2026-01-01 10:05:00", "2026-01-01 10:15:00", "p", "4", "1"),
        ("2026-01-01 10:00:00", "2026-01-01 10:10:00", "q", "8", "1"),
        ("2026-01-01 10:05:00", "2026-01-01 10:15:00", "q", "8", "1"),
    ]
    assert_same(pos_sales.sliding(rows), frame(spark, WINDOWS, sliding))


def test_windows_break_at_hours_days_months_and_years_and_know_no_summer_time(spark: SparkSession) -> None:
    """Also with the session in a zone that puts its clocks over: windows are cut in UTC."""
    moments = [border + gap for border in BORDERS for gap in (-MICRO, timedelta(), timedelta(hours=1) - MICRO)]
    rows = pos(spark, *((f"p{i}", "1", str(moment)) for i, moment in enumerate(moments)))
    kept = rows.localCheckpoint()  # moments, not text that another zone would read as another moment
    five = 300_000_000

    def starts(moment: datetime, *back: int) -> set[int]:
        return {micros(moment) // five * five - five * n for n in back}

    for name, back in (("tumbling", (0,)), ("sliding", (0, 1))):
        expected = {(start, f"p{i}") for i, moment in enumerate(moments) for start in starts(moment, *back)}
        windows = plain(getattr(pos_sales, name)(kept))
        assert {(row[0], row[2]) for row in windows} == expected
        assert {row[1] - row[0] for row in windows} == {five * len(back)}
        spark.conf.set("spark.sql.session.timeZone", "Europe/Berlin")
        try:
            assert sorted(plain(getattr(pos_sales, name)(kept))) == sorted(windows)
        finally:
            spark.conf.set("spark.sql.session.timeZone", "UTC")


def test_a_login_is_known_by_the_name_of_its_user(spark: SparkSession) -> None:
    logins = frame(
        spark,
        "login_id string, login_at timestamp, device string",
        [
            ("ann", "2026-01-01 00:00:00", "ios"),
            ("bob", "2026-01-01 00:00:01", None),
            ("ghost", "2026-01-01 00:00:02", "web"),
        ],
    ).selectExpr("*", "1 AS headrace_source", "2 AS headrace_raw")
    users = frame(
        spark,
        "login_id string, user_name string, last_login timestamp, last_device string",
        [("ann", "Ann", None, "web"), ("ghost", None, "2025-01-01 00:00:00", "web"), ("eve", "Eve", None, None)],
    )
    expected = frame(
        spark,
        "login_id string, last_login timestamp, last_device string, known boolean, headrace_source int, headrace_raw int",
        [
            ("ann", "2026-01-01 00:00:00", "ios", "true", "1", "2"),
            ("bob", "2026-01-01 00:00:01", None, "false", "1", "2"),
            ("ghost", "2026-01-01 00:00:02", "web", "false", "1", "2"),
        ],
    )
    assert_same(user_logins.last_login(logins, users), expected)


def test_a_click_key_is_unique_to_the_microsecond(spark: SparkSession) -> None:
    impressions = [("u", "2026-01-01 00:00:00", "a"), ("v", "2026-01-01 00:00:00", "a")]
    shown = frame(spark, "uuid string, create_date timestamp, ad_id string", impressions)
    moments = [("u", "2026-01-01 00:05:00"), ("u", "2026-01-01 00:04:59.999999")]
    clicks = frame(spark, "uuid string, create_date timestamp", moments)
    attributed = ad_attribution.attributed(shown, clicks)
    expected = frame(
        spark,
        "impr_uuid string, impr_date timestamp, ad_id string, click_key string, click_date timestamp",
        [
            ("u", "2026-01-01 00:00:00", "a", "2026-01-01T00:05:00.000000", "2026-01-01 00:05:00"),
            ("u", "2026-01-01 00:00:00", "a", "2026-01-01T00:04:59.999999", "2026-01-01 00:04:59.999999"),
            ("v", "2026-01-01 00:00:00", "a", "none", None),
        ],
    )
    assert_same(attributed, expected)


def test_every_transform_gives_the_columns_and_types_that_its_file_declares(spark: SparkSession, project: Path) -> None:
    pipelines = load_pipelines(project / "pipelines")
    added = (
        "CAST(NULL AS struct<topic:string,partition:int,offset:bigint>) AS headrace_source",
        "CAST(NULL AS binary) AS headrace_raw",
    )
    for name, pipeline in pipelines.items():
        job = importlib.import_module(f"spark_jobs.{name}")
        for query_name, query in pipeline.queries.items():
            frames = {
                topic: frame(spark, contract_spark.ddl(pipeline.sources[topic].columns), []).selectExpr("*", *added)
                for topic in query.sources
            }
            for dimension in query.dimensions:
                frames[dimension] = frame(spark, contract_spark.ddl(pipeline.dimensions[dimension].columns), [])
            result = getattr(job, query_name)(**frames).select(*query.columns)
            kinds = {field.name: field.dataType.simpleString() for field in result.schema}
            assert kinds == {c: contract_spark.ddl_type(column.type) for c, column in query.columns.items()}, query_name
