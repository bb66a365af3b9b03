"""Tables with a ttl: a row that may have expired is not due, and a younger one is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.batch.reconcile import kinds, lookups, newest_cells, scope, time_to_live
from headrace.batch.reconcile.kinds import Cut
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.store.job_reports import Account
from spark_jobs import pos_sales
from tests.operations.batch.test_reconcile import NOON, cut, milliseconds, records, taken, totals

pytestmark = pytest.mark.spark

NOW = datetime(2026, 6, 1, 12)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_to_live, "time", SimpleNamespace(time=lambda: NOW.replace(tzinfo=UTC).timestamp()))


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def expiring(query: Query, ttl: timedelta) -> CassandraSink:
    (sink,) = query.sinks
    assert isinstance(sink, CassandraSink)
    return sink.model_copy(update={"ttl": ttl})


def three_days() -> Cut:
    """A batch three days ago, one a ttl of two days ago but for seconds, one a day ago."""
    ago = (3 * DAY, 2 * DAY - timedelta(seconds=30), DAY)
    ledger = [taken(n, 2 * n, 2 * n + 2) | {"began_ms": milliseconds(NOW - back)} for n, back in enumerate(ago)]
    return cut(ledger)


def test_a_total_that_was_last_written_longer_ago_than_the_ttl_is_not_due_and_a_younger_one_is(
    spark: SparkSession, pos: Pipeline
) -> None:
    query = pos.queries["product_totals"]
    sales = [(0, 0, "old", "1.00"), (0, 1, "young", "2.00"), (1, 2, "edge", "3.00"), (2, 4, "young", "4.00")]
    given = records(spark, [(batch, offset, name, amount, NOON, -1) for batch, offset, name, amount in sales])

    def compared(*rows: tuple[str, str, int, int], ttl: timedelta | None = 2 * DAY, mode: str = "update") -> Account:
        account, then = Account("product_totals", "table", "running totals"), three_days()
        declared = query.model_copy(update={"mode": mode})
        sink = expiring(query, ttl) if ttl else query.sinks[0]
        alive = time_to_live.keys_left(declared, sink, pos_sales.product_totals, given, then)
        kinds.running(
            account, declared, pos_sales.product_totals, given, totals(spark, rows), then, Decimal(0), alive=alive
        )
        return account

    young = ("young", "6.00", 2, 2)
    night = compared(young)
    assert (night.differing, night.compared) == (0, 1)
    assert night.note.startswith("2 keys are not in the table")
    assert compared(young, ("edge", "3.00", 1, 1)).differing == 0, "about a ttl ago a row may be there or not"
    assert [difference.key for difference in compared().differences] == [{"product_id": "young"}]
    assert [difference.key for difference in compared(young, ("old", "9.00", 1, 0)).differences] == [
        {"product_id": "old"}
    ], "a row that is there is compared"
    assert compared(young, ttl=None).differing == 2, "without a ttl nothing expires"
    assert compared(young, mode="complete").differing == 2, "in complete mode the newest batch wrote all rows"


def test_cells_that_may_have_expired_are_not_due_and_younger_ones_are(spark: SparkSession, project: Path) -> None:
    query = load_pipeline(project / "pipelines" / "user_logins.yaml").queries["last_login"]
    sink, then = expiring(query, 2 * DAY), three_days()
    columns = "login_id string, last_login timestamp, last_device string"
    source = "headrace_source struct<topic:string,partition:int,offset:bigint>"
    made = [
        ("old", NOON, "web", True, ("logins", 0, 0), 0),
        ("edge", NOON, "web", True, ("logins", 0, 2), 1),
        ("young", NOON, "web", True, ("logins", 0, 4), 2),
    ]
    rows = spark.createDataFrame(made, f"{columns}, known boolean, {source}, _headrace_batch bigint")
    letters = spark.createDataFrame([], "_partition int, _offset bigint")

    def compared(**cells: tuple[Any, Any]) -> Account:
        gone = dict.fromkeys(("old", "edge", "young"), (None, None))
        table = spark.createDataFrame([(key, *row) for key, row in (gone | cells).items()], columns)
        account = Account("last_login", "table", "lookups")
        left = time_to_live.left_since(sink, then)
        newest_cells.compare(account, query, sink, lookups.matched(query, rows, letters), table, left_since=left)
        return account

    night = compared(young=(NOON, "web"))
    assert (night.differing, night.compared) == (0, 1)
    assert "2 keys are not compared: their cells may have expired by the table's ttl" in night.note
    assert [difference.key for difference in compared().differences] == [{"login_id": "young"}]
    wrong = compared(young=(NOON, "web"), old=(NOON, "ios"))
    assert [difference.key for difference in wrong.differences] == [{"login_id": "old"}]


def test_rows_of_windows_that_a_ttl_has_taken_are_no_differences_and_younger_ones_are_due(
    spark: SparkSession, pos: Pipeline
) -> None:
    """A window may be written before its own time, by the accepted skew, and expires that much earlier."""
    query = pos.queries["tumbling"]
    sink = expiring(query, 30 * DAY)
    event_time = pos.sources["pos"].event_time
    assert event_time is not None
    old, edge, young = NOW - 40 * DAY, NOW - 30 * DAY + event_time.accepted_skew, NOW - 20 * DAY
    given = records(
        spark,
        [(0, n, name, "3.00", at, -1) for n, (name, at) in enumerate(zip("abc", (old, edge, young), strict=True))],
    )
    closed = cut([taken(0, 0, 3), taken(1, 3, 4, NOW)])
    columns = (
        "window_start timestamp, window_end timestamp, product_id string, total_amount decimal(22,2), sales bigint"
    )
    empty = spark.createDataFrame([], f"{columns}, _written bigint")
    job: Any = SimpleNamespace(pipeline=pos)
    for since_ms, missing in ((0, ["c"]), (milliseconds(NOW - 10 * DAY), [])):
        late = scope.complete_since(job, sink, empty, since_ms)
        account = Account("tumbling", "table", "windows")
        kinds.windows(account, query, pos_sales.tumbling, given, empty, closed, late, Decimal(0))
        assert [difference.key["product_id"] for difference in account.differences] == missing


def test_without_a_batch_since_a_ttl_nothing_is_certain(pos: Pipeline) -> None:
    then = three_days()
    sink = expiring(pos.queries["product_totals"], 2 * DAY)
    assert time_to_live.left_since(sink, then) == 2
    assert time_to_live.left_since(expiring(pos.queries["product_totals"], timedelta(hours=1)), then) == 3
    assert time_to_live.left_since(expiring(pos.queries["product_totals"], 9 * DAY), then) == 0
    assert time_to_live.left_since(pos.queries["product_totals"].sinks[0], replace(then, seen=0)) == 0
