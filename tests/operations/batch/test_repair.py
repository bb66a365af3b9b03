"""Repair of rows after a reconciliation: one action a key, later than what is there, nulls written, read again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pyspark.sql import Row as SparkRow

from headrace.batch.reconcile.kinds import joined_differences
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs, repair
from headrace.operations.batch.repair import Row
from headrace.operations.plans import Approval
from headrace.orchestration import batch_tasks
from headrace.store import ledger
from headrace.store.checkpoint_log import BatchRange
from headrace.store.job_reports import Account, Cell, Difference, ReconcileReport
from headrace.store.paths import generation_paths
from headrace.store.records import from_json

KEY = ("impr_uuid", "impr_date", "ad_id", "click_key")
AT, CLICKED, BY_HAND = "2026-03-01T12:00:00+00:00", "2026-03-01T12:01:00+00:00", "2030-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def ads(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "ad_attribution.yaml")


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def joined(uuid: str, clicked: str | None, *, due: bool) -> SparkRow:
    sides = {"_batch__headrace_rows": int(due), "_speed__headrace_rows": int(not due), "_late__headrace_rows": 0}
    return SparkRow(impr_uuid=uuid, impr_date=AT, ad_id="a", click_key="c", click_date=clicked, **sides)


@pytest.mark.parametrize("order", [1, -1])
def test_a_joined_row_with_a_changed_cell_is_one_difference_and_one_write_in_whatever_order(
    ads: Pipeline, order: int
) -> None:
    rows = [joined("u1", BY_HAND, due=False), joined("u1", CLICKED, due=True)][::order]
    (difference,) = joined_differences(rows, KEY, [*KEY, "click_date"])
    assert (difference.what, difference.due, difference.speed) == (
        "differs",
        {"click_date": CLICKED},
        {"click_date": BY_HAND},
    )
    (action,) = repair.actions(ads.queries["attributed"], "attributed", [difference])
    assert (action.action, action.values) == ("write", {"click_date": CLICKED})


def test_a_joined_row_that_is_only_on_one_side_keeps_its_name() -> None:
    missing = joined_differences([joined("u1", CLICKED, due=True)], KEY, [*KEY, "click_date"])
    strange = joined_differences([joined("u2", None, due=False)], KEY, [*KEY, "click_date"])
    assert (missing[0].what, missing[0].speed) == ("missing in the sink", None)
    assert (strange[0].what, strange[0].due) == ("in the sink without records", None)


@pytest.mark.parametrize("order", [1, -1])
def test_two_differences_of_one_primary_key_are_one_write_of_what_is_due(pos: Pipeline, order: int) -> None:
    """The end of a window is no part of the table's key: changed by hand it is another window to a comparison."""
    window: dict[str, Cell] = {"window_start": AT, "product_id": "p1"}
    due = Difference(key=window | {"window_end": "2026-03-01T12:05:00+00:00"}, due={"total_amount": "3.00", "sales": 1})
    strange = Difference(key=window | {"window_end": BY_HAND})
    (action,) = repair.actions(pos.queries["tumbling"], "tumbling", [due, strange][::order])
    assert action.action == "write"
    assert action.values == {"window_end": "2026-03-01T12:05:00+00:00", "total_amount": "3.00", "sales": 1}


def row_of(action: Literal["write", "delete"], values: dict[str, Any], written: int | None) -> Row:
    key = {"impr_uuid": "u1", "impr_date": AT, "ad_id": "a", "click_key": "c"}
    return Row("attributed", action, key, values, None, written)


def test_a_repair_is_later_than_what_is_there_and_writes_a_null_that_is_due(ads: Pipeline) -> None:
    text, values = repair.statement(ads, row_of("write", {"click_date": None}, 100), 50)
    assert '"click_date"' in text
    assert values[-1] is None
    assert "USING TIMESTAMP 101" in text
    text, _ = repair.statement(ads, row_of("delete", {}, 100), 5_000)
    assert text.startswith("DELETE")
    assert "USING TIMESTAMP 5000" in text


class Table:
    """A Cassandra session over one row: click_date, its writetime, or nothing. `deaf`: what is written gets lost."""

    def __init__(self, click_date: datetime | None, written: int, *, deaf: bool = False) -> None:
        self.row: tuple[Any, ...] | None = (click_date, written)
        self.deaf = deaf
        self.done: list[str] = []

    def execute(self, statement: Any, values: list[Any]) -> Any:
        text = statement.query_string
        if not text.startswith("SELECT"):
            self.done.append(text.split()[0])
            if not self.deaf:
                self.row = None if text.startswith("DELETE") else (values[-1], int(text.rsplit(" ", 1)[1]))
        return SimpleNamespace(one=lambda: self.row)


