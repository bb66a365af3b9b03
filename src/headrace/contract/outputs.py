"""The directories of a file sink: which of them a reader takes. One rule, so that no row is seen twice or not at all.

A generation's folder has `batch_id=<n>` for one batch and `batch_id=<first>-<last>` for compacted ones, both written
aside and renamed; in an object store, where nothing is renamed, in place, and whole once `_SUCCESS` is there (ADR 0023).
A directory inside the range of another is no longer valid: it only waits for readers that have it open. After a restore
the rows up to the cut stand in the folders of the generations before (`Generation.lineage`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.contract import storage, trees
from headrace.contract.paths import generation_paths

_NAME = re.compile(r"^batch_id=(\d+)(?:-(\d+))?$")

WHOLE = "_SUCCESS"
"""The file that Spark, and upkeep, write into a directory last."""


@dataclass(frozen=True, order=True)
class Directory:
    """One directory of a file sink, with the batches in it, both ends included."""

    first: int
    last: int
    path: str


def parse(folder: str, names: Iterable[str]) -> list[Directory]:
    """Return all directories among the names in a folder, whole or not, valid or not, in batch order."""
    found = []
    for name in names:
        match = _NAME.match(name)
        if match:
            first = int(match[1])
            found.append(Directory(first, int(match[2] or first), f"{folder}/{name}"))
    return sorted(found)


def whole(folder: str) -> list[Directory]:
    """Return the whole directories of a folder, valid or not, in batch order."""
    if storage.renames(folder):
        return parse(folder, storage.list_names(folder))
    inside = [path.split("/") for path in trees.files(folder)]
    return parse(folder, (path[0] for path in inside if path[1:] == [WHOLE]))


def valid(directories: Iterable[Directory]) -> list[Directory]:
    """Return the directories that a reader takes: those that no wider one covers."""
    found: list[Directory] = []
    for each in sorted(directories, key=lambda d: (d.first, -d.last)):
        if not found or each.first > found[-1].last:
            found.append(each)
    return found


def name_of(first: int, last: int) -> str:
    """Return the name of a directory that holds the batches first..last."""
    return f"batch_id={first}-{last}"


def newest_batch(folder: str) -> int | None:
    """Return the highest batch in a generation's folder, or None where there is none."""
    return max((each.last for each in whole(folder)), default=None)


def directories(
    root: str, pipeline: str, query: str, number: int, lineage: Iterable[tuple[int, int]] = ()
) -> list[Directory]:
    """Return the directories that hold the sink's content: of the generation, and of its lineage up to each cut.

    `lineage` has (generation, last batch taken over) of the generations that it was restored from, oldest first.
    """
    found: list[Directory] = []
    after = -1
    for generation, cut in [*lineage, (number, None)]:
        folder = generation_paths(root, pipeline, query, generation).files
        own = valid(whole(folder))
        found += [each for each in own if each.first > after and (cut is None or each.last <= cut)]
        after = max(after, cut if cut is not None else after)
    return found
