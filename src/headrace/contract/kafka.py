"""Topics and access rules derived from a pipeline file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal

from headrace.contract.model import KafkaSink, Pipeline
from headrace.contract.names import dead_letter_topic, group_prefix, principal

# Largest record batch of a source topic, in bytes: Kafka's default, 1 MiB plus the batch's overhead.
SOURCE_RECORD_BYTES = 1_048_588
# Records we write may carry an entire source record plus headers; also the producer's max.request.size.
WRITTEN_RECORD_BYTES = 4 * 1_048_576
DEAD_LETTER_RETENTION = timedelta(days=30)
PARTITIONS = "partitions"


@dataclass(frozen=True)
class Topic:
    """A declared topic. `config` maps Kafka setting names to text values.

    `keyed`: readers rely on all records of one key being in one partition.
    """

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    keyed: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class TopicDifference:
    """A topic setting (or the partition count) that differs from the declaration. `now` is None if Kafka reports no value.

    `risk` says what the change may lose. `refusal` says why the change is impossible, and the remedy; it follows the
    topic's name in a sentence.
    """

    setting: str
    now: str | None
    wanted: str
    risk: str = ""
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.setting} {self.now} -> {self.wanted}"


@dataclass(frozen=True)
class Acl:
    """One ALLOW rule, valid from any host."""

    principal: str
    resource: Literal["topic", "group"]
    name: str
    pattern: Literal["literal", "prefixed"]
    operation: Literal["READ", "WRITE", "DESCRIBE"]


def sink_topics(pipeline: Pipeline) -> dict[str, KafkaSink]:
    """Return topic -> the sink that declares it, for all topics that the declared queries write."""
    return {
        sink.topic: sink for query in pipeline.queries.values() for sink in query.sinks if isinstance(sink, KafkaSink)
    }


def topics(pipeline: Pipeline, replication_factor: int = 1) -> list[Topic]:
    """Return every topic of a pipeline: sources, their dead-letter topics, sinks; sorted by name.

    `replication_factor` determines `min.insync.replicas` (one replica may be down). The number of replicas itself is passed
    to Kafka by the code that creates the topic.
    """
    wanted = []
    for name, source in pipeline.sources.items():
        # A topic that another pipeline writes is declared by its writer, whoever creates it first (ADR 28).
        largest = WRITTEN_RECORD_BYTES if name in pipeline.handed_on else SOURCE_RECORD_BYTES
        wanted.append(_topic(name, source.partitions, source.retention, largest, replication_factor))
        kept = max(source.retention, DEAD_LETTER_RETENTION)
        dead = dead_letter_topic(name)
        letters = _topic(dead, source.partitions, kept, WRITTEN_RECORD_BYTES, replication_factor)
        wanted.append(replace(letters, keyed=False))
    for name, sink in sink_topics(pipeline).items():
        wanted.append(_topic(name, sink.partitions, sink.retention, WRITTEN_RECORD_BYTES, replication_factor))
    return sorted(wanted, key=lambda topic: topic.name)


def _topic(name: str, partitions: int, retention: timedelta, record_bytes: int, replication_factor: int) -> Topic:
    config = {
        "cleanup.policy": "delete",
        # Producers choose the codec; the broker does not recompress.
        "compression.type": "producer",
        "max.message.bytes": str(record_bytes),
        # The skew rule compares the event time with the broker's clock, which no producer can set.
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(max(1, replication_factor - 1)),
        "retention.ms": str(retention // timedelta(milliseconds=1)),
        # A replica that misses acknowledged records never becomes leader.
        "unclean.leader.election.enable": "false",
    }
    return Topic(name, partitions, config)


def differences(topic: Topic, config: Mapping[str, str], partitions: int, copies: int) -> list[TopicDifference]:
    """Return the changes that bring a topic with these settings, partitions and replicas to its declared state."""
    changes = []
    if partitions > topic.partitions:
        refusal = (
            f"has {partitions} partitions but {topic.partitions} are declared. Kafka cannot remove partitions: write "
            f"{partitions} in the pipeline file, or use a new topic."
        )
        changes.append(TopicDifference(PARTITIONS, str(partitions), str(topic.partitions), refusal=refusal))
    if partitions < topic.partitions:
        risk = (
            "maps keys to other partitions: the order of a key's records is lost at that point" if topic.keyed else ""
        )
        changes.append(TopicDifference(PARTITIONS, str(partitions), str(topic.partitions), risk))
    for name, wanted in topic.config.items():
        now = config.get(name)
        if now != wanted:
            changes.append(TopicDifference(name, now, wanted, _risk(name, now, wanted), _refusal(name, wanted, copies)))
    return changes


def _risk(setting: str, now: str | None, wanted: str) -> str:
    if now is None:
        return ""
    if setting == "cleanup.policy" and "delete" not in now:
        return "deletes records older than the retention, including the newest of a key"
    if setting == "retention.ms" and (int(now) < 0 or int(now) > int(wanted)):
        return "deletes older records"
    if setting == "message.timestamp.type":
        return "replaces the producers' timestamps with the broker's from now on"
    if setting == "max.message.bytes" and int(now) > int(wanted):
        return "refuses larger records from now on"
    if setting == "min.insync.replicas" and int(now) > int(wanted):
        return "acknowledges records with fewer replicas"
    return ""


def _refusal(setting: str, wanted: str, copies: int) -> str:
    if setting != "min.insync.replicas" or int(wanted) <= copies:
        return ""
    return (
        f"has partitions with {copies} replica(s), and min.insync.replicas={wanted} would refuse every record. Add "
        "replicas with Kafka's kafka-reassign-partitions."
    )


def acls(pipeline: Pipeline) -> list[Acl]:
    """Return the minimal rights of a pipeline's driver: read its sources, write its sinks and dead letters.

    The group prefix covers the groups of Spark's readers (`groupIdPrefix`) and those that show progress.
    An idempotent producer needs no extra right since Kafka 3.0 (KIP-679).
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
    """Return the minimal rights of a client that writes these topics and reads none."""
    return [acl for topic in sorted(topics) for acl in _writing(f"User:{user}", topic)]


def _writing(principal: str, topic: str) -> Iterator[Acl]:
    yield Acl(principal, "topic", topic, "literal", "DESCRIBE")
    yield Acl(principal, "topic", topic, "literal", "WRITE")
