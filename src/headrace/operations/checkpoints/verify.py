"""Verify a checkpoint: L1 its structure is sound, L2 Kafka still has the records that it reads next, L3 no sink is ahead of it.

Read-only and safe beside a running driver. A check that cannot be carried out is a separate finding, never a success.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.checkpoints.snapshots import is_stateful
from headrace.operations.clients import kafka_admin
from headrace.store import (
    archive_notes,
    checkpoint_log,
    file_sink,
    generation,
    integrity,
    ledger,
    lost_folders,
    paths,
    topic_identity,
)
from headrace.store.checkpoint_log import Offsets
from headrace.store.integrity import Defect

KAFKA_SECONDS = 15
_URL_BASE64 = str.maketrans("+/", "-_")
_ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}


@dataclass(frozen=True)
class VerifyReport:
    """The findings of one query. `generation` and `batch` (committed) are None if the query has not run."""

    COMPUTED: ClassVar = ("sound",)
    query: str
    generation: int | None
    batch: int | None
    findings: tuple[Defect, ...]

    @property
    def sound(self) -> bool:
        """Return whether nothing critical was found."""
        return not integrity.critical(self.findings)


def verify(root: str, pipeline: Pipeline, query: str, bindings: Path | None = None) -> VerifyReport:
    """Verify the current generation of one query. Without `bindings` (the admin's), Kafka is not queried."""
    name = names.query_name(pipeline.name, query)
    chosen = generation.current(root, pipeline.name, query)
    missing = [
        Defect("MANIFEST_GONE", "critical", name, message)
        for number in generation.lost(root, pipeline.name, query)
        for message in [generation.manifest_gone(root, pipeline.name, query, number)]
    ]
    if chosen is None:
        gone = lost_folders.folder_gone(root, pipeline, query)
        lost = [Defect("FOLDER_GONE", "critical", name, gone)] if gone else []
        return VerifyReport(name, None, None, (*missing, *lost))
    folders = chosen.paths(root)
    findings = missing + _readable(
        folders.checkpoint, lambda: integrity.structure(folders, stateful=is_stateful(chosen))
    )
    batch = checkpoint_log.newest_batch(folders.checkpoint)
    if bindings and batch is not None:
        findings += _readable(folders.checkpoint, lambda: kafka_holds(bindings, folders.checkpoint, batch))
        findings += _readable(folders.topics, lambda: same_topics(bindings, folders, pipeline.name))
    findings += _readable(folders.ledger, lambda: _sinks(root, pipeline, query, chosen))
    return VerifyReport(name, chosen.number, batch, tuple(dict.fromkeys(findings)))


def verify_all(root: str, pipelines: Iterable[Pipeline], bindings: Path | None = None) -> list[VerifyReport]:
    """Verify every query of some pipelines."""
    return [verify(root, pipeline, query, bindings) for pipeline in pipelines for query in names.query_names(pipeline)]


def _readable(where: str, check: Callable[[], list[Defect]]) -> list[Defect]:
    """Return the findings of a check. A file that it cannot read is a finding and does not end the verification."""
    try:
        return check()
    except (HeadraceError, ValueError, KeyError, IndexError) as error:
        return [Defect("LOG_BROKEN", "critical", where, f"has a file that cannot be read: {error}")]


def kafka_holds(bindings: Path, folder: str, batch: int) -> list[Defect]:
    """Return a finding for each partition where Kafka no longer has (or never had) the records after batch `batch`."""
    wanted = checkpoint_log.initial_offsets(folder) | checkpoint_log.ends(folder, batch)
    try:
        ranges = kafka_ranges(kafka_admin(bindings), wanted)
    except KafkaException as error:
        return [Defect("KAFKA_SILENT", "warning", "Kafka", f"does not answer, its offsets are unknown: {error}")]
    findings = []
    for topic, parts in wanted.items():
        for partition, offset in parts.items():
            where = f"{topic}/{partition}"
            bounds = ranges.get((topic, partition))
            if bounds is None:
                findings.append(
                    Defect("TOPIC_GONE", "critical", where, f"is not there, the checkpoint goes on at {offset}")
                )
            elif offset < bounds[0]:
                what = f"begins at {bounds[0]}, the checkpoint goes on at {offset}: {bounds[0] - offset} records are lost to it"
                findings.append(Defect("OFFSETS_EXPIRED", "critical", where, what))
            elif offset > bounds[1]:
                what = f"ends at {bounds[1]}, the checkpoint is at {offset}: the topic was deleted and made again"
                findings.append(Defect("OFFSETS_AHEAD", "critical", where, what))
    return findings


def same_topics(bindings: Path, folders: paths.GenerationPaths, pipeline: str) -> list[Defect]:
    """Return a finding for each topic of a generation or snapshot that was deleted and recreated (`store.topic_identity`)."""
    recorded_ids = topic_identity.read(folders)
    if not recorded_ids:
        return []
    current_ids = {}
    admin = kafka_admin(bindings)  # keep a reference: an unreferenced client is closed, and its answers never arrive
    answers = admin.describe_topics(TopicCollection(sorted(recorded_ids)), request_timeout=KAFKA_SECONDS)
    for topic, answer in answers.items():
        try:
            # in Java's notation: the URL-safe alphabet without padding
            current_ids[topic] = str(answer.result(KAFKA_SECONDS + 5).topic_id).translate(_URL_BASE64).rstrip("=")
        except KafkaException as error:
            if error.args[0].code() not in _ABSENT:
                return [Defect("KAFKA_SILENT", "warning", "Kafka", f"does not answer, its topics are unknown: {error}")]
    return [
        Defect(
            "TOPIC_REPLACED",
            "critical",
            topic,
            topic_identity.sentence(topic, recorded_ids[topic], current_ids[topic], pipeline),
        )
        for topic in topic_identity.replaced(recorded_ids, current_ids)
    ]


def kafka_ranges(admin: AdminClient, wanted: Offsets) -> dict[tuple[str, int], tuple[int, int]]:
    """Return (topic, partition) -> (first available offset, end). A partition that does not exist is left out.

    Raises KafkaException if Kafka does not answer.
    """
    ends_of: dict[tuple[str, int], list[int]] = {}
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        requests = {TopicPartition(topic, partition): spec for topic, parts in wanted.items() for partition in parts}
        for place, future in admin.list_offsets(requests, request_timeout=KAFKA_SECONDS).items() if requests else ():
            try:
                offset = int(future.result(KAFKA_SECONDS + 5).offset)
            except KafkaException as error:
                if error.args[0].code() in _ABSENT:
                    continue
                raise
            ends_of.setdefault((place.topic, place.partition), []).append(offset)
    return {place: (ends[0], ends[1]) for place, ends in ends_of.items() if len(ends) == 2}


def _sinks(root: str, pipeline: Pipeline, query: str, chosen: generation.Generation) -> list[Defect]:
    declared = pipeline.queries.get(query)
    if declared is None:
        return _archive(root, pipeline.name, query, chosen)
    return integrity.files_gone(root, chosen) if file_sink.is_sink_of(declared) else []


def _archive(root: str, pipeline: str, query: str, chosen: generation.Generation) -> list[Defect]:
    """Check that the archive table exists and has no batch that this generation's checkpoint has not planned."""
    folders = chosen.paths(root)
    committed = checkpoint_log.newest_batch(folders.checkpoint)
    newest = archive_notes.newest(root, pipeline, query)
    # read after the table: a batch that a driver plans and appends meanwhile is no fault
    planned = checkpoint_log.newest_batch(folders.checkpoint, "offsets")
    where = paths.archive_metadata(root, pipeline, query)
    if newest is None:
        rows = any(record["rows_out"] for record in ledger.read(folders.ledger))
        lost = committed is not None and rows
        return [Defect("ARCHIVE_GONE", "critical", where, "has no batch, the ledger has rows")] if lost else []
    if newest.generation == chosen.number and newest.batch > (-1 if planned is None else planned):
        what = f"has batch {newest.batch}, the checkpoint only {planned}: coming batches would be taken for replays and lost"
        return [Defect("BEHIND_ARCHIVE", "critical", where, what)]
    return []
