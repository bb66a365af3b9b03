"""Records for a generated source, and the transactions in which they are sent, by a random generator."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from headrace.access.bindings import read_kafka
from headrace.contract.model import Column, Source
from tests.driver.decode_maker import Maker
from tests.support.drivers import Message
from tests.support.generated_columns import GROWN

SECONDS = 120
Headers = list[tuple[str, bytes | None]]
PLAIN, COMMITTED, ABORTED, INTERLEAVED = "plain", "committed", "aborted", "interleaved"


@dataclass(frozen=True)
class Sent:
    """One record to send."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)


class RecordMaker(Maker):
    """Records of one source: few values for each column, so that rows meet in groups, and all that `Maker` invents."""

    def __init__(self, random_: random.Random, source: Source) -> None:
        super().__init__(random_)
        self.source = source
        self.pools: dict[int, list[str]] = {}
        self.calm = True
        for column in source.columns.values():
            self.pools[id(column)] = [self.fitting(column) for _ in range(4)]
        if source.event_time:
            del self.pools[id(source.columns[source.event_time.column])]

    def sent(self) -> Sent:
        """Return one record for one of the source's partitions."""
        pick, chance = self.random.choice, self.random.random()
        record = self.record(self.source)
        value: bytes | None = record
        if chance < 0.02:
            value = None
        elif chance < 0.03:
            value = b""
        elif chance < 0.035 and record.lstrip()[:1] == b"{":
            filled = json.dumps("x" * self.random.randrange(900_000, 1_000_000)).encode()
            value = b'{"huge": ' + filled + b", " + record.lstrip()[1:]
        elif chance < 0.05:
            value = self.random.randbytes(self.random.randrange(40))
        headers: Headers = []
        while self.random.random() < 0.15:
            names = ["trace", "headrace.id", "headrace.reason", "record.headrace.id", "", "é"]
            headers.append((pick(names), pick([None, b"", b"\xff\x00", b"text"])))
        return Sent(
            self.random.randrange(self.source.partitions),
            pick([None, b"", b"k", self.random.randbytes(5)]),
            value,
            headers,
        )

    def object(self, fields: list[tuple[tuple[str, ...], str]], blank: str) -> str:
        """Return an object with these fields. Of two inner objects of one name only the last counts, so calm records have one."""
        if self.calm:
            steps = [path[:1] for path, _ in fields]
            fields = sorted(fields, key=lambda entry: steps.index(entry[0][:1]))
        return super().object(fields, blank)

    def value(self, column: Column) -> str:
        if column.type == "json":
            return super().value(column)
        if self.random.random() < 0.55 and id(column) in self.pools:
            return self.random.choice(self.pools[id(column)])
        return self.fitting(column) if self.calm or self.random.random() < 0.8 else super().value(column)

    def fitting(self, column: Column) -> str:
        """Return JSON that the column accepts, but for texts too long for a key; null sometimes, if it may be."""
        pick, kind = self.random.choice, column.type
        if not column.required and self.random.random() < 0.15:
            return "null"
        if kind.startswith("decimal"):
            return self.amount(*map(int, kind[8:-1].split(",")))
        if kind in ("int", "long"):
            bits = {"int": 31, "long": 63}[kind]
            return str(
                pick(
                    [
                        0,
                        5,
                        -(2**bits),
                        2**bits - 1,
                        self.random.randrange(-(2**bits), 2**bits),
                        self.random.randrange(-9, 9),
                    ]
                )
            )
        if kind == "date" and self.random.random() < 0.4:
            return json.dumps(
                pick(["0001-01-01", "9999-12-31", "1582-10-04", "1582-10-10", "1582-10-15", "1969-12-31", "2024-02-29"])
            )
        if kind == "timestamp" and self.random.random() < 0.85:
            return json.dumps(self.near())
        if kind == "string" and self.random.random() < 0.06:
            return json.dumps(pick([GROWN, GROWN, "", "a", "7"]))
        return super().value(column)

    def amount(self, precision: int, scale: int) -> str:
        """Return a number of at most this many digits in one of its spellings."""
        pick = self.random.choice
        unscaled = self.random.randrange(10 ** self.random.randint(1, precision))
        sign, digits = pick(["", "", "-"]), str(unscaled).rjust(scale + 1, "0")
        spelled = digits[: len(digits) - scale] + ("." + digits[len(digits) - scale :] if scale else "")
        if self.random.random() < 0.2:
            spelled = f"{unscaled}{pick('eE')}-{'0' * pick([0, 1, 30])}{scale}"
        elif "." in spelled and self.random.random() < 0.2:
            spelled += "0" * pick([1, 20, 60])
        return json.dumps(sign + spelled) if self.random.random() < 0.3 else sign + spelled

    def near(self) -> str:
        """Return a time on one day, now and then one that is late, at an edge, or in the future."""
        pick, between = self.random.choice, self.random.randint
        if self.random.random() < 0.04:
            return pick(
                [
                    "1970-01-01 00:00:00",
                    "9999-12-31T23:59:59.999999Z",
                    "2099-01-01 00:00:00",
                    "2025-12-31T23:59:59.9-00:01",
                ]
            )
        hours, minutes = pick([(8, 9), (10, 10), (10, 10), (10, 11), (12, 13)]), pick([(0, 2), (0, 59)])
        clock = f"2026-03-01{pick(' T')}{between(*hours):02}:{between(*minutes):02}:{pick(['00', '59', f'{between(0, 59):02}'])}"
        return (
            clock
            + pick(["", "", ".5", ".123456", ".123999", ".000001"])
            + pick(["", "", "Z", "+00:30", "-0330", "+05"])
        )


