"""The directories of a file sink, and which of them a reader uses, so that no row is read twice or missed.

A generation's folder has `batch_id=<n>` for one batch and `batch_id=<first>-<last>` for compacted ones. Both are written
to a temporary path and renamed; in an object store, which has no rename, they are written in place and complete once
`_SUCCESS` exists (ADR 0023). A directory inside the range of another is obsolete and kept only for readers that have it
open. After a restore the rows up to the cut are in the folders of earlier generations (`Generation.lineage`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.contract.model import FilesSink, Query
from headrace.store import small_files, trees
from headrace.store.paths import generation_paths

_NAME = re.compile(r"^batch_id=(\d+)(?:-(\d+))?$")

COMPLETE_MARK = "_SUCCESS"
"""The file that Spark, and compaction, write into a directory last."""


@dataclass(frozen=True, order=True)
class Directory:
    """One directory of a file sink, with its first and last batch."""

    first: int
    last: int
    path: str


def parse(folder: str, names: Iterable[str]) -> list[Directory]:
    """Return all directories among the names in a folder, complete or not, valid or not, in batch order."""
    result = []
    for name in names:
        match = _NAME.match(name)
        if match:
            first = int(match[1])
            result.append(Directory(first, int(match[2] or first), f"{folder}/{name}"))
    return sorted(result)


def complete(folder: str) -> list[Directory]:
    """Return the complete directories of a folder, valid or not, in batch order."""
    if small_files.renames(folder):
        return parse(folder, small_files.list_names(folder))
    inside = [path.split("/") for path in trees.files(folder)]
    return parse(folder, (path[0] for path in inside if path[1:] == [COMPLETE_MARK]))


def valid(directories: Iterable[Directory]) -> list[Directory]:
    """Return the directories that a reader uses: those that no wider one covers."""
    accepted: list[Directory] = []
    for directory in sorted(directories, key=lambda d: (d.first, -d.last)):
        if not accepted or directory.first > accepted[-1].last:
            accepted.append(directory)
    return accepted


def name_of(first: int, last: int) -> str:
    """Return the name of a directory with the batches first..last."""
    return f"batch_id={first}-{last}"


def is_sink_of(query: Query | None) -> bool:
    """Return whether a query writes JSON files; False for None, the query of an archive."""
    return query is not None and any(isinstance(sink, FilesSink) for sink in query.sinks)


def newest_batch(folder: str) -> int | None:
    """Return the highest batch in a generation's folder, or None if it is empty."""
    return max((directory.last for directory in complete(folder)), default=None)


def directories(
    root: str, pipeline: str, query: str, number: int, lineage: Iterable[tuple[int, int]] = ()
) -> list[Directory]:
    """Return the directories with the sink's content: of the generation, and of its lineage up to each cut.

    `lineage` lists (generation, last batch taken over) of the generations it was restored from, oldest first.
    """
    result: list[Directory] = []
    after = -1
    for generation, cut in [*lineage, (number, None)]:
        folder = generation_paths(root, pipeline, query, generation).files
        present = valid(complete(folder))
        result += [
            directory for directory in present if directory.first > after and (cut is None or directory.last <= cut)
        ]
        after = max(after, cut if cut is not None else after)
    return result
