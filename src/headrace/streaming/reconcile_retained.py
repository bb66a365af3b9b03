"""From when on a topic that we write is whole: retention or `delete_records` may have taken what is older.

Kafka says where each partition begins. Whatever its first record is, or whether it has one at all: a partition that begins
after offset 0 has lost its beginning. When that was, its first record tells. A partition without any record tells nothing,
so each run also notes where the partitions ended: what was written after a look is there as long as the partition does not
begin after the end that was seen then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.contract import paths, storage
from headrace.contract.bindings import read_kafka
from headrace.streaming import java
from headrace.streaming.batch_job import Job
from headrace.streaming.session import kafka_options

KEPT_LOOKS = 400
TIMEOUT_MS = "30000"
_ADMIN = "org.apache.kafka.clients.admin"


@dataclass(frozen=True)
class Look:
    """Where the partitions of a topic ended at a time (milliseconds since 1970)."""

    at_ms: int
    ends: Mapping[int, int]


def whole_since_ms(begins: Mapping[int, int], first_ms: Mapping[int, int], looks: Sequence[Look], now_ms: int) -> int:
    """Return the time from which on a topic is whole (milliseconds since 1970), 0 where nothing was ever removed.

    `begins`: partition -> Kafka's first offset. `first_ms`: partition -> time of its oldest record, of those that have one.
    `looks`: earlier ones, oldest first. `now_ms`: when Kafka said where they begin.
    """
    return max((_since(p, begin, first_ms.get(p), looks, now_ms) for p, begin in begins.items() if begin), default=0)


def since_ms(job: Job, topic: str, records: DataFrame) -> int:
    """Return from when on `topic` is whole; `records` (see `reconcile_sinks.topic`) are kept and were read before this call.

    Notes where the topic ends, for later runs. Raises Py4JError where Kafka does not answer.
    """
    begins, ends = _bounds(job, topic)
    now_ms = time.time_ns() // 1_000_000  # after Kafka's answer: what it had lost by then is older
    times = records.groupBy("partition").agg(F.min(F.unix_millis("timestamp")).alias("at")).collect()
    looks = _looks(job, topic)
    found = whole_since_ms(begins, {row.partition: row["at"] for row in times}, looks, now_ms)
    _note(job, topic, with_look(looks, Look(now_ms, ends)))
    return found


def with_look(looks: Sequence[Look], new: Look) -> list[Look]:
    """Return the looks with a new one; one that saw the same ends as the last says nothing new: the earlier one says more."""
    if looks and looks[-1].ends == new.ends:
        return list(looks)
    return [*looks, new][-KEPT_LOOKS:]


def _since(partition: int, begin: int, first_ms: int | None, looks: Sequence[Look], now_ms: int) -> int:
    seen = [look.at_ms for look in looks if look.ends.get(partition, -1) >= begin]
    return min([now_ms, *seen, *([] if first_ms is None else [first_ms])])


def _bounds(job: Job, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return partition -> first offset, and partition -> end, as Kafka says them now."""
    with _client(job) as admin:
        wanted = java.named(job.spark, "java.util.ArrayList")()
        wanted.add(topic)
        count = admin.describeTopics(wanted).topicNameValues().get(topic).get().partitions().size()
        place = java.named(job.spark, "org.apache.kafka.common.TopicPartition")
        places = {number: place(topic, number) for number in range(count)}
        spec = java.named(job.spark, f"{_ADMIN}.OffsetSpec")
        found = []
        for each in (spec.earliest(), spec.latest()):
            asked = java.named(job.spark, "java.util.HashMap")()
            for where in places.values():
                asked.put(where, each)
            answer = admin.listOffsets(asked)
            found.append({p: int(answer.partitionResult(where).get().offset()) for p, where in places.items()})
    return found[0], found[1]


@contextmanager
def _client(job: Job) -> Iterator[Any]:
    options = java.named(job.spark, "java.util.HashMap")()
    for name, value in kafka_options(read_kafka(job.bindings)).items():
        options.put(name.removeprefix("kafka."), value)
    options.put("default.api.timeout.ms", TIMEOUT_MS)
    admin = java.named(job.spark, f"{_ADMIN}.AdminClient").create(options)
    try:
        yield admin
    finally:
        admin.close()


def _looks(job: Job, topic: str) -> list[Look]:
    found: Mapping[str, Any] = storage.read_json(paths.topic_looks(job.root, job.pipeline.name)) or {}
    return [Look(each["at_ms"], {int(p): end for p, end in each["ends"].items()}) for each in found.get(topic, ())]


def _note(job: Job, topic: str, looks: Sequence[Look]) -> None:
    path = paths.topic_looks(job.root, job.pipeline.name)
    told = [{"at_ms": look.at_ms, "ends": {str(p): end for p, end in look.ends.items()}} for look in looks]
    storage.write_json(path, (storage.read_json(path) or {}) | {topic: told})
