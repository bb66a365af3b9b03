"""The identities where time, size or a hand has been at work: expired letters, a bound of days, a changed cell."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.batch.reconcile import bounds, kinds, lookups, newest_cells
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink
from headrace.store.file_sink import Directory
from headrace.store.job_reports import Account, Difference
from spark_jobs import ad_attribution
from tests.operations.batch.test_reconcile import MINUTE, NOON, cut, milliseconds, taken

pytestmark = pytest.mark.spark


def test_a_login_that_no_letter_explains_any_more_is_no_difference(spark: SparkSession, project: Path) -> None:
    """B4: the letters of batch 0 have expired; `u5` was deleted and came back after its login of batch 1."""
    pipeline = load_pipeline(project / "pipelines" / "user_logins.yaml")
    query = pipeline.queries["last_login"]
    (sink,) = query.sinks
    assert isinstance(sink, CassandraSink)
    columns = "login_id string, last_login timestamp, last_device string"
    source = "headrace_source struct<topic:string,partition:int,offset:bigint>"
    made = [
        ("u1", NOON, "web", True, ("logins", 0, 0), 0),  # logged in before it was registered, or not
        ("u2", NOON, "ios", True, ("logins", 0, 1), 0),
        ("u5", NOON + MINUTE, "web", True, ("logins", 0, 2), 1),
        ("u6", NOON + MINUTE, "web", True, ("logins", 0, 3), 1),
    ]
    rows = spark.createDataFrame(made, f"{columns}, known boolean, {source}, _headrace_batch bigint")
    letters = spark.createDataFrame([], "_partition int, _offset bigint")
    long_ago, back = milliseconds(NOON - 9 * MINUTE) * 1000, milliseconds(NOON + 2 * MINUTE) * 1000

    def compared(u2: str, u6: tuple[Any, Any]) -> Account:
        table = [
            ("u1", None, None, long_ago),
            ("u2", NOON, u2, long_ago),
            ("u5", None, None, back),
            ("u6", *u6, long_ago),
        ]
        speed = spark.createDataFrame(table, f"{columns}, _entered bigint")
        account = Account("last_login", "table", "lookups")
        newest_cells.compare(account, query, sink, lookups.matched(query, rows, letters), speed, sure_from=1)
        return account

    even = compared("ios", (NOON + MINUTE, "web"))
    assert (even.differences, even.compared) == ([], 2)
    assert "2 keys are not compared: it is no longer known" in even.note
    assert [difference.key for difference in compared("web", (NOON + MINUTE, "web")).differences] == [
        {"login_id": "u2"}
    ]
    assert [difference.key for difference in compared("ios", (None, None)).differences] == [{"login_id": "u6"}]


def test_a_table_of_single_rows_must_have_the_newest_cells_of_all_records(spark: SparkSession, project: Path) -> None:
    """A row is due whatever came before it; null overwrites nothing, and a row that another writer changed is found."""
    pipeline = load_pipeline(project / "pipelines" / "user_logins.yaml")
    query = pipeline.queries["last_login"].model_copy(update={"matched": None, "dimensions": []})
    (sink,) = query.sinks
    assert isinstance(sink, CassandraSink)
    columns = "login_id string, last_login timestamp, last_device string"
    made = [
        ("u1", NOON, "web", ("logins", 0, 0), 0),
        ("u1", NOON + MINUTE, None, ("logins", 0, 1), 1),
        ("u2", NOON, "ios", ("logins", 1, 7), 1),
        ("u3", NOON, None, ("logins", 0, 2), 1),
    ]
    source = "headrace_source struct<topic:string,partition:int,offset:bigint>"
    rows = spark.createDataFrame(made, f"{columns}, {source}, _headrace_batch bigint")

    def compared(*table: tuple[Any, ...]) -> Account:
        account = Account("last_login", "table", "rows")
        newest_cells.compare(account, query, sink, rows, spark.createDataFrame(list(table), columns))
        account.judge()
        return account

    even = ("u1", NOON + MINUTE, "web"), ("u2", NOON, "ios"), ("u3", NOON, None)
    good = compared(*even)
    assert (good.status, good.compared, good.pending, good.note) == ("PASSED", 3, 0, "")
    later = compared(even[0], ("u2", NOON + MINUTE, "web"), even[2])
    assert (later.status, later.pending) == ("PASSED", 1), "a record behind the cut wrote it"
    for changed, number in (
        (("u2", NOON, "web"), 7),
        (("u2", NOON - MINUTE, "ios"), 7),
        (("u1", NOON, "web"), 1),
    ):
        kept = [row for row in even if row[0] != changed[0]]
        (difference,) = compared(changed, *kept).differences
        assert (difference.what, difference.key) == ("differs", {"login_id": changed[0]})
        assert number in {offset for span in difference.offsets.values() for offset in span}
        (missing,) = compared(*kept).differences
        assert (missing.what, missing.key) == ("missing in the sink", {"login_id": changed[0]})


def test_a_reconciliation_of_the_last_days_reads_the_records_that_its_windows_and_batches_are_made_of(
    spark: SparkSession, project: Path
) -> None:
    pos = load_pipeline(project / "pipelines" / "pos_sales.yaml")
    since_ms = milliseconds(NOON)
    ledger = [taken(n, 2 * n, 2 * n + 2) | {"began_ms": since_ms + (n - 2) * 60_000} for n in range(4)]
    directories = [Directory(0, 0, "a"), Directory(1, 2, "b"), Directory(3, 3, "c")]
    assert bounds.first_batch(ledger, [], since_ms) == 2
    assert bounds.first_batch(ledger, directories, since_ms) == 3, "a directory of before and after is left out"
    assert bounds.first_batch(ledger, [], since_ms + 999_999) == 4
    first = bounds.first_offsets([ledger], since_ms)
    assert first == {"pos": {0: 4}}

    # Before, within the skew of an event time; before, taken by a batch since; before; since, of another partition.
    rows = [(0, 0, NOON - MINUTE), (0, 4, NOON - 99 * MINUTE), (0, 1, NOON - 99 * MINUTE), (1, 0, NOON)]
    archive = spark.createDataFrame(rows, "partition int, offset bigint, timestamp timestamp")
    recent = bounds.recent(archive, pos.sources["pos"], since_ms, first["pos"])
    assert sorted(tuple(row)[:2] for row in recent.collect()) == [(0, 0), (0, 4), (1, 0)]
    assert bounds.recent(archive, pos.sources["pos"], 0, first["pos"]).count() == 4


def test_a_joined_row_with_a_cell_changed_in_the_table_is_one_difference_with_what_is_due(
    spark: SparkSession, project: Path
) -> None:
    """B7: it was two, of one primary key, and a repair did both in whatever order they came."""
    ads = load_pipeline(project / "pipelines" / "ad_attribution.yaml")
    source = "headrace_source struct<topic:string,partition:int,offset:bigint>"
    taken_ = f"{source}, _headrace_batch bigint, _headrace_late_watermark_ms bigint"
    shown = [("u1", NOON, "a", ("impressions", 0, 0), 0, 0), ("u2", NOON, "a", ("impressions", 0, 1), 0, 0)]
    clicked = [("u1", NOON + MINUTE, ("clicks", 0, 0), 0, 0)]
    sides = {
        "impressions": spark.createDataFrame(shown, f"uuid string, create_date timestamp, ad_id string, {taken_}"),
        "clicks": spark.createDataFrame(clicked, f"uuid string, create_date timestamp, {taken_}"),
    }
    ledger = [taken(0, 0, 2, NOON + 30 * MINUTE, topic="impressions")]
    ddl = "impr_uuid string, impr_date timestamp, ad_id string, click_key string, click_date timestamp"
    key = (NOON + MINUTE).strftime("%Y-%m-%dT%H:%M:%S.000000")

    def compared(*rows: tuple[Any, ...]) -> list[Difference]:
        account = Account("attributed", "table", "joined rows")
        kinds.joined(
            account, ads.queries["attributed"], ad_attribution.attributed, sides, dict.fromkeys(sides, "create_date"),
            spark.createDataFrame(list(rows), ddl), cut(ledger), 0, milliseconds=True,
        )  # fmt: skip
        assert account.differing == len(account.differences)
        return account.differences

    def text(moment: datetime) -> str:
        return moment.astimezone(UTC).isoformat()

    right, none = ("u1", NOON, "a", key, NOON + MINUTE), ("u2", NOON, "a", "none", None)
    assert compared(right, none) == []
    (difference,) = compared((*right[:-1], NOON + 9 * MINUTE), none)
    assert (difference.what, difference.key["impr_uuid"], difference.due, difference.speed, difference.batches) == (
        "differs", "u1", {"click_date": text(NOON + MINUTE)}, {"click_date": text(NOON + 9 * MINUTE)}, (0,),
    )  # fmt: skip
    assert [(difference.what, difference.due) for difference in compared(right)] == [
        ("missing in the sink", {"click_date": None})
    ]
