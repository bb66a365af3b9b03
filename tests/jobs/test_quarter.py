"""A simulated quarter: every planted fault is found on its night, and no night raises an alarm without one.

The days are those of `tests.support.quarter`; each night computes the batch views, plants a fault or none, reconciles
everything, refreshes a directory, and takes the fault back. Batch views and reconciliation are the product's, on Spark
and Iceberg; tables and topics are in memory. The short form has a week. The full form, with its figures:

    HEADRACE_QUARTER_DAYS=90 HEADRACE_TEST_SEED=7 .venv/bin/pytest -s tests/jobs/test_quarter.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from headrace.batch import views
from headrace.batch.finite_job import Job
from headrace.batch.reconcile import reconciliation, retained, sink_frames, view_days
from headrace.contract import batch_views, names
from headrace.contract.job_files import ReconcileSpec, ViewsSpec
from headrace.contract.load import load_pipeline
from headrace.contract.model import SourceColumn
from headrace.errors import HeadraceError
from headrace.store import contracts, view_state
from spark_jobs import pos_sales
from tests.operations.dimensions.test_refresh import PIPELINE, STAFF, Refresh, person
from tests.support import lake
from tests.support.light_cassandra import LightCassandra
from tests.support.quarter import LETTERS, QUERIES, RECENT, Sale, Shop

DAYS = int(os.environ.get("HEADRACE_QUARTER_DAYS") or 6)
A_DAY = 150
PEOPLE = 60

pytestmark = [pytest.mark.spark, pytest.mark.long(group="trust"), pytest.mark.timeout(900 + 120 * DAYS)]

Alarm = tuple[str, str]
Fault = Callable[["Quarter"], AbstractContextManager[set[Alarm]]]


class Quarter:
    """The shop, its batch layer, and a directory of staff."""

    def __init__(self, spark: SparkSession, project: Path, root: Path, seed: int) -> None:
        self.spark, self.root = spark, root
        self.pipeline = lake.renamed(load_pipeline(project / "pipelines" / "pos_sales.yaml"), f"quarter_{seed}")
        self.shop = Shop(str(root), self.pipeline.name, seed, A_DAY)
        self.chance, self.runs = self.shop.chance, 0
        self.more: dict[str, str] = {}
        self.sales: list[Sale] = []
        self.start()

    def job(self) -> Job:
        self.runs += 1
        return lake.job(self.spark, self.pipeline, pos_sales, self.root, f"run{self.runs}")

    def day(self) -> None:
        """Live through a day, archive it, and compute the views of what is closed."""
        sales = self.shop.day()
        self.sales += sales
        lake.lay(self.spark, self.pipeline, "pos", [sale.archived(self.more) for sale in sales])
        closed = batch_views.closed_until(self.pipeline, self.shop.now + timedelta(hours=1))
        ends = {"pos": {str(p): end for p, end in self.shop.ends.items()}}
        report = views.run(self.job(), ViewsSpec(closed_until=str(closed), ends=ends))
        assert (report.horizon, report.behind) == (str(closed), ())

    def alarms(self, *, only_new: bool = True) -> tuple[set[Alarm], int]:
        """Reconcile as a night does, or everything; return what differs or could not be compared, and how much was compared."""
        report = reconciliation.run(self.job(), ReconcileSpec(at_ms=self.at_ms, only_new=only_new))
        bad = [account for account in report.accounts if account.status in ("FAILED", "NOT_COMPARED")]
        return {(account.query, account.sink.split()[0]) for account in bad}, sum(a.compared for a in report.accounts)

    def serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the product read the shop's tables and topics, on the shop's clock."""
        topics = self.shop.topics
        monkeypatch.setattr(sink_frames, "cassandra", lambda job, name, query, sink: self.shop.frame(job.spark, name))
        monkeypatch.setattr(sink_frames, "topic", lambda job, name: topics[name].frame(job.spark))
        monkeypatch.setattr(retained, "_bounds", lambda job, name: ({0: topics[name].begin}, {0: topics[name].end}))
        monkeypatch.setattr(retained, "time", SimpleNamespace(time_ns=lambda: self.at_ms * 1_000_000))

    @property
    def at_ms(self) -> int:
        return int(self.shop.now.timestamp() * 1000)

    def add_column(self, *, required: bool = False) -> None:
        """The contract gets a column, and tills begin to send it."""
        pos = self.pipeline.sources["pos"]
        till = SourceColumn(type="string", required=required)
        wider = pos.model_copy(update={"columns": {**pos.columns, "till": till}})
        self.pipeline = self.pipeline.model_copy(update={"sources": {"pos": wider}})
        self.more = {"till": "t1"}
        self.start()

    def start(self) -> None:
        """Note the contract of each query, as its driver does when it starts."""
        for name in QUERIES:
            self.shop.streams[name].contract = contracts.note(str(self.root), self.pipeline, name)


