"""Where topics end, and from which offset on they hold what was written since a time."""

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
class Offsets:
    """Asks Kafka for offsets; it reads and commits nothing."""

    consumer: Consumer

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions. Raises HeadraceError where there is no such topic."""
        known = self.consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
        if known.error is not None:
            raise HeadraceError(f"Kafka has no topic {topic} ({known.error}): run `headrace provision`.")
        return sorted(known.partitions)

    def ends(self, topic: str) -> dict[int, int]:
        """Return partition -> end of the committed records (the last stable offset)."""
        return {partition: self._watermarks(topic, partition)[1] for partition in self.partitions(topic)}

    def begins(self, topic: str) -> dict[int, int]:
        """Return partition -> its first offset that is still there."""
        return {partition: self._watermarks(topic, partition)[0] for partition in self.partitions(topic)}

    def since(self, topic: str, at_ms: int) -> dict[str, list[int]]:
        """Return partition -> [start, end) of the records that the broker took at or after a time (ms since 1970)."""
        asked = [TopicPartition(topic, partition, at_ms) for partition in self.partitions(topic)]
        found: dict[str, list[int]] = {}
        for start in self.consumer.offsets_for_times(asked, timeout=TIMEOUT_SECONDS):
            end = self._watermarks(topic, start.partition)[1]
            first = end if start.offset in {OFFSET_END, -1} else start.offset
            found[str(start.partition)] = [first, end]
        return found

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        found: tuple[int, int] = self.consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS
        )
        return found


@contextmanager
def reader(bindings: Path, group: str = "headrace.quality") -> Iterator[Offsets]:
    """Give an Offsets with the binding's login. Raises HeadraceError where Kafka does not answer."""
    binding = read_kafka(bindings)
    consumer = Consumer(binding.reader_config(group))
    try:
        yield Offsets(consumer)
    except KafkaException as error:
        raise HeadraceError(
            f"Kafka at {binding.bootstrap_servers} did not answer ({error.args[0].str()}): see `headrace status`."
        ) from error
    finally:
        consumer.close()
