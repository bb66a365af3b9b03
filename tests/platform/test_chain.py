"""Two drivers in a chain: one joins two topics and writes a third, the other aggregates that one (ADR 28).

Both are killed at once, and the first repeats a batch. The reader keeps one row per key and maxima, so repeats change nothing.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import psutil
import pytest

from headrace.contract.load import load_pipelines
from headrace.contract.names import dead_letter_topic
from headrace.contract.rules_between import in_order
from headrace.local.launcher import starting_launcher
from headrace.local.settings import Settings
from headrace.operations.drivers import desired_state
from headrace.operations.provision.run import provision
from tests.support import actual, crash
from tests.support.batch import deployment_of, reconciled
from tests.support.crashing import crashing, run_into
from tests.support.drivers import Stage, group_of
from tests.support.typed import Typed

pytestmark = [pytest.mark.platform, pytest.mark.long(group="platform"), pytest.mark.timeout(1800)]

# The reader comes first by name, the writer first in the chain.
WRITER, READER = "shop_payments", "best_shops"
PAID = "chain_paid"
PIPELINES = {
    WRITER: """
name: shop_payments
owner: testers
description: Payments with their orders.
version: 1
sources:
  chain_orders:
    key: order_id
    columns:
      order_id: {type: string, required: true}
      shop_id: {type: string, required: true}
      ordered_at: {type: timestamp, required: true}
    event_time: {column: ordered_at}
  chain_payments:
    key: order_id
    columns:
      order_id: {type: string, required: true}
      amount: {type: "decimal(12,2)", required: true}
      paid_at: {type: timestamp, required: true}
    event_time: {column: paid_at}
queries:
  paid:
    sources: [chain_orders, chain_payments]
    mode: append
    trigger: 500 milliseconds
    watermark: {chain_orders: 30 minutes, chain_payments: 30 minutes}
    late: drop
    join:
      type: inner
      left: chain_orders
      right: chain_payments
      using: [order_id]
      time_range: {lower: 0 seconds, upper: 5 minutes}
    columns:
      order_id: {type: string, required: true}
      shop_id: {type: string, required: true}
      amount: {type: "decimal(12,2)", required: true}
      paid_at: {type: timestamp, required: true}
    sinks:
      - {kind: kafka, topic: chain_paid, key: order_id, identity: [order_id, paid_at]}
""",
    READER: """
name: best_shops
owner: testers
description: The newest payment of each order, and the largest and the last of each shop.
version: 1
sources:
  chain_paid:
    key: order_id
    columns:
      order_id: {type: string, required: true}
      shop_id: {type: string, required: true, max_distinct: 50}
      amount: {type: "decimal(12,2)", required: true}
      paid_at: {type: timestamp, required: true}
    event_time: {column: paid_at}
queries:
  newest:
    sources: [chain_paid]
    mode: append
    trigger: 500 milliseconds
    columns:
      order_id: {type: string, required: true}
      shop_id: {type: string, required: true}
      amount: {type: "decimal(12,2)", required: true}
      paid_at: {type: timestamp, required: true}
    sinks:
      - {kind: cassandra, partition_key: [order_id], writetime: paid_at}
      - {kind: kafka, topic: chain_newest, key: order_id, identity: [order_id, paid_at]}
      - {kind: files}
  best:
    sources: [chain_paid]
    mode: update
    trigger: 500 milliseconds
    late: include
    aggregate: {keys: [shop_id]}
    columns:
      shop_id: {type: string, required: true}
      largest: {type: "decimal(12,2)", required: true}
      last_paid_at: {type: timestamp, required: true}
    sinks:
      - {kind: cassandra, partition_key: [shop_id]}
""",
}
JOBS = {
    WRITER: """
from pyspark.sql import functions as F


def paid(chain_orders, chain_payments):
    payments = chain_payments.withColumnRenamed("order_id", "paid_order")
    within = F.col("paid_at").between(F.col("ordered_at"), F.col("ordered_at") + F.expr("INTERVAL 5 MINUTES"))
    joined = chain_orders.join(payments, (F.col("order_id") == F.col("paid_order")) & within)
    return joined.select("order_id", "shop_id", "amount", "paid_at")