def _row(name: str, how: str) -> Fault:
    """Change, delete or invent a row of a table: of a window that is closed, or of a total."""

    @contextmanager
    def plant(quarter: Quarter) -> Iterator[set[Alarm]]:
        table, stream = quarter.shop.tables[name], quarter.shop.streams[name]
        keys = sorted(stream.closed()) if QUERIES[name] else sorted(table)
        key = quarter.chance.choice(keys)
        before = dict(table)
        amount, count, micros = table[key]
        if how == "changed":
            table[key] = (amount + Decimal("0.01"), count, micros)
        elif how == "deleted":
            del table[key]
        else:
            table[(*key[:-1], "never sold")] = (amount, count, micros)
        yield {(name, "table")}
        quarter.shop.tables[name] = before

    return plant


def _record(topic: str, account: str, how: str, hours: tuple[int, int] = (40, 0)) -> Fault:
    """Lose or change a record of a topic; a single row is one of those sent within these `hours` before now."""

    @contextmanager
    def plant(quarter: Quarter) -> Iterator[set[Alarm]]:
        kept = quarter.shop.topics[topic]
        before = list(kept.rows)
        # What retention may have reached is not compared, and of single rows a night compares those of two days.
        sure = before[0][1] + timedelta(hours=60) if kept.begin else quarter.shop.now - RECENT
        oldest, newest = (quarter.shop.now - timedelta(hours=back) for back in hours)
        sure = sure if account == "final_windows" else oldest
        place = quarter.chance.choice([number for number, (_, at, _) in enumerate(before) if sure <= at <= newest])
        offset, at, row = before[place]
        changed = (offset, at, (row[0], row[1].replace(b"p", b"q"), *row[2:]))
        kept.rows = before[:place] + ([] if how == "lost" else [changed]) + before[place + 1 :]
        yield {(account, "topic")}
        kept.rows = before

    return plant


@contextmanager
def _archive(quarter: Quarter) -> Iterator[set[Alarm]]:
    """Lose a record of the archive: it is missing there, and the sinks hold what no record explains."""
    table = names.archive_table(quarter.pipeline.name, "pos")
    sale = quarter.chance.choice([sale for sale in quarter.sales if not sale.reason][-A_DAY:-20])
    where = f"partition = {sale.partition} AND offset = {sale.offset}"
    rows = quarter.spark.sql(f"SELECT * FROM {table} WHERE {where}").collect()
    quarter.spark.sql(f"DELETE FROM {table} WHERE {where}")
    yield {(names.archive_query("pos"), "topic")}
    quarter.spark.createDataFrame(rows, quarter.spark.table(table).schema).writeTo(table).append()


def _view(name: str, how: str) -> Fault:
    """Change, delete or double a row of a view, of a day that this night compares."""

    @contextmanager
    def plant(quarter: Quarter) -> Iterator[set[Alarm]]:
        table = names.batch_view_table(quarter.pipeline.name, name)
        state = view_state.read(str(quarter.root), quarter.pipeline.name)
        held = sorted(row.day for row in quarter.spark.table(table).select("day").distinct().collect())
        tonight = view_days.chosen(sorted(map(date.fromisoformat, state.days)), quarter.at_ms, 0)
        day = quarter.chance.choice([day for day in held if day in tonight])
        rows = quarter.spark.table(table).where(F.col("day") == day)
        schema, before = rows.schema, rows.collect()
        one, *others = before
        wrong = [quarter.spark.createDataFrame([one], schema).withColumn("sales", F.col("sales") + 1).collect()[0]]
        now = {"changed": [*wrong, *others], "deleted": others, "doubled": [one, *before]}[how]
        quarter.spark.createDataFrame(now, schema).writeTo(table).overwrite(F.col("day") == day)
        yield {(name, "view")}
        quarter.spark.createDataFrame(before, schema).writeTo(table).overwrite(F.col("day") == day)

    return plant


FAULTS: dict[str, Fault] = {
    **{f"a row of {name} {how}": _row(name, how) for name in ("tumbling", "sliding", "product_totals", "leaderboard")
       for how in ("changed", "deleted", "invented")},
    **{f"a record of pos_items {how}": _record("pos_items", "items", how) for how in ("lost", "changed")},
    "a record of pos_final_windows lost": _record("pos_final_windows", "final_windows", "lost"),
    **{f"a dead letter {how}": _record(LETTERS, names.archive_query("pos"), how) for how in ("lost", "changed")},
    "a record of the archive lost": _archive,
    **{f"a row of the view {name} {how}": _view(name, how) for name in ("tumbling", "product_totals")
       for how in ("changed", "deleted", "doubled")},
}  # fmt: skip