@pytest.fixture
def repaired(ads: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def prepare(table: Table, differences: list[dict[str, Any]]) -> Any:
        account = {"query": "attributed", "sink": "table a.attributed", "kind": "joined rows",
                   "differing": len(differences), "differences": differences}  # fmt: skip

        @contextmanager
        def session(_: object) -> Iterator[Table]:
            yield table

        monkeypatch.setattr(repair, "cassandra_session", session)
        monkeypatch.setattr(job_runs, "result", lambda *_: from_json(ReconcileReport, {"accounts": [account]}))
        return SimpleNamespace(pipeline=lambda _: ads, root=str(tmp_path), bindings=None)

    return prepare


DIFFERENCE = {"key": dict(zip(KEY, ("u1", AT, "a", "c"), strict=True)), "due": {"click_date": CLICKED}}


def test_a_repair_shows_old_and_new_values_writes_once_and_reads_the_row_again(repaired: Any) -> None:
    table = Table(datetime(2030, 1, 1), 5)
    deployment = repaired(table, [DIFFERENCE, DIFFERENCE | {"due": None}])
    planned = repair.plan(deployment, "ad_attribution", "r")
    (item,) = planned.items
    assert (item.action, item.detail) == ("write", f"click_date: {BY_HAND} -> {CLICKED} (writetime 5)")
    assert item.target.startswith("attributed impr_uuid=u1, ")
    assert item.detail in batch_tasks.plan_repair(deployment, "ad_attribution", "r")["words"], (
        "the approval shows it too"
    )
    assert repair.plan(deployment, "ad_attribution", "r").id == planned.id
    done = repair.act(deployment, "ad_attribution", "r", Approval(planned.id, by="mia"))
    assert (done.written, done.deleted, done.verified, table.done) == (1, 0, 1, ["INSERT"])
    assert done.queries == ("attributed",)


@pytest.mark.parametrize("now", [(datetime(2030, 1, 1), 6), (datetime(2030, 1, 2), 5), None])
def test_a_row_that_changed_since_the_plan_refuses_the_repair_and_nothing_is_written(repaired: Any, now: Any) -> None:
    table = Table(datetime(2030, 1, 1), 5)
    deployment = repaired(table, [DIFFERENCE])
    planned = repair.plan(deployment, "ad_attribution", "r")
    table.row = now
    with pytest.raises(HeadraceError, match=f"The situation changed since plan {planned.id}"):
        repair.act(deployment, "ad_attribution", "r", Approval(planned.id, by="mia"))
    assert table.done == []


def test_a_repair_that_did_not_come_through_is_an_error_that_names_the_row(repaired: Any) -> None:
    deployment = repaired(Table(datetime(2030, 1, 1), 5, deaf=True), [DIFFERENCE])
    planned = repair.plan(deployment, "ad_attribution", "r")
    with pytest.raises(HeadraceError, match=r"1 of 1 rows are not as the repair of r wrote them.*impr_uuid=u1"):
        repair.act(deployment, "ad_attribution", "r", Approval(planned.id, by="mia"))


@pytest.fixture
def expiring(ads: Pipeline) -> Pipeline:
    """The pipeline with a ttl of a day on the table of `attributed`."""
    query = ads.queries["attributed"]
    sinks = [s.model_copy(update={"ttl": timedelta(days=1)}) if s.kind == "cassandra" else s for s in query.sinks]
    return ads.model_copy(update={"queries": {"attributed": query.model_copy(update={"sinks": sinks})}})


@pytest.mark.parametrize(("hours", "ttl"), [(0, 86_400), (23, 3600), (23.99, None), (30, None)])
def test_a_repaired_row_expires_with_the_row_that_the_stream_would_have_written(
    repaired: Any, expiring: Pipeline, monkeypatch: pytest.MonkeyPatch, hours: float, ttl: int | None
) -> None:
    table, now = Table(datetime(2030, 1, 1), 5), 1_900_000_000_000
    monkeypatch.setattr(repair, "_now_micros", lambda: now * 1000)
    deployment = repaired(table, [DIFFERENCE | {"batches": [3, 7]}])
    deployment.pipeline = lambda _: expiring
    folder = generation_paths(deployment.root, "ad_attribution", "attributed", 0).ledger
    for batch, back in ((3, 99.0), (7, hours)):
        at = now - int(back * 3_600_000)
        taken = BatchRange(batch, {}, {}, 0, 0)
        ledger.write(
            folder, ledger.make_record("ad_attribution.attributed", 0, taken, rows_out=1, began_ms=at, written_ms=at)
        )
    statements: list[str] = []
    execute = table.execute

    def noted(statement: Any, values: list[Any]) -> Any:
        statements.append(statement.query_string)
        statement = SimpleNamespace(query_string=statement.query_string.split(" AND TTL")[0])
        return execute(statement, values)

    table.execute = noted  # type: ignore[method-assign]
    planned = repair.plan(deployment, "ad_attribution", "r")
    if ttl is None:
        assert planned.items == ()
        assert "is no longer due: batch 7 wrote it, and its ttl ends at" in planned.notes[0]
        return
    assert ", expires 203" in planned.items[0].detail
    repair.act(deployment, "ad_attribution", "r", Approval(planned.id, by="mia"))
    (written,) = [text for text in statements if text.startswith("INSERT")]
    assert written.endswith(f" AND TTL {ttl}")


def test_a_row_from_the_future_is_refused_with_a_way_out(repaired: Any) -> None:
    deployment = repaired(Table(None, 9_000_000_000_000_000), [DIFFERENCE])
    planned = repair.plan(deployment, "ad_attribution", "r")
    assert planned.items == ()
    assert "--new-generation attributed --rows empty" in planned.notes[0]


def test_a_view_that_differs_is_computed_again_instead(pos: Pipeline) -> None:
    keys = [{"day": day, "product_id": "p1"} for day in ("2026-03-04", "2026-03-01")]
    differences = [Difference(key=dict(key)) for key in keys]
    account = Account("product_totals", "view v", "batch view", differing=2, differences=differences)
    refusal = repair._refusal(pos, account)
    assert refusal is not None
    assert "headrace batch views pos_sales --first 2026-03-01 --last 2026-03-04" in refusal


def test_values_are_compared_as_cassandra_keeps_them() -> None:
    kept = repair._kept
    assert kept(datetime(2026, 3, 1, 12, 0, 0, 123_000)) == kept(datetime.fromisoformat("2026-03-01T12:00:00.123456Z"))
    assert kept(Decimal("1.50")) == Decimal("1.5")
