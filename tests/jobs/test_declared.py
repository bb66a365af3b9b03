"""What a transform returns is compared with its file before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.exit_codes import Exit
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.driver import check, queries
from headrace.driver.declared import require_declared, transformed, window_of
from headrace.errors import HeadraceError
from tests.contract.test_other_teams_topics import ORDERS

pytestmark = pytest.mark.spark

SALES: dict[str, Any] = {
    "key": "pump",
    "columns": {
        "pump": {"type": "string", "required": True, "max_distinct": 50},
        "litres": {"type": "decimal(12,2)", "required": True},
        "at": {"type": "timestamp", "required": True},
    },
    "event_time": {"column": "at"},
}
FUEL = {"name": "fuel", "owner": "t", "description": "t", "version": 1, "sources": {"sales": SALES}}
JOB = "def q(sales):\n    return sales.groupBy('pump').count()\n"
PUMP = {"type": "string", "required": True}
TABLE = {"kind": "cassandra", "partition_key": ["pump"]}
TOTALS = {
    "sources": ["sales"], "mode": "update", "late": "include", "aggregate": {"keys": ["pump"]}, "sinks": [TABLE],
    "columns": {"pump": PUMP, "total": {"type": "decimal(22,2)", "required": True}},
}  # fmt: skip
WINDOWS: dict[str, Any] = TOTALS | {
    "watermark": {"sales": "10 minutes"}, "late": "drop",
    "aggregate": {"keys": ["pump"], "window": {"column": "at", "size": "10 minutes"}},
    "columns": {"window_start": {"type": "timestamp", "required": True}, "pump": PUMP, "sales": {"type": "long"}},
}  # fmt: skip


def made_of(query: dict[str, Any]) -> Pipeline:
    return Pipeline.model_validate(FUEL | {"queries": {"q": query}})


def refusal(spark: SparkSession, query: dict[str, Any], transform: Callable[..., DataFrame]) -> str:
    """Return what is said of a query whose transform is not as declared; empty where it may start."""
    return "\n".join(check.differences(spark, made_of(query), {"q": transform}))


def sums(sales: DataFrame) -> DataFrame:
    return sales.groupBy("pump").agg(F.sum("litres").alias("total"))


def windowed(*window: str, **more: str) -> Callable[[DataFrame], DataFrame]:
    def transform(sales: DataFrame) -> DataFrame:
        counted = sales.groupBy(F.window("at", *window, **more).alias("shift"), "pump").agg(
            F.count(F.lit(1)).alias("sales")
        )
        return counted.select(F.col("shift.start").alias("window_start"), "pump", "sales")

    return transform


def test_the_pipelines_of_the_project_are_as_they_declare(spark: SparkSession, project: Path) -> None:
    for name, pipeline in load_pipelines(project / "pipelines").items():
        module = queries.load_module(project / "spark_jobs" / f"{name}.py")
        assert check.differences(spark, pipeline, queries.transforms_of(pipeline, module)) == []


def test_a_transform_gets_its_sources_by_their_names_where_their_topics_have_others(spark: SparkSession) -> None:
    def shipments(shipped: DataFrame, placed: DataFrame) -> DataFrame:
        later = shipped.shipped_at.between(placed.at, placed.at + F.expr("INTERVAL 5 MINUTES"))
        return placed.join(shipped, (placed.order_id == shipped.order_id) & later).select(placed.order_id)

    pipeline = Pipeline.model_validate(ORDERS).by_topic()
    module = ModuleType("orders")
    vars(module)["shipments"] = shipments
    assert list(pipeline.sources) == ["shop.orders-v1", "shop.Shipments"]
    assert check.differences(spark, pipeline, queries.transforms_of(pipeline, module)) == []


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (lambda sales: sums(sales).withColumnRenamed("total", "sum_litres"), "the result lacks column total (decimal(22,2))"),
        (
            lambda sales: sales.groupBy("pump").agg(F.avg("litres").alias("total")),
            'the result has decimal(16,6); cast it in the result: F.col("total").cast("decimal(22,2)"), or declare decimal(16,6)',
        ),
        (
            lambda sales: sales.groupBy("pump").agg(F.sum(F.col("litres").cast("double")).alias("total")),
            'the result has double; cast it in the result: F.col("total").cast("decimal(22,2)").',
        ),
        (lambda sales: sums(sales).select("*", F.lit("x").alias("pump")), "the result has column pump 2 times"),
        (lambda sales: sales.selectExpr("pump", "CAST(litres AS DECIMAL(22,2)) total"), "the transform does not group"),
        (
            lambda sales: sales.groupBy("pump", "at").agg(F.sum("litres").alias("total")),
            "the transform groups by at, but aggregate.keys lacks it, so groups would overwrite each other",
        ),
        (
            lambda sales: sales.groupBy("at").agg(F.max("pump").alias("pump"), F.sum("litres").alias("total")),
            "aggregate.keys has pump, but the transform does not group by it",
        ),
        (lambda sales: sales.groupBy("pumpe").count(), "The transform of fuel.q cannot be planned: [UNRESOLVED_COLUMN"),
        (lambda sales: None, "The transform of fuel.q returns NoneType. It must return a DataFrame."),
    ],
)  # fmt: skip
def test_a_result_that_is_not_as_declared_is_refused(
    spark: SparkSession, transform: Callable[..., DataFrame], says: str
) -> None:
    assert says in refusal(spark, TOTALS, transform)


@pytest.mark.parametrize(
    "transform",
    [
        sums,
        lambda sales: sales.select(F.col("pump").alias("p"), "litres").groupBy("p").agg(F.sum("litres").alias("total"))
        .withColumnRenamed("p", "pump"),
        lambda sales: sales.groupBy(F.lower("pump").alias("pump")).agg(F.sum("litres").alias("total")),
        lambda sales: sales.groupBy("pump", F.lit("all")).agg(F.sum("litres").alias("Total")),
    ],
)  # fmt: skip
def test_a_result_that_is_as_declared_is_let_through(spark: SparkSession, transform: Callable[..., DataFrame]) -> None:
    assert refusal(spark, TOTALS, transform) == ""


def test_a_refusal_names_the_query_and_both_files_and_is_no_crash_loop(spark: SparkSession) -> None:
    pipeline = made_of(TOTALS)
    frames = check.empty_frames(spark, pipeline, pipeline.queries["q"])
    with pytest.raises(HeadraceError) as caught:
        require_declared(frames["sales"].select("pump"), "fuel", "q", pipeline.queries["q"])
    assert str(caught.value).startswith(
        "fuel.q: spark_jobs/fuel.py and pipelines/fuel.yaml differ: the result lacks column"
    )
    assert caught.value.exit_code == Exit.REFUSED
    with pytest.raises(HeadraceError) as caught:
        transformed(lambda sales: sales.no_such_method(), frames, "fuel.q")
    assert caught.value.exit_code == Exit.REFUSED


@pytest.mark.parametrize(
    ("window", "says"),
    [
        (windowed("10 minutes"), ""),
        (windowed("10 minutes", startTime="-5 minutes"), "windows begin 5 minutes after multiples of 10 minutes"),
        (
            windowed("10 minutes", startTime="5 minutes"),
            "aggregate.window.offset is declared as 0 seconds; write offset: 5 minutes, or correct the start time in F.window",
        ),
        (windowed("5 minutes"), "aggregate.window.size is declared as 10 minutes, but the transform has 5 minutes"),
        (
            windowed("10 minutes", "5 minutes"),
            "aggregate.window.slide is declared as 10 minutes, but the transform has 5 minutes",
        ),
    ],
)
def test_a_window_is_compared_in_size_slide_and_offset(
    spark: SparkSession, window: Callable[..., DataFrame], says: str
) -> None:
    refused = refusal(spark, WINDOWS, window)
    assert says in refused
    assert bool(says) == bool(refused)


def test_a_window_on_one_side_only_is_a_difference(spark: SparkSession) -> None:
    def without(sales: DataFrame) -> DataFrame:
        groups = sales.groupBy("pump").agg(F.min("at").alias("window_start"), F.count(F.lit(1)).alias("sales"))
        return groups.select("window_start", "pump", "sales")

    undeclared = WINDOWS | {"aggregate": {"keys": ["pump"]}, "late": "include", "watermark": {}}
    assert "aggregate.window is not declared, so windows would overwrite each other" in refusal(
        spark, undeclared, windowed("10 minutes")
    )
    assert "aggregate.window is declared, but the transform groups by no F.window" in refusal(spark, WINDOWS, without)


@pytest.mark.parametrize(("start", "says"), [("5 minutes", ""), ("-5 minutes", ""), ("0 minutes", "differ")])
def test_a_window_that_begins_off_the_full_step_can_be_declared(spark: SparkSession, start: str, says: str) -> None:
    shifted = {"keys": ["pump"], "window": {"column": "at", "size": "10 minutes", "offset": "5 minutes"}}
    assert says in refusal(spark, WINDOWS | {"aggregate": shifted}, windowed("10 minutes", startTime=start))
    assert bool(refusal(spark, WINDOWS | {"aggregate": shifted}, windowed("10 minutes", startTime=start))) == bool(says)


def test_a_sliding_window_and_one_that_is_a_column_first_are_seen(spark: SparkSession) -> None:
    sliding = {
        **WINDOWS,
        "aggregate": {"keys": ["pump"], "window": {"column": "at", "size": "10 minutes", "slide": "5 minutes"}},
    }
    assert refusal(spark, sliding, windowed("10 minutes", "5 minutes")) == ""

    def first_a_column(sales: DataFrame) -> DataFrame:
        marked = sales.withColumn("w", F.window("at", "10 minutes"))
        return (
            marked.groupBy("w", "pump")
            .agg(F.count(F.lit(1)).alias("sales"))
            .selectExpr("w.start window_start", "pump", "sales")
        )

    assert refusal(spark, WINDOWS, first_a_column) == ""
    pipeline = made_of(WINDOWS)
    frames = check.empty_frames(spark, pipeline, pipeline.queries["q"])
    window = window_of(first_a_column(**frames))
    assert window is not None
    assert [part.total_seconds() for part in window] == [600, 600, 0]


def test_an_output_mode_that_spark_refuses_is_reported_before_a_start(spark: SparkSession) -> None:
    def twice(sales: DataFrame) -> DataFrame:
        return sums(sales).groupBy("pump").agg(F.max("total").alias("total"))

    assert "Spark cannot run it in mode update" in refusal(spark, TOTALS, twice)


def test_a_folder_is_checked_from_the_command_line(tmp_path: Path, java_home: str) -> None:
    for folder, text in {
        "pipelines/fuel.yaml": yaml.safe_dump(FUEL | {"queries": {"q": TOTALS}}),
        "spark_jobs/fuel.py": JOB,
    }.items():
        (tmp_path / folder).parent.mkdir()
        (tmp_path / folder).write_text(text)
    words = [sys.executable, "-m", "headrace.driver.check", str(tmp_path)]
    environment = {**os.environ, "JAVA_HOME": java_home, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    place = "fuel.q: spark_jobs/fuel.py and pipelines/fuel.yaml differ: the result lacks column total (decimal(22,2))"
    assert place in done.stderr


def test_a_second_event_time_in_the_groups_is_refused_because_each_batch_would_end_with_it(spark: SparkSession) -> None:
    """Found by seed 503 of the generated pipelines: Spark says it while the first batch runs, whatever the column is called."""
    query = WINDOWS | {
        "aggregate": {"keys": ["pump", "sold_at"], "window": {"column": "at", "size": "10 minutes"}},
        "columns": {**WINDOWS["columns"], "sold_at": {"type": "timestamp", "required": True}},
    }

    def grouped(sold_at: Column) -> Callable[[DataFrame], DataFrame]:
        def transform(sales: DataFrame) -> DataFrame:
            groups = sales.withColumn("sold_at", sold_at).groupBy(F.window("at", "10 minutes"), "pump", "sold_at")
            counted = groups.agg(F.count(F.lit(1)).alias("sales"))
            return counted.select(F.col("window.start").alias("window_start"), "pump", "sold_at", "sales")

        return transform

    said = refusal(spark, query, grouped(F.col("at")))
    assert "the transform groups by window and sold_at, and Spark follows one event time" in said
    assert refusal(spark, query, grouped(F.date_trunc("day", "at"))) == ""
