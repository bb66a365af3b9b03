"""Batch views: the same transforms over the archive, by day of event time, as DuckDB has it from the same records."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.streaming import views
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


def sales(seed: int, days: int, each: int) -> list[Archived]:
    """Return random receipt lines of some days; most come at once, some up to a day late, in any order."""
    chance = random.Random(seed)
    made = []
    for _ in range(days * each):
        at = START + timedelta(seconds=chance.randrange(days * 86_400), microseconds=chance.randrange(1_000_000))
        delay = timedelta(hours=chance.choice((0, 0, 0, 0, 1, 23)))
        made.append((at + delay, sale(chance.choice(PRODUCTS), f"{chance.randrange(-500, 9_999) / 100:.2f}", at)))
    return lake.numbered(sorted(made, key=lambda record: record[0]))


def order(closed: str, days: Sequence[str] | None = None) -> dict[str, Any]:
    return {"closed_until": closed, "ends": {}, "days": days}


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


def within(found: Sequence[tuple[Any, ...]], days: int) -> list[tuple[Any, ...]]:
    return [row for row in found if START.date() <= row[0] < START.date() + timedelta(days=days)]


def test_every_view_equals_the_records_of_its_days(
    spark: SparkSession, pos: Pipeline, tmp_path: Path, seed: int
) -> None:
    pipeline, records = lake.renamed(pos, "views_exact"), sales(seed, 9, 60)
    good_today = b'{"product_id": "p0", "amount": "1", "create_date": "2026-03-02 00:00:00"}'
    refused = Archived(0, 10_000, START + timedelta(days=3), good_today, "overflow: once")
    lake.lay(spark, pipeline, "pos", [*records, refused])
    report = views.run(lake.job(spark, pipeline, pos_sales, tmp_path, "one"), order("2026-03-09"))
    assert report["horizon"] == "2026-03-09"
    assert {str(START.date() + timedelta(days=n)) for n in range(8)} <= set(report["days"])
    assert rows(spark, pipeline, "product_totals") == within(oracle(records), 8)
    assert rows(spark, pipeline, "tumbling") == within(oracle(records, 5, 5), 8)
    # The first window of a sliding row begins before its record, so before the first day too.
    assert within(rows(spark, pipeline, "sliding"), 8) == within(oracle(records, 10, 5), 8)
    assert report["rows"]["product_totals"] == len(within(oracle(records), 8))


def test_a_day_that_is_computed_again_is_replaced_and_a_touched_day_is_found(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    pipeline = lake.renamed(pos, "views_again")
    hours = [START + timedelta(days=n, hours=1) for n in range(4)]
    lake.lay(spark, pipeline, "pos", lake.numbered([(at, sale("p0", "1.00", at)) for at in hours]))
    job = lake.job(spark, pipeline, pos_sales, tmp_path, "one")
    assert views.run(job, order("2026-03-04"))["horizon"] == "2026-03-04"
    before = rows(spark, pipeline, "product_totals")
    assert before == [(date(2026, 3, n), "p0", Decimal("1.00"), 1) for n in (1, 2, 3)]
    again = views.run(job, order("2026-03-04", ["2026-03-02"]))
    assert again["days"] == ["2026-03-02"]
    assert rows(spark, pipeline, "product_totals") == before
    assert views.run(job, order("2026-03-04"))["days"] == [], "nothing new came"

    late = Archived(0, 2, START + timedelta(days=5), sale("p0", "0.50", START + timedelta(days=1, hours=2)))
    lake.lay(spark, pipeline, "pos", [late, late])  # twice: as a restored archive query may leave it
    report = views.run(job, order("2026-03-06"))
    assert report["repeats"] == {"pos": 1}
    assert "2026-03-02" in report["days"]
    assert "2026-03-03" not in report["days"]
    assert rows(spark, pipeline, "product_totals") == [
        (date(2026, 3, 1), "p0", Decimal("1.00"), 1),
        (date(2026, 3, 2), "p0", Decimal("1.50"), 2),
        (date(2026, 3, 3), "p0", Decimal("1.00"), 1),
        (date(2026, 3, 4), "p0", Decimal("1.00"), 1),
    ]


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
    behind = {"closed_until": "2026-03-20", "ends": {"pos": {"0": 9}}, "days": None}
    assert views.run(job, behind)["horizon"] == "2026-03-02"


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
    found = [(row[0], row[1], row[4]) for row in rows(spark, pipeline, "attributed")]
    assert found == [
        (date(2026, 3, 1), "u1", "2026-03-02T00:04:00.000000"),
        (date(2026, 3, 1), "u2", "none"),
    ]


def test_only_running_totals_that_are_sums_are_told_as_sums(spark: SparkSession, pos: Pipeline) -> None:
    ddl = "product_id string, amount decimal(12,2), create_date timestamp"
    lines = [("p0", Decimal(n), START + timedelta(minutes=n)) for n in range(1, 30)]
    records = spark.createDataFrame(lines, ddl)
    query = pos.queries["product_totals"]

    def warmest(pos: DataFrame) -> DataFrame:
        return pos.groupBy("product_id").agg(F.max("amount").alias("total_amount"), F.count(F.lit(1)).alias("sales"))

    assert views.are_sums(query, records, pos_sales.product_totals)
    assert not views.are_sums(query, records, warmest)
