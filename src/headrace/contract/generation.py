"""Generations: the lineages of a query's checkpoint. The manifest says what a generation was begun with.

A start on a generation whose plan changed in a way that its state cannot take is refused here, before Spark would run
into it or, worse, would not (Spark guide, "Recovery Semantics after Changes in a Streaming Query").
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from headrace import __version__
from headrace.contract import checkpoint, fingerprint, ledger, names, snapshot, storage, trees
from headrace.contract.exits import Exit
from headrace.contract.paths import GenerationPaths, generation_paths, query_files, query_folder
from headrace.errors import HeadraceError

MARGIN_MICROS = 1_000_000
"""Room above the newest batch that is known of a generation: a million batches that nobody wrote down."""


@dataclass(frozen=True)
class Generation:
    """One generation, as its manifest has it. `started_micros` is greater than every writetime of those before it.

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


_KEYS = {each.name for each in fields(Generation)}


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
    """Return the generation that a manifest describes, or None where there is no such file. Keys of a newer release are left."""
    values = storage.read_json(manifest)
    if values is None:
        return None
    lineage = tuple((int(number), int(batch)) for number, batch in values.pop("lineage", ()))
    return Generation(**{key: value for key, value in values.items() if key in _KEYS}, lineage=lineage)


def write(root: str, generation: Generation) -> None:
    """Write a generation's manifest in one piece: from then on it is the one that runs, if its number is the highest."""
    own = generation.paths(root)
    storage.write_json(own.manifest, asdict(generation))
    trees.remove_file(own.draft)


def lost(root: str, pipeline: str, query: str) -> list[int]:
    """Return the generations above the current one that have a ledger or a checkpoint, but no manifest any more.

    Their rows are in the sinks with greater writetimes than those of the generation before, which must not go on.
    A folder of a restore or a rebuild that is under way, or was broken off, has a draft and never ran.
    """
    now = current(root, pipeline, query)
    above = [n for n in _numbers(query_folder(root, pipeline, query)) if now is None or n > now.number]
    return [number for number in above if _has_run(generation_paths(root, pipeline, query, number))]


def _has_run(own: GenerationPaths) -> bool:
    begun = storage.list_names(own.ledger) or storage.list_names(own.checkpoint)
    return bool(begun) and storage.read_text(own.manifest) is None and storage.read_text(own.draft) is None


def next_number(root: str, pipeline: str, query: str) -> int:
    """Return a number that no folder of the query has: neither a checkpoint that was begun, nor output files.

    A generation that found the output of another would take it for its own batches and write nothing.
    """
    folders = (query_folder(root, pipeline, query), query_files(root, pipeline, query))
    return max((number for folder in folders for number in _numbers(folder)), default=0) + 1


def next_start_micros(root: str, pipeline: str, query: str) -> int:
    """Return the start of a new generation: now, but above every writetime of those before it, whatever the clock says.

    A batch's writetime is its generation's start and its number (ADR 0006), so a start that is only greater than the
    start before loses against the batches that came after that.
    """
    high = 0
    for number in _numbers(query_folder(root, pipeline, query)):
        own = generation_paths(root, pipeline, query, number)
        found = read(own.manifest)
        if found is not None:
            high = max(high, found.started_micros + _newest_batch(own))
        elif _has_run(
            own
        ):  # its start is lost with its manifest: it was above what was before, and about its first batch
            newest = ledger.newest(own.ledger)
            high = max(high + MARGIN_MICROS, newest["written_ms"] * 1000 if newest else 0) + _newest_batch(own)
    now = time.time_ns() // 1000
    return max(now, high + MARGIN_MICROS) if high else now


def _newest_batch(own: GenerationPaths) -> int:
    """Return the newest batch that may have written rows: one that is planned, or that only the ledger still has."""
    return max(checkpoint.newest_batch(own.checkpoint, "offsets") or 0, ledger.newest_batch(own.ledger) or 0)


def _numbers(folder: str) -> list[int]:
    return sorted(int(name) for name in storage.list_names(folder) if name.isdigit())


def manifest_gone(root: str, pipeline: str, query: str, number: int) -> str:
    """Return the sentence about a generation whose manifest is lost, with the commands that go on from it."""
    name = names.query_name(pipeline, query)
    again = "" if snapshot.listed(root, pipeline, query) else " --reset"
    return (
        f"{generation_paths(root, pipeline, query, number).manifest} is gone (MANIFEST_GONE): an earlier generation would go "
        f"on, and its rows lose against those of generation {number}; see docs/runbooks/CheckpointLogDamaged.md, usually: "
        f"headrace stream stop {pipeline}; headrace checkpoint restore {name}{again} --act; headrace stream start {pipeline}"
    )


def begun_by(root: str, pipeline: str, query: str, request: str) -> bool:
    """Return whether a start has begun a generation of the query already."""
    return bool(request) and any(each.request == request for each in all_of(root, pipeline, query))


def begin(root: str, pipeline: str, query: str, plan: dict[str, Any], request: str = "") -> Generation:
    """Begin the next generation: write its manifest and return it. Nothing of an earlier one is touched.

    The same request twice (a restart by the supervisor, a pod that was moved) goes on with the one that it began,
    or with what an operator has made of it since.
    """
    before = current(root, pipeline, query)
    if before and begun_by(root, pipeline, query, request):
        return resume_or_begin(root, pipeline, query, plan)
    generation = Generation(
        pipeline=pipeline,
        query=query,
        number=next_number(root, pipeline, query),
        started_micros=next_start_micros(root, pipeline, query),
        fingerprint=plan,
        request=request,
    )
    write(root, generation)
    return generation


def resume_or_begin(root: str, pipeline: str, query: str, plan: dict[str, Any]) -> Generation:
    """Return the generation to run.

    Raises HeadraceError: REFUSED if the running one cannot take the new plan, DAMAGED if it has lost its manifest.
    """
    gone = lost(root, pipeline, query)
    if gone:
        raise HeadraceError(
            f"{names.query_name(pipeline, query)}: {manifest_gone(root, pipeline, query, gone[-1])}",
            exit_code=Exit.DAMAGED,
        )
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
            f"Undo the change, or begin a new generation: headrace stream start {pipeline} --new-generation {query} --rows keep",
            exit_code=Exit.REFUSED,
        )
    return generation
