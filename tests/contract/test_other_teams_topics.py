"""A topic with a name of its own and fields in camelCase and inside objects is read as it is (D17)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.contract import fingerprint, kafka, names
from headrace.contract.load import load_pipeline, load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.lineage import graph
from headrace.operations.produce.run import source_of
from tests.contract.test_chains import link, refusal

TOPIC = "shop.orders-v1"
ORDERS: dict[str, Any] = {
    "name": "orders", "owner": "t", "description": "t", "version": 1,
    "sources": {
        "placed": {
            "topic": TOPIC,
            "key": "order_id",
            "columns": {
                "order_id": {"type": "string", "required": True, "field": "order.orderId"},
                "total": {"type": "decimal(12,2)", "field": ["order", "sum.total"]},
                "at": {"type": "timestamp", "required": True, "field": "@timestamp"},
            },
            "event_time": {"column": "at"},
        },
        "shipped": {
            "topic": "shop.Shipments",
            "key": "order_id",
            "columns": {
                "order_id": {"type": "string", "required": True, "field": "orderId"},
                "shipped_at": {"type": "timestamp", "required": True},
            },
            "event_time": {"column": "shipped_at"},
        },
    },
    "queries": {
        "shipments": {
            "sources": ["placed", "shipped"],
            "mode": "append",
            "watermark": {"placed": "10 minutes", "shipped": "10 minutes"},
            "late": "drop",
            "join": {
                "type": "inner", "left": "placed", "right": "shipped", "using": ["order_id"],
                "time_range": {"upper": "5 minutes"},
            },
            "columns": {"order_id": {"type": "string", "required": True}},
            "sinks": [{"kind": "files"}],
        }
    },
}  # fmt: skip


@pytest.fixture
def orders(tmp_path: Path) -> Pipeline:
    return written(tmp_path, ORDERS)


def written(folder: Path, content: dict[str, Any]) -> Pipeline:
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_pipeline(path)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = copy.deepcopy(ORDERS)
    change(content)
    return content


def test_a_loaded_pipeline_has_topics_where_its_file_has_names(orders: Pipeline) -> None:
    query = orders.queries["shipments"]
    assert list(orders.sources) == query.sources == list(query.watermark) == [TOPIC, "shop.Shipments"]
    assert query.join
    assert (query.join.left, query.join.right) == (TOPIC, "shop.Shipments")
    assert [orders.source_name(topic) for topic in orders.sources] == ["placed", "shipped"]
    assert orders.reading({}).source_name(TOPIC) == "placed"


def test_topics_and_rights_are_of_the_topics_own_name(orders: Pipeline) -> None:
    topics = [TOPIC, f"{TOPIC}_dead_letters"]
    assert {topic.name for topic in kafka.topics(orders)} >= set(topics)
    assert {acl.name for acl in kafka.acls(orders)} >= set(topics)
    assert not {acl.name for acl in kafka.acls(orders)} & {"placed", "shipped"}


def test_an_archive_has_a_name_that_every_table_and_folder_takes(orders: Pipeline) -> None:
    assert names.query_names(orders) == ["shipments", "archive_shop_orders_v1", "archive_shop_shipments"]
    assert names.archive_table("orders", TOPIC) == "lake.orders.archive_shop_orders_v1"
    assert names.archived_topic(orders, "archive_shop_orders_v1") == TOPIC


def test_lineage_names_the_topic(orders: Pipeline) -> None:
    jobs = graph.stream_jobs(orders, graph.Places("kafka://k", "cassandra://c", "file:///lake"))
    assert [dataset.name for dataset in jobs["shipments"].inputs] == [TOPIC, "shop.Shipments"]
    assert [dataset.name for dataset in jobs["archive_shop_orders_v1"].inputs] == [TOPIC]


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda c: c["sources"]["placed"].update(topic="shop.orders-v2"), "sources.shop.orders-v1 was removed"),
        (lambda c: c["sources"]["placed"]["columns"]["total"].update(field="total"),
         'sources.shop.orders-v1.columns.total changed from "decimal(12,2) from [\\"order\\", \\"sum.total\\"]"'),
    ],
)  # fmt: skip
def test_a_checkpoint_takes_no_other_topic_and_no_other_field(
    orders: Pipeline, tmp_path: Path, change: Callable[[dict[str, Any]], object], phrase: str
) -> None:
    old = fingerprint.declared(orders, "shipments")
    new = fingerprint.declared(written(tmp_path, changed(change)), "shipments")
    assert any(phrase in difference for difference in fingerprint.differences(old, new)), fingerprint.differences(
        old, new
    )


def test_a_name_that_is_the_topics_and_the_fields_own_changes_no_fingerprint(good: Pipeline, tmp_path: Path) -> None:
    content = good.model_dump(mode="json", exclude_unset=True)
    content["sources"]["sales"]["topic"] = "sales"
    content["sources"]["sales"]["columns"]["amount"]["field"] = "amount"
    said = written(tmp_path, content)
    assert fingerprint.digest(fingerprint.declared(said, "windows")) == fingerprint.digest(
        fingerprint.declared(good, "windows")
    )


def test_a_source_of_another_name_is_the_reader_of_a_chain(tmp_path: Path) -> None:
    reader = link("b", "joined", "out", topic="shop.joined")
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(reader, sort_keys=False))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(link("a", "orders", "shop.joined"), sort_keys=False))
    assert list(load_pipelines(tmp_path)["b"].handed_on) == ["shop.joined"]


def test_a_chain_that_does_not_fit_is_reported_by_the_sources_name(tmp_path: Path) -> None:
    reader = link("b", "joined", "out", topic="shop.joined", partitions=3)
    reader["sources"]["joined"]["columns"]["amount"]["field"] = "order.amount"
    partitions, column = refusal(tmp_path, link("a", "orders", "shop.joined"), reader)
    assert partitions.endswith(
        "sources.joined.partitions: a.copied, which writes the topic, declares 2. Write partitions: 2."
    )
    assert column.startswith(
        "pipelines/b.yaml: sources.joined.columns.amount: a.copied, which writes the topic, has no such"
    )


def test_topics_of_two_pipelines_that_kafka_does_not_take_beside_each_other_are_a_clash(tmp_path: Path) -> None:
    one, other = link("a", "x", "out_a", topic="shop.orders"), link("b", "y", "out_b", topic="shop_orders")
    faults = refusal(tmp_path, one, other)
    assert faults[0] == (
        "b has topic shop_orders and a has topic shop.orders. Kafka refuses to have both, because its metric names do "
        "not distinguish '.' and '_'. Rename one of them."
    )


def test_a_command_that_is_given_a_sources_name_answers_with_its_topic(orders: Pipeline) -> None:
    with pytest.raises(
        HeadraceError, match=r"'placed' is the name of a source, whose topic is shop.orders-v1. Name the"
    ):
        source_of({"orders": orders}, "placed")
    assert source_of({"orders": orders}, TOPIC).key == "order_id"
