"""What an archive table says of itself: which batch it has newest, and up to which offsets. Iceberg's metadata, no Spark.

Every append notes both in its snapshot (`streaming.sinks.append_archive`). Snapshots of maintenance note nothing: the
newest note is found along the parents, so maintenance must never expire the newest snapshot that has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.contract import generation, ledger, names, storage
from headrace.contract.checkpoint import Offsets
from headrace.contract.paths import archive_metadata

_METADATA = re.compile(r"^v(\d+)\.metadata\.json$")
SNAPSHOT_BATCH = "headrace-batch"
SNAPSHOT_OFFSETS = "headrace-offsets"
SNAPSHOT_TOPIC = "headrace-topic-id"


@dataclass(frozen=True)
class Note:
    """What an append noted: `<pipeline>.<query>/<generation>/<batch>`, the end of each partition, Kafka's topic id.

    The id (KIP-516) tells a topic from one of the same name that was deleted and made again and counts from 0 again.
    """

    identity: str
    ends: Offsets
    topic_id: str = ""


@dataclass(frozen=True)
class Archived:
    """The newest note of an archive table; `at_ms` is when its snapshot was made (milliseconds since 1970).

    `topic_id` is Kafka's, "" where an early release noted none.
    """

    generation: int
    batch: int
    ends: Offsets
    at_ms: int
    topic_id: str = ""


def newest(root: str, pipeline: str, query: str) -> Archived | None:
    """Return the newest note of the archive query's table, or None where there is no table or no batch in it."""
    for snapshot in _snapshots(archive_metadata(root, pipeline, query)):
        identity = snapshot["summary"].get(SNAPSHOT_BATCH)
        if identity:
            number, batch = identity.rsplit("/", 2)[1:]
            ends = ends_of(snapshot["summary"].get(SNAPSHOT_OFFSETS))
            topic_id = snapshot["summary"].get(SNAPSHOT_TOPIC) or ""
            return Archived(int(number), int(batch), ends, int(snapshot["timestamp-ms"]), topic_id)
    return None


def reached(root: str, pipeline: str, topic: str) -> dict[int, int]:
    """Return partition -> offset up to which the archive has all that Kafka gave of a topic, by its note and its ledger.

    A batch that took markers or aborted records only has no rows and so no snapshot: its ledger alone knows of it. What
    is read after this from the table holds all of it, for a batch is in the ledger once its rows are in the table.
    """
    query = names.archive_query(topic)
    noted = newest(root, pipeline, query)
    now = generation.current(root, pipeline, query)
    taken = ledger.newest(now.paths(root).ledger) if now else None
    return latest(noted.ends if noted else {}, ledger.ends(taken) if taken else {}).get(topic, {})


def metadata_file(folder: str) -> str | None:
    """Return the newest metadata file in a table's metadata folder, or None where there is no table.

    In a Hadoop catalog the greatest version is the table (Iceberg, HadoopTableOperations.findVersion). The hint beside it
    is deleted and renamed anew: for a moment, or for longer after a kill in that moment, there is none.
    """
    versions = [int(match[1]) for name in storage.list_names(folder) if (match := _METADATA.match(name))]
    return f"{folder}/v{max(versions)}.metadata.json" if versions else None


def ends_of(text: str | None) -> Offsets:
    """Return the end offsets of a note; nothing where there is none."""
    topics = json.loads(text or "{}")
    return {topic: {int(p): int(end) for p, end in parts.items()} for topic, parts in topics.items()}


def ends_text(ends: Offsets) -> str:
    """Return end offsets as a note."""
    return json.dumps(ends, sort_keys=True, separators=(",", ":"))


def latest(*each: Offsets) -> Offsets:
    """Return the greatest offset of each partition."""
    found: Offsets = {}
    for offsets in each:
        for topic, parts in offsets.items():
            known = found.setdefault(topic, {})
            for partition, offset in parts.items():
                known[partition] = max(offset, known.get(partition, 0))
    return found


def _snapshots(folder: str) -> Iterator[dict[str, Any]]:
    """Yield the snapshots of a table, newest first, along their parents."""
    newest_file = metadata_file(folder)
    text = storage.read_text(newest_file) if newest_file else None
    if not text:
        return
    table = json.loads(text)
    by_id = {each["snapshot-id"]: each for each in table.get("snapshots", ())}
    snapshot = by_id.get(table.get("current-snapshot-id"))
    while snapshot is not None:
        yield snapshot
        snapshot = by_id.get(snapshot.get("parent-snapshot-id"))
