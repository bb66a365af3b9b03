from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.access.bindings import KafkaBinding
from headrace.errors import HeadraceError
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import producer_config, send
from headrace.operations.produce.summary import SendProgress, UndeliveredError
from headrace.store.records import to_json

BINDING = KafkaBinding("127.0.0.1:1", "SASL_PLAINTEXT", "SCRAM-SHA-512", "someone", "secret")


class Message:
    def __init__(self, partition: int, offset: int) -> None:
        self._at = (partition, offset)

    def partition(self) -> int:
        return self._at[0]

    def offset(self) -> int:
        return self._at[1]


class FakeProducer:
    """Holds at most `room` records until it is polled; refuses what `verdict` says."""

    def __init__(self, room: int = 1_000_000, verdict: Callable[[bytes], KafkaError | None] = lambda _: None) -> None:
        self.room, self.verdict = room, verdict
        self.waiting: list[tuple[bytes, Callable[..., None]]] = []
        self.log: list[bytes] = []
        self.full = 0
        self.metadata: Any = type("Metadata", (), {"topics": {"pos": None, "logins": None}})

    def __call__(self, config: dict[str, Any]) -> FakeProducer:
        self.error_cb = config["error_cb"]
        return self

    def __len__(self) -> int:
        return len(self.waiting)

    def list_topics(self, timeout: float) -> Any:
        if isinstance(self.metadata, KafkaException):
            raise self.metadata
        return self.metadata

    def produce(self, topic: str, value: bytes, key: bytes | None, on_delivery: Callable[..., None]) -> None:
        if value == b"enormous":
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if len(self.waiting) >= self.room:
            self.full += 1
            raise BufferError("Local: Queue full")
        self.waiting.append((value, on_delivery))

    def poll(self, timeout: float) -> int:
        batch, self.waiting = self.waiting, []
        for value, on_delivery in batch:
            error = self.verdict(value)
            if error is None:
                self.log.append(value)
                on_delivery(None, Message(0, len(self.log) + 41))
            else:
                on_delivery(error, None)
        return len(batch)

    def flush(self, timeout: float) -> int:
        self.poll(timeout)
        return len(self.waiting)


def records(count: int, gap: float = 0.0) -> Iterator[Record]:
    return (Record("pos", b"k", b"v%d" % number, number * gap, "normal") for number in range(count))


@pytest.mark.parametrize("paced", [True, False])
def test_a_full_buffer_delays_but_loses_and_reorders_nothing(paced: bool) -> None:
    producer = FakeProducer(room=7)
    summary = send(records(1_000), BINDING, ["pos"], paced=paced, make_producer=producer)
    assert producer.full > 100
    assert producer.log == [b"v%d" % number for number in range(1_000)]
    assert (summary.sent, summary.acknowledged, summary.failed) == (1_000, 1_000, 0)


def test_the_summary_has_the_acknowledged_offsets_bytes_and_kinds() -> None:
    result = to_json(send(records(10), BINDING, ["pos"], paced=False, make_producer=FakeProducer()).result())
    topic = result["topics"]["pos"]
    assert topic["offsets"] == {"0": {"first": 42, "last": 51}}
    assert topic["bytes"] == 10 * 3
    assert topic["kinds"] == {"normal": 10}
    assert topic["planned_rate"] is None
    assert not result["interrupted"]


def test_a_record_that_fails_is_an_error_that_carries_the_summary() -> None:
    refusal = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    producer = FakeProducer(verdict=lambda value: refusal if value.endswith(b"7") else None)
    with pytest.raises(UndeliveredError) as caught:
        send(records(100), BINDING, ["pos"], paced=False, make_producer=producer)
    assert "10 of 100 records did not reach Kafka at 127.0.0.1:1" in str(caught.value)
    assert "authorization failed" in str(caught.value).lower()
    assert caught.value.exit_code == 1
    assert (caught.value.summary.acknowledged, caught.value.summary.failed) == (90, 10)


def test_a_record_that_the_client_refuses_is_counted_and_the_rest_is_sent() -> None:
    batch = [Record("pos", None, value, 0.0, "normal") for value in (b"a", b"enormous", b"b")]
    producer = FakeProducer()
    with pytest.raises(UndeliveredError, match="1 of 3 records"):
        send(batch, BINDING, ["pos"], paced=False, make_producer=producer)
    assert producer.log == [b"a", b"b"]


