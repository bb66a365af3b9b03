"""Topics and access rules that follow from a pipeline file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from headrace.contract.model import KafkaSink, Pipeline
from headrace.contract.names import dead_letter_topic, group_prefix, principal

# Largest record batch that a source topic takes, in bytes: Kafka's own default, 1 MiB and the batch's overhead.
SOURCE_RECORD_BYTES = 1_048_588
# What we write ourselves may carry a whole source record and headers beside it; also the producer's max.request.size.
WRITTEN_RECORD_BYTES = 4 * 1_048_576
DEAD_LETTER_RETENTION = timedelta(days=30)


@dataclass(frozen=True)
class Topic:
    """A topic as it must be. `config` holds Kafka's own keys and values as text."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Acl:
    """One ALLOW rule, from any host."""

    principal: str
    resource: Literal["topic", "group"]
    name: str
    pattern: Literal["literal", "prefixed"]
    operation: Literal["READ", "WRITE", "DESCRIBE"]


def sink_topics(pipeline: Pipeline) -> dict[str, KafkaSink]:
    """Return the topics that the declared queries write, with the sink that declares each."""
    return {
        sink.topic: sink for query in pipeline.queries.values() for sink in query.sinks if isinstance(sink, KafkaSink)
    }


def topics(pipeline: Pipeline, replication_factor: int = 1) -> list[Topic]:
    """Return every topic of a pipeline: sources, their dead-letter topics, sinks; sorted by name.

    `replication_factor` sets `min.insync.replicas` (one replica may be away); the number of replicas itself is given
    to Kafka by whoever creates the topic.
    """
    wanted = []
    for name, source in pipeline.sources.items():
        # What another pipeline writes is as its writer wants it, whoever makes it first (ADR 28).
        largest = WRITTEN_RECORD_BYTES if name in pipeline.handed_on else SOURCE_RECORD_BYTES
        wanted.append(_topic(name, source.partitions, source.retention, largest, replication_factor))
        kept = max(source.retention, DEAD_LETTER_RETENTION)
        dead = dead_letter_topic(name)
        wanted.append(_topic(dead, source.partitions, kept, WRITTEN_RECORD_BYTES, replication_factor))
    for name, sink in sink_topics(pipeline).items():
        wanted.append(_topic(name, sink.partitions, sink.retention, WRITTEN_RECORD_BYTES, replication_factor))
    return sorted(wanted, key=lambda topic: topic.name)


def _topic(name: str, partitions: int, retention: timedelta, record_bytes: int, replication_factor: int) -> Topic:
    config = {
        "cleanup.policy": "delete",
        # Producers choose the codec; the broker does not compress a second time.
        "compression.type": "producer",
        "max.message.bytes": str(record_bytes),
        # The skew rule (design 6) compares event time with the broker's clock, which no producer can set.
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(max(1, replication_factor - 1)),
        "retention.ms": str(retention // timedelta(milliseconds=1)),
        # A replica that misses acknowledged records never leads.
        "unclean.leader.election.enable": "false",
    }
    return Topic(name, partitions, config)


def acls(pipeline: Pipeline) -> list[Acl]:
    """Return the least rights of a pipeline's driver: read its sources, write its sinks and dead letters.

    The group prefix covers both the groups of Spark's readers (`groupIdPrefix`) and those that show progress.
    An idempotent producer needs no right of its own since Kafka 3.0 (KIP-679).
    """
    return list(_acls(pipeline))


def _acls(pipeline: Pipeline) -> Iterator[Acl]:
    user = f"User:{principal(pipeline.name)}"
    for topic in sorted(pipeline.sources):
        yield Acl(user, "topic", topic, "literal", "DESCRIBE")
        yield Acl(user, "topic", topic, "literal", "READ")
    for topic in sorted({*map(dead_letter_topic, pipeline.sources), *sink_topics(pipeline)}):
        yield from _writing(user, topic)
    yield Acl(user, "group", group_prefix(pipeline.name), "prefixed", "READ")


def producer_acls(user: str, topics: Iterable[str]) -> list[Acl]:
    """Return the least rights of a client that writes these topics and reads none."""
    return [acl for topic in sorted(topics) for acl in _writing(f"User:{user}", topic)]


def _writing(principal: str, topic: str) -> Iterator[Acl]:
    yield Acl(principal, "topic", topic, "literal", "DESCRIBE")
    yield Acl(principal, "topic", topic, "literal", "WRITE")
