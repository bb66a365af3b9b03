"""Generations: the lineages of a query's checkpoint. The manifest says what a generation was begun with.

A start on a generation whose plan changed in a way that its state cannot take is refused here, before Spark would run
into it or, worse, would not (Spark guide, "Recovery Semantics after Changes in a Streaming Query").
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from headrace import __version__
from headrace.contract import fingerprint, storage
from headrace.contract.exits import Exit
from headrace.contract.paths import GenerationPaths, generation_paths, query_folder
from headrace.errors import HeadraceError


@dataclass(frozen=True)
class Generation:
    """One generation, as its manifest has it. `started_micros` is greater than that of every one before it.

    `request` names the start that asked for it: a driver that is restarted asks again and must not begin another one.
    """

    pipeline: str
    query: str
    number: int
    started_micros: int
    fingerprint: dict[str, Any]
    headrace_version: str = __version__
    request: str = ""

    def paths(self, root: str) -> GenerationPaths:
        """Return this generation's folders below a storage root."""
        return generation_paths(root, self.pipeline, self.query, self.number)


def current(root: str, pipeline: str, query: str) -> Generation | None:
    """Return the newest generation that has a manifest, or None where the query never ran."""
    numbers = (int(name) for name in storage.list_names(query_folder(root, pipeline, query)) if name.isdigit())
    for number in sorted(numbers, reverse=True):
        manifest = storage.read_json(generation_paths(root, pipeline, query, number).manifest)
        if manifest is not None:
            return Generation(**manifest)
    return None


def begin(root: str, pipeline: str, query: str, plan: dict[str, Any], request: str = "") -> Generation:
    """Begin the next generation: write its manifest and return it. Nothing of an earlier one is touched.

    The same request twice (a restart by the keeper, a pod that was moved) goes on with the one that it began.
    """
    before = current(root, pipeline, query)
    if before and request and before.request == request:
        return resume_or_begin(root, pipeline, query, plan)
    now = time.time_ns() // 1000
    generation = Generation(
        pipeline=pipeline,
        query=query,
        number=before.number + 1 if before else 1,
        started_micros=max(now, before.started_micros + 1) if before else now,
        fingerprint=plan,
        request=request,
    )
    storage.write_json(generation.paths(root).manifest, asdict(generation))
    return generation


def resume_or_begin(root: str, pipeline: str, query: str, plan: dict[str, Any]) -> Generation:
    """Return the generation to run. Raises HeadraceError(REFUSED) if the running one cannot take the new plan."""
    generation = current(root, pipeline, query)
    if generation is None:
        return begin(root, pipeline, query, plan)
    changes = fingerprint.differences(generation.fingerprint, plan)
    if changes:
        raise HeadraceError(
            f"{pipeline}.{query} cannot go on from generation {generation.number}: {'; '.join(changes)}. "
            f"Undo the change, or begin a new generation: headrace stream start {pipeline} --new-generation {query}",
            exit_code=Exit.REFUSED,
        )
    return generation
