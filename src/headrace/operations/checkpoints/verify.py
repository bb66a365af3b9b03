"""Verify a checkpoint: L1 structure, L2 Kafka still holds what it goes on with, L3 no sink is ahead of it.

Read-only and safe beside a running driver. What cannot be asked is a finding of its own, never taken for sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.contract import names
from headrace.contract.model import FilesSink, Pipeline
from headrace.errors import HeadraceError
from headrace.operations.checkpoints.snapshots import is_stateful
from headrace.operations.clients import kafka_admin
from headrace.store import archive_notes, checkpoint_log, generation, integrity, ledger, paths, topic_identity
from headrace.store.checkpoint_log import Offsets
from headrace.store.integrity import Finding
from headrace.store.records import Json, to_json

KAFKA_SECONDS = 15
_URL_BASE64 = str.maketrans("+/", "-_")
_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}


@dataclass(frozen=True)
class Report:
    """The findings of one query; `generation` and `batch` (committed) are None where it has not run."""

    query: str
    generation: int | None
    batch: int | None
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Return whether nothing critical was found."""
        return not any(finding.severity == "critical" for finding in self.findings)

    def to_json_dict(self) -> Json:
        """Return the report as JSON values."""
        findings = [to_json(finding) | {"runbook": finding.runbook} for finding in self.findings]
        return to_json(self) | {"sound": self.sound, "findings": findings}


def verify(root: str, pipeline: Pipeline, query: str, bindings: Path | None = None) -> Report:
    """Verify the current generation of one query. Without `bindings` (the admin's) Kafka is not asked."""
    name = names.query_name(pipeline.name, query)
    chosen = generation.current(root, pipeline.name, query)
    gone = [
        Finding("MANIFEST_GONE", "critical", names.query_name(pipeline.name, query), told)
        for number in generation.lost(root, pipeline.name, query)
        for told in [generation.manifest_gone(root, pipeline.name, query, number)]
    ]
    if chosen is None:
        return Report(name, None, None, tuple(gone))
    own = chosen.paths(root)
    findings = gone + _readable(own.checkpoint, lambda: integrity.structure(own, stateful=is_stateful(chosen)))
    batch = checkpoint_log.newest_batch(own.checkpoint)
    if bindings and batch is not None:
        findings += _readable(own.checkpoint, lambda: kafka_holds(bindings, own.checkpoint, batch))
        findings += _readable(own.topics, lambda: same_topics(bindings, own, pipeline.name))
    findings += _readable(own.ledger, lambda: _sinks(root, pipeline, query, chosen))
    return Report(name, chosen.number, batch, tuple(dict.fromkeys(findings)))


def verify_all(root: str, pipelines: Iterable[Pipeline], bindings: Path | None = None) -> list[Report]:
    """Verify every query of some pipelines."""
    return [verify(root, pipeline, query, bindings) for pipeline in pipelines for query in names.query_names(pipeline)]


