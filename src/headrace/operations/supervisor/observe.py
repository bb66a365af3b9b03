"""What one pass observes of a pipeline: desired state, drivers that run, heartbeat, exit record, checkpoints, Kafka's ends.

No JVM is needed. What does not answer is reported in `Observation.unknown` and never guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.access.bindings import read_kafka
from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.drivers.interface import Launcher, LauncherSilentError
from headrace.operations.supervisor.verdict import CheckpointPosition, Observation
from headrace.store import driver_files, generation
from headrace.store.checkpoint_log import Offsets, distance, initial_offsets, newest_batch, read_batch_range

KAFKA_SECONDS = 5.0
AWAY_SECONDS = 3.0
# What a storage, a launcher's machine or a half-written file can raise; anything else is a defect.
SILENCE = (HeadraceError, OSError, ValueError, KeyError)

Ends = Callable[[Iterable[str]], Offsets]
"""Returns where the committed records of topics end. Raises HeadraceError where Kafka does not answer."""


@dataclass
class KafkaEnds:
    """Kafka's end offsets by one admin client, made when it is first needed. `bindings` is an admin's binding root.

    A topic has two ends: that of all that was written (the high watermark), and that of what a reader of committed records
    gets (the last stable offset), which stands still at the first record of a transaction that is open.
    A Kafka that did not answer is not asked again for a moment: four pipelines would wait one after the other.
    """

    bindings: Path
    _admin: AdminClient | None = field(default=None, init=False)
    _away: tuple[float, HeadraceError] | None = field(default=None, init=False)

    def __call__(self, topics: Iterable[str]) -> Offsets:
        """Return topic -> partition -> last stable offset. Raises HeadraceError where Kafka or a topic is away."""
        return self._answered(topics, IsolationLevel.READ_COMMITTED)

    def written(self, topics: Iterable[str]) -> Offsets:
        """Return topic -> partition -> high watermark. Raises HeadraceError where Kafka or a topic is away."""
        return self._answered(topics, IsolationLevel.READ_UNCOMMITTED)

    def _answered(self, topics: Iterable[str], isolation: IsolationLevel) -> Offsets:
        if self._away and time.monotonic() < self._away[0]:
            raise self._away[1]
        try:
            return self._ask(list(topics), isolation)
        except (KafkaException, TimeoutError) as error:
            away = HeadraceError(
                f"Kafka does not answer ({_reason(error)}): see `headrace status`, then `headrace up`."
            )
            self._away = time.monotonic() + AWAY_SECONDS, away
            raise away from error

    def _ask(self, topics: list[str], isolation: IsolationLevel) -> Offsets:
        if self._admin is None:
            # It logs nothing: the verdict says that Kafka is away.
            self._admin = AdminClient(read_kafka(self.bindings).client_config())
        known = self._admin.list_topics(timeout=KAFKA_SECONDS).topics
        absent = [topic for topic in topics if topic not in known or known[topic].error]
        if absent:
            raise HeadraceError(f"Kafka has no topic {absent[0]!r}: run `headrace provision`.")
        asked = {TopicPartition(t, p): OffsetSpec.latest() for t in topics for p in known[t].partitions}
        answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=KAFKA_SECONDS)
        ends: Offsets = {topic: {} for topic in topics}
        for place, answer in answers.items():
            ends[place.topic][place.partition] = int(answer.result(2 * KAFKA_SECONDS).offset)
        return ends


def observe(launcher: Launcher, pipeline: Pipeline, desired: DesiredState, ends: Ends) -> Observation:
    """Observe a pipeline once. If it is not wanted to run, only the launcher is asked."""
    root = launcher.root
    now_ms = time.time_ns() // 1_000_000
    try:
        running = tuple(launcher.find(pipeline.name))
    except LauncherSilentError as silence:
        return Observation(now_ms, desired, None, unknown=f"the launcher cannot say which drivers run: {silence}")
    except SILENCE as error:
        return Observation(now_ms, desired, None, unknown=f"the launcher cannot say which drivers run: {error!r}")
    if desired.want != "RUNNING":
        return Observation(now_ms, desired, running)
    unknown, heartbeat, exit_record, launcher_record = "", None, None, None
    positions: Mapping[str, CheckpointPosition] = {}
    try:
        # After `find`: a driver that is gone wrote its exit record before it went.
        heartbeat, exit_record = (
            driver_files.heartbeat(root, pipeline.name),
            driver_files.exit_record(root, pipeline.name),
        )
        launcher_record = None if running else launcher.ended(pipeline.name)
    except SILENCE as error:
        unknown = f"the checkpoint cannot be read: {error}"
    try:
        committed = ends(pipeline.sources)
        written = ends.written(pipeline.sources) if isinstance(ends, KafkaEnds) else committed
        positions = positions_of(root, pipeline, committed, written)
    except SILENCE as error:
        unknown = unknown or str(error)
    now_ms = time.time_ns() // 1_000_000
    return Observation(now_ms, desired, running, heartbeat, exit_record, positions, unknown, launcher_record)


def positions_of(
    root: str, pipeline: Pipeline, ends: Offsets, written: Offsets | None = None
) -> dict[str, CheckpointPosition]:
    """Return where each query of the pipeline stands, by its short name.

    `ends`: of the committed records; `written`: of all records, where a transaction may be open.
    """
    return {query: _position(root, pipeline, query, ends, written or ends) for query in names.query_names(pipeline)}


def _position(root: str, pipeline: Pipeline, query: str, ends: Offsets, written: Offsets) -> CheckpointPosition:
    topics = names.topics_of(pipeline, query)
    held, held_at = _held(ends, written, topics)
    try:
        current = generation.current(root, pipeline.name, query)
        if current is None:
            return CheckpointPosition(lag=_lag({}, ends, topics), held=held, held_at=held_at)
        checkpoint = current.paths(root).checkpoint
        batch = newest_batch(checkpoint)
        taken = initial_offsets(checkpoint) if batch is None else read_batch_range(checkpoint, batch).end
    except SILENCE as error:
        return CheckpointPosition(error=f"its checkpoint cannot be read: {error}")
    return CheckpointPosition(current.number, batch, _lag(taken, ends, topics), held=held, held_at=held_at)


def _lag(taken: Offsets, ends: Offsets, topics: Iterable[str]) -> int:
    """Return how many offsets are behind; a partition that was never read counts from 0 (until its first batch)."""
    return distance(taken, {topic: ends[topic] for topic in topics})


def _held(ends: Offsets, written: Offsets, topics: Iterable[str]) -> tuple[int, str]:
    """Return how many offsets stand behind open transactions, and where these begin ("" without one)."""
    waiting = {
        f"{topic}/{partition} offset {end}": written.get(topic, {}).get(partition, end) - end
        for topic in topics
        for partition, end in sorted(ends[topic].items())
    }
    open_places = {place: count for place, count in waiting.items() if count > 0}
    return sum(open_places.values()), ", ".join(open_places)


def _reason(error: Exception) -> str:
    first = error.args[0] if error.args else error
    return str(first.str()) if hasattr(first, "str") else str(first) or type(error).__name__
