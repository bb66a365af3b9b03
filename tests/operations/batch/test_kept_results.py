"""What reconciliations keep: a closed day is compared again if its rows change, and a later run begins at the first such day.

`tests/jobs/test_quarter.py` runs nights with kept results from end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import views
from headrace.batch.reconcile import kept_results, kinds, reconciliation
from headrace.batch.reconcile.kept_results import Days, KeptDays, Totals
from headrace.batch.reconcile.scope import Scope
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.store.job_reports import Account
from spark_jobs import pos_sales
from tests.operations.batch.test_reconcile import NOON, cut, records, taken, totals

FIRST = date(2026, 3, 1)
ROWS = "window_start timestamp, window_end timestamp, product_id string, total_amount decimal(22,2), sales bigint"


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def test_a_comparison_begins_at_the_first_day_that_is_new_or_has_other_rows() -> None:
    known = {day(0): "a", day(1): "{}", day(2): "c"}
    now = {day(0): "a", day(2): "c"}
    assert kept_results.first_unlike({}, now, day(3)) is None, "nothing was compared yet"
    assert kept_results.first_unlike(known, now, day(3)) == day(3), "all is as it was"
    assert kept_results.first_unlike(known, now, day(5)) == day(3), "days that closed since"
    assert kept_results.first_unlike(known, now | {day(2): "x"}, day(5)) == day(2), "a row of an old day changed"
    assert kept_results.first_unlike(known, now | {day(1): "x"}, day(5)) == day(1), "a row on a day without rows"
    assert kept_results.first_unlike(known, {day(2): "c"}, day(5)) == day(0), "the rows of the first day are gone"
    assert kept_results.first_unlike(known, now | {day(-4): "x"}, day(5)) == day(-4), "a row before the first day"


def test_every_day_is_kept_also_one_without_rows() -> None:
    days = Days("tumbling table t", "1", day(4), {day(0): "a", day(2): "c"})
    assert days.rows() == [(day(0), "a"), (day(1), "{}"), (day(2), "c"), (day(3), "{}")]
    emptied = Days("tumbling table t", "1", day(2), {day(1): "b"}, kept_results.midnight_ms(day(0)))
    assert emptied.rows() == [(day(0), "{}"), (day(1), "b")]
    assert Days("tumbling table t", "1", day(4), {}).rows() == []


@pytest.mark.spark
def test_a_changed_row_of_an_old_day_and_another_generation_or_column_are_compared_again(
    spark: SparkSession, pos: Pipeline
) -> None:
    query = pos.queries["tumbling"]
    rows = [(datetime(2026, 3, 1 + n, 12), datetime(2026, 3, 1 + n, 12, 5), f"p{n}", Decimal(n), n) for n in range(4)]
    sink = spark.createDataFrame(rows, ROWS)
    closed = cut([taken(0, 0, 4, datetime(2026, 3, 4, 12))])

    def compared(frame: DataFrame, kept: KeptDays | None, complete_ms: int = 0) -> Days:
        return kept_results.days_of(kept, "tumbling table", query, frame, closed, complete_ms)

    first = compared(sink, None)
    assert (first.since_ms, first.past, sorted(first.digests)) == (0, day(3), [day(0), day(1), day(2)])
    kept = {("tumbling table", first.stamp): dict(first.rows())}
    again = compared(sink, kept)
    assert (again.since_ms, again.known) == (kept_results.midnight_ms(day(3)), 3)
    cent = F.when(F.col("product_id") == "p1", F.col("total_amount") + Decimal("0.01")).otherwise(F.col("total_amount"))
    assert compared(
        sink.withColumn("total_amount", cent.cast("decimal(22,2)")), kept
    ).since_ms == kept_results.midnight_ms(day(1))
    assert compared(sink.where("product_id <> 'p0'"), kept).since_ms == kept_results.midnight_ms(day(0))
    expired = compared(sink.where("product_id > 'p0'"), kept, kept_results.midnight_ms(day(0)) + 1)
    assert expired.since_ms == kept_results.midnight_ms(day(3)), "what retention may have deleted is no change"
    assert compared(sink, {("tumbling table", "2: other"): dict(first.rows())}).since_ms == 0


@pytest.mark.spark
def test_later_records_are_added_to_kept_totals_and_only_those_of_sums_are_kept(
    spark: SparkSession, pos: Pipeline
) -> None:
    query = pos.queries["leaderboard"]
    given = spark.createDataFrame(
        [("a", Decimal(1)), ("a", Decimal(2)), ("b", Decimal(5)), ("c", Decimal(7))],
        "product_id string, amount decimal(12,2)",
    )
    one, other = given.where("amount < 5"), given.where("amount >= 5 OR amount = 2")
    totals = Totals(3, pos_sales.leaderboard(one))
    rows = {tuple(row) for row in kept_results.added(query, totals.rows, pos_sales.leaderboard(other)).collect()}
    assert rows == {("all", "a", Decimal(5), 3), ("all", "b", Decimal(5), 1), ("all", "c", Decimal(7), 1)}

    many = spark.createDataFrame(
        [("a", Decimal(n)) for n in range(1, 9)], given.schema
    )  # so that no half of them is empty

    def sums(transform: Callable[..., DataFrame]) -> bool:
        return views.are_sums(query, many, transform, transform(many), kept_results.others(query))

    def dearest(pos: DataFrame) -> DataFrame:
        most = F.max("amount").cast("decimal(22,2)").alias("total_amount")
        rows = pos.groupBy("product_id").agg(most, F.count(F.lit(1)).alias("sales"))
        return rows.select(F.lit("all").alias("board"), "product_id", "total_amount", "sales")

    assert sums(pos_sales.leaderboard)
    assert not sums(dearest)


@pytest.mark.spark
@pytest.mark.parametrize("earlier", [True, False])
def test_the_totals_that_are_kept_are_those_that_were_compared(
    spark: SparkSession, pos: Pipeline, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """They were computed for each of the two; now one frame, which is in memory, serves both. Refused totals are only kept."""
    given = records(
        spark, [(0, 0, "a", "1.00", NOON, -1), (1, 1, "a", "2.00", NOON, -1), (1, 2, "b", "5.00", NOON, -1)]
    )
    known = cut([taken(0, 0, 1), taken(1, 1, 3)])
    query = pos.queries["product_totals"]
    kept: list[tuple[bool, set[tuple[object, ...]]]] = []
    in_memory: list[bool] = []

    def keep(_job: object, _name: str, _query: object, due: DataFrame, _cut: object) -> None:
        kept.append((due.storageLevel.useMemory, {tuple(row) for row in due.collect()}))

    running = kinds.running

    def comparing(*args: Any, **named: Any) -> None:
        newest = named["newest"] if "newest" in named else args[9]
        in_memory.append("InMemoryRelation" in newest._jdf.queryExecution().withCachedData().toString())
        running(*args, **named)

    monkeypatch.setattr(kinds, "running", comparing)
    monkeypatch.setattr(kept_results, "keep_totals", keep)
    sink = totals(spark, [("a", "3.00", 2, 1), ("b", "5.00", 1, 1)])
    scope = Scope(ReconcileSpec(only_new=True), {})
    if earlier:
        scope.totals["product_totals"] = Totals(0, pos_sales.product_totals(given.where("_headrace_batch = 0")))
    account = reconciliation._compare_totals(
        SimpleNamespace(pipeline=pos),  # type: ignore[arg-type]
        Account("product_totals", "table", "running totals"), query.sinks[0], pos_sales.product_totals, given, sink, known,
        scope, {},
    )  # fmt: skip
    assert (account.differences, account.compared) == ([], 2)
    assert in_memory == [True]
    assert kept == [(True, {("a", Decimal("3.00"), 2), ("b", Decimal("5.00"), 1)})]
