"""A simulated week of sales through the stream and the batch layer, with kills in between: everything adds up, and what
is changed behind the stream's back is named.

Slow parts are one driver that is killed and started again, and four finite Spark runs (one of them over all sinks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from headrace.access.bindings import read_kafka
from headrace.contract import batch_views as contract
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.batch import job_runs, reconcile, repair, serve
from headrace.operations.deployment import Deployment
from headrace.operations.lineage import graph, run_events
from headrace.operations.plans import Approval
from headrace.operations.produce.send import send
from headrace.store.job_reports import Difference, ReconcileReport
from tests.support import actual, events, lineage
from tests.support.batch import deployment_of, reconciled, viewed
from tests.support.drivers import Stage, make_stage
from tests.support.expected import FIVE_MINUTES, Oracle, micros

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

WEEK_HOURS = 168
PORTIONS = 3
SALES = 2500
SEED = 20261123


@dataclass
class Week:
    """The stage after its week, and a deployment over it."""

    stage: Stage
    deployment: Deployment


@pytest.fixture(scope="module")
def week(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    stage = make_stage(platform, project, tmp_path_factory.mktemp("week"), "pos_sales", suffix="_week")
    records = list(events.stream(SEED, {"pos": SALES}, WEEK_HOURS, "_week", products=25))
    portion = len(records) // PORTIONS + 1
    try:
        for begin in range(0, len(records), portion):
            part = records[begin : begin + portion]
            send(part, read_kafka(stage.admin), {"pos_week"}, paced=False)
            if stage.child is None or stage.child.poll() is not None:
                stage.start()
            stage.await_quiet()
            if begin == portion:
                stage.kill()
        yield Week(stage, deployment_of(stage, project))
    finally:
        stage.kill()


def even(accounts: dict[str, dict[str, Any]]) -> None:
    wrong = {name: account for name, account in accounts.items() if account["differing"]}
    assert not wrong, wrong


def test_every_query_adds_up_while_the_stream_runs(week: Week) -> None:
    more = islice(events.stream(SEED + 1, {"pos": 100_000}, 0.1, "_week", products=25), 100_000)
    with events.Feeder(week.stage.admin, more, burst=20, pause_seconds=0.2):
        accounts = reconciled(week.deployment, week.stage.name)
    even(accounts)
    assert {name: account["compared"] > 0 for name, account in accounts.items()} == dict.fromkeys(accounts, True)
    assert set(accounts) == {
        "items topic", "product_totals table", "tumbling table", "sliding table", "final_windows topic",
        "leaderboard table", "archive_pos_week topic",
    }  # fmt: skip
    assert accounts["tumbling table"]["late"] > 0
    assert accounts["sliding table"]["late"] > 0


def test_what_was_changed_behind_the_stream_is_named_and_repaired(week: Week) -> None:
    stage, deployment = week.stage, week.deployment
    stage.await_quiet()
    assert stage.stop() == 0
    closed = stage.ledger("tumbling")[-1]["watermark_ms"]
    rows = stage.table(stage.name, "tumbling", "window_start, window_end, product_id, total_amount, sales")
    written = stage.table(stage.name, "tumbling", "window_start, product_id, writetime(total_amount) AS at")
    batches = {
        (row["window_start"], row["product_id"]): row["at"] - stage.generation("tumbling").started_micros
        for row in written
    }
    old = [row for row in rows if micros(row["window_end"]) // 1000 <= closed]
    changed, deleted = sorted(old, key=lambda row: (row["window_start"], row["product_id"]))[:2]
    table = f'"{stage.name}".tumbling'
    key = "window_start = %s AND product_id = %s"
    stage.cql(f"UPDATE {table} SET total_amount = %s WHERE {key}", [changed["total_amount"] + 1, *place(changed)])
    stage.cql(f"DELETE FROM {table} WHERE {key}", place(deleted))
    made_up = {**deleted, "product_id": "never sold"}
    stage.cql(
        f"INSERT INTO {table} (window_start, product_id, window_end, total_amount, sales) VALUES (%s, %s, %s, 1.00, 1)",
        [*place(made_up), deleted["window_end"]],
    )
    report = job_runs.execute(deployment, reconcile.plan(deployment, stage.name, queries=["tumbling"]), ReconcileReport)
    (account,) = [entry for entry in report.accounts if entry.query == "tumbling"]
    assert account.differing == 3
    differences = {
        (actual.in_micros(str(difference.key["window_start"])), difference.key["product_id"]): difference
        for difference in account.differences
    }

    def of(row: dict[str, Any]) -> Difference:
        return differences[micros(row["window_start"]), row["product_id"]]

    assert (of(changed).what, of(changed).by) == ("differs", "not this stream")
    assert (of(changed).due or {})["total_amount"] == str(changed["total_amount"])
    assert of(deleted).what == "missing in the sink"
    assert of(deleted).expected_batch == batches[tuple(place(deleted))]
    assert of(deleted).offsets
    assert of(made_up).what == "in the sink without records"
    with pytest.raises(HeadraceError, match="tumbling: 3"):
        reconcile.require_even(report)
    assert {row.what for row in reconcile.differences(deployment.root, stage.name, report.run)} == {
        "differs", "missing in the sink", "in the sink without records",
    }  # fmt: skip

    planned = repair.plan(deployment, stage.name, report.run)
    assert sorted(item.action for item in planned.items) == ["delete", "write", "write"]
    assert repair.plan(deployment, stage.name, report.run).id == planned.id
    with pytest.raises(HeadraceError, match="The situation changed since plan 3f2a9c01"):
        repair.act(deployment, stage.name, report.run, Approval("3f2a9c01", by="a test"))
    done = repair.act(deployment, stage.name, report.run, Approval(planned.id, by="a test"))
    assert (done.written, done.deleted) == (2, 1)
    after = stage.table(stage.name, "tumbling", "window_start, window_end, product_id, total_amount, sales")
    actual.same(actual.windows(after), actual.windows(rows), "tumbling after the repair")
    even(reconciled(deployment, stage.name, queries=["tumbling"]))
    newest = reconcile.trend(deployment.root, stage.name)
    assert [row.differing for row in newest if row.query == "tumbling"][:2] == [0, 3]


def test_what_is_served_is_the_batch_up_to_the_horizon_and_the_stream_after_it(week: Week) -> None:
    stage, deployment = week.stage, week.deployment
    before = contract.closed_until(stage.pipeline, datetime.now(UTC))
    report = viewed(deployment, stage.name)
    horizon = datetime.fromisoformat(str(report.horizon)).replace(tzinfo=UTC)
    # the run may begin on one day and end on the next
    assert horizon.date() in {before, contract.closed_until(stage.pipeline, datetime.now(UTC))}
    border = micros(horizon)
    oracle = Oracle(stage.pipeline.sources, {"pos_week": stage.read("pos_week")})
    all_windows = oracle.all_windows("pos_week", FIVE_MINUTES, FIVE_MINUTES)
    speed = oracle.windows("pos_week", stage.ledger("tumbling"), FIVE_MINUTES, FIVE_MINUTES)
    wanted = {k: v for k, v in all_windows.items() if k[0] < border} | {
        k: v for k, v in speed.items() if k[0] >= border
    }
    assert {k: v for k, v in speed.items() if k[0] < border} != {k: v for k, v in all_windows.items() if k[0] < border}

    until = datetime.now(UTC) + timedelta(hours=1)
    first = datetime.now(UTC) - timedelta(days=9)
    answer = serve.query(deployment, stage.name, "tumbling", since=first, until=until)
    actual.same(actual.windows(answer.rows), wanted, "tumbling served")
    assert {row["layer"] for row in answer.rows} == {"batch", "speed"}
    paged: list[dict[str, Any]] = []
    after = None
    while not paged or after is not None:
        page = serve.query(deployment, stage.name, "tumbling", since=first, until=until, limit=1000, after=after)
        paged, after = paged + page.rows, page.next
    assert paged == answer.rows
    product = max(key[2] for key in wanted)
    one = serve.query(deployment, stage.name, "tumbling", {"product_id": product}, since=first, until=until)
    actual.same(actual.windows(one.rows), {k: v for k, v in wanted.items() if k[2] == product}, "one product")

    totals: dict[str, tuple[Decimal, int]] = {}
    for (_, _, name), (amount, sales) in wanted.items():
        so_far = totals.get(name, (Decimal(0), 0))
        totals[name] = (so_far[0] + amount, so_far[1] + sales)
    served = serve.query(deployment, stage.name, "product_totals", until=until)
    actual.same(actual.totals(served.rows), totals, "product_totals served")
    with pytest.raises(HeadraceError, match="its keys are product_id"):
        serve.query(deployment, stage.name, "tumbling", {"product": product})

    assert run_events.emit_views(deployment, report).events == 3
    reached = lineage.downstream(lineage.graph(graph.events(deployment.root)), f"{stage.name}.batch_tumbling")
    assert any(name.endswith(f"{stage.name}.batch_tumbling") for name in reached)


def place(row: dict[str, Any]) -> list[Any]:
    return [row["window_start"], row["product_id"]]