def _readable(where: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what a look finds; what it cannot read is a finding, not the end of the verification."""
    try:
        return look()
    except (HeadraceError, ValueError, KeyError, IndexError) as error:
        return [Finding("LOG_BROKEN", "critical", where, f"has a file that cannot be read: {error}")]


def kafka_holds(bindings: Path, folder: str, batch: int) -> list[Finding]:
    """Return where Kafka does not hold any more (or never had) what comes after batch `batch` of a checkpoint."""
    entry = checkpoint_log.read_entry(folder, batch)
    wanted = checkpoint_log.initial_offsets(folder) | (entry[1] if entry else {})
    try:
        held = kafka_ranges(kafka_admin(bindings), wanted)
    except KafkaException as error:
        return [Finding("KAFKA_SILENT", "warning", "Kafka", f"does not answer, its offsets are unknown: {error}")]
    found = []
    for topic, parts in wanted.items():
        for partition, offset in parts.items():
            where = f"{topic}/{partition}"
            have = held.get((topic, partition))
            if have is None:
                found.append(
                    Finding("TOPIC_GONE", "critical", where, f"is not there, the checkpoint goes on at {offset}")
                )
            elif offset < have[0]:
                what = f"begins at {have[0]}, the checkpoint goes on at {offset}: {have[0] - offset} records are lost to it"
                found.append(Finding("OFFSETS_EXPIRED", "critical", where, what))
            elif offset > have[1]:
                what = f"ends at {have[1]}, the checkpoint is at {offset}: the topic was deleted and made again"
                found.append(Finding("OFFSETS_AHEAD", "critical", where, what))
    return found


def same_topics(bindings: Path, own: paths.GenerationPaths, pipeline: str) -> list[Finding]:
    """Return which topics of a generation, or of a snapshot, were deleted and made again since (`store.topic_identity`)."""
    known = topic_identity.read(own)
    if not known:
        return []
    now = {}
    admin = kafka_admin(bindings)  # named: a client that nothing holds is closed, and its answers never come
    answers = admin.describe_topics(TopicCollection(sorted(known)), request_timeout=KAFKA_SECONDS)
    for topic, answer in answers.items():
        try:
            # as Java writes it: the URL's alphabet, no padding
            now[topic] = str(answer.result(KAFKA_SECONDS + 5).topic_id).translate(_URL_BASE64).rstrip("=")
        except KafkaException as error:
            if error.args[0].code() not in _ABSENT:
                return [
                    Finding("KAFKA_SILENT", "warning", "Kafka", f"does not answer, its topics are unknown: {error}")
                ]
    return [
        Finding("TOPIC_REPLACED", "critical", topic, topic_identity.sentence(topic, known[topic], now[topic], pipeline))
        for topic in topic_identity.replaced(known, now)
    ]


def kafka_ranges(admin: AdminClient, wanted: Offsets) -> dict[tuple[str, int], tuple[int, int]]:
    """Return (topic, partition) -> (first offset held, end). A partition that is not there is left out.

    Raises KafkaException where Kafka does not answer.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        asked = {TopicPartition(topic, partition): spec for topic, parts in wanted.items() for partition in parts}
        for place, future in admin.list_offsets(asked, request_timeout=KAFKA_SECONDS).items() if asked else ():
            try:
                offset = int(future.result(KAFKA_SECONDS + 5).offset)
            except KafkaException as error:
                if error.args[0].code() in _ABSENT:
                    continue
                raise
            found.setdefault((place.topic, place.partition), []).append(offset)
    return {place: (ends[0], ends[1]) for place, ends in found.items() if len(ends) == 2}


def _sinks(root: str, pipeline: Pipeline, query: str, chosen: generation.Generation) -> list[Finding]:
    declared = pipeline.queries.get(query)
    if declared is None:
        return _archive(root, pipeline.name, query, chosen)
    if any(isinstance(sink, FilesSink) for sink in declared.sinks):
        return integrity.files_gone(root, chosen)
    return []


def _archive(root: str, pipeline: str, query: str, chosen: generation.Generation) -> list[Finding]:
    """Check that the archive table has no batch that this generation's checkpoint has not planned, and is there."""
    own = chosen.paths(root)
    committed = checkpoint_log.newest_batch(own.checkpoint)
    newest = archive_notes.newest(root, pipeline, query)
    # after the table: a batch that a driver plans and appends meanwhile is no fault
    planned = checkpoint_log.newest_batch(own.checkpoint, "offsets")
    where = paths.archive_metadata(root, pipeline, query)
    if newest is None:
        rows = any(each["rows_out"] for each in ledger.read(own.ledger))
        lost = committed is not None and rows
        return [Finding("ARCHIVE_GONE", "critical", where, "has no batch, the ledger has rows")] if lost else []
    if newest.generation == chosen.number and newest.batch > (-1 if planned is None else planned):
        what = f"has batch {newest.batch}, the checkpoint only {planned}: coming batches would be taken for replays and lost"
        return [Finding("BEHIND_ARCHIVE", "critical", where, what)]
    return []
