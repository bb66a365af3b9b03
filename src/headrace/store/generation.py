"""Generations: the successive checkpoints of a query. The manifest records how a generation was begun.

If the plan changed in a way that the state cannot take, the start is refused here, before Spark would fail on it or,
worse, would not (Spark guide, "Recovery Semantics after Changes in a Streaming Query").
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from headrace import __version__
from headrace.contract import fingerprint, names
from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.store import checkpoint_log, ledger, records, small_files, snapshot, trees
from headrace.store.paths import GenerationPaths, generation_paths, query_files, query_folder

MARGIN_MICROS = 1_000_000
"""Margin above the newest known batch of a generation: a million unrecorded batches."""


@dataclass(frozen=True)
class Generation:
    """One generation, as recorded in its manifest. `started_micros` exceeds every writetime of earlier generations.

    `request` identifies the start that asked for it: a restarted driver asks again and must not begin another generation.
    Generations made by operators have a `reason`, `by` (who) and a time (milliseconds since 1970). `lineage` lists
    [generation, last batch taken over] of the generations it was restored from, oldest first. `starting_ms` is the broker
    time at which a reset begins (None: the beginning of the topic). An empty fingerprint is set by the first driver.
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

    @property
    def line(self) -> int:
        """Return the generation that read the topics from their beginning: the first that this one was restored from."""
        return self.lineage[0][0] if self.lineage else self.number

    def paths(self, root: str) -> GenerationPaths:
        """Return this generation's folders below a storage root."""
        return generation_paths(root, self.pipeline, self.query, self.number)


def current(root: str, pipeline: str, query: str) -> Generation | None:
    """Return the newest generation with a manifest, or None if the query never ran."""
    for number in reversed(_numbers(query_folder(root, pipeline, query))):
        generation = read(generation_paths(root, pipeline, query, number).manifest)
        if generation is not None:
            return generation
    return None


def all_of(root: str, pipeline: str, query: str) -> list[Generation]:
    """Return every generation of a query with a manifest, oldest first."""
    numbers = _numbers(query_folder(root, pipeline, query))
    manifests = (read(generation_paths(root, pipeline, query, number).manifest) for number in numbers)
    return [generation for generation in manifests if generation is not None]


def read(manifest: str) -> Generation | None:
    """Return the generation of a manifest, or None if the file does not exist. Ignores keys of newer releases."""
    return records.read(Generation, manifest)


def write(root: str, generation: Generation) -> None:
    """Write a generation's manifest atomically. From then on it is the current one if its number is the highest."""
    paths = generation.paths(root)
    records.write(paths.manifest, generation)
    trees.remove_file(paths.draft)


def lost(root: str, pipeline: str, query: str) -> list[int]:
    """Return the generations above the current one that have a ledger or a checkpoint, but have lost their manifest.

    Their rows are in the sinks with higher writetimes than those of the current generation, which must not continue.
    A folder of a restore or rebuild that is in progress, or was aborted, has a draft and never ran.
    """
    now = current(root, pipeline, query)
    above = [n for n in _numbers(query_folder(root, pipeline, query)) if now is None or n > now.number]
    return [number for number in above if _has_run(generation_paths(root, pipeline, query, number))]


def _has_run(paths: GenerationPaths) -> bool:
    begun = small_files.list_names(paths.ledger) or small_files.list_names(paths.checkpoint)
    return bool(begun) and small_files.read_text(paths.manifest) is None and small_files.read_text(paths.draft) is None


def next_number(root: str, pipeline: str, query: str) -> int:
    """Return a number that no folder of the query has, neither for a checkpoint nor for output files.

    A generation that finds another's output would take it for its own batches and write nothing.
    """
    folders = (query_folder(root, pipeline, query), query_files(root, pipeline, query))
    return max((number for folder in folders for number in _numbers(folder)), default=0) + 1


def next_of(root: str, pipeline: str, query: str) -> Generation:
    """Return the generation that a query would begin now; nothing is written."""
    return Generation(
        pipeline=pipeline,
        query=query,
        number=next_number(root, pipeline, query),
        started_micros=next_start_micros(root, pipeline, query),
        fingerprint={},
    )


def next_start_micros(root: str, pipeline: str, query: str) -> int:
    """Return the start of a new generation: now, but above every earlier writetime, whatever the clock says.

    A batch's writetime is the start of its generation plus its number (ADR 0006). A start that merely exceeds the previous
    start would lose against the batches written since.
    """
    high = 0
    for number in _numbers(query_folder(root, pipeline, query)):
        paths = generation_paths(root, pipeline, query, number)
        generation = read(paths.manifest)
        if generation is not None:
            high = max(high, generation.started_micros + _newest_batch(paths))
        elif _has_run(
            paths
        ):  # its start is lost with its manifest: it was above all earlier ones, and close to its first batch
            newest = ledger.newest(paths.ledger)
            high = max(high + MARGIN_MICROS, newest["written_ms"] * 1000 if newest else 0) + _newest_batch(paths)
    now = time.time_ns() // 1000
    return max(now, high + MARGIN_MICROS) if high else now


def _newest_batch(paths: GenerationPaths) -> int:
    """Return the newest batch that may have written rows: a planned one, or one that only the ledger still has."""
    return max(checkpoint_log.newest_batch(paths.checkpoint, "offsets") or 0, ledger.newest_batch(paths.ledger) or 0)


def _numbers(folder: str) -> list[int]:
    return sorted(int(name) for name in small_files.list_names(folder) if name.isdigit())


def manifest_gone(root: str, pipeline: str, query: str, number: int) -> str:
    """Return the error message about a generation that lost its manifest, with the commands to recover."""
    name = names.query_name(pipeline, query)
    again = "" if snapshot.listed(root, pipeline, query) else " --reset"
    return (
        f"{generation_paths(root, pipeline, query, number).manifest} is missing (MANIFEST_GONE). An earlier generation would "
        f"continue, and its rows would lose against those of generation {number}. See docs/runbooks/CheckpointLogDamaged.md, "
        f"usually: headrace stream stop {pipeline}; headrace checkpoint restore {name}{again}; the command that it prints; "
        f"headrace stream start {pipeline}"
    )


def begun_by(root: str, pipeline: str, query: str, request: str) -> bool:
    """Return whether a start has already begun a generation of the query."""
    return bool(request) and any(generation.request == request for generation in all_of(root, pipeline, query))


def begin(root: str, pipeline: str, query: str, plan: dict[str, Any], request: str = "") -> Generation:
    """Begin the next generation: write its manifest and return it. Earlier generations stay untouched.

    If the same request comes twice (a restart by the supervisor, a rescheduled pod), continue with the generation that it
    began, or with what an operator has made of it since.
    """
    before = current(root, pipeline, query)
    if before and begun_by(root, pipeline, query, request):
        return resume_or_begin(root, pipeline, query, plan)
    generation = replace(next_of(root, pipeline, query), fingerprint=plan, request=request)
    write(root, generation)
    return generation


def resume_or_begin(root: str, pipeline: str, query: str, plan: dict[str, Any]) -> Generation:
    """Return the generation to run.

    Raises HeadraceError: REFUSED if the current one cannot take the new plan, DAMAGED if it has lost its manifest.
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
            f"{pipeline}.{query} cannot continue from generation {generation.number}: {'; '.join(changes)}. "
            f"Undo the change, or begin a new generation: headrace stream start {pipeline} --new-generation {query} --rows keep",
            exit_code=Exit.REFUSED,
        )
    return generation
