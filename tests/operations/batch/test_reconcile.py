"""The identities on small frames: what is called a difference, with which batch and offsets, and what is none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.batch import archive_reader
from headrace.batch.reconcile import kept_results, kinds, lookups, newest_cells, single_rows
from headrace.batch.reconcile.kinds import Cut
from headrace.contract import names
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink, Pipeline
from headrace.driver import refusals
from headrace.store import archive_notes, generation, ledger
from headrace.store.file_sink import Directory
from headrace.store.generation import Generation
from headrace.store.job_reports import Account
from headrace.store.ledger import BatchRecord
from spark_jobs import pos_sales, web_events
from tests.support import lake
from tests.support.lake import Archived, sale

pytestmark = pytest.mark.spark

NOON = datetime(2026, 3, 1, 12)
MINUTE = timedelta(minutes=1)
STARTED = 1_000_000_000_000_000
RECORDS = (
    "product_id string, amount decimal(12,2), create_date timestamp, "
    "headrace_source struct<topic:string,partition:int,offset:bigint>, _headrace_batch bigint, _headrace_late_watermark_ms bigint"
)
Sale = tuple[int, int, str, str, datetime, int]
"""batch, offset, product, amount, event time, late watermark in minutes after noon (-1: none)."""


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


@pytest.fixture(scope="module")
def web(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "web_events.yaml")


def milliseconds(at: datetime) -> int:
    return int((at - datetime(1970, 1, 1)) / timedelta(milliseconds=1))


UNCUT = "CAST(NULL AS STRING) AS _cut"  # of a letter that has its record in full


def taken(batch: int, start: int, end: int, watermark: datetime | None = None, topic: str = "pos") -> BatchRecord:
    ms = milliseconds(watermark) if watermark else 0
    return BatchRecord(
        query="q", generation=1, batch=batch, offsets={topic: {"0": [start, end]}}, watermark_ms=ms,
        late_watermark_ms=0, rows_in=end - start, rows_out=0, began_ms=0, written_ms=0,
    )  # fmt: skip


def cut(ledger: Sequence[BatchRecord], seen: int | None = None, planned: int | None = None) -> Cut:
    newest = ledger[-1]["batch"]
    current = Generation("p", "q", 1, STARTED, {})
    return Cut(current, ledger, newest if seen is None else seen, newest if planned is None else planned)


def records(spark: SparkSession, rows: Sequence[Sale]) -> DataFrame:
    made = [
        (
            product,
            Decimal(amount),
            at,
            ("pos", 0, offset),
            batch,
            milliseconds(NOON + late * MINUTE) if late >= 0 else 0,
        )
        for batch, offset, product, amount, at, late in rows
    ]
    return spark.createDataFrame(made, RECORDS)


def totals(spark: SparkSession, rows: Sequence[tuple[str, str, int, int]]) -> DataFrame:
    made = [(product, Decimal(total), sales, STARTED + batch) for product, total, sales, batch in rows]
    return spark.createDataFrame(made, "product_id string, total_amount decimal(22,2), sales bigint, _written bigint")


def test_a_running_total_is_compared_as_of_the_batch_that_wrote_it(spark: SparkSession, pos: Pipeline) -> None:
    """The stream went on while the sink was read: batch 2 has touched `a` and not yet `b`, batch 3 is not archived."""
    sales = [(0, 0, "a", "1.00"), (1, 1, "b", "2.00"), (2, 2, "a", "4.00"), (2, 3, "b", "8.00"), (2, 4, "c", "9.00")]
    given = records(spark, [(batch, offset, name, amount, NOON, -1) for batch, offset, name, amount in sales])
    ledger = [taken(0, 0, 1), taken(1, 1, 2), taken(2, 2, 5)]
    sink = totals(spark, [("a", "5.00", 2, 2), ("b", "2.00", 1, 1), ("d", "7.00", 1, 3)])
    account = Account("product_totals", "table", "running totals")
    query = pos.queries["product_totals"]
    kinds.running(account, query, pos_sales.product_totals, given, sink, cut(ledger, seen=1, planned=3), Decimal(0))
    assert account.differences == []
    assert (account.compared, account.pending) == (2, 1)

    late = Account("product_totals", "table", "running totals")
    kinds.running(late, query, pos_sales.product_totals, given, sink, cut(ledger, seen=2, planned=3), Decimal(0))
    by_product = {difference.key["product_id"]: difference for difference in late.differences}
    assert set(by_product) == {"b", "c"}, "b and c lack what batch 2 had for them"
    assert (by_product["b"].what, by_product["b"].sink_batch, by_product["b"].expected_batch) == ("differs", 1, 2)
    assert by_product["b"].offsets == {"pos/0": (1, 3)}
    assert by_product["c"].what == "missing in the sink"


@pytest.mark.parametrize("kept", [False, True], ids=["all records", "those since the totals that an earlier run kept"])
def test_a_total_that_no_sink_takes_is_a_difference_where_the_sink_has_the_former_one(
    spark: SparkSession, pos: Pipeline, kept: bool
) -> None:
    """The total of `a` overflows in batch 1 and that of `b` in batch 0, so the sink never had one of `b`."""
    query = pos.queries["product_totals"]

    def narrow(pos: DataFrame) -> DataFrame:
        rows = pos_sales.product_totals(pos)
        return rows.withColumn("total_amount", F.col("total_amount").cast("decimal(3,2)").cast("decimal(22,2)"))

    sales = [(0, 0, "a", "5.00"), (0, 1, "b", "8.00"), (0, 2, "b", "8.00")]
    sales += [(1, 3, "a", "8.00"), (1, 4, "a", "8.00"), (1, 5, "b", "1.00")]
    given = records(spark, [(batch, offset, name, amount, NOON, -1) for batch, offset, name, amount in sales])
    earlier, later = narrow(given.where("_headrace_batch = 0")), given.where("_headrace_batch = 1")

    def settled(due: DataFrame) -> DataFrame:
        return refusals.accepted(kept_results.added(query, earlier, due) if kept else due, pos, query)

    sink = totals(spark, [("a", "5.00", 1, 0)])
    account, of_ledger = Account("product_totals", "table", "running totals"), [taken(0, 0, 3), taken(1, 3, 6)]
    rows = later if kept else given
    kinds.running(account, query, narrow, rows, sink, cut(of_ledger, seen=1, planned=1), Decimal(0), settled)
    (difference,) = account.differences
    assert (difference.key, difference.due) == ({"product_id": "a"}, None)
    assert difference.batch == {"total_amount": None, "sales": 2 if kept else 3}


def test_a_window_must_hold_what_was_in_time_whatever_the_transform_computes(
    spark: SparkSession, pos: Pipeline
) -> None:
    def dearest(pos: DataFrame) -> DataFrame:
        most = F.max("amount").cast("decimal(22,2)").alias("total_amount")
        rows = pos.groupBy(F.window("create_date", "5 minutes").alias("window"), "product_id")
        return rows.agg(most, F.count(F.lit(1)).alias("sales")).select(
            F.col("window.start").alias("window_start"), F.col("window.end").alias("window_end"), "product_id",
            "total_amount", "sales",
        )  # fmt: skip

    given = records(spark, [(0, 0, "a", "3.00", NOON, -1), (1, 1, "a", "9.00", NOON + MINUTE, 20)])
    ledger = [taken(0, 0, 1), taken(1, 1, 2, NOON + 20 * MINUTE)]
    times = "window_start timestamp, window_end timestamp"
    ddl = f"{times}, product_id string, total_amount decimal(22,2), sales bigint, _written bigint"
    query = pos.queries["tumbling"]

    def compared(value: str, tolerance: str = "0") -> Account:
        row = (NOON, NOON + 5 * MINUTE, "a", Decimal(value), 1, STARTED)
        account = Account("tumbling", "table", "windows")
        sink = spark.createDataFrame([row], ddl)
        kinds.windows(account, query, dearest, given, sink, cut(ledger), 0, Decimal(tolerance))
        return account

    assert (compared("3.00").differing, compared("3.00").late) == (0, 1)
    (difference,) = compared("9.00").differences
    assert difference.due is not None
    assert difference.due["total_amount"] == "3.00"
    assert difference.batch is not None
    assert difference.batch["total_amount"] == "9.00"
    assert (difference.batches, difference.expected_batch, difference.offsets) == ((0, 1), 0, {"pos/0": (0, 1)})
    assert compared("3.01").differing == 1
    assert compared("3.01", tolerance="0.01").differing == 0


def test_what_an_earlier_generation_left_behind_is_no_difference_where_this_one_took_nothing(
    spark: SparkSession, pos: Pipeline
) -> None:
    given = records(spark, [(0, 0, "a", "1.00", NOON, -1)])
    ddl = "product_id string, total_amount decimal(22,2), sales bigint, _written bigint, _old boolean"

    def compared(total: str, *, old: bool) -> Account:
        written = STARTED - 5 if old else STARTED
        rows = [("a", Decimal("1.00"), 1, STARTED, False), ("b", Decimal(total), 1, written, old)]
        account = Account("product_totals", "table", "running totals")
        kinds.running(
            account, pos.queries["product_totals"], pos_sales.product_totals, given, spark.createDataFrame(rows, ddl),
            cut([taken(0, 0, 1)]), Decimal(0),
        )  # fmt: skip
        return account

    assert compared("9.00", old=True).differing == 0
    (difference,) = compared("9.00", old=False).differences
    assert difference.what == "in the sink without records"


def test_a_projection_is_compared_record_by_record_and_a_repeat_is_no_difference(
    spark: SparkSession, web: Pipeline
) -> None:
    query = web.queries["topic"]
    ddl = "city string, domain string, event string, headrace_source struct<topic:string,partition:int,offset:bigint>"
    given = spark.createDataFrame([("X", "d", f"e{n}", ("q", 0, n)) for n in range(6)], ddl)
    ledger = [taken(0, 0, 2, topic="quickstart"), taken(1, 2, 6, topic="quickstart")]

    def sent(rows: Sequence[tuple[int, str]]) -> DataFrame:
        values = [
            (f'{{"lower_city":"x","domain":"d","behavior":"d:{event}"}}'.encode(), f"q/0/{offset}", 1, 0, 0, offset)
            for offset, event in rows
        ]
        return spark.createDataFrame(
            values, "value binary, _id string, _generation int, _batch bigint, _partition int, _offset bigint"
        )

    def compared(rows: Sequence[tuple[int, str]]) -> Account:
        account = Account("topic", "topic", "rows")
        single_rows.in_topic(account, query, web_events.topic(given), sent(rows), ledger)
        return account

    complete = [(n, f"e{n}") for n in range(6)]
    assert compared([*complete, complete[3], (7, "of a later batch")]).differences == []
    account = compared([row for row in complete if row[0] not in (3, 4, 1)] + [(1, "other")])
    assert account.differing == 3
    assert [
        (difference.what, difference.batches, difference.offsets, difference.rows) for difference in account.differences
    ] == [
        ("differs", (0,), {"quickstart/0": (1, 1)}, 1),
        ("missing in the sink", (1,), {"quickstart/0": (3, 4)}, 2),
    ]


def test_files_are_compared_by_directory_also_when_several_batches_share_one(
    spark: SparkSession, web: Pipeline
) -> None:
    columns = "lower_city string, domain string, behavior string"
    placed = spark.createDataFrame(
        [("x", "d", f"e{n}", n // 2) for n in range(8)], f"{columns}, _headrace_batch bigint"
    )
    rows = [("x", "d", f"e{n}", 0 if n < 4 else n // 2) for n in range(8)]
    ledger = [taken(n, 2 * n, 2 * n + 2, topic="q") for n in range(4)]
    shared = [Directory(0, 1, "a"), Directory(2, 2, "b"), Directory(3, 3, "c")]

    def compared(rows: Sequence[tuple[Any, ...]], directories: Sequence[Directory]) -> Account:
        account = Account("files", "files", "rows")
        frame = spark.createDataFrame(list(rows), f"{columns}, batch_id bigint")
        single_rows.in_files(account, web.queries["files"], placed, frame, ledger, directories)
        return account

    assert compared(rows, shared).differences == []
    lost = compared([row for row in rows if row[3] != 2], [shared[0], shared[2]])
    assert [(difference.what, difference.batches) for difference in lost.differences] == [("missing in the sink", (2,))]
    one_row_less = compared(rows[1:], shared)
    assert [(difference.what, difference.batches) for difference in one_row_less.differences] == [("differs", (0, 1))]


def test_an_archive_with_a_gap_or_without_a_dead_letter_is_reported(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    pipeline = lake.renamed(pos, "archive_account")
    refused = Archived(0, 3, NOON, b"{}", "missing: product_id")
    good = [Archived(0, offset, NOON, sale("a", "1.00", NOON)) for offset in (0, 1, 2, 6)]
    lake.lay(spark, pipeline, "pos", [*good, refused])
    pinned = archive_reader.pin(spark, pipeline.name, "pos")
    ddl = "_partition int, _offset bigint, key binary, value binary"

    account = Account("archive_pos", "topic", "archive")

    def compared(letters: Sequence[tuple[Any, ...]], since_ms: int = 0, decoded: int = 4) -> list[tuple[Any, ...]]:
        nonlocal account
        account = Account("archive_pos", "topic", "archive")
        rows = archive_reader.records(spark, pinned)
        lost = archive_reader.losses(spark, pinned, str(tmp_path))
        letters_read = spark.createDataFrame(list(letters), ddl).selectExpr("*", UNCUT)
        single_rows.archive(account, pinned, rows, letters_read, since_ms, decoded, lost)
        return [(difference.what, difference.offsets) for difference in account.differences]

    gap = ("missing in the archive", {"pos/0": (4, 5)})
    letter = (0, 3, None, b"{}")
    assert compared([letter, letter]) == [gap]
    assert compared([]) == [gap, ("refused, but no dead letter", {"pos/0": (3, 3)})]
    assert compared([letter, (0, 2, b"a", b"?"), (0, 9, b"a", b"beyond the archive")]) == [
        gap,
        ("a dead letter, but not refused in the archive", {"pos/0": (2, 2)}),
    ]
    assert compared([(0, 3, None, b"other")])[1][0] == "a dead letter with other bytes than the archive"
    assert compared([], since_ms=milliseconds(NOON) + 1) == [gap], "what retention took is no difference"
    assert compared([letter], decoded=3) == [gap], "a contract that became narrower is no fault of the archive"
    assert "today's contract refuses 1 records" in account.note


def test_a_gap_that_the_archives_ledger_explains_is_no_difference_and_a_lost_record_beside_it_is_one(
    spark: SparkSession, pos: Pipeline, tmp_path: Path
) -> None:
    """C02 and C03: three records, a marker, three aborted, a marker, one record, a marker."""
    root = str(tmp_path)

    def differences(name: str, offsets: Sequence[int]) -> list[tuple[Any, ...]]:
        pipeline = lake.renamed(pos, name)
        rows = [Archived(0, offset, NOON, sale("a", "1.00", NOON)) for offset in offsets]
        lake.lay(spark, pipeline, "pos", rows)
        begun = generation.begin(root, name, names.archive_query("pos"), {})
        for batch, start, end, rows_out in ((0, 0, 4, 3), (1, 4, 9, 1), (2, 9, 10, 0)):
            ledger.write(begun.paths(root).ledger, taken(batch, start, end) | {"rows_out": rows_out})
        reached = archive_notes.reached(root, name, "pos")
        assert reached == {0: 10}
        pinned = archive_reader.pin(spark, name, "pos", reached)
        assert (pinned.ends, pinned.covers({"0": 10})) == ({"0": 10}, True), "nothing waits for the marker at the end"
        account = Account("archive_pos", "topic", "archive")
        every = archive_reader.records(spark, pinned)
        letters = spark.createDataFrame([], "_partition int, _offset bigint, key binary, value binary").selectExpr(
            "*", UNCUT
        )
        lost = archive_reader.losses(spark, pinned, root)
        single_rows.archive(account, pinned, every, letters, 0, len(offsets), lost)
        assert account.differing == sum(loss.records for loss in lost)
        return [(difference.what, difference.offsets, difference.batches) for difference in account.differences]

    assert differences("archive_explained", (0, 1, 2, 8)) == []
    among = "missing in the archive: 1 records among these 2 offsets"
    assert differences("archive_lost", (0, 1, 8)) == [(among, {"pos/0": (2, 3)}, (0,))]
    assert differences("archive_lost_last", (0, 1, 2)) == [
        ("missing in the archive: 1 records among these 5 offsets", {"pos/0": (4, 8)}, (1,))
    ]


def test_a_joined_row_must_have_the_newest_cells_of_all_rows_that_matched(spark: SparkSession, project: Path) -> None:
    pipeline = load_pipeline(project / "pipelines" / "user_logins.yaml")
    query = pipeline.queries["last_login"]
    (sink,) = query.sinks
    assert isinstance(sink, CassandraSink)
    made = [
        ("u1", NOON, "web", True, ("logins", 0, 0), 0),
        ("u1", NOON + MINUTE, None, True, ("logins", 0, 1), 1),
        ("u2", NOON, "ios", True, ("logins", 0, 2), 1),
        ("u3", NOON, "web", True, ("logins", 0, 3), 1),  # unknown then, known today
        ("u4", NOON, "web", False, ("logins", 0, 4), 1),  # deleted since
    ]
    columns = "login_id string, last_login timestamp, last_device string"
    source = "headrace_source struct<topic:string,partition:int,offset:bigint>"
    rows = spark.createDataFrame(made, f"{columns}, known boolean, {source}, _headrace_batch bigint")
    letters = spark.createDataFrame([(0, 3)], "_partition int, _offset bigint")

    def compared(*table: tuple[Any, ...]) -> Account:
        account = Account("last_login", "table", "lookups")
        newest_cells.compare(
            account, query, sink, lookups.matched(query, rows, letters), spark.createDataFrame(list(table), columns)
        )
        return account

    good = [("u1", NOON + MINUTE, "web"), ("u2", NOON, "ios"), ("u3", None, None)]
    assert (compared(*good).differences, compared(*good).compared) == ([], 2)
    ahead = compared(("u1", NOON + 9 * MINUTE, "ios"), good[1])
    assert (ahead.differences, ahead.pending) == ([], 1)
    (old,) = compared(("u1", NOON, "web"), good[1]).differences
    assert (old.what, old.key, old.batches, old.offsets) == (
        "differs", {"login_id": "u1"}, (0, 1), {"logins/0": (0, 1)},
    )  # fmt: skip
    (other,) = compared(good[0], ("u2", NOON, "web")).differences
    assert other.due is not None
    assert (other.key, other.due["last_device"]) == ({"login_id": "u2"}, "ios")
    (missing,) = compared(good[0]).differences
    assert (missing.what, missing.key) == ("missing in the sink", {"login_id": "u2"})
