"""Prune: old generations and snapshots move to the trash. After a second period they are deleted.

Nothing inside the current generation is touched, because Spark manages those files. `plan` only reads; `act` carries out the
approved plan (ADR 48).
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
from headrace.operations import plans
from headrace.operations.plans import Approval, Item, Plan
from headrace.store import generation, paths, small_files, trees
from headrace.store import snapshot as kept

DAY_MS = 86_400_000
TRASH, DELETE = "move to the trash", "delete"
_STAMP = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class Retention:
    """Retention periods. A generation's age counts from the start of the next one, a snapshot's age from when it was taken."""

    generation_days: float = 14
    snapshot_days: float = 30
    snapshots: int = 3  # the newest of each query are kept regardless of age
    trash_days: float = 7


def plan(root: str, pipelines: Iterable[Pipeline], retention: Retention, now_ms: int | None = None) -> Plan:
    """Return what a prune would remove now, in paths below the root; `notes` name what is old but stays. Changes nothing."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    items: list[Item] = []
    kept_reasons: list[str] = []
    chosen = list(pipelines)
    for pipeline in chosen:
        for query in names.query_names(pipeline):
            old_snapshots = _snapshots(root, pipeline.name, query, retention, now)
            needs = _needs(root, pipeline.name, query, {f"{root}/{item.target}" for item in old_snapshots})
            old_generations, reasons = _generations(root, pipeline.name, query, retention, now, needs)
            items += [*old_generations, *old_snapshots]
            kept_reasons += reasons
    items += _trash(root, retention, now)
    return Plan("prune", ", ".join(pipeline.name for pipeline in chosen), tuple(items), notes=tuple(kept_reasons))


def act(root: str, pipelines: Iterable[Pipeline], retention: Retention, approval: Approval) -> Plan:
    """Carry out the approved plan and return it. Raises HeadraceError as `plans.begin` does.

    If this is interrupted, the next plan contains the rest.
    """
    planned = plan(root, pipelines, retention)
    plans.begin(root, planned, approval)
    stamp = datetime.now(UTC).strftime(_STAMP)
    for item in planned.items:
        if item.action == DELETE:
            trees.remove(f"{root}/{item.target}")
        else:
            trees.move(f"{root}/{item.target}", f"{paths.trash(root)}/{stamp}/{item.target}")
    left = [item.target for item in planned.items if trees.files(f"{root}/{item.target}")]
    if left:
        raise HeadraceError(f"{root}/{left[0]} is still there after it was taken away: find what writes there.")
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
                    f"Generation {number} of {pipeline}.{query} stays: snapshot {needs[number]} needs its output files."
                )
                continue
            # An archive's ledgers stay for ever: they say which offsets held no record (store.gaps).
            folder = folders.checkpoint if query.startswith(names.ARCHIVE_PREFIX) else folders.folder
            items += [_item(root, path, why) for path in (folder, folders.files) if trees.files(path)]
    manifests = {entry.number for entry in known}
    for name in small_files.list_names(paths.query_folder(root, pipeline, query)):
        if name.isdigit() and int(name) not in manifests and int(name) not in current and int(name) < known[-1].number:
            why = f"generation {int(name)} of {pipeline}.{query} has no manifest: a restore that was broken off, or it was lost"
            items.append(_item(root, paths.generation_paths(root, pipeline, query, int(name)).folder, why))
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
            items.append(_item(root, snapshot.paths(root).folder, why))
    complete = {snapshot.id for snapshot in known}
    for name in small_files.list_names(paths.snapshots(root, pipeline, query)):
        # older than a complete snapshot, so no process writes it any more
        if name not in complete and known and name.rpartition("-")[2] < known[-1].id.rpartition("-")[2]:
            why = f"a snapshot of {pipeline}.{query} that was broken off"
            items.append(_item(root, paths.snapshot_paths(root, pipeline, query, name).folder, why))
    return items


def _trash(root: str, retention: Retention, now_ms: int) -> Iterable[Item]:
    for name in small_files.list_names(paths.trash(root)):
        trashed_ms = datetime.strptime(name, _STAMP).replace(tzinfo=UTC).timestamp() * 1000
        if now_ms - trashed_ms > retention.trash_days * DAY_MS:
            yield _item(root, f"{paths.trash(root)}/{name}", f"in the trash for {_days(now_ms - trashed_ms)}", DELETE)


def _item(root: str, path: str, why: str, action: str = TRASH) -> Item:
    size = sum(trees.files(path).values())
    return Item(action, path[len(root) + 1 :], note=f"{why}, {size:,} bytes")


def _days(milliseconds: float) -> str:
    return f"{milliseconds / DAY_MS:.1f} days"
