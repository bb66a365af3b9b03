"""Upkeep of what streams write as many small files: ledgers and the JSON file sink. The streams may run meanwhile.

Each step writes the gathered file whole before it takes anything away, and begins by finishing what an earlier run left:
killed anywhere, the next run goes on, and no reader ever misses or doubles a record (`store.ledger`, `store.file_sink`).
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.contract import names
from headrace.contract.model import FilesSink, Pipeline
from headrace.store import checkpoint_log, file_sink, generation, ledger, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.file_sink import Directory
from headrace.store.generation import Generation

SINGLES_KEPT = 200
"""Newest ledger records that stay files of their own: they are read one by one."""
SEGMENT_RECORDS = 20_000
SEGMENTS_MERGED = 32
MERGED_RECORDS = 100_000
"""A segment grows to this by merging, and is never written again: a ledger of years is not rewritten, nor read as one."""
LEAST_GATHERED = 10
DIRECTORY_BYTES = 128 * 1024 * 1024
CLOSED_SECONDS = 3600.0
"""A batch's directory is gathered this long after it was written, and removed this long after it was gathered: whoever
listed the folder before has read it by then."""
_ASIDE = ".gathered-"


@dataclass(frozen=True)
class Gathered:
    """What one pass did to one query."""

    query: str
    ledger_records: int = 0
    directories: int = 0
    removed: int = 0


def gather(
    root: str, pipeline: Pipeline, *, closed_seconds: float = CLOSED_SECONDS, singles: int = SINGLES_KEPT
) -> list[dict[str, Any]]:
    """Gather ledger records and output directories of every query of a pipeline; return what was done, JSON-safe."""
    told = []
    for query in names.query_names(pipeline):
        now = generation.current(root, pipeline.name, query)
        if now is None:
            continue
        living = {now.number, *(number for number, _ in now.lineage)}
        every = [each for each in generation.all_of(root, pipeline.name, query) if each.number in living]
        records = sum(gather_ledger(each.paths(root).ledger, singles=singles) for each in every)
        made = removed = 0
        declared = pipeline.queries.get(query)
        if declared and any(isinstance(sink, FilesSink) for sink in declared.sinks):
            for each in every:
                done = gather_files(root, each, closed_seconds)
                made, removed = made + done[0], removed + done[1]
        told.append(vars(Gathered(names.query_name(pipeline.name, query), records, made, removed)))
    return told


def gather_ledger(folder: str, *, singles: int = SINGLES_KEPT) -> int:
    """Gather all but the newest `singles` records of a ledger into segments; return how many were gathered."""
    found = small_files.list_names(folder)
    _remove_covered(folder, found)
    apart = ledger.singles(small_files.list_names(folder))
    closed = apart[: max(0, len(apart) - singles)]
    if len(closed) >= LEAST_GATHERED:
        for run in _runs(closed, SEGMENT_RECORDS):
            records = [record for batch in run if (record := ledger.record(folder, batch))]
            ledger.write_segment(folder, records)
    segments = ledger.segments(small_files.list_names(folder))
    if len(segments) > SEGMENTS_MERGED:
        _merge(folder, segments)
    _remove_covered(folder, small_files.list_names(folder))
    return len(closed) if len(closed) >= LEAST_GATHERED else 0


def _merge(folder: str, segments: Iterable[str]) -> None:
    """Write segments that follow each other as one of at most `MERGED_RECORDS`; those inside it are removed as covered."""
    for first, last in _neighbours(map(ledger.bounds, segments), MERGED_RECORDS):
        ledger.write_segment(folder, list(itertools.islice(ledger.stream(folder, first), last - first + 1)))


def _neighbours(bounds: Iterable[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of two or more segments without a gap between them that together have at most `most` batches."""
    group: list[tuple[int, int]] = []
    for first, last in [*sorted(bounds), (-1, -1)]:
        if group and (first != group[-1][1] + 1 or last - group[0][0] >= most):
            if len(group) > 1:
                yield group[0][0], group[-1][1]
            group = []
        group.append((first, last))


