"""Accounting: batch = speed + late, exactly, for every window and key, from the ledger and the archive alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting
from headrace.contract.platform_columns import SOURCE
from headrace.driver import source
from spark_jobs import ad_attribution, pos_sales
from tests.jobs.conftest import Played
from tests.jobs.events import MICRO
from tests.support.replay import ledger_of, plain

pytestmark = pytest.mark.spark

FIVE = timedelta(minutes=5)
KEYS, VALUES = ["window_start", "window_end", "product_id"], ["total_amount", "sales"]
WINDOW_DDL = "window_start bigint, window_end bigint, product_id string, total_amount decimal(22,2), sales bigint"


def late_joined(
    sides: Mapping[str, DataFrame], event_times: Mapping[str, str], transform: Callable[..., DataFrame]
) -> DataFrame:
    """Return how late rows would have changed a join: its rows with ROWS, the number of additional (if negative, surplus) ones.

    `sides` are the transform's parameters, from `batch_of`. Surplus: a left row that was emitted as unmatched although
    its late partner existed.
    """
    sides = {name: side.where(F.col(accounting.BATCH).isNotNull()) for name, side in sides.items()}
    in_time = {name: accounting.split_late(side, event_times[name])[0] for name, side in sides.items()}
    complete, kept = accounting.counted(transform(**sides)), accounting.counted(transform(**in_time))
    both = complete.unionByName(kept.withColumn(accounting.ROWS, -F.col(accounting.ROWS)))
    columns = [name for name in complete.columns if name != accounting.ROWS]
    return both.groupBy(*columns).agg(F.sum(accounting.ROWS).alias(accounting.ROWS)).where(F.col(accounting.ROWS) != 0)


def reconcile(
    batch: DataFrame, speed: DataFrame, late: DataFrame, keys: Sequence[str], values: Sequence[str]
) -> DataFrame:
    """Return the keys for which batch = speed + late does not hold exactly; no rows means that everything is accounted for.

    Input and output as in `accounting.side_by_side`, restricted to keys that differ.
    """
    return accounting.differing(accounting.side_by_side(batch, speed, late, keys, values), values)


def archived(spark: SparkSession, played: Played, topic: str, query: str) -> DataFrame:
    """Return the accepted records of the archive, each with the batch that took it."""
    accepted = source.accepted(played.given.archive(spark, topic), played.given.pipeline.sources[topic])
    return accounting.batch_of(accepted, ledger_of(played.given, played.replayed[query], query))


def table(spark: SparkSession, rows: Sequence[tuple[Any, ...]]) -> DataFrame:
    """Return rows of windows, as `plain` gave them, as a frame with timestamps."""
    frame = spark.createDataFrame(list(rows), WINDOW_DDL)
    return frame.selectExpr(
        "timestamp_micros(window_start) window_start", "timestamp_micros(window_end) window_end", "product_id", *VALUES
    )


@pytest.mark.parametrize("query", ["tumbling", "sliding", "final_windows"])
def test_every_window_and_key_is_speed_plus_late(spark: SparkSession, pos_played: Played, query: str) -> None:
    declared = pos_played.given.pipeline.queries[query].aggregate
    assert declared is not None
    assert declared.window is not None
    transform = getattr(pos_sales, query)
    records = archived(spark, pos_played, "pos", query).cache()
    assert records.where(F.col(accounting.BATCH).isNull()).count() == 0
    late = accounting.late_windows(records, declared.window, transform)
    slide = declared.window.slide or declared.window.size
    expected = pos_played.oracle(query).window_sums(declared.window.size, slide, late=True)
    assert sorted(plain(late)) == sorted(expected), f"HEADRACE_TEST_SEED={pos_played.seed}"
    assert expected, "no row was late"

    speed = {row[:3]: row for row in pos_played.replayed[query].rows()}  # the sink: the newest row of a key wins
    batch = transform(records)
    if query == "final_windows":  # only closed windows are in its sink
        closed = f"unix_millis(window_end) <= {pos_played.replayed[query].batches[-1].watermark_ms}"
        batch, late = batch.where(closed), late.where(closed)
    assert plain(reconcile(batch, table(spark, list(speed.values())), late, KEYS, VALUES)) == []

    lost = speed.pop(next(iter(speed)))
    (difference,) = plain(reconcile(batch, table(spark, list(speed.values())), late, KEYS, VALUES))
    assert difference[:3] == lost[:3], "a row that is missing in the sink is found"


def test_the_join_is_accounted_for_row_by_row(spark: SparkSession, ads_played: Played) -> None:
    """Every impression's rows: those in the sink, plus what late rows would have added, minus what they would have corrected."""
    sides = {topic: archived(spark, ads_played, topic, "in_memory").cache() for topic in ("impressions", "clicks")}
    times = dict.fromkeys(sides, "create_date")
    late = late_joined(sides, times, ad_attribution.attributed)
    batch = accounting.counted(ad_attribution.attributed(**sides))
    # An impression that waits for a click is in no sink yet: Spark holds it until the watermark has passed its 5 minutes.
    passed = (ads_played.replayed["in_memory"].batches[-1].watermark_ms - 1) * 1000 - FIVE // MICRO
    settled = f"click_date IS NOT NULL OR unix_micros(impr_date) <= {passed}"
    ddl = "impr_uuid string, impr_date bigint, ad_id string, click_key string, click_date bigint"
    rows = spark.createDataFrame(ads_played.replayed["in_memory"].rows(), ddl)
    speed = accounting.counted(
        rows.selectExpr(
            "impr_uuid",
            "timestamp_micros(impr_date) impr_date",
            "ad_id",
            "click_key",
            "timestamp_micros(click_date) click_date",
        )
    )
    keys = ["impr_uuid", "impr_date", "ad_id", "click_key", "click_date"]
    seed = f"HEADRACE_TEST_SEED={ads_played.seed}"
    assert plain(reconcile(batch.where(settled), speed, late.where(settled), keys, [accounting.ROWS])) == [], seed
    assert late.count() > 0, seed


