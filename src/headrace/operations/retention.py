"""Retention guard: how long until Kafka removes what a query has not read yet.

A query that stands behind the beginning of its topic has lost records (its driver ends as DAMAGED, `failOnDataLoss`); one
whose next record is old will. The time left is the topic's retention minus the age of the next record to read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from headrace.contract import generation, ledger, names
from headrace.contract.bindings import read_kafka
from headrace.contract.model import MAX_DURATION, Pipeline
from headrace.errors import HeadraceError
from headrace.operations import intent
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.intent import DesiredState

WARN_BELOW = 0.25  # of the retention
TIMEOUT_SECONDS = 15.0

State = Literal["OK", "AT_RISK", "LOST"]
FOR_EVER = timedelta.max


@dataclass(frozen=True)
class Kept:
    """How long Kafka keeps a topic's records now; `bytes_`: it removes the oldest beyond so many too (None: it does not)."""

    time: timedelta
    bytes_: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a query stands in one partition. `left_seconds` is None where it has read all that can be read."""

    query: str
    topic: str
    partition: int
    state: State
    next_offset: int
    first_offset: int
    end_offset: int
    left_seconds: float | None


def guard(deployment: Deployment, pipeline: str, warn_below: float = WARN_BELOW) -> dict[str, Any]:
    """Look at every query once.

    Returns {pipeline, state (the worst, or RETIRED), places (those that are not OK), least_left_seconds, bounded_by_bytes
    (topics)}. Raises HeadraceError where Kafka does not answer.
    """
    found = deployment.pipeline(pipeline)
    kept = kept_by(kafka_admin(deployment.bindings), found.sources)
    places = look(deployment, found, warn_below, kept)
    worst = next((s for s in ("LOST", "AT_RISK") if any(each.state == s for each in places)), "OK")
    if is_retired(intent.read(deployment.root, pipeline), kept, time.time_ns() // 1_000_000):
        worst = "RETIRED"
    left = [each.left_seconds for each in places if each.left_seconds is not None]
    return {
        "pipeline": pipeline,
        "state": worst,
        "places": [asdict(each) for each in places if each.state != "OK"],
        "least_left_seconds": min(left, default=None),
        "bounded_by_bytes": sorted(topic for topic, each in kept.items() if each.bytes_ is not None),
    }


def kept_by(admin: AdminClient, topics: Iterable[str]) -> dict[str, Kept]:
    """Return how long Kafka keeps each topic's records. Raises HeadraceError where it does not answer."""
    asked = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    found = {}
    for resource, future in admin.describe_configs(asked, request_timeout=TIMEOUT_SECONDS).items():
        try:
            settings = {name: str(entry.value) for name, entry in future.result(TIMEOUT_SECONDS).items()}
        except (KafkaException, TimeoutError) as error:
            raise HeadraceError(
                f"Kafka does not tell the settings of {resource.name}: see `headrace status`."
            ) from error
        found[resource.name] = kept_of(settings)
    return found


def kept_of(settings: Mapping[str, str]) -> Kept:
    """Return what the settings of a topic say. One that is only compacted keeps the newest record of each key for ever."""
    if "delete" not in settings.get("cleanup.policy", "delete"):
        return Kept(FOR_EVER)
    milliseconds, size = int(settings.get("retention.ms", -1)), int(settings.get("retention.bytes", -1))
    bounded = 0 <= milliseconds < MAX_DURATION // timedelta(milliseconds=1)
    return Kept(timedelta(milliseconds=milliseconds) if bounded else FOR_EVER, None if size < 0 else size)


def is_retired(desired: DesiredState, kept: Mapping[str, Kept], now_ms: int) -> bool:
    """Return whether a pipeline is stopped, and has been for longer than each of its topics keeps a record."""
    stopped = timedelta(milliseconds=now_ms - desired.at_ms)
    return desired.want == "STOPPED" and desired.at_ms > 0 and all(stopped > each.time for each in kept.values())


def require_kept(told: dict[str, Any]) -> None:
    """Raise HeadraceError that names the first place where records are lost or soon will be."""
    if told["state"] in ("OK", "RETIRED"):
        return
    first = next(each for each in told["places"] if each["state"] == told["state"])
    place = (
        f"{told['pipeline']}.{first['query']} at {first['topic']}/{first['partition']} offset {first['next_offset']}"
    )
    if told["state"] == "LOST":
        gone = first["first_offset"] - first["next_offset"]
        raise HeadraceError(
            f"{place} has lost {gone} records to retention: see docs/runbooks/RetentionLost.md (the archive may have them)."
        )
    raise HeadraceError(
        f"{place} loses records in {first['left_seconds'] / 3600:.1f} h: let the query catch up, or raise the retention of "
        f"{first['topic']} (docs/runbooks/RetentionLost.md)."
    )


def look(deployment: Deployment, pipeline: Pipeline, warn_below: float, kept: Mapping[str, Kept]) -> list[Place]:
    """Return where every query of a pipeline stands in every partition that it has read from; `kept` is by topic."""
    admin = kafka_admin(deployment.bindings)
    wanted: dict[str, dict[str, dict[int, int]]] = {}
    for name in names.query_names(pipeline):
        now = generation.current(deployment.root, pipeline.name, name)
        newest = ledger.newest(now.paths(deployment.root).ledger) if now else None
        if newest:
            wanted[name] = {t: {int(p): end for p, (_, end) in parts.items()} for t, parts in newest["offsets"].items()}
    asked: dict[str, dict[int, int]] = {}
    for topics in wanted.values():
        for topic, parts in topics.items():
            asked.setdefault(topic, {}).update(parts)
    ranges = kafka_ranges(admin, asked)
    ages = _Ages(deployment)
    try:
        return [
            _place(name, topic, partition, offset, ranges[topic, partition], ages, warn_below, kept[topic].time)
            for name, topics in wanted.items()
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
    held: tuple[int, int],
    ages: _Ages,
    warn_below: float,
    kept: timedelta,
) -> Place:
    retention = kept / timedelta(seconds=1)
    if offset < held[0]:
        return Place(name, topic, partition, "LOST", offset, *held, 0.0)
    age = ages.seconds(topic, partition, offset) if offset < held[1] else None
    left = None if age is None or kept == FOR_EVER else retention - age
    risky = left is not None and left < warn_below * retention
    return Place(name, topic, partition, "AT_RISK" if risky else "OK", offset, *held, left)


class _Ages:
    """Asks Kafka for the time of single records; queries that stand at one place ask once."""

    def __init__(self, deployment: Deployment) -> None:
        config = read_kafka(deployment.bindings).reader_config("headrace.retention")
        self._consumer = Consumer(config | {"enable.partition.eof": "true"})
        self._known: dict[tuple[str, int, int], float | None] = {}

    def seconds(self, topic: str, partition: int, offset: int) -> float | None:
        """Return the age of the record at an offset, or of the next one that is there.

        None where a reader of committed records gets none: only markers or aborted records follow, or a transaction is open.
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
        """Leave Kafka."""
        self._consumer.close()
