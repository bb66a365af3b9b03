"""Rows and letters that the real stores refuse end no query: C04, C06, C29 and D05 through Kafka and Cassandra."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from tests.driver.test_decode_kinds import pos
from tests.support import actual
from tests.support.drivers import make_stage

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

TRANSFORMS = """

def items(pos: DataFrame) -> DataFrame:
    kept = F.when(F.col("product_id") != "lost", F.col("product_id"))
    return pos.select(kept.alias("product_id"), "amount", "headrace_source")


def product_totals(pos: DataFrame) -> DataFrame:
    return pos.groupBy(F.trim("product_id").alias("product_id")).agg(*_sums())


def leaderboard(pos: DataFrame) -> DataFrame:
    best = pos.groupBy("product_id").agg(*_sums()).where("product_id LIKE 'p%'").orderBy(F.desc("total_amount")).limit(2)
    return best.select(F.lit("all").alias("board"), "product_id", "total_amount", "sales")
"""


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
        assert stage.stop() == 0
    finally:
        stage.kill()
    letters, _ = actual.distinct(stage.read(dead_letter_topic("pos_refused")))
    by_query = {letter.header("headrace.query").partition(".")[2]: letter for letter in letters.values()}
    assert (by_query["items"].key, by_query["items"].value) == (key, lost)
    assert by_query["items"].header("headrace.reason").startswith("not_written: product_id is required")
    assert json.loads(by_query["product_totals"].value or b"")["product_id"] == ""
    assert by_query["archive_pos_refused"].header("headrace.cut").startswith("key of 1 bytes, value of 5000000 bytes")
    totals = {row["product_id"] for row in stage.table("pos_sales_refused", "product_totals")}
    assert totals == {"p1", "p2", "p3", "lost"}
    assert {row["product_id"] for row in stage.table("pos_sales_refused", "leaderboard")} == {"p2", "p3"}
    actual.require_ledgers(stage)
