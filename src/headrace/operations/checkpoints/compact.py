"""Compaction of the many small files that streams write: ledgers and the JSON file sink. The streams may run meanwhile.

Each step writes the compacted file completely before it removes anything, and first finishes what an earlier run left. After
a kill at any point the next run continues, and no reader misses a record or reads it twice (`store.ledger`,
`store.file_sink`).
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.store import checkpoint_log, file_sink, generation, ledger, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.file_sink import Directory
from headrace.store.generation import Generation

SINGLES_KEPT = 200
"""The newest ledger records stay single files, because they are read one by one."""
SEGMENT_RECORDS = 20_000
SEGMENTS_MERGED = 32
MERGED_RECORDS = 100_000
"""A segment grows to this size by merging and is never rewritten after that: so a ledger of several years is neither rewritten
nor read as one file."""
LEAST_GATHERED = 10
DIRECTORY_BYTES = 128 * 1024 * 1024
CLOSED_SECONDS = 3600.0
"""A batch's directory is compacted this long after it was written, and removed this long after it was compacted. By then every
reader that listed the folder earlier has read it."""
_ASIDE = ".gathered-"


@dataclass(frozen=True)
class Compacted:
    """The result of one pass over one query."""

    query: str
    ledger_records: int = 0
    directories: int = 0
    removed: int = 0


def compact_queries(
    root: str, pipeline: Pipeline, *, closed_seconds: float = CLOSED_SECONDS, singles: int = SINGLES_KEPT
) -> list[Compacted]:
    """Compact the ledger records and output directories of every query of a pipeline. Return one result for each query."""
    results = []
    for query in names.query_names(pipeline):
        current = generation.current(root, pipeline.name, query)
        if current is None:
            continue
        numbers = {current.number, *(number for number, _ in current.lineage)}
        generations = [one for one in generation.all_of(root, pipeline.name, query) if one.number in numbers]
        records = sum(compact_ledger(member.paths(root).ledger, singles=singles) for member in generations)
        written = removed = 0
        if file_sink.is_sink_of(pipeline.queries.get(query)):
            for member in generations:
                done = compact_files(root, member, closed_seconds)
                written, removed = written + done[0], removed + done[1]
        results.append(Compacted(names.query_name(pipeline.name, query), records, written, removed))
    return results


def compact_ledger(folder: str, *, singles: int = SINGLES_KEPT) -> int:
    """Compact all but the newest `singles` records of a ledger into segments. Return the number of compacted records."""
    names_before = small_files.list_names(folder)
    _remove_covered(folder, names_before)
    single = ledger.singles(small_files.list_names(folder))
    closed = single[: max(0, len(single) - singles)]
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
    """Write adjacent segments as one segment of at most `MERGED_RECORDS`. The caller removes the covered segments."""
    for first, last in _neighbours(map(ledger.bounds, segments), MERGED_RECORDS):
        ledger.write_segment(folder, list(itertools.islice(ledger.stream(folder, first), last - first + 1)))


def _neighbours(bounds: Iterable[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of each run of two or more segments without gaps and with at most `most` batches in total."""
    group: list[tuple[int, int]] = []
    for first, last in [*sorted(bounds), (-1, -1)]:
        if group and (first != group[-1][1] + 1 or last - group[0][0] >= most):
            if len(group) > 1:
                yield group[0][0], group[-1][1]
            group = []
        group.append((first, last))


def _remove_covered(folder: str, file_names: Iterable[str]) -> None:
    """Remove the records and segments that a wider segment contains."""
    file_names = list(file_names)
    segments = ledger.segments(file_names)
    for name in segments:
        first, last = ledger.bounds(name)
        for other in segments:
            inner = ledger.bounds(other)
            if other != name and first <= inner[0] and inner[1] <= last:
                trees.remove_file(f"{folder}/{other}")
        for batch in ledger.singles(file_names):
            if first <= batch <= last:
                trees.remove_file(f"{folder}/{ledger.record_name(batch)}")


