"""Expose a query's progress as a Kafka consumer group, only for Kafka's own tools: it is never read back (ADR 0005).

Spark keeps its offsets in the checkpoint and commits none, so Kafka's tools see no lag. The group has no members: its
offsets are altered through the admin API (KIP-396), with the JVM's client. librdkafka's client crashed the driver when
Kafka was killed under load (assertion in rdkafka_queue.h while an alter waited for its coordinator, 2.16.1).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from py4j.java_gateway import JavaObject
from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from headrace.access.bindings import KafkaBinding
from headrace.driver import java
from headrace.driver.session import kafka_options
from headrace.store.checkpoint_log import Offsets
from headrace.store.topic_identity import TopicIds

log = logging.getLogger(__name__)

TIMEOUT_MS = 10_000
CLOSE_MS = 5_000
_PLACE = "org.apache.kafka.common.TopicPartition"
_POSITION = "org.apache.kafka.clients.consumer.OffsetAndMetadata"


class GroupCommitter:
    """Commits offsets of several groups through one admin client, without ever delaying or failing a batch."""

    def __init__(self, spark: SparkSession, binding: KafkaBinding) -> None:
        self._spark = spark
        settings = {name.removeprefix("kafka."): value for name, value in kafka_options(binding).items()}
        settings |= {"request.timeout.ms": str(TIMEOUT_MS), "default.api.timeout.ms": str(TIMEOUT_MS)}
        self._admin = java.named(spark, "org.apache.kafka.clients.admin.AdminClient").create(self._map(settings))
        self._sent: dict[str, JavaObject] = {}  # group -> KafkaFuture of its newest commit

    def commit(self, group: str, offsets: Offsets) -> None:
        """Send the offsets of a finished batch. A failure is logged at the next call, which sends newer offsets anyway."""
        place, position = (java.named(self._spark, name) for name in (_PLACE, _POSITION))
        partitions = {
            place(topic, partition): position(offset)
            for topic, parts in offsets.items()
            for partition, offset in parts.items()
        }
        if not partitions:
            return
        try:
            before = self._sent.get(group)
            if before is not None and before.isCompletedExceptionally():
                log.warning("offsets of group %s were not committed: Kafka's tools saw an older position", group)
            self._sent[group] = self._admin.alterConsumerGroupOffsets(group, self._map(partitions)).all()
        except Py4JError as error:
            log.warning("offsets of group %s not committed: %s", group, error)

    def topic_ids(self, topics: Iterable[str], *, wait_ms: int = TIMEOUT_MS) -> TopicIds:
        """Return Kafka's topic ids (KIP-516). A topic that was deleted and recreated has a new id.

        Missing topics are left out. Raises Py4JError if Kafka does not answer within `wait_ms`.
        """
        asked = java.named(self._spark, "java.util.ArrayList")()
        wanted = list(topics)
        for topic in wanted:
            asked.add(topic)
        options = java.named(self._spark, "org.apache.kafka.clients.admin.DescribeTopicsOptions")().timeoutMs(wait_ms)
        answers = self._admin.describeTopics(asked, options).topicNameValues()
        ids: TopicIds = {}
        for topic in wanted:
            try:
                ids[topic] = str(answers.get(topic).get().topicId().toString())
            except Py4JError as error:
                if "UnknownTopicOrPartition" not in str(error):
                    raise
        return ids

    def end_offsets(self, wanted: Offsets, *, committed: bool = True) -> Offsets:
        """Return the end of each partition in `wanted`: its last stable offset, or (not `committed`) its high watermark.

        Raises Py4JError if Kafka does not answer or has no such partition.
        """
        levels = java.named(self._spark, "org.apache.kafka.common.IsolationLevel")
        level = levels.READ_COMMITTED if committed else levels.READ_UNCOMMITTED
        options = java.named(self._spark, "org.apache.kafka.clients.admin.ListOffsetsOptions")(level)
        latest = java.named(self._spark, "org.apache.kafka.clients.admin.OffsetSpec").latest()
        ends: Offsets = {}
        for topic, parts in wanted.items():
            for partition in parts:
                place = java.named(self._spark, _PLACE)(topic, partition)
                asked = self._admin.listOffsets(self._map({place: latest}), options)
                ends.setdefault(topic, {})[partition] = int(asked.partitionResult(place).get().offset())
        return ends

    def close(self) -> None:
        """Wait a few seconds for pending commits, then close the client."""
        with contextlib.suppress(Py4JError, OSError):  # the JVM may be gone
            self._admin.close(java.named(self._spark, "java.time.Duration").ofMillis(CLOSE_MS))

    def _map(self, values: dict[Any, Any]) -> Any:  # noqa: ANN401 - a java.util.HashMap
        made = java.named(self._spark, "java.util.HashMap")()
        for key, value in values.items():
            made.put(key, value)
        return made
