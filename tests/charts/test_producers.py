"""Producers: an empty Secret, the right to fill that one, a way to Kafka for pods with one label, and nothing else."""

from __future__ import annotations

import json

import pytest

from headrace.cluster.bootstrap import Config
from headrace.contract import names
from tests.support.charts import EXTERNAL_KAFKA, helm_template, kind, pods, refusal, render

SHOP = ("producers.webshop.namespace=shop", "producers.webshop.topics={pos,quickstart}")


def test_a_producers_secret_is_made_empty_and_the_bootstrap_may_fill_that_one() -> None:
    objects = render("base", *SHOP)
    (secret,) = kind(objects, "Secret")
    assert (secret["metadata"]["namespace"], secret["metadata"]["name"]) == ("shop", names.producer_secret("webshop"))
    assert not {"data", "stringData"} & set(secret)
    (role,) = [candidate for candidate in kind(objects, "Role") if candidate["metadata"]["namespace"] == "shop"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["kafka-producer-webshop"], "verbs": ["get", "patch"]}
    ]  # fmt: skip
    (binding,) = [
        candidate for candidate in kind(objects, "RoleBinding") if candidate["metadata"]["namespace"] == "shop"
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "bootstrap", "namespace": "headrace"}]


def test_pods_with_a_producers_label_alone_reach_the_port_of_clients() -> None:
    (policy,) = [
        candidate
        for candidate in kind(render("base", *SHOP), "NetworkPolicy")
        if candidate["metadata"]["name"] == "allow-producer-webshop"
    ]
    assert policy["metadata"]["namespace"] == "headrace-kafka"
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
            "podSelector": {"matchLabels": {"headrace/producer": "webshop"}},
        }
    ]
    assert rule["ports"] == [{"port": 9092, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("settings", "left"),
    [((), set()), ((*SHOP, *EXTERNAL_KAFKA), {"Secret", "Role", "RoleBinding"})],
)
def test_nothing_is_in_a_namespace_that_no_producer_is_in_and_an_external_kafka_has_no_flow(
    settings: tuple[str, ...], left: set[str]
) -> None:
    objects = render("base", *settings)
    assert {rendered["kind"] for rendered in objects if rendered["metadata"].get("namespace") == "shop"} == left
    assert not [rendered for rendered in objects if rendered["metadata"]["name"].startswith("allow-producer")]


def test_both_jobs_get_the_producers() -> None:
    (config,) = [
        candidate
        for candidate in kind(render("base", *SHOP), "ConfigMap")
        if candidate["metadata"]["name"] == "bootstrap"
    ]
    producers = Config.model_validate_json(config["data"]["bootstrap.json"]).producers
    assert (producers["webshop"].namespace, producers["webshop"].topics) == ("shop", ["pos", "quickstart"])
    (spec,) = [spec for who, spec, _ in pods(render("airflow", *SHOP)) if "provision" in who]
    env = {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}
    assert json.loads(env["HEADRACE_PRODUCERS"]) == {"webshop": {"namespace": "shop", "topics": ["pos", "quickstart"]}}


@pytest.mark.parametrize("chart", ["base", "airflow"])
@pytest.mark.parametrize(
    "settings",
    [
        ("producers.web_shop.namespace=shop", "producers.web_shop.topics={pos}"),
        ("producers.webshop.topics={pos}",),
        ("producers.webshop.namespace=shop", "producers.webshop.topics={a b}"),
        ("producers.webshop.namespace=shop", "producers.webshop.topics=[]"),
        ("producers.webshop.namespace=shop", "producers.webshop.topics={pos}", "producers.webshop.password=x"),
    ],
)
def test_a_producer_that_cannot_be_is_refused_by_the_schema(chart: str, settings: tuple[str, ...]) -> None:
    assert "producers" in refusal(chart, *settings)
    assert helm_template(chart, *SHOP).returncode == 0
