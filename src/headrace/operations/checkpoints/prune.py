"""Prune: old generations and snapshots go to the trash, and from there, after a second period, for good.

Nothing inside the current generation is ever touched: Spark manages what it keeps there. A plan only reads; `act` computes
it again and refuses if it differs.
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
    """How long things stay. Generations count from when the next one began, snapshots from when they were taken."""

    generation_days: float = 14
    snapshot_days: float = 30
    snapshots: int = 3  # the newest of each query stay whatever their age
    trash_days: float = 7


@dataclass(frozen=True)
class Item:
    """One tree that would go: to the trash, or (`delete`) out of it for good."""

    path: str
    delete: bool
    why: str
    bytes: int


@dataclass(frozen=True)
class PrunePlan:
    """What a prune would do; `fingerprint` is what an approval is for. `kept` says what is old and stays, and why."""

    items: tuple[Item, ...]
    fingerprint: str
    kept: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Return how many bytes would go."""
        return sum(item.bytes for item in self.items)


def plan(root: str, pipelines: Iterable[Pipeline], retention: Retention, now_ms: int | None = None) -> PrunePlan:
    """Return what a prune would take away now. Nothing is changed."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    items: list[Item] = []
    stay: list[str] = []
    for pipeline in pipelines:
        for query in names.query_names(pipeline):
            leaving = _snapshots(root, pipeline.name, query, retention, now)
            needs = _needs(root, pipeline.name, query, {item.path for item in leaving})
            going, kept_for = _generations(root, pipeline.name, query, retention, now, needs)
            items += [*going, *leaving]
            stay += kept_for
    items += _trash(root, retention, now)
    basis = [(item.path, item.delete) for item in items]
    return PrunePlan(tuple(items), short_id(basis), tuple(stay))


def act(root: str, pipelines: Iterable[Pipeline], retention: Retention, fingerprint: str) -> PrunePlan:
    """Carry out the plan with this fingerprint and return it. Raises HeadraceError if the plan differs by now.

    Broken off half way, the next plan has the rest.
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


def _needs(root: str, pipeline: str, query: str, leaving: Iterable[str]) -> dict[int, str]:
    """Return generation -> a snapshot that stays and is restored with that generation's output files.

    A snapshot holds no output files: a restore reads those of its generation, and of the ones that this came from.
    """
    needs: dict[int, str] = {}
    for snapshot in kept.listed(root, pipeline, query):
        folders = snapshot.paths(root)
        if folders.folder not in leaving:
            source = generation.read(folders.manifest)
            lineage = source.lineage if source else ()
            needs |= dict.fromkeys((snapshot.generation, *(number for number, _ in lineage)), snapshot.id)
    return needs


def _generations(
    root: str, pipeline: str, query: str, retention: Retention, now_ms: int, needs: Mapping[int, str]
) -> tuple[list[Item], list[str]]:
    """Return what goes, and a sentence about each old generation that stays because a snapshot needs its files."""
    known = generation.all_of(root, pipeline, query)
    if not known:
        return [], []
    items: list[Item] = []
    stay: list[str] = []
    current = {known[-1].number} | {number for number, _ in known[-1].lineage}
    # a start may be ahead of the clock (`generation.next_start_micros`)
    ages = {old.number: max(0, now_ms - later.started_micros // 1000) for old, later in pairwise(known)}
    for number, age in ages.items():
        if number not in current and age >= retention.generation_days * DAY_MS:
            why = f"generation {number} of {pipeline}.{query} was followed by another {_days(age)} ago"
            folders = paths.generation_paths(root, pipeline, query, number)
            if number in needs and trees.files(folders.files):
                stay.append(
                    f"generation {number} of {pipeline}.{query}: snapshot {needs[number]} needs its output files"
                )
                continue
            # The ledgers of an archive say for ever which offsets held no record (store.gaps).
            folder = folders.checkpoint if query.startswith(names.ARCHIVE_PREFIX) else folders.folder
            items += [_item(path, why) for path in (folder, folders.files) if trees.files(path)]
    manifests = {made.number for made in known}
    for name in small_files.list_names(paths.query_folder(root, pipeline, query)):
        if name.isdigit() and int(name) not in manifests and int(name) not in current and int(name) < known[-1].number:
            why = f"generation {int(name)} of {pipeline}.{query} has no manifest: a restore that was broken off, or it was lost"
            items.append(_item(paths.generation_paths(root, pipeline, query, int(name)).folder, why))
    return items, stay


def _snapshots(root: str, pipeline: str, query: str, retention: Retention, now_ms: int) -> list[Item]:
    items: list[Item] = []
    known = kept.listed(root, pipeline, query)
    now = generation.current(root, pipeline, query)
    keep = {snapshot.id for snapshot in known[-max(1, retention.snapshots) :]} | {now.snapshot if now else ""}
    for snapshot in known:
        age = now_ms - snapshot.taken_ms
        if snapshot.id not in keep and age > retention.snapshot_days * DAY_MS:
            why = f"a snapshot of {pipeline}.{query} that is {_days(age)} old"
            items.append(_item(snapshot.paths(root).folder, why))
    complete = {snapshot.id for snapshot in known}
    for name in small_files.list_names(paths.snapshots(root, pipeline, query)):
        # taken before one that is complete: nobody writes this any more
        if name not in complete and known and name.rpartition("-")[2] < known[-1].id.rpartition("-")[2]:
            why = f"a snapshot of {pipeline}.{query} that was broken off"
            items.append(_item(paths.snapshot_paths(root, pipeline, query, name).folder, why))
    return items


def _trash(root: str, retention: Retention, now_ms: int) -> Iterable[Item]:
    for name in small_files.list_names(paths.trash(root)):
        thrown = datetime.strptime(name, _STAMP).replace(tzinfo=UTC).timestamp() * 1000
        if now_ms - thrown > retention.trash_days * DAY_MS:
            path = f"{paths.trash(root)}/{name}"
            yield Item(path, delete=True, why=f"in the trash for {_days(now_ms - thrown)}", bytes=_bytes(path))


def _item(path: str, why: str) -> Item:
    return Item(path, delete=False, why=why, bytes=_bytes(path))


def _bytes(path: str) -> int:
    return sum(trees.files(path).values())


def _days(milliseconds: float) -> str:
    return f"{milliseconds / DAY_MS:.1f} days"
