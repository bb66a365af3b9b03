"""Show a query's progress as a Kafka consumer group, for Kafka's own tools only: it is never read back (ADR 0005).

Spark keeps its offsets in the checkpoint and commits none, so Kafka's tools see no lag. The group has no members: its
offsets are altered through the admin API (KIP-396).
"""

from __future__ import annotations

import logging
from concurrent.futures import Future

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.contract.bindings import KafkaBinding
from headrace.streaming.checkpoint import Offsets

log = logging.getLogger(__name__)


class GroupCommitter:
    """Commits offsets of several groups through one admin client, without ever holding up or failing a batch."""

    def __init__(self, binding: KafkaBinding) -> None:
        self._admin = AdminClient(binding.client_config() | {"log_level": 3})

    def commit(self, group: str, offsets: Offsets) -> None:
        """Send the offsets of a finished batch. A failure is logged: the next batch brings newer ones."""
        partitions = [
            TopicPartition(topic, partition, offset)
            for topic, parts in offsets.items()
            for partition, offset in parts.items()
        ]
        if not partitions:
            return
        try:
            futures = self._admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, partitions)], request_timeout=10
            )
        except KafkaException as error:
            log.warning("offsets of group %s not committed: %s", group, error)
            return
        for future in futures.values():
            future.add_done_callback(lambda done: _report(group, done))


def _report(group: str, done: Future[ConsumerGroupTopicPartitions]) -> None:
    error = done.exception()
    if error:
        log.warning("offsets of group %s not committed: %s", group, error)
