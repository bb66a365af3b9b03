"""Reads a topic between given offsets, without committing group offsets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.access.bindings import read_kafka
from headrace.errors import HeadraceError

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 1.0
BATCH = 5_000


@contextmanager
def reader(bindings: Path, topic: str, name: str, *, uncommitted: bool = False) -> Iterator[Consumer]:
    """Yield a consumer that commits nothing; `name` is its group. Raises HeadraceError if Kafka refuses it.

    `uncommitted`: include the records of open and aborted transactions, to find records that we sent ourselves: they are in
    no transaction, but may come after an open one.
    """
    config = read_kafka(bindings).reader_config(f"headrace.{name}") | {"enable.partition.eof": "true"}
    consumer = Consumer(config | ({"isolation.level": "read_uncommitted"} if uncommitted else {}))
    try:
        yield consumer
    except KafkaException as error:
        fault = error.args[0]
        reason = fault.str() if isinstance(fault, KafkaError) else str(fault)
        raise HeadraceError(
            f"Cannot read topic {topic} from Kafka ({reason}). Check `headrace status`, then `headrace up`."
        ) from error
    finally:
        consumer.close()


def between(consumer: Consumer, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Any]:
    """Yield the records (confluent_kafka Messages) of partition -> (first offset, offset past the last).

    Offsets without a record (transaction markers, aborted or compacted records) are skipped, even at the end: the consumer's
    position counts, not the last record. Raises HeadraceError if Kafka delivers nothing for TIMEOUT_SECONDS, KafkaException
    if it refuses. The consumer comes from `reader`.
    """
    position = {partition: first for partition, (first, past) in ranges.items() if first < past}
    ends = {partition: ranges[partition][1] for partition in position}
    if not ends:
        return
    consumer.assign([TopicPartition(topic, partition, first) for partition, first in position.items()])
    last_delivery = time.monotonic()
    while ends:
        # Kafka's client waits until it has the requested number of records, so never request more than there are.
        left = sum(past - position[partition] for partition, past in ends.items())
        messages = consumer.consume(min(left, BATCH), timeout=POLL_SECONDS)
        last_delivery = time.monotonic() if messages else last_delivery
        if time.monotonic() - last_delivery > TIMEOUT_SECONDS:
            raise HeadraceError(
                f"Kafka delivered no record of {topic} for {TIMEOUT_SECONDS:.0f} s, at {position} of {ends}. Check "
                "`headrace status`."
            )
        for message in messages:
            partition, offset = message.partition(), message.offset()
            past = ends.get(partition)
            if message.error() is None:
                if past is not None and offset < past:
                    yield message
                offset += 1
            elif (
                message.error().code() != KafkaError._PARTITION_EOF
            ):  # the end of a partition, which updates the position
                raise KafkaException(message.error())
            position[partition] = offset
            if past is not None and offset >= past:
                del ends[partition]
