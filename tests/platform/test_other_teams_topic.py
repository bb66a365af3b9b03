"""A topic named shop.orders-v1 with camelCase and nested fields runs through stream, archive, dead letters and batch layer."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from headrace.access.bindings import read_kafka
from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from headrace.operations.produce.run import produce_file
from tests.support import actual
from tests.support.batch import deployment_of, reconciled, viewed
from tests.support.drivers import make_stage

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900), pytest.mark.long(group="platform")]

TOPIC = "shop.orders-v1"
FILE = f"""
name: orders
owner: testers
description: Orders of another team.
version: 1
sources:
  placed:
    topic: {TOPIC}
    key: order_id
    columns:
      order_id: {{type: string, required: true, field: order.orderId}}
      city: {{type: string, required: true, field: [order, shipTo, city.name]}}
      total: {{type: "decimal(12,2)", required: true, field: order.totalAmount}}
      at: {{type: timestamp, required: true, field: "@timestamp"}}
    event_time: {{column: at}}
queries:
  by_city:
    sources: [placed]
    mode: update
    watermark: {{placed: 10 minutes}}
    late: drop
    aggregate: {{keys: [city], window: {{column: at, size: 10 minutes}}}}
    columns:
      window_start: {{type: timestamp, required: true}}
      city: {{type: string, required: true}}
      total: {{type: "decimal(22,2)", required: true}}
    sinks:
      - {{kind: cassandra, partition_key: [city], clustering_key: [window_start]}}
  large:
    sources: [placed]
    mode: append
    columns:
      order_id: {{type: string, required: true}}
      total: {{type: "decimal(12,2)", required: true}}
    sinks:
      - {{kind: kafka, topic: shop.large-orders, key: order_id}}
"""
JOB = """
from pyspark.sql import functions as F


def by_city(placed):
    sums = placed.groupBy(F.window("at", "10 minutes").alias("w"), "city").agg(F.sum("total").alias("total"))
    return sums.select(F.col("w.start").alias("window_start"), "city", F.col("total").cast("decimal(22,2)"))


def large(placed):
    return placed.where("total > 100").select("order_id", "total", "headrace_source")
"""


def order(name: str, city: object, total: str, minute: int) -> str:
    inside = {"orderId": name, "shipTo": {"city.name": city}, "totalAmount": total, "buyer": {"id": 7}}
    return json.dumps({"order": inside, "@timestamp": f"2026-03-01T10:{minute:02}:00Z"})


def test_another_teams_topic_is_read_as_it_is(platform: Settings, project: Path, tmp_path: Path) -> None:
    tree = tmp_path / "starter"
    for folder, name, text in (("pipelines", "orders.yaml", FILE), ("spark_jobs", "orders.py", JOB)):
        (tree / folder).mkdir(parents=True)
        (tree / folder / name).write_text(text)
    (tree / "spark_jobs" / "main.py").write_bytes((project / "spark_jobs" / "main.py").read_bytes())
    records = tmp_path / "orders.ndjson"
    lines = [order("o1", "Seoul", "99.95", 1), order("o2", "Seoul", "200.05", 2), order("o3", 5, "1.00", 3)]
    lines.append(order("o4", "Busan", "1.00", 50))
    records.write_text("\n".join(lines) + "\n")

    stage = make_stage(platform, tree, tmp_path, "orders")
    try:
        stage.start()
        produce_file(read_kafka(stage.admin), {"orders": stage.pipeline}, records, TOPIC, rate=None)
        stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()

    rows = {row["city"]: (row["window_start"], row["total"]) for row in stage.table("orders", "by_city")}
    assert rows == {
        "Seoul": (datetime(2026, 3, 1, 10), Decimal("300.00")),
        "Busan": (datetime(2026, 3, 1, 10, 50), Decimal("1.00")),
    }
    (large,) = map(actual.parse, [message.value for message in stage.read("shop.large-orders")])
    assert (large["order_id"], large["total"]) == ("o2", Decimal("200.05"))
    (letter,) = stage.read(dead_letter_topic(TOPIC))
    assert letter.value == lines[2].encode()
    assert (
        letter.header("headrace.reason") == "wrong_type: city (field order.shipTo.city.name): expected string, got int"
    )
    assert sorted(row[4] or b"" for row in actual.archive(stage, TOPIC)) == sorted(line.encode() for line in lines)
    actual.require_ledgers(stage)
    deployment = deployment_of(stage, project)
    accounts = reconciled(deployment, "orders")
    assert {name: (account["compared"], account["differing"]) for name, account in accounts.items()} == {
        "by_city table": (1, 0),
        "large topic": (1, 0),
        "archive_shop_orders_v1 topic": (4, 0),
    }
    assert viewed(deployment, "orders").rows == {"by_city": 2}
