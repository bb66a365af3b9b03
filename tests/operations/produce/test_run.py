from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace.contract.bindings import KafkaBinding, read_kafka
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.produce import UndeliveredError, make_mix, produce_file, produce_generated
from headrace.operations.produce.generate import generate
from headrace.operations.produce.run import source_of


@pytest.fixture(scope="module")
def pipelines(project: Path) -> dict[str, Pipeline]:
    return load_pipelines(project / "pipelines")


@pytest.fixture
def binding(platform: Any) -> KafkaBinding:
    return read_kafka(platform.home / "bindings" / "admin")


def test_an_unknown_topic_is_said_with_its_near_match(pipelines: dict[str, Pipeline]) -> None:
    with pytest.raises(HeadraceError, match=r"No pipeline reads topic 'login': did you mean 'logins'\?"):
        source_of(pipelines, "login")


def read_back(binding: KafkaBinding, topic: str, offsets: dict[str, dict[str, int]]) -> list[Any]:
    """Return the records of the inclusive offset ranges of a summary, each partition in order."""
    consumer = Consumer(binding.client_config() | {"group.id": "unused", "enable.auto.commit": False})
    try:
        found: list[Any] = []
        for partition, span in offsets.items():
            consumer.assign([TopicPartition(topic, int(partition), span["first"])])
            while (message := consumer.poll(30)) is not None:
                assert message.error() is None, message.error()
                found.append(message)
                if message.offset() == span["last"]:
                    break
        return found
    finally:
        consumer.close()


@pytest.mark.platform
def test_what_the_summary_says_is_what_kafka_holds(binding: KafkaBinding, pipelines: dict[str, Pipeline]) -> None:
    mix, start = make_mix(events=3_000, seed=7, malformed=0.02), datetime.now(UTC)
    told = produce_generated(binding, pipelines, mix, None, start=start).to_json_dict()
    planned = list(generate(mix, start))
    assert told["sent"] == told["acknowledged"] == len(planned)
    for topic, account in told["topics"].items():
        found = read_back(binding, topic, account["offsets"])
        expected = [record for record in planned if record.topic == topic]
        assert Counter((message.key(), message.value()) for message in found) == Counter(
            (record.key, record.value) for record in expected
        )
        # A key stays in one partition, in planned order.
        of_key: dict[bytes, list[bytes | None]] = {}
        for record in expected:
            if record.key is not None:
                of_key.setdefault(record.key, []).append(record.value)
        kept: dict[bytes, list[bytes | None]] = {}
        for message in found:
            if message.key() is not None:
                kept.setdefault(message.key(), []).append(message.value())
        assert kept == of_key


@pytest.mark.platform
def test_a_paced_run_keeps_event_times_behind_the_broker(binding: KafkaBinding, pipelines: dict[str, Pipeline]) -> None:
    mix = make_mix(topics=["logins"], events=300, late=0, delayed=0, duplicates=0, malformed=0)
    told = produce_generated(binding, pipelines, mix, 100).to_json_dict()
    assert told["topics"]["logins"]["planned_rate"] == pytest.approx(100, rel=0.05)
    for message in read_back(binding, "logins", told["topics"]["logins"]["offsets"]):
        happened = datetime.fromisoformat(json.loads(message.value())["login_at"]).replace(tzinfo=UTC)
        assert happened.timestamp() * 1000 <= message.timestamp()[1]


@pytest.mark.platform
def test_a_file_reaches_its_topic_bad_lines_too(
    binding: KafkaBinding, pipelines: dict[str, Pipeline], tmp_path: Path
) -> None:
    path = tmp_path / "sales.ndjson"
    lines = [
        b'{"product_id":"p1","amount":1.5,"create_date":"2026-01-01 00:00:00"}',
        b"nonsense",
        b'{"product_id":"p2"}',
    ]
    path.write_bytes(b"\n".join(lines))
    told = produce_file(binding, pipelines, path, "pos", None).to_json_dict()
    found = read_back(binding, "pos", told["topics"]["pos"]["offsets"])
    assert Counter((message.key(), message.value()) for message in found) == Counter(
        zip([b"p1", None, b"p2"], lines, strict=True)
    )


@pytest.mark.platform
def test_a_record_that_the_topic_does_not_take_is_an_error_and_the_others_arrive(
    binding: KafkaBinding, pipelines: dict[str, Pipeline], tmp_path: Path
) -> None:
    path = tmp_path / "sales.ndjson"
    path.write_bytes(b'{"product_id":"a"}\n"' + os.urandom(4_000_000).hex().encode() + b'"\n{"product_id":"b"}\n')
    with pytest.raises(UndeliveredError, match="1 of 3 records did not reach Kafka") as caught:
        produce_file(binding, pipelines, path, "pos", None)
    assert caught.value.summary.acknowledged == 2


@pytest.mark.platform
def test_a_wrong_password_is_one_sentence(binding: KafkaBinding, pipelines: dict[str, Pipeline]) -> None:
    wrong = dataclasses.replace(binding, password="not this one")
    with pytest.raises(HeadraceError, match="refuses user") as caught:
        produce_generated(wrong, pipelines, make_mix(events=10), None)
    assert "not this one" not in str(caught.value)