def test_a_record_belongs_to_the_batch_whose_range_has_its_offset(spark: SparkSession) -> None:
    def taken(number: int, late: int, **ranges: dict[str, list[int]]) -> Any:
        return {"batch": number, "late_watermark_ms": late, "offsets": ranges}

    ledger = [
        taken(7, 700, pos={"0": [10, 12], "1": [0, 0]}),
        taken(8, 800, pos={"0": [12, 12], "1": [0, 1]}),
        taken(9, 900, pos={"0": [12, 13]}, clicks={"0": [11, 12]}),
    ]
    places = [("pos", 0, o) for o in (9, 10, 11, 12, 13)] + [("pos", 1, 0), ("pos", 2, 0), ("clicks", 0, 11)]
    records = spark.createDataFrame(
        [(place,) for place in places], f"{SOURCE} struct<topic:string,partition:int,offset:bigint>"
    )
    by_place = {
        tuple(row[SOURCE]): (row[accounting.BATCH], row[accounting.LATE_MARK])
        for row in accounting.batch_of(records, ledger).collect()
    }
    assert [by_place[place] for place in places] == [
        (None, None), (7, 700), (7, 700), (9, 900), (None, None), (8, 800), (None, None), (9, 900),
    ]  # fmt: skip


def test_a_join_row_is_late_up_to_the_watermark_itself(spark: SparkSession) -> None:
    rows = spark.sql(
        "SELECT timestamp_micros(x) AS t, y AS _headrace_late_watermark_ms FROM VALUES "
        "(5000, 5L), (5001, 5L), (0, 0L), (1, 0L), (1, NULL) AS (x, y)"
    )
    in_time, late = accounting.split_late(rows, "t")
    assert sorted(plain(late)) == [(0, 0), (5000, 5)]
    assert sorted(plain(in_time)) == [(1, 0), (5001, 5)]


def test_reconcile_names_each_key_that_does_not_add_up(spark: SparkSession) -> None:
    def sums(*rows: tuple[str | None, str]) -> DataFrame:
        return spark.createDataFrame([(key, Decimal(v)) for key, v in rows], "k string, v decimal(12,2)")

    batch = sums(("same", "0.30"), ("late", "0.30"), ("lost", "0.10"), (None, "1.00"), ("much", "1.00"))
    speed = sums(
        ("same", "0.30"), ("late", "0.10"), (None, "1.00"), ("much", "1.00"), ("much", "0.01"), ("made", "2.00")
    )
    late = sums(("late", "0.20"))
    differing = {row[0]: row[1:] for row in plain(reconcile(batch, speed, late, ["k"], ["v"]))}
    assert differing == {
        "lost": (Decimal("0.10"), 0, 0),
        "much": (Decimal("1.00"), Decimal("1.01"), 0),
        "made": (0, Decimal("2.00"), 0),
    }
