"""Snapshots below the storage root: their metadata, and whether their files are unchanged.

They are taken and restored by `operations.checkpoints`, and tested by `batch.restore_drill`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from headrace.store import paths, records, small_files, trees
from headrace.store.paths import GenerationPaths


@dataclass(frozen=True)
class SnapshotSummary:
    """One snapshot, for people. `files` is the number of its files."""

    id: str
    pipeline: str
    query: str
    generation: int
    batch: int
    taken_ms: int
    reason: str
    bytes: int
    files: int


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. `files` maps each path inside the snapshot to its SHA-256; times are milliseconds since 1970."""

    id: str
    pipeline: str
    query: str
    generation: int
    batch: int
    taken_ms: int
    reason: str
    bytes: int
    files: dict[str, str]

    def paths(self, root: str) -> GenerationPaths:
        """Return the snapshot's folders below a storage root."""
        return paths.snapshot_paths(root, self.pipeline, self.query, self.id)

    @property
    def digest(self) -> str:
        """Return one hash over all files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()

    @property
    def summary(self) -> SnapshotSummary:
        """Return the snapshot with the number of its files instead of the list."""
        return SnapshotSummary(**{**vars(self), "files": len(self.files)})


def listed(root: str, pipeline: str, query: str) -> list[Snapshot]:
    """Return the complete snapshots of a query, oldest first. A snapshot without a record was aborted and is ignored."""
    snapshots = [
        read(root, pipeline, query, name) for name in small_files.list_names(paths.snapshots(root, pipeline, query))
    ]
    return sorted(
        (snapshot for snapshot in snapshots if snapshot), key=lambda snapshot: (snapshot.taken_ms, snapshot.id)
    )


def read(root: str, pipeline: str, query: str, snapshot: str) -> Snapshot | None:
    """Return one snapshot by its id, or None if there is no complete one."""
    return records.read(Snapshot, paths.snapshot_record(root, pipeline, query, snapshot))


def damaged(root: str, snapshot: Snapshot) -> list[str]:
    """Return the files of a snapshot that are missing or have another hash; empty if it is intact."""
    folder = snapshot.paths(root).folder
    wrong = []
    for path, wanted in snapshot.files.items():
        try:
            same = trees.sha256(f"{folder}/{path}") == wanted
        except FileNotFoundError:
            same = False
        if not same:
            wrong.append(path)
    return wrong
