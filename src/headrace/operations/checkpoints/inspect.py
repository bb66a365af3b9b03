"""Inspection of a query's checkpoint. It only reads files, so it is safe beside a running driver."""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace.contract import fingerprint, names
from headrace.store import checkpoint_log, generation, ledger, trees
from headrace.store import snapshot as kept
from headrace.store.paths import GenerationPaths
from headrace.store.snapshot import SnapshotSummary


@dataclass(frozen=True)
class InspectedGeneration:
    """One generation of a query. Times are milliseconds since 1970, ages seconds, sizes bytes. None: unknown.

    `offsets` maps topic -> partition -> end of the newest batch in the ledger; `fingerprint` is the beginning of its hash. The
    last five fields are those of the manifest.
    """

    generation: int
    started_ms: int
    planned_batch: int | None
    committed_batch: int | None
    offsets: checkpoint_log.Offsets | None
    watermark_ms: int | None
    written_ms: int | None
    age_seconds: float | None
    state_bytes: int
    bytes: int
    files: int
    ledger_records: int
    fingerprint: str | None
    reason: str
    by: str
    snapshot: str
    lineage: tuple[tuple[int, int], ...]
    starting_ms: int | None


@dataclass(frozen=True)
class Inspected:
    """The generations of a query, oldest first, the number of the current one, and the snapshots."""

    query: str
    current: int | None
    generations: tuple[InspectedGeneration, ...]
    snapshots: tuple[SnapshotSummary, ...]


def inspect(root: str, pipeline: str, query: str) -> Inspected:
    """Return what is known about a query's checkpoint."""
    generations = generation.all_of(root, pipeline, query)
    now_ms = time.time_ns() // 1_000_000
    return Inspected(
        names.query_name(pipeline, query),
        generations[-1].number if generations else None,
        tuple(_generation(one, one.paths(root), now_ms) for one in generations),
        tuple(snapshot.summary for snapshot in kept.listed(root, pipeline, query)),
    )


def has_batch(root: str, pipeline: str, query: str) -> bool:
    """Return whether the query's current generation has a finished batch."""
    current = generation.current(root, pipeline, query)
    return current is not None and checkpoint_log.newest_batch(current.paths(root).checkpoint) is not None


def _generation(chosen: generation.Generation, paths: GenerationPaths, now_ms: int) -> InspectedGeneration:
    newest = ledger.newest(paths.ledger)
    sizes = trees.files(paths.folder)
    return InspectedGeneration(
        generation=chosen.number,
        started_ms=chosen.started_micros // 1000,
        planned_batch=checkpoint_log.newest_batch(paths.checkpoint, "offsets"),
        committed_batch=checkpoint_log.newest_batch(paths.checkpoint),
        offsets=ledger.ends(newest) if newest else None,
        watermark_ms=newest["watermark_ms"] if newest else None,
        written_ms=newest["written_ms"] if newest else None,
        age_seconds=round((now_ms - newest["written_ms"]) / 1000, 1) if newest else None,
        state_bytes=sum(size for path, size in sizes.items() if "/state/" in f"/{path}"),
        bytes=sum(sizes.values()),
        files=len(sizes),
        ledger_records=sum(map(len, ledger.runs(paths.ledger))),
        fingerprint=fingerprint.digest(chosen.fingerprint)[:12] if chosen.fingerprint else None,
        reason=chosen.reason,
        by=chosen.by,
        snapshot=chosen.snapshot,
        lineage=chosen.lineage,
        starting_ms=chosen.starting_ms,
    )