def _remove_covered(folder: str, found: Iterable[str]) -> None:
    """Remove records and segments that a wider segment holds."""
    found = list(found)
    segments = ledger.segments(found)
    for name in segments:
        first, last = ledger.bounds(name)
        for other in segments:
            inner = ledger.bounds(other)
            if other != name and first <= inner[0] and inner[1] <= last:
                trees.remove_file(f"{folder}/{other}")
        for batch in ledger.singles(found):
            if first <= batch <= last:
                trees.remove_file(f"{folder}/{ledger.record_name(batch)}")


def _runs(numbers: Iterable[int], most: int) -> Iterator[list[int]]:
    """Cut sorted numbers into runs without a gap, each of at most `most`."""
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) >= most):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def gather_files(root: str, chosen: Generation, closed_seconds: float = CLOSED_SECONDS) -> tuple[int, int]:
    """Gather closed batch directories of one generation; return (directories made, directories removed).

    A batch is closed once it is committed and its ledger record is old enough. A gathered directory never reaches over
    the cut of a snapshot or of a restore: a generation restored from there takes the batches up to its cut only.
    """
    own, now_ms = chosen.paths(root), time.time_ns() // 1_000_000
    removed = _remove_gathered(own.files, now_ms - closed_seconds * 1000)
    committed = checkpoint_log.newest_batch(own.checkpoint)
    if committed is None:
        return 0, removed
    old = now_ms - closed_seconds * 1000
    closed = max((each["batch"] for each in ledger.read(own.ledger) if each["written_ms"] < old), default=-1)
    cuts = {each.batch for each in kept.listed(root, chosen.pipeline, chosen.query) if each.generation == chosen.number}
    for each in generation.all_of(root, chosen.pipeline, chosen.query):
        cuts |= {batch for number, batch in each.lineage if number == chosen.number}
    there = file_sink.valid(file_sink.whole(own.files))
    made = 0
    for group in _groups([each for each in there if each.last <= min(closed, committed)], cuts):
        _write_gathered(own.files, group, now_ms)
        made += 1
    return made, removed


def _groups(directories: Iterable[Directory], cuts: set[int]) -> Iterator[list[Directory]]:
    """Cut directories into groups that become one each: not over a cut, not too large, not too few to be worth it."""
    group: list[Directory] = []
    size = 0
    for each in directories:
        bytes_here = sum(trees.files(each.path).values())
        over = any(group and group[0].first <= cut < each.last for cut in cuts)
        if over or (group and size + bytes_here > DIRECTORY_BYTES):
            if len(group) >= LEAST_GATHERED:
                yield group
            group, size = [], 0
        group.append(each)
        size += bytes_here
    if len(group) >= LEAST_GATHERED:
        yield group


def _write_gathered(folder: str, group: list[Directory], now_ms: int) -> None:
    """Write the rows of a group, in batch order, as one directory: aside first, then one rename, where there is one."""
    fs, inner = small_files.locate(folder)
    final = f"{inner}/{file_sink.name_of(group[0].first, group[-1].last)}"
    place = f"{inner}/{_ASIDE}{uuid.uuid4().hex}" if small_files.renames(folder) else final
    if fs.exists(final):
        fs.rm(final, recursive=True)
    fs.makedirs(place, exist_ok=True)
    with fs.open(f"{place}/part-00000.json", "wb") as writing:
        for each in group:
            for path in trees.files(each.path):
                if path.startswith("part-"):
                    writing.write(trees.read_bytes(f"{each.path}/{path}"))
    fs.pipe_file(f"{place}/{file_sink.WHOLE}", str(now_ms).encode())
    if place != final:
        fs.mv(place, final, recursive=True)


def _remove_gathered(folder: str, before_ms: float) -> int:
    """Remove directories that a wider one has held since before `before_ms`."""
    found = small_files.list_names(folder)
    for name in found:
        if name.startswith(_ASIDE):  # of a run that was killed
            trees.remove(f"{folder}/{name}")
    whole = file_sink.whole(folder)
    taken = file_sink.valid(whole)
    removed = 0
    for each in file_sink.parse(folder, found):
        if each.first != each.last and each not in whole:  # in an object store, of a run that was killed
            trees.remove(each.path)
            continue
        wide = next(
            (other for other in taken if other != each and other.first <= each.first and each.last <= other.last), None
        )
        if wide and int(small_files.read_text(f"{wide.path}/{file_sink.WHOLE}") or 0) <= before_ms:
            trees.remove(each.path)
            removed += 1
    return removed