def test_a_paced_record_never_leaves_before_its_time_and_lateness_is_reported() -> None:
    import time

    began = time.monotonic()
    left: list[float] = []

    class Clocked(FakeProducer):
        def produce(self, *args: Any, **options: Any) -> None:
            left.append(time.monotonic() - began)
            super().produce(*args, **options)

    summary = send(records(50, gap=0.004), BINDING, ["pos"], paced=True, make_producer=Clocked())
    assert all(at >= number * 0.004 for number, at in enumerate(left))
    assert summary.max_lateness >= 0
    assert summary.result().topics["pos"].planned_rate == pytest.approx(255.1, abs=0.1)


def test_a_sender_that_falls_behind_says_by_how_much() -> None:
    producer = FakeProducer(room=1)
    slow = producer.poll

    def poll(timeout: float) -> int:
        import time

        time.sleep(0.01)
        return slow(timeout)

    producer.poll = poll  # type: ignore[method-assign]
    summary = send(records(20, gap=0.0001), BINDING, ["pos"], paced=True, make_producer=producer)
    assert summary.acknowledged == 20
    assert summary.max_lateness > 0.1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_sending_and_settles_what_was_sent(number: signal.Signals) -> None:
    def stream() -> Iterator[Record]:
        for record in records(1_000, gap=0.001):
            if record.value == b"v100":
                os.kill(os.getpid(), number)
            yield record

    before = signal.getsignal(number)
    producer = FakeProducer()
    summary = send(stream(), BINDING, ["pos"], paced=True, make_producer=producer)
    assert summary.interrupted
    assert summary.sent == summary.acknowledged == len(producer.log)
    assert 100 <= summary.sent < 1_000
    assert signal.getsignal(number) is before


def test_a_fault_of_the_file_comes_after_what_was_sent_has_settled() -> None:
    def stream() -> Iterator[Record]:
        yield from records(5)
        raise HeadraceError("x.csv, line 7 is not CSV: correct the line.")

    producer = FakeProducer()
    with pytest.raises(
        HeadraceError, match=r"line 7 is not CSV: correct the line\. \(In Kafka before it: 5 records\.\)"
    ):
        send(stream(), BINDING, ["pos"], paced=False, make_producer=producer)
    assert len(producer.log) == 5


def test_progress_ends_at_100_percent() -> None:
    seen: list[SendProgress] = []
    send(records(3_000), BINDING, ["pos"], paced=False, total=3_000, report=seen.append, make_producer=FakeProducer())
    assert seen[-1] == SendProgress(3_000, 3_000, 0, 3_000)
    assert [progress.sent for progress in seen] == sorted(progress.sent for progress in seen)


def test_an_absent_topic_is_said_before_anything_is_sent() -> None:
    producer = FakeProducer()
    with pytest.raises(HeadraceError, match=r"has no topics clicks, impressions .* Run `headrace provision`"):
        send(records(5), BINDING, ["pos", "impressions", "clicks"], paced=False, make_producer=producer)
    assert not producer.log


def test_a_kafka_that_does_not_answer_is_one_sentence() -> None:
    producer = FakeProducer()
    producer.metadata = KafkaException(KafkaError(KafkaError._TRANSPORT))
    with pytest.raises(HeadraceError, match=r"127.0.0.1:1 does not answer .* `headrace status`"):
        send(records(5), BINDING, ["pos"], paced=False, make_producer=producer)


def test_a_refused_login_is_distinguished_from_silence() -> None:
    class Refused(FakeProducer):
        def poll(self, timeout: float) -> int:
            self.error_cb(KafkaError(KafkaError._AUTHENTICATION))
            return 0

    producer = Refused()
    producer.metadata = KafkaException(KafkaError(KafkaError._TRANSPORT))
    with pytest.raises(HeadraceError, match="refuses user 'someone'") as caught:
        send(records(5), BINDING, ["pos"], paced=False, make_producer=producer)
    assert "secret" not in str(caught.value)


def test_the_producer_is_durable_and_chooses_partitions_as_java_does() -> None:
    for paced in (True, False):
        config = producer_config(BINDING, paced=paced)
        assert (config["acks"], config["enable.idempotence"], config["compression.type"]) == ("all", True, "lz4")
        assert config["partitioner"] == "murmur2_random"