def _runs(numbers: Iterable[int], most: int) -> Iterator[list[int]]:
    """Split sorted numbers into runs without gaps, each with at most `most` numbers."""
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) >= most):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def compact_files(root: str, chosen: Generation, closed_seconds: float = CLOSED_SECONDS) -> tuple[int, int]:
    """Compact the closed batch directories of one generation. Return (directories written, directories removed).

    A batch is closed once it is committed and its ledger record is old enough. A compacted directory never spans the cut of a
    snapshot or of a restore, because a generation restored from there uses only the batches up to its cut.
    """
    folders, now_ms = chosen.paths(root), time.time_ns() // 1_000_000
    removed = _remove_merged(folders.files, now_ms - closed_seconds * 1000)
    committed = checkpoint_log.newest_batch(folders.checkpoint)
    if committed is None:
        return 0, removed
    old_ms = now_ms - closed_seconds * 1000
    closed = max(
        (record["batch"] for record in ledger.read(folders.ledger) if record["written_ms"] < old_ms), default=-1
    )
    cuts = {
        snapshot.batch
        for snapshot in kept.listed(root, chosen.pipeline, chosen.query)
        if snapshot.generation == chosen.number
    }
    for later in generation.all_of(root, chosen.pipeline, chosen.query):
        cuts |= {batch for number, batch in later.lineage if number == chosen.number}
    present = file_sink.valid(file_sink.complete(folders.files))
    written = 0
    for group in _groups([directory for directory in present if directory.last <= min(closed, committed)], cuts):
        _write_merged(folders.files, group, now_ms)
        written += 1
    return written, removed


def _groups(directories: Iterable[Directory], cuts: set[int]) -> Iterator[list[Directory]]:
    """Yield the groups of directories to compact: a group spans no cut, is not too large and has enough directories."""
    group: list[Directory] = []
    size = 0
    for directory in directories:
        directory_bytes = sum(trees.files(directory.path).values())
        spans_cut = any(group and group[0].first <= cut < directory.last for cut in cuts)
        if spans_cut or (group and size + directory_bytes > DIRECTORY_BYTES):
            if len(group) >= LEAST_GATHERED:
                yield group
            group, size = [], 0
        group.append(directory)
        size += directory_bytes
    if len(group) >= LEAST_GATHERED:
        yield group


def _write_merged(folder: str, group: list[Directory], now_ms: int) -> None:
    """Write the rows of a group, in batch order, as one directory: to a temporary path, then renamed where the storage can."""
    fs, inner = small_files.locate(folder)
    final = f"{inner}/{file_sink.name_of(group[0].first, group[-1].last)}"
    written_to = f"{inner}/{_ASIDE}{uuid.uuid4().hex}" if small_files.renames(folder) else final
    if fs.exists(final):
        fs.rm(final, recursive=True)
    fs.makedirs(written_to, exist_ok=True)
    with fs.open(f"{written_to}/part-00000.json", "wb") as output:
        for directory in group:
            for path in trees.files(directory.path):
                if path.startswith("part-"):
                    output.write(trees.read_bytes(f"{directory.path}/{path}"))
    fs.pipe_file(f"{written_to}/{file_sink.COMPLETE_MARK}", str(now_ms).encode())
    if written_to != final:
        fs.mv(written_to, final, recursive=True)


def _remove_merged(folder: str, before_ms: float) -> int:
    """Remove the directories that a wider one has covered since before `before_ms`. Return their number."""
    file_names = small_files.list_names(folder)
    for name in file_names:
        if name.startswith(_ASIDE):  # left by a killed run
            trees.remove(f"{folder}/{name}")
    complete = file_sink.complete(folder)
    valid = file_sink.valid(complete)
    removed = 0
    for directory in file_sink.parse(folder, file_names):
        if directory.first != directory.last and directory not in complete:  # left in an object store by a killed run
            trees.remove(directory.path)
            continue
        wider = next(
            (
                other
                for other in valid
                if other != directory and other.first <= directory.first and directory.last <= other.last
            ),
            None,
        )
        if wider and int(small_files.read_text(f"{wider.path}/{file_sink.COMPLETE_MARK}") or 0) <= before_ms:
            trees.remove(directory.path)
            removed += 1
    return removed
