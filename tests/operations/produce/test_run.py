from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from typer.testing import CliRunner

from headrace.access.bindings import KafkaBinding, read_kafka
from headrace.cli import app
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.produce import run
from headrace.operations.produce.generate import generate
from headrace.operations.produce.mix import make_mix
from headrace.operations.produce.run import produce_file, produce_generated, source_of
from headrace.operations.produce.send import send
from headrace.operations.produce.summary import UndeliveredError
from headrace.store.records import to_json
from tests.operations.produce.test_send import BINDING, FakeProducer


@pytest.fixture(scope="module")
def pipelines(project: Path) -> dict[str, Pipeline]:
    return load_pipelines(project / "pipelines")


@pytest.fixture
def binding(platform: Any) -> KafkaBinding:
    return read_kafka(platform.home / "bindings" / "admin")


def test_an_unknown_topic_is_said_with_its_near_match(pipelines: dict[str, Pipeline]) -> None:
    with pytest.raises(HeadraceError, match=r"No pipeline reads topic 'login'\. Did you mean 'logins'\?"):
        source_of(pipelines, "login")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeProducer:
    """A Kafka that takes all."""
    producer = FakeProducer()
    monkeypatch.setattr(run, "send", partial(send, make_producer=producer))
    return producer


def test_the_summary_says_how_many_rows_were_sent_refused_and_left(
    pipelines: dict[str, Pipeline], fake: FakeProducer, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    rows = ["p1,1,2026-01-01 00:00:00", "p2,1", "p3,1,soon", '"' + "x" * 17_000_000, "p4,1,2026-01-01"]
    path.write_text("product_id,amount,create_date\n" + "\n".join(rows))
    summary = produce_file(BINDING, pipelines, path, "pos", None)
    result = to_json(summary.result())
    assert (result["sent"], result["acknowledged"], result["refused"], result["left"]) == (4, 4, 1, 1)
    assert result["named"] == [
        "line 3: 2 cells, but the header has 3",
        "line 5: longer than 16 MiB, left out",
    ]
    assert fake.log[1:3] == [b"p2,1", b'{"product_id":"p3","amount":1,"create_date":"soon"}']
    assert tables.odd_rows(summary.odd) == [
        "1 malformed rows were sent unchanged; the contract refuses them: headrace dead-letters list",
        "1 rows could not be sent and were left out.",
        "  line 3: 2 cells, but the header has 3",
        "  line 5: longer than 16 MiB, left out",
    ]


def test_a_summary_of_good_rows_says_nothing_more(
    pipelines: dict[str, Pipeline], fake: FakeProducer, tmp_path: Path
) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b"{}\n")
    assert tables.odd_rows(produce_file(BINDING, pipelines, path, "pos", None).odd) == []


def test_an_interrupt_counts_the_rows_of_parquet_that_are_left(
    pipelines: dict[str, Pipeline], fake: FakeProducer, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"product_id": ["p"] * 50, "amount": ["1"] * 50, "create_date": ["x"] * 50}), path)
    produce, before = fake.produce, signal.getsignal(signal.SIGINT)

    def interrupted(*args: Any, **options: Any) -> None:
        produce(*args, **options)
        if len(fake.waiting) == 20:
            os.kill(os.getpid(), signal.SIGINT)

    fake.produce = interrupted  # type: ignore[method-assign]
    result = to_json(produce_file(BINDING, pipelines, path, "pos", None).result())
    assert signal.getsignal(signal.SIGINT) is before
    assert result["interrupted"]
    assert result["sent"] + result["left"] == 50
    assert result["named"] == [f"rows {result['sent'] + 1} to 50: interrupted, left out"]


def test_a_row_that_was_left_is_exit_code_1(
    project: Path, pipelines: dict[str, Pipeline], fake: FakeProducer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(app, "read_kafka", lambda _: BINDING)
    path = tmp_path / "x.ndjson"
    for line, code in ((b"{}", 0), (b"x", 0), (b"x" * 17_000_000, 1)):
        path.write_bytes(b'{"product_id":"p"}\n' + line)
        done = CliRunner().invoke(app.app, ["produce", "--file", str(path), "--topic", "pos", "--json"])
        assert (done.exit_code, json.loads(done.stdout)["left"]) == (code, code)


def test_a_record_that_kafka_refuses_hides_no_bad_row(
    project: Path, pipelines: dict[str, Pipeline], fake: FakeProducer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(app, "read_kafka", lambda _: BINDING)
    fake.verdict = lambda value: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if value == b"p,1" else None
    path = tmp_path / "x.csv"
    path.write_text("product_id,amount,create_date\np,1\np,1,2\n")
    done = CliRunner().invoke(app.app, ["produce", "--file", str(path), "--topic", "pos", "--json"])
    result = json.loads(done.stdout)
    assert (result["sent"], result["failed"], result["refused"], result["named"]) == (
        2, 1, 1, ["line 2: 2 cells, but the header has 3"],
    )  # fmt: skip
    assert isinstance(done.exception, UndeliveredError)


def read_back(binding: KafkaBinding, topic: str, offsets: dict[str, dict[str, int]]) -> list[Any]:
    """Return the records of the inclusive offset ranges of a summary, each partition in order."""
    consumer = Consumer(binding.client_config() | {"group.id": "unused", "enable.auto.commit": False})
    try:
        messages: list[Any] = []
        for partition, span in offsets.items():
            consumer.assign([TopicPartition(topic, int(partition), span["first"])])
            while (message := consumer.poll(300)) is not None:
                assert message.error() is None, message.error()
                messages.append(message)
                if message.offset() == span["last"]:
                    break
        return messages
    finally:
        consumer.close()


@pytest.mark.platform
def test_what_the_summary_says_is_what_kafka_holds(binding: KafkaBinding, pipelines: dict[str, Pipeline]) -> None:
    mix, start = make_mix(events=3_000, seed=7, malformed=0.02), datetime.now(UTC)
    result = to_json(produce_generated(binding, pipelines, mix, None, start=start).result())
    planned = list(generate(mix, start))
    assert result["sent"] == result["acknowledged"] == len(planned)
    for topic, account in result["topics"].items():
        messages = read_back(binding, topic, account["offsets"])
        expected = [record for record in planned if record.topic == topic]
        assert Counter((message.key(), message.value()) for message in messages) == Counter(
            (record.key, record.value) for record in expected
        )
        # A key stays in one partition, in planned order.
        of_key: dict[bytes, list[bytes | None]] = {}
        for record in expected:
            if record.key is not None:
                of_key.setdefault(record.key, []).append(record.value)
        kept: dict[bytes, list[bytes | None]] = {}
        for message in messages:
            if message.key() is not None:
                kept.setdefault(message.key(), []).append(message.value())
        assert kept == of_key


@pytest.mark.platform
def test_a_paced_run_keeps_event_times_behind_the_broker(binding: KafkaBinding, pipelines: dict[str, Pipeline]) -> None:
    mix = make_mix(topics=["logins"], events=300, late=0, delayed=0, duplicates=0, malformed=0)
    result = to_json(produce_generated(binding, pipelines, mix, 100).result())
    assert result["topics"]["logins"]["planned_rate"] == pytest.approx(100, rel=0.05)
    for message in read_back(binding, "logins", result["topics"]["logins"]["offsets"]):
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
    result = to_json(produce_file(binding, pipelines, path, "pos", None).result())
    messages = read_back(binding, "pos", result["topics"]["pos"]["offsets"])
    assert Counter((message.key(), message.value()) for message in messages) == Counter(
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