class Staff:
    """A directory that changes a little every night, and its bad snapshots."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "badges").mkdir()
        (root / "badges" / "badges.yaml").write_text(PIPELINE)
        self.table = LightCassandra(monkeypatch)
        self.refresh = Refresh(root, load_pipeline(root / "badges" / "badges.yaml"), "staff")
        self.people = [person(number) for number in range(PEOPLE)]

    def night(self, number: int, fault: str | None) -> None:
        """Refresh; a bad snapshot must be refused and change nothing."""
        changed = number % PEOPLE
        self.people[changed] = person(changed, f"Renamed{number}")
        text = STAFF + "".join(self.people)
        if fault is not None:
            before = self.table.values()
            bad = (
                STAFF + "".join(self.people[: PEOPLE // 2])
                if fault == "half a snapshot"
                else text.replace(",R", ',"R', 1)
            )
            with pytest.raises(
                HeadraceError, match="needs approval" if fault == "half a snapshot" else "is not closed"
            ):
                self.refresh.refresh(bad)
            assert self.table.values() == before, fault
            self.table.leases.clear()
        record = self.refresh.refresh(text)
        assert record.rows == PEOPLE
        assert len(self.table.rows) == PEOPLE


def test_every_fault_is_found_on_its_night_and_no_night_is_alarmed_without_one(
    spark: SparkSession, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    quarter, staff = Quarter(spark, project, tmp_path, seed), Staff(tmp_path, monkeypatch)
    shop = quarter.shop
    quarter.serve(monkeypatch)
    deck = sorted(FAULTS)
    quarter.chance.shuffle(deck)
    contract, again = quarter.chance.sample(range(1, DAYS), 2)
    planted, compared, began = 0, 0, time.monotonic()
    for number in range(DAYS):
        if number == contract:
            quarter.add_column()
        if number == again:
            shop.begin_again("tumbling")
        quarter.day()
        # One night in four has no fault; the first has none to compare with.
        name = deck[number % len(deck)] if number and quarter.chance.random() < 0.75 else None
        bad = quarter.chance.choice([None, None, None, "half a snapshot", "an open quote"]) if number else None
        staff.night(number, bad)
        with FAULTS[name](quarter) if name else _none() as expected:
            alarms, rows = quarter.alarms()
        what = f"night {number}, {name or 'no fault'}; HEADRACE_TEST_SEED={seed}"
        print(f"{what}; {bad or 'good snapshot'}; {rows} rows compared; alarms {sorted(alarms)}", flush=True)
        if expected:
            assert expected <= alarms, what
            # A lost record of the archive leaves every sink with more than is due.
            assert alarms == expected or name == "a record of the archive lost", what
        else:
            assert alarms == set(), what
        planted, compared = planted + bool(name) + bool(bad), compared + rows
    assert compared > DAYS * A_DAY
    assert quarter.alarms(only_new=False)[0] == set(), "nothing is wrong that the nights did not compare"
    seconds = time.monotonic() - began
    print(
        f"{DAYS} days, {planted} faults planted and found, {shop.restarts} restarts, {compared} rows compared, {seconds:.0f} s"
    )
    print(f"a new column on day {contract}, a new generation on day {again}; HEADRACE_TEST_SEED={seed}")


def test_the_night_after_nights_without_a_run_compares_what_these_left_out(
    spark: SparkSession, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    quarter = Quarter(spark, project, tmp_path, seed)
    quarter.serve(monkeypatch)
    quarter.day()
    assert quarter.alarms()[0] == set()
    for _ in range(4):
        quarter.day()
    lost = _record("pos_items", "items", "lost", (90, 60))
    changed = _record(LETTERS, names.archive_query("pos"), "changed", (90, 60))
    with lost(quarter) as one, changed(quarter) as other:
        assert quarter.alarms()[0] == one | other
        assert quarter.alarms()[0] == one | other, "what differs is not kept as compared"
    assert quarter.alarms()[0] == set()


def test_what_the_former_contract_accepted_is_no_difference_after_it_became_narrower(
    spark: SparkSession, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """B21: totals, windows, boards and single rows count records that today's contract refuses; the views are computed again."""
    quarter = Quarter(spark, project, tmp_path, seed)
    quarter.serve(monkeypatch)
    for _ in range(2):
        quarter.day()
    quarter.add_column(required=True)
    quarter.day()
    with _row("product_totals", "changed")(quarter) as fault:
        assert quarter.alarms()[0] == fault
    for only_new in (True, False):
        assert quarter.alarms(only_new=only_new)[0] == set()
    quarter.shop.begin_again("tumbling")
    quarter.start()
    quarter.day()
    assert quarter.alarms(only_new=False)[0] == set()


@contextmanager
def _none() -> Iterator[set[Alarm]]:
    yield set()
