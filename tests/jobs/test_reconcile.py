"""Reconciliation over random replays: what Spark wrote, with restarts in between, is exactly what is due."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import accounting
from headrace.batch.reconcile import kinds
from headrace.batch.reconcile.kinds import Cut
from headrace.driver import source
from headrace.store.generation import Generation
from headrace.store.job_reports import Account
from spark_jobs import ad_attribution, pos_sales
from tests.jobs.conftest import Played
from tests.support.replay import ledger_of

pytestmark = [pytest.mark.spark, pytest.mark.long(group="trust")]

WINDOW_DDL = "window_start bigint, window_end bigint, product_id string, total_amount decimal(22,2), sales bigint"
JOINED_DDL = "impr_uuid string, impr_date bigint, ad_id string, click_key string, click_date bigint"


def cut_of(played: Played, query: str, job: str = "") -> Cut:
    records = ledger_of(played.given, played.replayed[job or query], query)
    newest = records[-1]["batch"]
    return Cut(Generation(played.given.pipeline.name, query, 1, 0, {}), records, newest, newest)


def archived(spark: SparkSession, played: Played, topic: str, cut: Cut) -> DataFrame:
    accepted = source.accepted(played.given.archive(spark, topic), played.given.pipeline.sources[topic])
    return accounting.batch_of(accepted, cut.ledger).where(F.col(accounting.BATCH).isNotNull()).cache()


@pytest.mark.parametrize("query", ["tumbling", "sliding", "final_windows"])
def test_every_closed_window_is_what_is_due(spark: SparkSession, pos_played: Played, query: str) -> None:
    cut = cut_of(pos_played, query)
    newest = {row[:3]: row for row in pos_played.replayed[query].rows()}
    rows = spark.createDataFrame(list(newest.values()), WINDOW_DDL).selectExpr(
        "timestamp_micros(window_start) window_start", "timestamp_micros(window_end) window_end", "product_id",
        "total_amount", "sales",
    )  # fmt: skip
    records = archived(spark, pos_played, "pos", cut)
    account = Account(query, "table", "windows")
    declared = pos_played.given.pipeline.queries[query]
    kinds.windows(account, declared, getattr(pos_sales, query), records, rows, cut, 0, Decimal(0))
    assert account.differences == [], f"HEADRACE_TEST_SEED={pos_played.seed}"
    assert account.compared > 0
    assert account.late > 0, f"no window had late rows; HEADRACE_TEST_SEED={pos_played.seed}"

    lost = rows.where("unix_millis(window_end) <= " + str(cut.closed_ms)).orderBy("window_start", "product_id").limit(1)
    (gone,) = lost.collect()
    account = Account(query, "table", "windows")
    others = rows.exceptAll(lost)
    kinds.windows(account, declared, getattr(pos_sales, query), records, others, cut, 0, Decimal(0))
    (difference,) = account.differences
    assert (difference.what, difference.key["product_id"]) == ("missing in the sink", gone.product_id)
    assert difference.due is not None
    assert difference.due["total_amount"] == str(gone.total_amount)
    wrote = [b.number for b in pos_played.replayed[query].batches if tuple(gone)[2:] in {row[2:] for row in b.rows}]
    if query != "final_windows":  # an append-mode row comes when its window closes, later than its records
        assert difference.expected_batch in wrote


@pytest.mark.parametrize("milliseconds", [False, True])
def test_every_settled_joined_row_is_what_is_due(spark: SparkSession, ads_played: Played, milliseconds: bool) -> None:
    cut = cut_of(ads_played, "attributed", "in_memory")
    sides = {topic: archived(spark, ads_played, topic, cut) for topic in ("impressions", "clicks")}
    joined = spark.createDataFrame(ads_played.replayed["in_memory"].rows(), JOINED_DDL)
    rows = joined.selectExpr(
        "impr_uuid",
        "timestamp_micros(impr_date) impr_date",
        "ad_id",
        "click_key",
        "timestamp_micros(click_date) click_date",
    )
    query, times = ads_played.given.pipeline.queries["attributed"], dict.fromkeys(sides, "create_date")

    def compared(speed: DataFrame) -> Account:
        account = Account("attributed", "table", "joined rows")
        kinds.joined(account, query, ad_attribution.attributed, sides, times, speed, cut, 0, milliseconds=milliseconds)
        return account

    account = compared(rows)
    assert account.differences == [], f"HEADRACE_TEST_SEED={ads_played.seed}"
    assert account.compared > 0
    assert account.late > 0, f"no row was late; HEADRACE_TEST_SEED={ads_played.seed}"
    first = rows.orderBy("impr_date", "impr_uuid", "ad_id", "click_key").first()
    assert first is not None
    lost = rows.where(~(rows.impr_uuid.eqNullSafe(first.impr_uuid) & rows.impr_date.eqNullSafe(first.impr_date)))
    differences = compared(lost).differences
    assert differences
    assert {(difference.what, difference.key["impr_uuid"]) for difference in differences} == {
        ("missing in the sink", first.impr_uuid)
    }
    assert all(difference.offsets and difference.batches for difference in differences)
