"""Generations: the lineages of a query's checkpoint. The manifest says what a generation was begun with.

A start on a generation whose plan changed in a way that its state cannot take is refused here, before Spark would run
into it or, worse, would not (Spark guide, "Recovery Semantics after Changes in a Streaming Query").
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from headrace import __version__
from headrace.contract import fingerprint, storage
from headrace.contract.exits import Exit
from headrace.contract.paths import GenerationPaths, generation_paths, query_files, query_folder
from headrace.errors import HeadraceError


@dataclass(frozen=True)
class Generation:
    """One generation, as its manifest has it. `started_micros` is greater than that of every one before it.

    `request` names the start that asked for it: a driver that is restarted asks again and must not begin another one.
    A generation that operators made has a `reason`, and `by` whom and when (milliseconds since 1970). `lineage` has
    [generation, last batch taken over] of those it was restored from, oldest first; `starting_ms` is the broker time
    that a reset begins at (None: the topic's beginning). An empty fingerprint takes the plan of its first driver.
    """

    pipeline: str
    query: str
    number: int
    started_micros: int
    fingerprint: dict[str, Any]
    headrace_version: str = __version__
    request: str = ""
    reason: str = ""
    by: str = ""
    at_ms: int = 0
    snapshot: str = ""
    lineage: tuple[tuple[int, int], ...] = ()
    starting_ms: int | None = None

    def paths(self, root: str) -> GenerationPaths:
        """Return this generation's folders below a storage root."""
        return generation_paths(root, self.pipeline, self.query, self.number)


def current(root: str, pipeline: str, query: str) -> Generation | None:
    """Return the newest generation that has a manifest, or None where the query never ran."""
    for number in reversed(_numbers(query_folder(root, pipeline, query))):
        found = read(generation_paths(root, pipeline, query, number).manifest)
        if found is not None:
            return found
    return None


def all_of(root: str, pipeline: str, query: str) -> list[Generation]:
    """Return every generation of a query that has a manifest, oldest first."""
    numbers = _numbers(query_folder(root, pipeline, query))
    found = (read(generation_paths(root, pipeline, query, number).manifest) for number in numbers)
    return [each for each in found if each is not None]


def read(manifest: str) -> Generation | None:
    """Return the generation that a manifest describes, or None where there is no such file."""
    values = storage.read_json(manifest)
    if values is None:
        return None
    lineage = tuple((int(number), int(batch)) for number, batch in values.pop("lineage", ()))
    return Generation(**values, lineage=lineage)


def write(root: str, generation: Generation) -> None:
    """Write a generation's manifest in one piece: from then on it is the one that runs, if its number is the highest."""
    storage.write_json(generation.paths(root).manifest, asdict(generation))


def next_number(root: str, pipeline: str, query: str) -> int:
    """Return a number that no folder of the query has: neither a checkpoint that was begun, nor output files.

    A generation that found the output of another would take it for its own batches and write nothing.
    """
    folders = (query_folder(root, pipeline, query), query_files(root, pipeline, query))
    return max((number for folder in folders for number in _numbers(folder)), default=0) + 1


def next_start_micros(before: Generation | None) -> int:
    """Return the start of a new generation: now, but later than the one before whatever the clock says."""
    now = time.time_ns() // 1000
    return max(now, before.started_micros + 1) if before else now


def _numbers(folder: str) -> list[int]:
    return sorted(int(name) for name in storage.list_names(folder) if name.isdigit())


def begin(root: str, pipeline: str, query: str, plan: dict[str, Any], request: str = "") -> Generation:
    """Begin the next generation: write its manifest and return it. Nothing of an earlier one is touched.

    The same request twice (a restart by the supervisor, a pod that was moved) goes on with the one that it began,
    or with what an operator has made of it since.
    """
    before = current(root, pipeline, query)
    if before and request and any(each.request == request for each in all_of(root, pipeline, query)):
        return resume_or_begin(root, pipeline, query, plan)
    generation = Generation(
        pipeline=pipeline,
        query=query,
        number=next_number(root, pipeline, query),
        started_micros=next_start_micros(before),
        fingerprint=plan,
        request=request,
    )
    write(root, generation)
    return generation


def resume_or_begin(root: str, pipeline: str, query: str, plan: dict[str, Any]) -> Generation:
    """Return the generation to run. Raises HeadraceError(REFUSED) if the running one cannot take the new plan."""
    generation = current(root, pipeline, query)
    if generation is None:
        return begin(root, pipeline, query, plan)
    if not generation.fingerprint:
        generation = replace(generation, fingerprint=plan)
        write(root, generation)
    changes = fingerprint.differences(generation.fingerprint, plan)
    if changes:
        raise HeadraceError(
            f"{pipeline}.{query} cannot go on from generation {generation.number}: {'; '.join(changes)}. "
            f"Undo the change, or begin a new generation: headrace stream start {pipeline} --new-generation {query}",
            exit_code=Exit.REFUSED,
        )
    return generation
