"""Notes in the Iceberg snapshots of an archive table: its newest batch and end offsets. Reads metadata without Spark.

Every append writes both into its snapshot (`driver.sinks.append_archive`). Maintenance snapshots carry no note.
Readers follow the parents to the newest note, so maintenance must never expire the newest snapshot that has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.contract import names
from headrace.store import generation, ledger, records, small_files
from headrace.store.checkpoint_log import Offsets
from headrace.store.paths import archive_metadata

_METADATA = re.compile(r"^v(\d+)\.metadata\.json$")
SNAPSHOT_BATCH = "headrace-batch"
SNAPSHOT_OFFSETS = "headrace-offsets"
SNAPSHOT_TOPIC = "headrace-topic-id"


@dataclass(frozen=True)
class Note:
    """The note of one append: `<pipeline>.<query>/<generation>/<batch>`, end offset of each partition, Kafka topic id.

    The topic id (KIP-516) distinguishes a topic from its namesake that was deleted and recreated with offsets from 0.
    """

    identity: str
    ends: Offsets
    topic_id: str = ""


@dataclass(frozen=True)
class Archived:
    """The newest note of an archive table; `at_ms` is the time of its snapshot (milliseconds since 1970).

    `topic_id` is Kafka's topic id, or "" if an early release wrote none.
    """

    generation: int
    batch: int
    ends: Offsets
    at_ms: int
    topic_id: str = ""


def newest(root: str, pipeline: str, query: str) -> Archived | None:
    """Return the newest note of the archive query's table, or None if the table does not exist or holds no batch."""
    for snapshot in _snapshots(archive_metadata(root, pipeline, query)):
        identity = snapshot.summary.get(SNAPSHOT_BATCH)
        if identity:
            number, batch = identity.rsplit("/", 2)[1:]
            ends = ends_of(snapshot.summary.get(SNAPSHOT_OFFSETS))
            return Archived(int(number), int(batch), ends, snapshot.at_ms, snapshot.summary.get(SNAPSHOT_TOPIC, ""))
    return None


def reached(root: str, pipeline: str, topic: str) -> dict[int, int]:
    """Return partition -> offset up to which the archive holds every record that Kafka delivered of a topic.

    Combines the newest note with the ledger. A batch that consumed only markers or aborted records has no rows and thus no
    snapshot, so only the ledger knows it. A batch enters the ledger after its rows are in the table, so a later read of
    the table contains everything up to these offsets.
    """
    query = names.archive_query(topic)
    noted = newest(root, pipeline, query)
    now = generation.current(root, pipeline, query)
    taken = ledger.newest(now.paths(root).ledger) if now else None
    return latest(noted.ends if noted else {}, ledger.ends(taken) if taken else {}).get(topic, {})


def metadata_file(folder: str) -> str | None:
    """Return the newest metadata file in a table's metadata folder, or None if there is no table.

    In a Hadoop catalog the highest version is the table (Iceberg, HadoopTableOperations.findVersion). The version hint is
    not used: it is deleted and renamed on each commit, so it can be missing for a moment, or for longer after a kill.
    """
    versions = [int(match[1]) for name in small_files.list_names(folder) if (match := _METADATA.match(name))]
    return f"{folder}/v{max(versions)}.metadata.json" if versions else None


def ends_of(text: str | None) -> Offsets:
    """Return the end offsets of a note, or an empty mapping if there is no note."""
    topics = json.loads(text or "{}")
    return {topic: {int(p): int(end) for p, end in parts.items()} for topic, parts in topics.items()}


def ends_text(ends: Offsets) -> str:
    """Return end offsets in the format of a note."""
    return json.dumps(ends, sort_keys=True, separators=(",", ":"))


def latest(*mappings: Offsets) -> Offsets:
    """Return the highest offset of each partition."""
    merged: Offsets = {}
    for offsets in mappings:
        for topic, parts in offsets.items():
            known = merged.setdefault(topic, {})
            for partition, offset in parts.items():
                known[partition] = max(offset, known.get(partition, 0))
    return merged


@dataclass(frozen=True)
class _Snapshot:
    """The fields of a snapshot that are read, by the names of Iceberg's table spec."""

    id: int = records.key("snapshot-id")
    at_ms: int = records.key("timestamp-ms")
    parent: int | None = records.key("parent-snapshot-id", None)
    summary: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Metadata:
    """The fields of a metadata file that are read."""

    current: int | None = records.key("current-snapshot-id", None)
    snapshots: tuple[_Snapshot, ...] = ()


def _snapshots(folder: str) -> Iterator[_Snapshot]:
    """Yield the snapshots of a table, newest first, following their parents."""
    newest_file = metadata_file(folder)
    table = (records.read(_Metadata, newest_file) if newest_file else None) or _Metadata()
    by_id = {snapshot.id: snapshot for snapshot in table.snapshots}
    snapshot = by_id.get(table.current) if table.current is not None else None
    while snapshot is not None:
        yield snapshot
        snapshot = by_id.get(snapshot.parent) if snapshot.parent is not None else None
