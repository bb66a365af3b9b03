"""From when a topic that we write is complete: retention or `delete_records` may have deleted older records.

Kafka reports where each partition begins. A partition that begins after offset 0 has lost its beginning; the time of its
first record tells when. A partition without records gives no such time, so each run also notes where the partitions
ended: records written after such a note still exist as long as the partition does not begin after the noted end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.access.bindings import read_kafka
from headrace.batch.finite_job import Job
from headrace.driver import java
from headrace.driver.session import kafka_options
from headrace.store import paths, small_files

KEPT_NOTES = 400
TIMEOUT_MS = "30000"
_ADMIN = "org.apache.kafka.clients.admin"


@dataclass(frozen=True)
class EndsAt:
    """The ends of a topic's partitions at a time (milliseconds since 1970)."""

    at_ms: int
    ends: Mapping[int, int]


def complete_since_ms(
    begins: Mapping[int, int], first_ms: Mapping[int, int], notes: Sequence[EndsAt], now_ms: int
) -> int:
    """Return the time from which a topic is complete (milliseconds since 1970), 0 if nothing was ever deleted.

    `begins`: partition -> Kafka's first offset. `first_ms`: partition -> time of its oldest record, if it has one.
    `notes`: earlier notes, oldest first. `now_ms`: when Kafka reported `begins`.
    """
    return max((_since(p, begin, first_ms.get(p), notes, now_ms) for p, begin in begins.items() if begin), default=0)


def since_ms(job: Job, topic: str, records: DataFrame) -> int:
    """Return from when `topic` is complete; `records` (see `sink_frames.topic`) are cached and were read before this call.

    Notes the ends of the topic for later runs. Raises Py4JError if Kafka does not answer.
    """
    begins, ends = _bounds(job, topic)
    now_ms = time.time_ns() // 1_000_000  # after Kafka's answer: anything deleted by then is older
    times = records.groupBy("partition").agg(F.min(F.unix_millis("timestamp")).alias("at")).collect()
    notes = _noted_ends(job, topic)
    complete_since = complete_since_ms(begins, {row.partition: row["at"] for row in times}, notes, now_ms)
    _note(job, topic, with_ends(notes, EndsAt(now_ms, ends)))
    return complete_since


def with_ends(notes: Sequence[EndsAt], new: EndsAt) -> list[EndsAt]:
    """Return the notes with a new one; if its ends equal the last note's it is left out, because the earlier one says more."""
    if notes and notes[-1].ends == new.ends:
        return list(notes)
    return [*notes, new][-KEPT_NOTES:]


def _since(partition: int, begin: int, first_ms: int | None, notes: Sequence[EndsAt], now_ms: int) -> int:
    observed = [note.at_ms for note in notes if note.ends.get(partition, -1) >= begin]
    return min([now_ms, *observed, *([] if first_ms is None else [first_ms])])


def _bounds(job: Job, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return partition -> first offset, and partition -> end, as Kafka reports them now."""
    with _client(job) as admin:
        wanted = java.named(job.spark, "java.util.ArrayList")()
        wanted.add(topic)
        count = admin.describeTopics(wanted).topicNameValues().get(topic).get().partitions().size()
        place = java.named(job.spark, "org.apache.kafka.common.TopicPartition")
        places = {number: place(topic, number) for number in range(count)}
        spec = java.named(job.spark, f"{_ADMIN}.OffsetSpec")
        offsets = []
        for which in (spec.earliest(), spec.latest()):
            asked = java.named(job.spark, "java.util.HashMap")()
            for where in places.values():
                asked.put(where, which)
            answer = admin.listOffsets(asked)
            offsets.append({p: int(answer.partitionResult(where).get().offset()) for p, where in places.items()})
    return offsets[0], offsets[1]


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


def _noted_ends(job: Job, topic: str) -> list[EndsAt]:
    noted: Mapping[str, Any] = small_files.read_json(paths.topic_looks(job.root, job.pipeline.name)) or {}
    return [EndsAt(entry["at_ms"], {int(p): end for p, end in entry["ends"].items()}) for entry in noted.get(topic, ())]


def _note(job: Job, topic: str, notes: Sequence[EndsAt]) -> None:
    path = paths.topic_looks(job.root, job.pipeline.name)
    entries = [{"at_ms": note.at_ms, "ends": {str(p): end for p, end in note.ends.items()}} for note in notes]
    small_files.write_json(path, (small_files.read_json(path) or {}) | {topic: entries})
