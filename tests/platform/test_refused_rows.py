"""Rows and letters that the real stores refuse end no query: C04, C06, C29 and D05 through Kafka and Cassandra."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from tests.driver.test_decode_kinds import pos
from tests.support import actual
from tests.support.drivers import Stage, make_stage

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

TRANSFORMS = """

def items(pos: DataFrame) -> DataFrame:
    kept = F.when(F.col("product_id") != "lost", F.col("product_id"))
    return pos.select(kept.alias("product_id"), "amount", "headrace_source")


def product_totals(pos: DataFrame) -> DataFrame:
    return pos.groupBy(F.trim("product_id").alias("product_id")).agg(*_narrow_sums())


def _narrow_sums():
    total, sales = _sums()
    return total.cast("decimal(12,2)").cast("decimal(22,2)").alias("total_amount"), sales


def leaderboard(pos: DataFrame) -> DataFrame:
    sums = pos.groupBy("product_id").agg(*_narrow_sums()).where("product_id LIKE 'p%'")
    best = sums.orderBy(F.desc_nulls_first("total_amount")).limit(2)
    return best.select(F.lit("all").alias("board"), "product_id", "total_amount", "sales")
"""


def _totals(stage: Stage, table: str) -> dict[str, Decimal]:
    return {row["product_id"]: row["total_amount"] for row in stage.table("pos_sales_refused", table)}


def test_what_a_store_refuses_is_a_dead_letter_and_what_a_result_loses_is_deleted(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    queries = ["items", "product_totals", "leaderboard"]
    stage = make_stage(
        platform, project, tmp_path, "pos_sales", suffix="_refused", queries=queries, trigger="200 milliseconds",
        transforms=TRANSFORMS,
    )  # fmt: skip
    key, lost, blank, large = b"\xff", pos(key='"lost"'), pos(key='" "'), b"x" * 5_000_000
    first = [(None, pos("1.00", key='"p1"')), (None, pos("2.00", key='"p2"')), (key, lost), (None, blank), (key, large)]
    try:
        stage.start()
        stage.send([("pos_refused", *record) for record in first])
        stage.await_quiet()
        board = {row["product_id"] for row in stage.table("pos_sales_refused", "leaderboard")}
        assert board == {"p1", "p2"}
        stage.send([("pos_refused", None, pos("9.00", key='"p3"'))])
        stage.await_quiet()
        assert _totals(stage, "leaderboard") == {"p2": Decimal("2.00"), "p3": Decimal("9.00")}
        stage.send([("pos_refused", None, pos("9999999999.99", key='"p3"'))])
        stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()
    letters, _ = actual.distinct(stage.read(dead_letter_topic("pos_refused")))
    by_query = {letter.header("headrace.query").partition(".")[2]: letter for letter in letters.values()}
    assert (by_query["items"].key, by_query["items"].value) == (key, lost)
    assert by_query["items"].header("headrace.reason").startswith("not_written: product_id is required")
    of_totals = [letter for letter in letters.values() if "product_totals" in letter.header("headrace.query")]
    refused = {json.loads(m.value or b"")["product_id"]: m.header("headrace.reason") for m in of_totals}
    overflowed = "not_written: total_amount is required, but the transform returned null"
    assert refused["p3"] == by_query["leaderboard"].header("headrace.reason") == overflowed
    assert refused.keys() == {"", "p3"}
    assert by_query["archive_pos_refused"].header("headrace.cut").startswith("key of 1 bytes, value of 5000000 bytes")
    totals = _totals(stage, "product_totals")
    assert totals.keys() == {"p1", "p2", "p3", "lost"}
    assert totals["p3"] == Decimal("9.00"), "a total that cannot be written leaves the former one"
    assert _totals(stage, "leaderboard").keys() == {"p2"}, "in complete mode it leaves none"
    actual.require_ledgers(stage)
