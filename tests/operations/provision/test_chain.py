"""Both pipelines of a chain declare its topic (ADR 28): one provisioning of both creates and changes it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.load import load_pipelines
from headrace.contract.rules_between import in_order
from headrace.operations.provision import kafka as in_kafka
from headrace.operations.provision import run
from tests.contract.test_chains import folder_of, link
from tests.support.kafka_admin import FakeKafka


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    """Kafka, which refuses to create a topic twice. Pipelines have no tables, and their logins are left out."""
    kafka = FakeKafka()

    @contextmanager
    def given(value: Any) -> Iterator[Any]:
        yield value

    monkeypatch.setattr(in_kafka, "administering", lambda _: given(kafka))
    monkeypatch.setattr(run, "cassandra_session", lambda _: given(None))
    monkeypatch.setattr(run, "_login_steps", lambda *_: [])
    return kafka


def test_a_chain_is_provisioned_at_once_on_an_empty_platform(server: FakeKafka, tmp_path: Path) -> None:
    chain = in_order(load_pipelines(folder_of(tmp_path, link("b", "orders", "joined"), link("a", "joined", "out"))))
    made = run.provision(list(chain.values()), tmp_path, tmp_path)
    assert [change.pipeline for change in made if change.name == "joined"] == ["b"]
    assert {"orders", "joined", "out", "joined_dead_letters"} <= set(server.topics)
    assert run.provision(list(chain.values()), tmp_path, tmp_path) == []


def test_a_chain_gets_more_partitions_at_once(server: FakeKafka, tmp_path: Path) -> None:
    chain = load_pipelines(folder_of(tmp_path, link("b", "orders", "joined"), link("a", "joined", "out")))
    run.provision(list(chain.values()), tmp_path, tmp_path)
    writer = link("b", "orders", "joined")
    writer["queries"]["copied"]["sinks"][0]["partitions"] = 8
    wider = load_pipelines(folder_of(tmp_path, writer, link("a", "joined", "out", partitions=8)))
    run.provision(list(wider.values()), tmp_path, tmp_path, consented=["joined"])
    assert len(server.partitions["joined"]) == 8
