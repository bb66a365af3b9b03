"""The ends of topics, and the offsets of the records since a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from headrace.access.bindings import read_kafka
from headrace.errors import HeadraceError

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class TopicOffsets:
    """Asks Kafka for offsets. It reads no record and commits nothing."""

    consumer: Consumer

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions. Raises HeadraceError if the topic does not exist."""
        known = self.consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
        if known.error is not None:
            raise HeadraceError(f"Kafka has no topic {topic} ({known.error}): run `headrace provision`.")
        return sorted(known.partitions)

    def ends(self, topic: str) -> dict[int, int]:
        """Return partition -> end of the committed records (the last stable offset)."""
        return {partition: self._watermarks(topic, partition)[1] for partition in self.partitions(topic)}

    def begins(self, topic: str) -> dict[int, int]:
        """Return partition -> its first available offset."""
        return {partition: self._watermarks(topic, partition)[0] for partition in self.partitions(topic)}

    def since(self, topic: str, at_ms: int) -> dict[str, list[int]]:
        """Return partition -> [start, end) of the records that the broker received at or after a time (ms since 1970)."""
        requests = [TopicPartition(topic, partition, at_ms) for partition in self.partitions(topic)]
        ranges: dict[str, list[int]] = {}
        for start in self.consumer.offsets_for_times(requests, timeout=TIMEOUT_SECONDS):
            end = self._watermarks(topic, start.partition)[1]
            first = end if start.offset in {OFFSET_END, -1} else start.offset
            ranges[str(start.partition)] = [first, end]
        return ranges

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        watermarks: tuple[int, int] = self.consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS
        )
        return watermarks


@contextmanager
def reader(bindings: Path, group: str = "headrace.quality") -> Iterator[TopicOffsets]:
    """Yield a TopicOffsets with the binding's login. Raises HeadraceError if Kafka does not answer."""
    binding = read_kafka(bindings)
    consumer = Consumer(binding.reader_config(group))
    try:
        yield TopicOffsets(consumer)
    except KafkaException as error:
        raise HeadraceError(
            f"Kafka at {binding.bootstrap_servers} did not answer ({error.args[0].str()}): see `headrace status`."
        ) from error
    finally:
        consumer.close()
