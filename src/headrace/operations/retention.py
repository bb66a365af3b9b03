"""Retention guard: the time until Kafka removes records that a query has not read yet.

A query whose next offset is before the beginning of its topic has lost records (its driver ends as DAMAGED, `failOnDataLoss`).
A query whose next record is old will soon lose records. The time left is the topic's retention minus the age of that record.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from headrace.access.bindings import read_kafka
from headrace.contract import names
from headrace.contract.model import MAX_DURATION, Pipeline
from headrace.errors import HeadraceError
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.desired_state import DesiredState
from headrace.store import generation, ledger
from headrace.store.archive_notes import latest
from headrace.store.checkpoint_log import Offsets

WARN_BELOW = 0.25  # of the retention
TIMEOUT_SECONDS = 15.0

State = Literal["OK", "AT_RISK", "LOST"]
RetentionState = Literal["OK", "AT_RISK", "LOST", "RETIRED"]
FOR_EVER = timedelta.max


@dataclass(frozen=True)
class TopicRetention:
    """How long Kafka keeps a topic's records. Beyond `bytes_` it also removes the oldest ones (None: no such limit)."""

    time: timedelta
    bytes_: int | None = None


@dataclass(frozen=True)
class Place:
    """The position of a query in one partition. `left_seconds` is None if the query has read everything."""

    query: str
    topic: str
    partition: int
    state: State
    next_offset: int
    first_offset: int
    end_offset: int
    left_seconds: float | None


@dataclass(frozen=True)
class RetentionReport:
    """How close each query of a pipeline is to losing records. `state` is the worst one, or RETIRED for a retired pipeline.

    `places` are the positions that are not OK. `bounded_by_bytes` are the topics whose records Kafka also removes by size.
    """

    pipeline: str
    state: RetentionState
    places: tuple[Place, ...] = ()
    least_left_seconds: float | None = None
    bounded_by_bytes: tuple[str, ...] = ()


