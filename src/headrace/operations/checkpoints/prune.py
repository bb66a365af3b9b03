"""Prune: old generations and snapshots move to the trash. After a second period they are deleted.

Nothing inside the current generation is touched, because Spark manages those files. A plan only reads. `act` computes the plan
again and refuses if it differs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.store import generation, paths, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.records import short_id

DAY_MS = 86_400_000
_STAMP = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class Retention:
    """Retention periods. A generation's age counts from the start of the next one, a snapshot's age from when it was taken."""

    generation_days: float = 14
    snapshot_days: float = 30
    snapshots: int = 3  # the newest of each query are kept regardless of age
    trash_days: float = 7


@dataclass(frozen=True)
class Item:
    """One tree to remove: it moves to the trash, or (`delete`) is deleted from the trash."""

    path: str
    delete: bool
    why: str
    bytes: int


@dataclass(frozen=True)
class PrunePlan:
    """What a prune would do. An approval names the `fingerprint`. `kept` lists what is old but stays, with the reason."""

    items: tuple[Item, ...]
    fingerprint: str
    kept: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Return how many bytes would be removed."""
        return sum(item.bytes for item in self.items)


def plan(root: str, pipelines: Iterable[Pipeline], retention: Retention, now_ms: int | None = None) -> PrunePlan:
    """Return what a prune would remove now. Changes nothing."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    items: list[Item] = []
    kept_reasons: list[str] = []
    for pipeline in pipelines:
        for query in names.query_names(pipeline):
            old_snapshots = _snapshots(root, pipeline.name, query, retention, now)
            needs = _needs(root, pipeline.name, query, {item.path for item in old_snapshots})
            old_generations, reasons = _generations(root, pipeline.name, query, retention, now, needs)
            items += [*old_generations, *old_snapshots]
            kept_reasons += reasons
    items += _trash(root, retention, now)
    basis = [(item.path, item.delete) for item in items]
    return PrunePlan(tuple(items), short_id(basis), tuple(kept_reasons))


def act(root: str, pipelines: Iterable[Pipeline], retention: Retention, fingerprint: str) -> PrunePlan:
    """Carry out the plan with this fingerprint and return it. Raises HeadraceError if the plan has changed.

    If this is interrupted, the next plan contains the rest.
    """
    planned = plan(root, pipelines, retention)
    if planned.fingerprint != fingerprint:
        raise HeadraceError("The work of a prune is not what it was when this was planned: look at a new plan.")
    stamp = datetime.now(UTC).strftime(_STAMP)
    for item in planned.items:
        if item.delete:
            trees.remove(item.path)
        else:
            trees.move(item.path, f"{paths.trash(root)}/{stamp}/{item.path[len(root) + 1 :]}")
    left = [item.path for item in planned.items if trees.files(item.path)]
    if left:
        raise HeadraceError(f"{left[0]} is still there after it was taken away: look for what writes there.")
    return planned


def _needs(root: str, pipeline: str, query: str, removed_folders: Iterable[str]) -> dict[int, str]:
    """Return generation -> a kept snapshot whose restore needs that generation's output files.

    A snapshot contains no output files. A restore reads those of the snapshot's generation and of its lineage.
    """
    needs: dict[int, str] = {}
    for snapshot in kept.listed(root, pipeline, query):
        folders = snapshot.paths(root)
        if folders.folder not in removed_folders:
            source = generation.read(folders.manifest)
            lineage = source.lineage if source else ()
            needs |= dict.fromkeys((snapshot.generation, *(number for number, _ in lineage)), snapshot.id)
    return needs


def _generations(
    root: str, pipeline: str, query: str, retention: Retention, now_ms: int, needs: Mapping[int, str]
) -> tuple[list[Item], list[str]]:
    """Return what to remove, and a sentence for each old generation that stays because a snapshot needs its files."""
    known = generation.all_of(root, pipeline, query)
    if not known:
        return [], []
    items: list[Item] = []
    kept_reasons: list[str] = []
    current = {known[-1].number} | {number for number, _ in known[-1].lineage}
    # a start may be ahead of the clock (`generation.next_start_micros`)
    ages = {old.number: max(0, now_ms - later.started_micros // 1000) for old, later in pairwise(known)}
    for number, age in ages.items():
        if number not in current and age >= retention.generation_days * DAY_MS:
            why = f"generation {number} of {pipeline}.{query} was followed by another {_days(age)} ago"
            folders = paths.generation_paths(root, pipeline, query, number)
            if number in needs and trees.files(folders.files):
                kept_reasons.append(
                    f"generation {number} of {pipeline}.{query}: snapshot {needs[number]} needs its output files"
                )
                continue
            # An archive's ledgers stay for ever: they say which offsets held no record (store.gaps).
            folder = folders.checkpoint if query.startswith(names.ARCHIVE_PREFIX) else folders.folder
            items += [_item(path, why) for path in (folder, folders.files) if trees.files(path)]
    manifests = {entry.number for entry in known}
    for name in small_files.list_names(paths.query_folder(root, pipeline, query)):
        if name.isdigit() and int(name) not in manifests and int(name) not in current and int(name) < known[-1].number:
            why = f"generation {int(name)} of {pipeline}.{query} has no manifest: a restore that was broken off, or it was lost"
            items.append(_item(paths.generation_paths(root, pipeline, query, int(name)).folder, why))
    return items, kept_reasons


def _snapshots(root: str, pipeline: str, query: str, retention: Retention, now_ms: int) -> list[Item]:
    items: list[Item] = []
    known = kept.listed(root, pipeline, query)
    current = generation.current(root, pipeline, query)
    keep = {snapshot.id for snapshot in known[-max(1, retention.snapshots) :]} | {current.snapshot if current else ""}
    for snapshot in known:
        age = now_ms - snapshot.taken_ms
        if snapshot.id not in keep and age > retention.snapshot_days * DAY_MS:
            why = f"a snapshot of {pipeline}.{query} that is {_days(age)} old"
            items.append(_item(snapshot.paths(root).folder, why))
    complete = {snapshot.id for snapshot in known}
    for name in small_files.list_names(paths.snapshots(root, pipeline, query)):
        # older than a complete snapshot, so no process writes it any more
        if name not in complete and known and name.rpartition("-")[2] < known[-1].id.rpartition("-")[2]:
            why = f"a snapshot of {pipeline}.{query} that was broken off"
            items.append(_item(paths.snapshot_paths(root, pipeline, query, name).folder, why))
    return items


def _trash(root: str, retention: Retention, now_ms: int) -> Iterable[Item]:
    for name in small_files.list_names(paths.trash(root)):
        trashed_ms = datetime.strptime(name, _STAMP).replace(tzinfo=UTC).timestamp() * 1000
        if now_ms - trashed_ms > retention.trash_days * DAY_MS:
            path = f"{paths.trash(root)}/{name}"
            yield Item(path, delete=True, why=f"in the trash for {_days(now_ms - trashed_ms)}", bytes=_bytes(path))


def _item(path: str, why: str) -> Item:
    return Item(path, delete=False, why=why, bytes=_bytes(path))


def _bytes(path: str) -> int:
    return sum(trees.files(path).values())


def _days(milliseconds: float) -> str:
    return f"{milliseconds / DAY_MS:.1f} days"
