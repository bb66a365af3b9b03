"""Batch views: the same transforms over the archive, by day of event time, as DuckDB has it from the same records."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import archive_reader, lake_tables, views
from headrace.batch.reconcile import view_days
from headrace.contract.job_files import ReconcileSpec, ViewsSpec
from headrace.contract.load import load_pipeline
from headrace.contract.model import Column, Pipeline
from headrace.errors import HeadraceError
from headrace.operations.batch import view_plans
from headrace.store import paths, small_files, view_state
from headrace.store.job_reports import Account
from spark_jobs import ad_attribution, pos_sales
from tests.support import lake
from tests.support.lake import Archived, sale
from tests.support.replay import plain

pytestmark = [pytest.mark.spark, pytest.mark.long(group="trust")]

START = datetime(2026, 3, 1)
PRODUCTS = ("p0", "p1", "p2")


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def sales(seed: int, days: int, per_day: int) -> list[Archived]:
    """Return random receipt lines of some days; most come at once, some up to a day late, in any order."""
    chance = random.Random(seed)
    made = []
    for _ in range(days * per_day):
        at = START + timedelta(seconds=chance.randrange(days * 86_400), microseconds=chance.randrange(1_000_000))
        delay = timedelta(hours=chance.choice((0, 0, 0, 0, 1, 23)))
        made.append((at + delay, sale(chance.choice(PRODUCTS), f"{chance.randrange(-500, 9_999) / 100:.2f}", at)))
    return lake.numbered(sorted(made, key=lambda record: record[0]))


def order(closed: str, days: Sequence[str] | None = None) -> ViewsSpec:
    return ViewsSpec(closed_until=closed, days=None if days is None else tuple(days))


def rows(spark: SparkSession, pipeline: Pipeline, view: str) -> list[tuple[Any, ...]]:
    return sorted(plain(spark.table(f"lake.{pipeline.name}.batch_{view}")))


def oracle(records: Sequence[Archived], size: int = 0, slide: int = 0) -> list[tuple[Any, ...]]:
    """Return what a view must hold: by day and product, or by window and product; minutes."""
    db = duckdb.connect()
    db.execute("CREATE TABLE pos (product VARCHAR, amount DECIMAL(12,2), happened TIMESTAMP)")
    values = [r.value for r in records if r.reason is None and isinstance(r.value, dict)]
    db.executemany(
        "INSERT INTO pos VALUES (?, ?, ?)", [(v["product_id"], v["amount"], v["create_date"]) for v in values]
    )
    if not size:
        return db.execute(
            "SELECT happened::date, product, sum(amount), count(*) FROM pos GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    return db.execute(
        f"""SELECT opens::date, epoch_us(opens), epoch_us(opens + INTERVAL {size} MINUTE), product, sum(amount), count(*)
        FROM (SELECT *, time_bucket(INTERVAL {slide} MINUTE, happened) - k * INTERVAL {slide} MINUTE AS opens
              FROM pos, generate_series(0, {size // slide - 1}) AS s(k)) GROUP BY ALL ORDER BY ALL"""
    ).fetchall()


def within(view_rows: Sequence[tuple[Any, ...]], days: int) -> list[tuple[Any, ...]]:
    return [row for row in view_rows if START.date() <= row[0] < START.date() + timedelta(days=days)]


def test_every_view_equals_the_records_of_its_days(
    spark: SparkSession, pos: Pipeline, tmp_path: Path, seed: int
) -> None:
    pipeline, records = lake.renamed(pos, "views_exact"), sales(seed, 9, 60)
    good_today = b'{"product_id": "p0", "amount": "1", "create_date": "2026-03-02 00:00:00"}'
    refused = Archived(0, 10_000, START + timedelta(days=3), good_today, "overflow: once")
    lake.lay(spark, pipeline, "pos", [*records, refused])
    report = views.run(lake.job(spark, pipeline, pos_sales, tmp_path, "one"), order("2026-03-09"))
    assert report.horizon == "2026-03-09"
    assert {str(START.date() + timedelta(days=n)) for n in range(8)} <= set(report.days)
    assert rows(spark, pipeline, "product_totals") == within(oracle(records), 8)
    assert rows(spark, pipeline, "tumbling") == within(oracle(records, 5, 5), 8)
    # The first window of a sliding row begins before its record, so before the first day too.
    assert within(rows(spark, pipeline, "sliding"), 8) == within(oracle(records, 10, 5), 8)
    assert report.rows["product_totals"] == len(within(oracle(records), 8))


def test_a_day_that_is_computed_again_is_replaced_and_a_touched_day_is_found(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    pipeline = lake.renamed(pos, "views_again")
    hours = [START + timedelta(days=n, hours=1) for n in range(4)]
    lake.lay(spark, pipeline, "pos", lake.numbered([(at, sale("p0", "1.00", at)) for at in hours]))
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    assert views.run(job, order("2026-03-04")).horizon == "2026-03-04"
    before = rows(spark, pipeline, "product_totals")
    assert before == [(date(2026, 3, n), "p0", Decimal("1.00"), 1) for n in (1, 2, 3)]
    again = views.run(job, order("2026-03-04", ["2026-03-02"]))
    assert again.days == ("2026-03-02",)
    assert rows(spark, pipeline, "product_totals") == before
    assert views.run(job, order("2026-03-04")).days == (), "nothing new came"

    late = Archived(0, 2, START + timedelta(days=5), sale("p0", "0.50", START + timedelta(days=1, hours=2)))
    lake.lay(spark, pipeline, "pos", [late, late])  # twice: as a restored archive query may leave it
    report = views.run(job, order("2026-03-06"))
    assert report.repeats == {"pos": 1}
    assert "2026-03-02" in report.days
    assert "2026-03-03" not in report.days
    assert rows(spark, pipeline, "product_totals") == [
        (date(2026, 3, 1), "p0", Decimal("1.00"), 1),
        (date(2026, 3, 2), "p0", Decimal("1.50"), 2),
        (date(2026, 3, 3), "p0", Decimal("1.00"), 1),
        (date(2026, 3, 4), "p0", Decimal("1.00"), 1),
    ]


def test_a_recomputation_that_fails_leaves_the_former_days_and_the_next_run_computes_them(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    pipeline = lake.renamed(pos, "views_failed")
    hours = [START + timedelta(days=n, hours=1) for n in range(4)]
    lake.lay(spark, pipeline, "pos", lake.numbered([(at, sale("p0", "1.00", at)) for at in hours]))
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    views.run(job, order("2026-03-04"))
    before = rows(spark, pipeline, "product_totals")
    late = Archived(0, 4, START + timedelta(days=5), sale("p0", "0.50", START + timedelta(days=1, hours=2)))
    lake.lay(spark, pipeline, "pos", [late])

    def fails(pos: DataFrame) -> DataFrame:
        broken = F.expr("CAST(raise_error('the disk is full') AS BIGINT)")
        return pos_sales.product_totals(pos).withColumn("sales", F.coalesce(F.when(F.col("sales") < 2, 1), broken))

    with pytest.raises(Exception, match="the disk is full"):
        views.run(replace(job, transforms={**job.transforms, "product_totals": fails}), order("2026-03-05"))
    assert rows(spark, pipeline, "product_totals") == before
    assert view_state.read(job.root, pipeline.name).horizon == "2026-03-04"
    assert "2026-03-02" in views.run(job, order("2026-03-05")).days
    assert (date(2026, 3, 2), "p0", Decimal("1.50"), 2) in rows(spark, pipeline, "product_totals")


def test_a_day_that_is_not_closed_or_not_archived_is_refused(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    pipeline = lake.renamed(pos, "views_open")
    lake.lay(spark, pipeline, "pos", lake.numbered([(START + timedelta(hours=30), sale("p0", "1.00", START))]))
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    with pytest.raises(HeadraceError, match="2026-03-02 cannot be computed yet"):
        views.run(job, order("2026-03-02", ["2026-03-02"]))


def test_an_archive_that_is_behind_moves_the_horizon_back(
    spark: SparkSession, pos: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "WAIT_SECONDS", 0)
    pipeline = lake.renamed(pos, "views_behind")
    lake.lay(spark, pipeline, "pos", lake.numbered([(START + timedelta(hours=30), sale("p0", "1.00", START))]))
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    behind = ViewsSpec(closed_until="2026-03-20", ends={"pos": {"0": 9}})
    assert views.run(job, behind).horizon == "2026-03-02"


def test_days_far_apart_are_one_step_and_hold_what_their_records_say(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    """C27: the border of a day is the border of its windows, whatever the next day in the step is."""
    pipeline = lake.renamed(pos, "views_apart")
    at = [START + timedelta(days=3 * n, minutes=m) for n in range(12) for m in (0, 3, 1437, 1439, 1441, 1449)]
    records = lake.numbered([(moment, sale("p0", "1.00", moment)) for moment in at])
    lake.lay(spark, pipeline, "pos", records)
    steps: list[str] = []
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    object.__setattr__(job, "progress", lambda done, of, stage: steps.append(stage))
    report = views.run(job, order("2026-05-01"))
    assert len(report.days) == 24 + 12, "the days, those after, and those before by their sliding windows"
    assert len(steps) == 2
    assert rows(spark, pipeline, "product_totals") == oracle(records)
    assert rows(spark, pipeline, "tumbling") == oracle(records, 5, 5)
    assert rows(spark, pipeline, "sliding") == oracle(records, 10, 5)
    (state,) = [small_files.read_json(paths.view_state(str(tmp_path), pipeline.name))]
    assert state is not None
    assert state["days"]["2026-03-01"]["records"] == 4


def test_a_view_gets_the_column_that_its_query_got_and_its_days_are_computed_again(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    """D08."""
    pipeline = lake.renamed(pos, "views_wider")
    lake.lay(
        spark, pipeline, "pos", lake.numbered([(START, sale("p0", "1.00", START)), (START, sale("p0", "4.00", START))])
    )
    views.run(lake.job(spark, pipeline, pos_sales, tmp_path, "one"), order("2026-03-03"))

    query = pipeline.queries["product_totals"]
    columns = query.columns | {"largest": Column(type="decimal(12,2)")}
    wider = pipeline.model_copy(
        update={"queries": pipeline.queries | {"product_totals": query.model_copy(update={"columns": columns})}}
    )

    def product_totals(pos: DataFrame) -> DataFrame:
        return pos.groupBy("product_id").agg(
            F.sum("amount").cast("decimal(22,2)").alias("total_amount"),
            F.count(F.lit(1)).alias("sales"),
            F.max("amount").alias("largest"),
        )

    job = lake.job(spark, wider, pos_sales, tmp_path, "two")
    job = replace(job, transforms=dict(job.transforms) | {"product_totals": product_totals})
    assert "2026-03-01" in views.run(job, order("2026-03-03")).days
    assert rows(spark, wider, "product_totals") == [(date(2026, 3, 1), "p0", Decimal("5.00"), 2, Decimal("4.00"))]
    assert views.run(job, order("2026-03-03")).days == (), "nothing is stale any more"


def test_days_of_another_window_size_are_computed_again_and_never_stand_beside_new_ones(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    pipeline = lake.renamed(pos, "views_reshaped")
    at = [START + timedelta(days=n, minutes=7) for n in range(3)]
    records = lake.numbered([(moment, sale("p0", "1.00", moment)) for moment in at], 1)
    lake.lay(spark, pipeline, "pos", records)
    views.run(lake.job(spark, pipeline, pos_sales, tmp_path, "one"), order("2026-03-04"))
    assert rows(spark, pipeline, "tumbling") == oracle(records, 5, 5)

    query = pipeline.queries["tumbling"]
    assert query.aggregate is not None
    assert query.aggregate.window is not None
    window = query.aggregate.window.model_copy(update={"size": timedelta(minutes=10)})
    longer = query.model_copy(update={"aggregate": query.aggregate.model_copy(update={"window": window})})
    wider = pipeline.model_copy(update={"queries": pipeline.queries | {"tumbling": longer}})

    def tumbling(pos: DataFrame) -> DataFrame:
        groups = pos.groupBy(F.window("create_date", "10 minutes").alias("window"), "product_id")
        sums = groups.agg(F.sum("amount").cast("decimal(22,2)").alias("total_amount"), F.count(F.lit(1)).alias("sales"))
        return sums.select(F.col("window.start").alias("window_start"), F.col("window.end").alias("window_end"),
                           "product_id", "total_amount", "sales")  # fmt: skip

    job = lake.job(spark, wider, pos_sales, tmp_path, "two")
    job = replace(job, transforms=dict(job.transforms) | {"tumbling": tumbling})
    archives = {"pos": archive_reader.pin(spark, pipeline.name, "pos")}
    accounts = {a.query: a for a in view_days.compare(job, wider.queries, archives, ReconcileSpec(at_ms=0, since_ms=0))}
    assert (accounts["tumbling"].compared, accounts["tumbling"].pending, accounts["tumbling"].differing) == (0, 4, 0)
    assert (accounts["sliding"].compared, accounts["sliding"].differing) == (4, 0), "the views of other queries hold"

    spark.sql(f"DELETE FROM lake.{pipeline.name}.archive_pos WHERE offset = 0")  # the archive's first day is gone
    report = views.run(job, order("2026-03-04"))
    assert {"2026-03-01", "2026-03-02", "2026-03-03"} <= set(report.days)
    assert report.fewer == {"2026-03-01": (1, 0)}
    assert "2026-03-01 has 0 records and had 1" in view_plans.fewer(report)[0]
    assert rows(spark, pipeline, "tumbling") == oracle(records[1:], 10, 10)
    assert view_state.read(job.root, pipeline.name).outdated == {}
    assert views.run(job, order("2026-03-04")).days == ()


def test_a_table_of_the_batch_layer_is_altered_as_far_as_it_can_be(spark: SparkSession) -> None:
    table = "lake.altered.some"
    lake_tables.ensure(spark, table, "run STRING, n INT, gone INT", "run")
    spark.createDataFrame([("r", 1, 2)], "run STRING, n INT, gone INT").writeTo(table).append()
    change = lake_tables.ensure(spark, table, "run STRING, n BIGINT, more STRING", "run")
    assert (change.added, change.dropped, change.widened) == (("more",), ("gone",), ("n",))
    assert [tuple(row) for row in spark.table(table).collect()] == [("r", 1, None)]
    with pytest.raises(
        HeadraceError, match=r"altered\.some has n as bigint, which cannot be changed to string in place\. Drop it\."
    ):
        lake_tables.ensure(spark, table, "run STRING, n STRING, more STRING", "run", "Drop it.")


def test_a_day_of_a_view_that_is_not_what_its_records_say_is_named(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    """B23: what serve-query reads was compared with nothing."""
    pipeline = lake.renamed(pos, "views_compared")
    hours = [START + timedelta(days=n, hours=1) for n in range(3)]
    lake.lay(spark, pipeline, "pos", lake.numbered([(at, sale("p0", "1.00", at)) for at in hours], 1))
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    views.run(job, order("2026-03-04"))

    def compared() -> dict[str, Account]:
        archives = {"pos": archive_reader.pin(spark, pipeline.name, "pos")}
        asked = ReconcileSpec(at_ms=0, since_ms=0)
        return {account.query: account for account in view_days.compare(job, pipeline.queries, archives, asked)}

    even = compared()
    assert {
        name: (account.differing, account.compared, account.blocked) for name, account in even.items()
    } == dict.fromkeys(("product_totals", "tumbling", "sliding"), (0, 4, False))
    spark.sql(f"UPDATE lake.{pipeline.name}.batch_product_totals SET sales = 7 WHERE day = DATE '2026-03-02'")
    spark.sql(f"DELETE FROM lake.{pipeline.name}.batch_tumbling WHERE day = DATE '2026-03-03'")
    again = f"SELECT * FROM lake.{pipeline.name}.batch_sliding WHERE day = DATE '2026-03-01'"
    spark.sql(f"INSERT INTO lake.{pipeline.name}.batch_sliding {again}")
    accounts = compared()
    (difference,) = accounts["product_totals"].differences
    assert difference.due
    assert difference.speed
    assert (difference.what, difference.key["day"], difference.due["sales"], difference.speed["sales"]) == (
        "differs", "2026-03-02", 1, 7,
    )  # fmt: skip
    assert [difference.what for difference in accounts["tumbling"].differences] == ["missing in the view"]
    assert {difference.what for difference in accounts["sliding"].differences} == {"in the view more than once"}

    late = Archived(0, 3, START + timedelta(days=5), sale("p0", "0.50", hours[1]))
    lake.lay(spark, pipeline, "pos", [late])
    touched = compared()["product_totals"]
    assert (touched.differing, touched.pending) == (0, 2), "the next run of the views computes that day"


def test_attributed_clicks_of_a_day_take_their_clicks_from_the_next(
    spark: SparkSession, project: Path, tmp_path: Path
) -> None:
    pipeline = lake.renamed(load_pipeline(project / "pipelines" / "ad_attribution.yaml"), "views_ads")
    midnight = START + timedelta(days=1)

    def shown(uuid: str, at: datetime) -> tuple[datetime, dict[str, Any]]:
        return at, {"uuid": uuid, "create_date": at, "ad_id": "a"}

    def clicked(uuid: str, at: datetime) -> tuple[datetime, dict[str, Any]]:
        return at, {"uuid": uuid, "create_date": at}

    minute = timedelta(minutes=1)
    twice = shown("u1", midnight - minute)
    impressions = [twice, twice, shown("u2", midnight - minute), shown("u3", midnight)]
    clicks = [
        clicked("u1", midnight + 4 * minute),
        clicked("u2", midnight + 5 * minute),
        clicked("u3", midnight + minute),
    ]
    lake.lay(spark, pipeline, "impressions", lake.numbered(impressions))
    lake.lay(spark, pipeline, "clicks", lake.numbered(clicks))
    views.run(lake.job(spark, pipeline, ad_attribution, tmp_path, "one"), order("2026-03-02"))
    attributed = [(row[0], row[1], row[4]) for row in rows(spark, pipeline, "attributed")]
    assert attributed == [
        (date(2026, 3, 1), "u1", "2026-03-02T00:04:00.000000"),
        (date(2026, 3, 1), "u2", "none"),
    ]


def test_only_running_totals_that_are_sums_count_as_sums(spark: SparkSession, pos: Pipeline) -> None:
    ddl = "product_id string, amount decimal(12,2), create_date timestamp"
    lines = [("p0", Decimal(n), START + timedelta(minutes=n)) for n in range(1, 30)]
    records = spark.createDataFrame(lines, ddl)
    query = pos.queries["product_totals"]

    def warmest(pos: DataFrame) -> DataFrame:
        return pos.groupBy("product_id").agg(F.max("amount").alias("total_amount"), F.count(F.lit(1)).alias("sales"))

    def narrow(pos: DataFrame) -> DataFrame:
        total = F.sum("amount").cast("decimal(5,2)").alias("total_amount")
        return pos.groupBy("product_id").agg(total, F.count(F.lit(1)).alias("sales"))

    eights = spark.createDataFrame([("p0", Decimal(8), START + timedelta(minutes=n)) for n in range(200)], ddl)
    assert views.are_sums(query, eights, narrow), "each half fits, and 1600 does not: both are null"
    assert views.are_sums(query, records, pos_sales.product_totals)
    assert not views.are_sums(query, records, warmest)
