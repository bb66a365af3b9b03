"""Every query of pos_sales against the oracle, batch by batch and row by row, in random orders and at exact borders."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from headrace.contract.model import Pipeline
from spark_jobs import pos_sales
from tests.jobs.conftest import Played, oracle_of
from tests.jobs.events import MICRO, quiet, sale
from tests.support.replay import Input, Job, Step, micros, replay

pytestmark = pytest.mark.spark

FIVE, TEN = timedelta(minutes=5), timedelta(minutes=10)
MIDNIGHT = datetime(2026, 1, 1)


def test_the_checkpoint_has_the_watermarks_that_the_rule_gives(pos_played: Played) -> None:
    for name in ("tumbling", "sliding", "final_windows"):
        marks = [(batch.watermark_ms, batch.late_watermark_ms) for batch in pos_played.replayed[name].batches]
        assert marks == pos_played.oracle(name).watermarks(), f"{name}; HEADRACE_TEST_SEED={pos_played.seed}"


def test_items_gives_each_accepted_record_once_in_its_batch(pos_played: Played) -> None:
    expected: dict[int, list[tuple[object, ...]]] = {}
    for r in pos_played.given.records:
        if r.event:
            row = (r.event["product_id"], r.event["amount"], (r.topic, r.partition, r.offset))
            expected.setdefault(pos_played.replayed["items"].batch_of(r.step), []).append(row)
    pos_played.check("items", expected)


def test_product_totals_equal_the_oracle_in_every_batch(pos_played: Played) -> None:
    pos_played.check("product_totals", pos_played.oracle("product_totals").totals_update())


def test_tumbling_windows_equal_the_oracle_in_every_batch(pos_played: Played) -> None:
    pos_played.check("tumbling", pos_played.oracle("tumbling").windows_update(FIVE, FIVE))


def test_sliding_windows_equal_the_oracle_in_every_batch(pos_played: Played) -> None:
    pos_played.check("sliding", pos_played.oracle("sliding").windows_update(TEN, FIVE))


def test_final_windows_equal_the_oracle_in_every_batch_and_come_once(pos_played: Played) -> None:
    pos_played.check("final_windows", pos_played.oracle("final_windows").windows_append(FIVE, FIVE))
    keys = Counter((row[0], row[2]) for row in pos_played.replayed["final_windows"].rows())
    assert keys, "no window was ever closed"
    assert set(keys.values()) == {1}


def test_the_leaderboard_is_the_complete_result_in_every_batch(pos_played: Played) -> None:
    totals = pos_played.oracle("leaderboard").totals_complete()
    pos_played.check("leaderboard", {batch: [("all", *row) for row in rows] for batch, rows in totals.items()})


def test_complete_mode_drops_nothing_where_update_and_append_drop_late_rows(pos_played: Played) -> None:
    oracle = pos_played.oracle("complete_windows")
    pos_played.check("complete_windows", oracle.windows_complete(FIVE, FIVE))
    updated = {row[:3]: row for row in pos_played.replayed["tumbling"].rows()}
    final = {row[:3]: row for row in pos_played.replayed["final_windows"].rows()}
    complete = {row[:3]: row for row in pos_played.replayed["complete_windows"].batches[-1].rows}
    assert all(updated[key] == row for key, row in final.items()), "append gives the last state of what update gave"
    assert updated.keys() <= complete.keys()
    assert sum(row[4] for row in complete.values()) > sum(row[4] for row in updated.values()), "no row was late"


def test_closed_windows_leave_the_state(pos_played: Played) -> None:
    left = pos_played.replayed["tumbling"].batches[-1].watermark_ms * 1000
    kept = {row[:3] for row in pos_played.replayed["tumbling"].rows() if row[1] > left}
    assert pos_played.replayed["tumbling"].state_rows[-1] == len(kept)
    assert max(pos_played.replayed["tumbling"].state_rows) > len(kept)


def test_windows_break_at_midnight_and_a_row_is_late_by_the_watermark_of_the_batch_before(
    spark: SparkSession, pos_sales_file: Pipeline, tmp_path: Path
) -> None:
    """SPARK-42376: batch 2 evicts up to 00:00:00 but takes rows of windows that end then; from batch 3 on they are late."""
    steps: list[Step] = [
        {"pos": [sale("p", "1.00", MIDNIGHT - MICRO), sale("p", "2.00", MIDNIGHT)]},
        {"pos": [sale("tick", "0.00", MIDNIGHT + TEN + timedelta(microseconds=999))]},  # cut to milliseconds
        {"pos": [sale("p", "4.00", MIDNIGHT - MICRO)]},
        {"pos": [sale("p", "8.00", MIDNIGHT - MICRO)]},
        *quiet(1),
    ]
    given = Input(tmp_path / "input", pos_sales_file)
    given.lay(steps)
    jobs = {name: Job(name, getattr(pos_sales, name)) for name in ("tumbling", "sliding", "final_windows")}
    replayed = replay(spark, given, jobs, tmp_path)

    def sums(name: str, batch: int) -> dict[int, Decimal]:
        rows = replayed[name].batches[batch].rows
        return {(row[0] - micros(MIDNIGHT)) // 60_000_000: row[3] for row in rows if row[2] == "p"}

    assert [batch.watermark_ms * 1000 - micros(MIDNIGHT) for batch in replayed["tumbling"].batches[1:4]] == [
        -600_000_000,
        0,
        0,
    ]
    assert sums("tumbling", 0) == {-5: Decimal(1), 0: Decimal(2)}
    assert sums("tumbling", 2) == {-5: Decimal(5)}
    assert sums("tumbling", 3) == {}
    assert sums("final_windows", 2) == {-5: Decimal(5)}, "closed in the batch whose watermark reaches its end"
    assert sums("sliding", 0) == {-10: Decimal(1), -5: Decimal(3), 0: Decimal(2)}
    assert sums("sliding", 3) == {-5: Decimal(15)}, "late for its first window only"
    assert oracle_of(given, replayed["sliding"]).windows_update(TEN, FIVE)[3] == replayed["sliding"].batches[3].rows


def test_a_batch_whose_commit_is_lost_gives_the_same_rows_under_the_same_number(
    spark: SparkSession, pos_sales_file: Pipeline, tmp_path: Path
) -> None:
    given = Input(tmp_path / "input", pos_sales_file)
    given.lay(
        [{"pos": [sale("p", "0.10", MIDNIGHT), sale("q", "-0.10", MIDNIGHT)]}, {"pos": [sale("p", "0.20", MIDNIGHT)]}]
    )
    jobs = {"product_totals": Job("product_totals", pos_sales.product_totals)}
    before = replay(spark, given, jobs, tmp_path)["product_totals"]
    for commit in (tmp_path / "product_totals" / "checkpoint" / "commits").glob("*1*"):
        commit.unlink()
    (tmp_path / "product_totals" / "rows" / "1").unlink()  # only a second run brings it back
    given.lay([{"pos": [sale("p", "0.40", MIDNIGHT)]}])
    after = replay(spark, given, jobs, tmp_path)["product_totals"]
    assert before.batches[1].rows == after.batches[1].rows == [("p", Decimal("0.30"), 2)]
    assert after.batches[2].rows == [("p", Decimal("0.70"), 3)]