""",
    READER: """
from pyspark.sql import functions as F


def newest(chain_paid):
    return chain_paid.select("order_id", "shop_id", "amount", "paid_at")


def best(chain_paid):
    return chain_paid.groupBy("shop_id").agg(F.max("amount").alias("largest"), F.max("paid_at").alias("last_paid_at"))
""",
}
BEGIN = datetime(2026, 3, 1, 10)
PARTS, ORDERS_EACH = 4, 120
REFUSED = "much"
Sent = tuple[str, bytes, bytes]
Drivers = tuple[Stage, Stage]


@pytest.fixture
def drivers(platform: Settings, project: Path, tmp_path: Path) -> Iterator[Drivers]:
    """The stages of the writer and the reader, in one project, provisioned and not started."""
    tree = tmp_path / "tree"
    (tree / "pipelines").mkdir(parents=True)
    (tree / "spark_jobs").mkdir()
    shutil.copy(project / "spark_jobs" / "main.py", tree / "spark_jobs" / "main.py")
    for name, content in PIPELINES.items():
        (tree / "pipelines" / f"{name}.yaml").write_text(content)
        (tree / "spark_jobs" / f"{name}.py").write_text(JOBS[name])
    loaded = in_order(load_pipelines(tree / "pipelines"))
    provision(list(loaded.values()), platform.bindings(), platform.home / "bindings")
    launcher = starting_launcher(platform, tree)
    made = Stage(platform, loaded[WRITER], launcher), Stage(platform, loaded[READER], launcher)
    yield made
    for stage in made:
        launcher.stop(stage.name, 0)


def _part(number: int, dice: random.Random) -> list[Sent]:
    """Return the orders and payments of one part, shuffled. Some orders have no payment, two, or one that is too late."""
    sent: list[Sent] = []
    for order in range(number * ORDERS_EACH, (number + 1) * ORDERS_EACH):
        name, ordered_at = f"o{order}", BEGIN + timedelta(seconds=order)
        sent.append(_record("chain_orders", name, shop_id=f"s{order % 7}", ordered_at=_text(ordered_at)))
        for delay_ms in dice.sample(range(360_000), dice.choice((0, 1, 1, 2))):
            paid_at = ordered_at + timedelta(milliseconds=delay_ms)
            amount = f"{dice.randrange(1, 100_000) / 100:.2f}"
            sent.append(_record("chain_payments", name, amount=amount, paid_at=_text(paid_at)))
    sent.append(_record("chain_payments", f"o{number * ORDERS_EACH}", amount=REFUSED, paid_at=_text(BEGIN)))
    dice.shuffle(sent)
    return sent


def _record(topic: str, order: str, **columns: str) -> Sent:
    return topic, order.encode(), json.dumps({"order_id": order} | columns).encode()


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "milliseconds")


@dataclass(frozen=True)
class Expected:
    """The number of joined rows, the newest row of each order, and the maxima of each shop."""

    paid: int
    newest: dict[str, tuple[str, Decimal, datetime]]
    best: dict[str, tuple[Decimal, datetime]]


def _expected(sent: list[Sent]) -> Expected:
    """Compute by DuckDB what both pipelines make of the records that were sent."""
    db = duckdb.connect(":memory:")
    db.execute("CREATE TABLE orders (order_id TEXT, shop_id TEXT, ordered_at TIMESTAMP)")
    db.execute("CREATE TABLE payments (order_id TEXT, amount DECIMAL(12,2), paid_at TIMESTAMP)")
    for topic, _, value in sent:
        row = json.loads(value)
        if row.get("amount") != REFUSED:
            db.execute(f"INSERT INTO {topic.removeprefix('chain_')} VALUES (?, ?, ?)", list(row.values()))
    db.execute(
        "CREATE TABLE paid AS SELECT order_id, shop_id, amount, paid_at FROM orders JOIN payments USING (order_id) "
        "WHERE paid_at BETWEEN ordered_at AND ordered_at + INTERVAL 5 MINUTES"
    )
    newest = db.execute(
        "SELECT order_id, arg_max(shop_id, paid_at), arg_max(amount, paid_at), max(paid_at) FROM paid GROUP BY order_id"
    ).fetchall()
    best = db.execute("SELECT shop_id, max(amount), max(paid_at) FROM paid GROUP BY shop_id").fetchall()
    (count,) = db.table("paid").count("*").fetchall()[0]
    return Expected(count, {row[0]: row[1:] for row in newest}, {row[0]: row[1:] for row in best})


def _kill(drivers: Drivers) -> None:
    """Send SIGKILL to both drivers before either can react to the end of the other."""
    leaders = [int(stage.launcher.find(stage.name)[0].identity.partition("@")[0]) for stage in drivers]
    members = [process for leader in leaders for process in group_of(leader)]
    for leader in leaders:
        os.killpg(leader, signal.SIGKILL)
    assert not psutil.wait_procs(members, 60)[1]


def _await_all(drivers: Drivers) -> None:
    """Wait for the writer, then for the reader: only then is the end of the topic between them known."""
    for stage in drivers:
        stage.await_quiet()


def _repeat_a_batch(writer: Stage, plan: Path) -> None:
    """Run the writer until it has written rows to the topic, and is killed before it has recorded their batch.

    A batch that was planned before the kill may join nothing: then the next one is the one to repeat.
    """
    killed = crashing(writer, plan)
    before = writer.ends(PAID)
    for skipped in range(5):
        run_into(killed, plan, {"point": crash.AFTER_SINK, "query": "paid", "skip": skipped, "delay_ms": 0})
        if writer.ends(PAID) != before:
            return
    raise AssertionError(f"no batch wrote to {PAID}: {killed.log[-3000:]}")


def test_a_chain_of_drivers_is_exact_after_both_were_killed(
    platform: Settings, project: Path, drivers: Drivers, tmp_path: Path, seed: int
) -> None:
    writer, reader = drivers
    typed, dice = Typed(platform, writer.launcher.project), random.Random(seed)
    parts = [_part(number, dice) for number in range(PARTS)]
    writer.send(parts[0])
    started = typed.json("start", "--no-wait")
    assert list(started) == [WRITER, READER]
    at = [desired_state.read(stage.root, stage.name).at_ms for stage in drivers]
    assert at == sorted(at), "the writer was started first"
    _await_all(drivers)

    before = len(writer.ledger("paid"))
    writer.send(parts[1])
    writer.await_until(lambda: len(writer.ledger("paid")) > before, "a batch of the second part is written")
    _kill(drivers)
    writer.send(parts[2])
    _repeat_a_batch(writer, tmp_path / "plan.json")
    assert all(driver["started"] for driver in typed.json("start", "--no-wait").values())
    writer.send(parts[3])
    _await_all(drivers)
    typed("stop")

    expected = _expected([record for part in parts for record in part])
    assert len(expected.newest) > ORDERS_EACH
    rows = {row["order_id"]: (row["shop_id"], row["amount"], row["paid_at"]) for row in reader.table(READER, "newest")}
    actual.same(rows, expected.newest, "newest")
    maxima = {row["shop_id"]: (row["largest"], row["last_paid_at"]) for row in reader.table(READER, "best")}
    actual.same(maxima, expected.best, "best")
    messages = reader.read(PAID)
    different, repeats = actual.distinct(messages)
    assert len(different) == expected.paid
    assert repeats > 0, "no batch was repeated: nothing is shown"
    assert len(actual.distinct(writer.read(dead_letter_topic("chain_payments")))[0]) == PARTS

    deployment = deployment_of(reader, project)
    accounts = reconciled(deployment, READER)
    compared = {name: (account["status"], account["compared"]) for name, account in accounts.items()}
    assert compared == {
        "newest table": ("PASSED", len(expected.newest)),
        "newest topic": ("PASSED", expected.paid),
        "newest files": ("PASSED", len(messages)),
        "best table": ("PASSED", len(expected.best)),
        f"archive_{PAID} topic": ("PASSED", len(messages)),
    }, accounts
    of_writer = reconciled(deployment, WRITER)
    assert {account["status"] for account in of_writer.values()} <= {"PASSED", "EXEMPT", "EMPTY"}, of_writer