class Senders:
    """The producers of a test run: one without transactions and two with."""

    def __init__(self, bindings: Path) -> None:
        self.client = read_kafka(bindings).client_config()
        settings = {"linger.ms": 0, "message.max.bytes": 2_000_000}
        self.plain = Producer(self.client | settings)
        self.both = [
            Producer(self.client | settings | {"transactional.id": f"generated-{uuid.uuid4().hex}"}) for _ in range(2)
        ]
        for producer in self.both:
            producer.init_transactions(SECONDS)

    def send(self, random_: random.Random, topic: str, records: Sequence[Sent]) -> list[Sent]:
        """Send records in pieces, each plain or in one or two transactions. Returns those that count."""
        counted: list[Sent] = []
        for piece in _pieces(random_, records):
            kind = random_.choice([PLAIN, PLAIN, COMMITTED, ABORTED, INTERLEAVED])
            if kind == PLAIN:
                self._write(self.plain, topic, piece)
                counted += piece
            else:
                counted += self._transactions(random_, topic, piece, kind)
        self._await_stable(topic)
        return counted

    def _transactions(self, random_: random.Random, topic: str, records: Sequence[Sent], kind: str) -> list[Sent]:
        ends = {
            COMMITTED: [True],
            ABORTED: [False],
            INTERLEAVED: random_.choice([[True, False], [True, True], [False, True]]),
        }[kind]
        used = list(zip(self.both, ends, strict=False))
        for producer, _ in used:
            producer.begin_transaction()
        counted = []
        for piece in _pieces(random_, records, 4):
            producer, commits = random_.choice(used)
            self._write(producer, topic, piece)
            counted += piece if commits else []
        for producer, commits in used:
            if commits:
                producer.commit_transaction(SECONDS)
            else:
                producer.abort_transaction(SECONDS)
        return counted

    def _write(self, producer: Producer, topic: str, records: Sequence[Sent]) -> None:
        for record in records:
            producer.produce(topic, record.value, record.key, record.partition, headers=record.headers)
        assert producer.flush(SECONDS) == 0

    def _await_stable(self, topic: str) -> None:
        """Wait for the markers: Kafka answers to a commit or an abort before it has written them to the partitions."""
        deadline = time.monotonic() + SECONDS
        while ends(self.client, topic, "read_committed") != ends(self.client, topic, "read_uncommitted"):
            assert time.monotonic() < deadline, f"a transaction of {topic} stays open"
            time.sleep(0.02)


def ends(client: dict[str, Any], topic: str, isolation: str = "read_committed") -> dict[int, int]:
    """Return partition -> end offset."""
    consumer = _consumer(client, isolation)
    try:
        partitions = consumer.list_topics(topic, timeout=SECONDS).topics[topic].partitions
        return {
            p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=SECONDS)[1] for p in sorted(partitions)
        }
    finally:
        consumer.close()


def committed(client: dict[str, Any], topic: str) -> list[Message]:
    """Return the committed records of a topic by partition and offset; the topic stands still."""
    waiting = {partition for partition, end in ends(client, topic).items() if end}
    consumer, messages = _consumer(client | {"enable.partition.eof": True}, "read_committed"), []
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in waiting])
        deadline = time.monotonic() + SECONDS
        while waiting:
            assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
            for message in consumer.consume(5_000, timeout=0.05):
                error = message.error()
                if error is None:
                    messages.append(_message(message))
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    waiting.discard(message.partition())
    finally:
        consumer.close()
    return sorted(messages, key=lambda m: (m.partition, m.offset))


def _consumer(client: dict[str, Any], isolation: str) -> Consumer:
    return Consumer(client | {"group.id": "headrace.tests", "enable.auto.commit": False, "isolation.level": isolation,
                              "fetch.wait.max.ms": 20})  # fmt: skip


def _message(message: Any) -> Message:
    key, value, headers = message.key(), message.value(), message.headers()
    place = message.topic(), message.partition(), message.offset()
    return Message(*place, message.timestamp()[1], key, value, tuple(headers or ()))


def _pieces(random_: random.Random, records: Sequence[Sent], most: int = 25) -> Iterator[list[Sent]]:
    first = 0
    while first < len(records):
        size = random_.randint(1, most)
        yield list(records[first : first + size])
        first += size
