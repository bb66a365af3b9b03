"""Prune: old generations and snapshots go to the trash, and from there, after a second while, for good.

Nothing inside a living generation is ever touched: what Spark keeps there is Spark's business. A plan reads only;
`act` computes it again and refuses if it is another one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from headrace.contract import generation, names, paths, storage, trees
from headrace.contract import snapshot as kept
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError

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
class Plan:
    """What a prune would do; `fingerprint` is what an approval is for. `kept` says what is old and stays, and why."""

    items: tuple[Item, ...]
    fingerprint: str
    kept: tuple[str, ...] = ()

    def to_json_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self) | {"bytes": sum(each.bytes for each in self.items)}


def plan(root: str, pipelines: Iterable[Pipeline], retention: Retention, now_ms: int | None = None) -> Plan:
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
    basis = [(each.path, each.delete) for each in items]
    return Plan(tuple(items), hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:16], tuple(stay))


def act(root: str, pipelines: Iterable[Pipeline], retention: Retention, fingerprint: str) -> Plan:
    """Carry out the plan with this fingerprint and return it. Raises HeadraceError if it is another one by now.

    Broken off half way, the next plan has the rest.
    """
    planned = plan(root, pipelines, retention)
    if planned.fingerprint != fingerprint:
        raise HeadraceError("There is other work for a prune than when this was planned: look at a new plan.")
    stamp = datetime.now(UTC).strftime(_STAMP)
    for item in planned.items:
        if item.delete:
            trees.remove(item.path)
        else:
            trees.move(item.path, f"{paths.trash(root)}/{stamp}/{item.path[len(root) + 1 :]}")
    left = [each.path for each in planned.items if trees.files(each.path)]
    if left:
        raise HeadraceError(f"{left[0]} is still there after it was taken away: look for what writes there.")
    return planned


def _needs(root: str, pipeline: str, query: str, leaving: Iterable[str]) -> dict[int, str]:
    """Return generation -> a snapshot that stays and is restored with that generation's output files.

    A snapshot holds no output files: a restore reads those of its generation, and of the ones that this came from.
    """
    found: dict[int, str] = {}
    for each in kept.listed(root, pipeline, query):
        own = each.paths(root)
        if own.folder not in leaving:
            taken_of = generation.read(own.manifest)
            lineage = taken_of.lineage if taken_of else ()
            found |= dict.fromkeys((each.generation, *(number for number, _ in lineage)), each.id)
    return found


def _generations(
    root: str, pipeline: str, query: str, retention: Retention, now_ms: int, needs: Mapping[int, str]
) -> tuple[list[Item], list[str]]:
    """Return what goes, and a sentence about each old generation that stays because a snapshot needs its files."""
    known = generation.all_of(root, pipeline, query)
    if not known:
        return [], []
    items: list[Item] = []
    stay: list[str] = []
    living = {known[-1].number} | {number for number, _ in known[-1].lineage}
    # a start may be ahead of the clock (`generation.next_start_micros`)
    ages = {each.number: max(0, now_ms - later.started_micros // 1000) for each, later in pairwise(known)}
    for number, age in ages.items():
        if number not in living and age >= retention.generation_days * DAY_MS:
            why = f"generation {number} of {pipeline}.{query} was followed by another {_days(age)} ago"
            own = paths.generation_paths(root, pipeline, query, number)
            if number in needs and trees.files(own.files):
                stay.append(
                    f"generation {number} of {pipeline}.{query}: snapshot {needs[number]} needs its output files"
                )
                continue
            # The ledgers of an archive say for ever which offsets held no record (contract.gaps).
            folder = own.checkpoint if query.startswith(names.ARCHIVE_PREFIX) else own.folder
            items += [_item(path, why) for path in (folder, own.files) if trees.files(path)]
    manifests = {each.number for each in known}
    for name in storage.list_names(paths.query_folder(root, pipeline, query)):
        if name.isdigit() and int(name) not in manifests and int(name) not in living and int(name) < known[-1].number:
            why = f"generation {int(name)} of {pipeline}.{query} has no manifest: a restore that was broken off, or it was lost"
            items.append(_item(paths.generation_paths(root, pipeline, query, int(name)).folder, why))
    return items, stay


def _snapshots(root: str, pipeline: str, query: str, retention: Retention, now_ms: int) -> list[Item]:
    items: list[Item] = []
    known = kept.listed(root, pipeline, query)
    now = generation.current(root, pipeline, query)
    keep = {each.id for each in known[-max(1, retention.snapshots) :]} | {now.snapshot if now else ""}
    for each in known:
        age = now_ms - each.taken_ms
        if each.id not in keep and age > retention.snapshot_days * DAY_MS:
            items.append(_item(each.paths(root).folder, f"a snapshot of {pipeline}.{query} that is {_days(age)} old"))
    whole = {each.id for each in known}
    for name in storage.list_names(paths.snapshots(root, pipeline, query)):
        # taken before one that is whole: nobody writes this any more
        if name not in whole and known and name.rpartition("-")[2] < known[-1].id.rpartition("-")[2]:
            why = f"a snapshot of {pipeline}.{query} that was broken off"
            items.append(_item(paths.snapshot_paths(root, pipeline, query, name).folder, why))
    return items


def _trash(root: str, retention: Retention, now_ms: int) -> Iterable[Item]:
    for name in storage.list_names(paths.trash(root)):
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