def guard(deployment: Deployment, pipeline: str, warn_below: float = WARN_BELOW) -> RetentionReport:
    """Check every query once. Raises HeadraceError if Kafka does not answer."""
    described = deployment.pipeline(pipeline)
    kept = kept_by(kafka_admin(deployment.bindings), described.sources)
    places = places_of(deployment, described, warn_below, kept)
    states = {place.state for place in places}
    worst: State = "LOST" if "LOST" in states else "AT_RISK" if "AT_RISK" in states else "OK"
    retired = is_retired(desired_state.read(deployment.root, pipeline), kept, time.time_ns() // 1_000_000)
    left = [place.left_seconds for place in places if place.left_seconds is not None]
    return RetentionReport(
        pipeline=pipeline,
        state="RETIRED" if retired else worst,
        places=tuple(place for place in places if place.state != "OK"),
        least_left_seconds=min(left, default=None),
        bounded_by_bytes=tuple(sorted(topic for topic, bound in kept.items() if bound.bytes_ is not None)),
    )


def kept_by(admin: AdminClient, topics: Iterable[str]) -> dict[str, TopicRetention]:
    """Return how long Kafka keeps each topic's records. Raises HeadraceError if Kafka does not answer."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    kept = {}
    for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_SECONDS).items():
        try:
            settings = {name: str(entry.value) for name, entry in future.result(TIMEOUT_SECONDS).items()}
        except (KafkaException, TimeoutError) as error:
            raise HeadraceError(
                f"Kafka does not return the settings of {resource.name}: see `headrace status`."
            ) from error
        kept[resource.name] = kept_of(settings)
    return kept


def kept_of(settings: Mapping[str, str]) -> TopicRetention:
    """Return the retention in the settings of a topic. A topic that is only compacted keeps records for ever."""
    if "delete" not in settings.get("cleanup.policy", "delete"):
        return TopicRetention(FOR_EVER)
    milliseconds, size = int(settings.get("retention.ms", -1)), int(settings.get("retention.bytes", -1))
    bounded = 0 <= milliseconds < MAX_DURATION // timedelta(milliseconds=1)
    return TopicRetention(timedelta(milliseconds=milliseconds) if bounded else FOR_EVER, None if size < 0 else size)


def is_retired(desired: DesiredState, kept: Mapping[str, TopicRetention], now_ms: int) -> bool:
    """Return whether a pipeline has been stopped for longer than any of its topics keeps a record."""
    stopped = timedelta(milliseconds=now_ms - desired.at_ms)
    return desired.want == "STOPPED" and desired.at_ms > 0 and all(stopped > bound.time for bound in kept.values())


def require_kept(report: RetentionReport) -> None:
    """Raise HeadraceError that names the first position where records are lost or will soon be lost."""
    if report.state in ("OK", "RETIRED"):
        return
    first = next(place for place in report.places if place.state == report.state)
    where = f"{report.pipeline}.{first.query} at {first.topic}/{first.partition} offset {first.next_offset}"
    if report.state == "LOST":
        raise HeadraceError(
            f"{where} has lost {first.first_offset - first.next_offset} records to retention: see "
            "docs/runbooks/RetentionLost.md (the archive may have them)."
        )
    raise HeadraceError(
        f"{where} loses records in {(first.left_seconds or 0) / 3600:.1f} h: let the query catch up, or raise the retention "
        f"of {first.topic} (docs/runbooks/RetentionLost.md)."
    )


def places_of(
    deployment: Deployment, pipeline: Pipeline, warn_below: float, kept: Mapping[str, TopicRetention]
) -> list[Place]:
    """Return the position of every query of a pipeline in every partition that it has read. `kept` is by topic."""
    admin = kafka_admin(deployment.bindings)
    next_offsets: dict[str, Offsets] = {}
    for name in names.query_names(pipeline):
        current = generation.current(deployment.root, pipeline.name, name)
        newest = ledger.newest(current.paths(deployment.root).ledger) if current else None
        if newest:
            next_offsets[name] = ledger.ends(newest)
    ranges = kafka_ranges(admin, latest(*next_offsets.values()))
    ages = _Ages(deployment)
    try:
        return [
            _place(name, topic, partition, offset, ranges[topic, partition], ages, warn_below, kept[topic].time)
            for name, topics in next_offsets.items()
            for topic, parts in topics.items()
            for partition, offset in sorted(parts.items())
            if (topic, partition) in ranges
        ]
    finally:
        ages.close()


def _place(
    name: str,
    topic: str,
    partition: int,
    offset: int,
    available: tuple[int, int],
    ages: _Ages,
    warn_below: float,
    kept: timedelta,
) -> Place:
    retention = kept / timedelta(seconds=1)
    if offset < available[0]:
        return Place(name, topic, partition, "LOST", offset, *available, 0.0)
    age = ages.seconds(topic, partition, offset) if offset < available[1] else None
    left = None if age is None or kept == FOR_EVER else retention - age
    risky = left is not None and left < warn_below * retention
    return Place(name, topic, partition, "AT_RISK" if risky else "OK", offset, *available, left)


class _Ages:
    """Asks Kafka for the time of single records. Queries with the same position share one request."""

    def __init__(self, deployment: Deployment) -> None:
        config = read_kafka(deployment.bindings).reader_config("headrace.retention")
        self._consumer = Consumer(config | {"enable.partition.eof": "true"})
        self._known: dict[tuple[str, int, int], float | None] = {}

    def seconds(self, topic: str, partition: int, offset: int) -> float | None:
        """Return the age of the record at an offset, or of the next existing record.

        None if a reader of committed records receives no record: only markers or aborted records follow, or a
        transaction is open.
        """
        place = (topic, partition, offset)
        if place not in self._known:
            self._consumer.assign([TopicPartition(topic, partition, offset)])
            message = self._consumer.poll(TIMEOUT_SECONDS)
            ended = message is not None and message.error() and message.error().code() == KafkaError._PARTITION_EOF
            if message is None or (message.error() and not ended):
                raise HeadraceError(f"Kafka did not give {topic}/{partition} offset {offset}: see `headrace status`.")
            self._known[place] = None if ended else time.time() - message.timestamp()[1] / 1000
        return self._known[place]

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
