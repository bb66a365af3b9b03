"""Transactional producers on the real Kafka: committed, aborted, interleaved, and open transactions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from headrace.access.bindings import read_kafka
from headrace.operations.clients import kafka_admin

SECONDS = 120
Records = Iterable[tuple[str, bytes | None]]
"""key, value."""


class Transactions:
    """A transactional producer that writes to one partition of one topic."""

    def __init__(self, bindings: Path, topic: str, partition: int = 0) -> None:
        settings = {"transactional.id": f"tests-{uuid.uuid4().hex}", "linger.ms": 0}
        self._client = read_kafka(bindings).client_config()
        self._producer, self._place = Producer(self._client | settings), (topic, partition)
        self._producer.init_transactions(SECONDS)

    def begin(self) -> None:
        self._producer.begin_transaction()

    def write(self, records: Records) -> None:
        """Write records and wait until Kafka has them, so that another producer's next records follow them."""
        topic, partition = self._place
        for key, value in records:
            self._producer.produce(topic, value, key, partition)
        assert self._producer.flush(SECONDS) == 0

    def commit(self) -> None:
        with self._marked():
            self._producer.commit_transaction(SECONDS)

    def abort(self) -> None:
        with self._marked():
            self._producer.abort_transaction(SECONDS)

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Wait for the marker in the partition: Kafka answers to a commit or an abort before it has written it there."""
        reader = Consumer(self._client | {"group.id": "headrace.tests", "isolation.level": "read_uncommitted"})
        try:
            before, deadline = self._end(reader), time.monotonic() + SECONDS
            yield
            while self._end(reader) <= before:
                assert time.monotonic() < deadline, f"Kafka wrote no marker into {self._place} within {SECONDS} s"
                time.sleep(0.02)
        finally:
            reader.close()

    def _end(self, reader: Consumer) -> int:
        """Return the end of the partition: records of all transactions, and markers."""
        _, end = reader.get_watermark_offsets(TopicPartition(*self._place), timeout=SECONDS)
        return int(end)

    def committed(self, records: Records) -> None:
        """Write records in a separate transaction."""
        self.begin()
        self.write(records)
        self.commit()

    def aborted(self, records: Records) -> None:
        """Write records in a separate transaction and abort it."""
        self.begin()
        self.write(records)
        self.abort()


@contextmanager
def hanging(bindings: Path, topic: str, records: Records, partition: int = 0) -> Iterator[Transactions]:
    """Keep a transaction open while the block runs."""
    producer = Transactions(bindings, topic, partition)
    producer.begin()
    producer.write(records)
    try:
        yield producer
    finally:
        producer.abort()


def make_topics(bindings: Path, names: Iterable[str], **config: str) -> None:
    """Create topics with one partition."""
    admin = kafka_admin(bindings)
    for made in admin.create_topics([NewTopic(name, 1, 1, config=config) for name in names]).values():
        made.result(SECONDS)
