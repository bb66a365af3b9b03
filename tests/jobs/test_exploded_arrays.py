"""A record with an array becomes several rows: each reaches the sinks with an id of its own, and a bad one is a dead letter."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.driver import check, sinks
from tests.support.sink_ends import load, write_batch

pytestmark = pytest.mark.spark

ORDERS = """
name: orders
owner: tests
description: Lines of another team's orders.
version: 1
sources:
  placed:
    key: order_id
    columns:
      order_id: {type: string, required: true, field: order.orderId}
      items: {type: json, field: order.items}
queries:
  lines:
    sources: [placed]
    mode: append
    columns:
      order_id: {type: string, required: true}
      sku: {type: string, required: true}
      price: {type: "decimal(12,2)"}
    sinks:
      - {kind: kafka, topic: shop.lines, key: order_id, identity: [order_id, sku]}
"""
ITEMS = "array<struct<sku:string,price:decimal(12,2)>>"


def lines(placed: DataFrame) -> DataFrame:
    items = placed.withColumn("item", F.explode(F.from_json("items", ITEMS)))
    return items.select("order_id", "item.sku", "item.price", "headrace_source")


def order(name: str, items: str) -> tuple[None, bytes, tuple[()]]:
    return None, b'{"order": {"orderId": "%s", "items": %s}, "buyer": 7}' % (name.encode(), items.encode()), ()


def test_each_element_of_an_array_is_a_row_and_one_without_a_required_value_a_dead_letter(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = [
        order("o1", '[{"sku": "a", "price": 1.10}, {"sku": "b|c", "price": "x"}]'),
        order("o2", '[{"price": 1}, {"sku": "d"}]'),
        order("o3", "[]"),
        order("o4", "null"),
        order("o5", '"no array"'),
    ]
    pipeline = load(tmp_path, ORDERS)
    ends = write_batch(spark, monkeypatch, tmp_path, pipeline, "lines", lines, given)
    sent = [
        (m.header(sinks.HEADER_ID), json.loads(m.value or b"", parse_float=Decimal)) for m in ends.topics["shop.lines"]
    ]
    assert sorted((name, row["price"]) for name, row in sent) == [
        ("o1|a", Decimal("1.10")), ("o1|b\\|c", None), ("o2|d", None)
    ]  # fmt: skip
    (letter,) = ends.topics["placed_dead_letters"]
    assert letter.value == given[1][1]
    assert letter.header(sinks.HEADER_REASON) == "not_written: sku is required, but the transform returned null"


@pytest.mark.parametrize(
    ("identity", "says"), [(", identity: [order_id, sku]", ""), ("", "the rows in topic shop.lines would have one id")]
)
def test_rows_of_one_record_need_columns_that_tell_them_apart(
    spark: SparkSession, tmp_path: Path, identity: str, says: str
) -> None:
    """With the place of the record as id, a reader that drops repeats would keep one of them."""
    pipeline = load(tmp_path, ORDERS.replace(", identity: [order_id, sku]", identity))
    faults = "\n".join(check.differences(spark, pipeline, {"lines": lines}))
    assert says in faults
    assert bool(says) == bool(faults)
