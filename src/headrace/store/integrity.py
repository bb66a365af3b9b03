"""Level 1 of checkpoint verification: the files of one generation are complete and consistent with each other.

Read-only, without Spark. A driver runs it before it starts, because Spark 3.5 continues without `metadata`, and after
someone restored a checkpoint by hand without its sink, it silently writes nothing. Operators can run it at any time.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from headrace.contract import names
from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.store import checkpoint_log, file_sink, ledger, small_files, state_files, trees
from headrace.store.generation import Generation
from headrace.store.paths import GenerationPaths

Severity = Literal["critical", "warning"]

RUNBOOKS = {
    "FOLDER_GONE": "CheckpointLogDamaged",
    "MANIFEST_GONE": "CheckpointLogDamaged",
    "METADATA_GONE": "CheckpointLogDamaged",
    "LOG_EMPTY": "CheckpointLogDamaged",
    "LOG_BROKEN": "CheckpointLogDamaged",
    "LOG_GAP": "CheckpointLogDamaged",
    "OFFSETS_BEHIND_COMMITS": "CheckpointLogDamaged",
    "COMMITS_BEHIND_OFFSETS": "CheckpointLogDamaged",
    "CHECKSUM": "CheckpointLogDamaged",
    "LEDGER_GAP": "CheckpointLogDamaged",
    "LEDGER_DIFFERS": "CheckpointLogDamaged",
    "STATE_GONE": "CheckpointStateDamaged",
    "STATE_BROKEN": "CheckpointStateDamaged",
    "BEHIND_LEDGER": "CheckpointBehindSinks",
    "BEHIND_FILES": "CheckpointBehindSinks",
    "BEHIND_ARCHIVE": "CheckpointBehindSinks",
    "FILES_GONE": "CheckpointBehindSinks",
    "ARCHIVE_GONE": "CheckpointBehindSinks",
    "OFFSETS_EXPIRED": "CheckpointOffsetsGone",
    "OFFSETS_AHEAD": "CheckpointOffsetsGone",
    "TOPIC_GONE": "CheckpointOffsetsGone",
    "TOPIC_REPLACED": "CheckpointOffsetsGone",
    "KAFKA_SILENT": "",
}
"""fault -> runbook below docs/runbooks/."""

NEWEST_FILES = 200
"""The number of newest batches whose directories a driver checks when it starts."""


@dataclass(frozen=True)
class Defect:
    """One fault: `critical` means that a driver must not continue from here."""

    COMPUTED: ClassVar = ("runbook",)
    fault: str
    severity: Severity
    where: str
    what: str

    @property
    def runbook(self) -> str:
        """Return the name of the page below docs/runbooks/ with the remedy."""
        return RUNBOOKS[self.fault]


def critical(findings: Iterable[Defect]) -> list[Defect]:
    """Return the findings after which a driver must not continue."""
    return [finding for finding in findings if finding.severity == "critical"]


def structure(paths: GenerationPaths, *, stateful: bool) -> list[Defect]:
    """Return the faults of one generation; empty if it is sound or has not run yet.

    `stateful`: the query keeps state, which must then exist for every committed batch.
    """
    folder = paths.checkpoint
    # Read in this order, the reverse of the writer's, so that a batch finishing meanwhile never looks like a fault.
    written = ledger.newest_batch(paths.ledger), file_sink.newest_batch(paths.files) if paths.files else None
    commits = checkpoint_log.batches(folder, "commits")
    offsets = checkpoint_log.batches(folder, "offsets")
    behind = _behind(paths, *written, offsets[-1] if offsets else -1)
    if not offsets and not commits:
        return behind
    files = trees.files(folder)
    return [
        *_metadata(folder, files),
        *_logs(folder, files, offsets, commits),
        *_heads(paths, offsets, commits),
        *(_state(folder, files, commits) if stateful and commits else []),
        *_checksums(folder, files),
        *behind,
        *(_ledger_agrees(paths, commits[-1]) if commits else []),
    ]


def files_gone(root: str, chosen: Generation, newest: int | None = None) -> list[Defect]:
    """Check that each batch that wrote rows has its directory, here or in the generations it was restored from.

    For a query with a file sink. Reads the ledger once, one record at a time: all of it, or its `newest` batches.
    """
    generation = chosen.paths(root)
    committed = checkpoint_log.newest_batch(generation.checkpoint)
    if committed is None:
        return []
    directories = file_sink.directories(root, chosen.pipeline, chosen.query, chosen.number, chosen.lineage)
    held = [(directory.first, directory.last) for directory in directories]
    missing = [
        record["batch"]
        for record in ledger.stream(generation.ledger, 0 if newest is None else max(0, committed - newest))
        if record["rows_out"] and record["batch"] <= committed and not _within(held, record["batch"])
    ]
    if not missing:
        return []
    what = f"lacks {len(missing)} batch(es) that wrote rows; the first is {missing[0]}"
    return [Defect("FILES_GONE", "critical", generation.files, what)]


def _within(ranges: list[tuple[int, int]], batch: int) -> bool:
    place = bisect.bisect_right(ranges, (batch, math.inf)) - 1
    return place >= 0 and batch <= ranges[place][1]


def require_sound(root: str, chosen: Generation, *, stateful: bool, files: bool) -> None:
    """Raise HeadraceError(DAMAGED) if a driver must not continue from this generation.

    `files`: the query has a file sink. A start checks the directories of its newest batches only, so it takes the same time
    after a year, and old directories may be removed on purpose.
    """
    findings = structure(chosen.paths(root), stateful=stateful)
    findings += files_gone(root, chosen, NEWEST_FILES) if files else []
    faults = critical(findings)
    if faults:
        first, name = faults[0], names.query_name(chosen.pipeline, chosen.query)
        usually = (
            f"headrace stream start {chosen.pipeline} --new-generation {chosen.query}"
            if first.fault == "FILES_GONE"
            else f"headrace checkpoint restore {name}"
        )
        raise HeadraceError(
            f"{name}: {first.where} {first.what} ({first.fault}, {len(faults)} critical finding(s)). "
            f"See docs/runbooks/{first.runbook}.md, usually: {usually}",
            exit_code=Exit.DAMAGED,
        )


def _metadata(folder: str, files: Mapping[str, int]) -> list[Defect]:
    where = f"{folder}/metadata"
    if "metadata" not in files:
        return [Defect("METADATA_GONE", "critical", where, "is missing: Spark 3.5 would continue under a new query id")]
    return [] if '"id"' in (small_files.read_text(where) or "") else [_broken(where)]


def _logs(folder: str, files: Mapping[str, int], offsets: list[int], commits: list[int]) -> list[Defect]:
    findings = []
    for log, ids in (("offsets", offsets), ("commits", commits)):
        gaps = [a + 1 for a, b in itertools.pairwise(ids) if b != a + 1]
        findings += [
            Defect("LOG_GAP", "critical", f"{folder}/{log}/{batch}", "is missing in the middle") for batch in gaps
        ]
        for batch in ids:
            where = f"{folder}/{log}/{batch}"
            if not files.get(f"{log}/{batch}", 1):
                # Spark reads the newest two entries; older ones only on request
                severity: Severity = "critical" if batch >= ids[-1] - 1 else "warning"
                findings.append(Defect("LOG_EMPTY", severity, where, "is empty: the file system lost its content"))
    for batch in offsets[-2:]:
        where = checkpoint_log.offsets_entry(folder, batch)
        if files.get(f"offsets/{batch}") and not _parses(folder, batch):
            findings.append(_broken(where))
    for batch in commits[-1:]:
        where = checkpoint_log.commits_entry(folder, batch)
        if files.get(f"commits/{batch}") and "nextBatchWatermarkMs" not in (small_files.read_text(where) or ""):
            findings.append(_broken(where))
    return findings


def _parses(folder: str, batch: int) -> bool:
    try:
        return checkpoint_log.read_entry(folder, batch) is not None
    except (ValueError, KeyError):
        return False


def _broken(where: str) -> Defect:
    return Defect("LOG_BROKEN", "critical", where, "cannot be read")


def _heads(paths: GenerationPaths, offsets: list[int], commits: list[int]) -> list[Defect]:
    """Check that the newest planned batch is the newest committed one or the next one."""
    folder = paths.checkpoint
    planned, committed = (ids[-1] if ids else -1 for ids in (offsets, commits))
    if planned > committed + 1:  # a batch was committed between the two listings
        committed = checkpoint_log.newest_batch(folder) or committed
    if planned < committed:
        where = checkpoint_log.offsets_entry(folder, committed)
        return [Defect("OFFSETS_BEHIND_COMMITS", "critical", where, "is missing although its batch is committed")]
    if planned > committed + 1:
        # Spark would run only the newest. Harmless if the ledger shows that the others were written.
        written = ledger.runs(paths.ledger)
        skipped = [batch for batch in range(committed + 1, planned) if not any(batch in run for run in written)]
        where = checkpoint_log.commits_entry(folder, committed + 1)
        what = f"is missing; batch(es) {skipped} would be skipped" if skipped else "is missing; its batch was written"
        return [Defect("COMMITS_BEHIND_OFFSETS", "critical" if skipped else "warning", where, what)]
    if offsets and planned > 0 and planned - 1 not in offsets:
        where = checkpoint_log.offsets_entry(folder, planned - 1)
        return [Defect("LOG_GAP", "critical", where, "is missing: the newest batch has no start offsets")]
    return []


def _state(folder: str, files: Mapping[str, int], commits: list[int]) -> list[Defect]:
    version = commits[-1] + 1
    where = f"{folder}/state"
    stores = state_files.stores(files)
    if not stores:
        return [Defect("STATE_GONE", "critical", where, f"is missing: no store has version {version}")]
    findings = []
    try:
        wanted = checkpoint_log.state_partitions(folder, commits[-1])
    except ValueError:  # the finding about the log reports it
        wanted = None
    for operator, parts in state_files.partitions(stores).items():
        missing = sorted(set(range(wanted or 0)) - parts)
        findings += [
            Defect("STATE_GONE", "critical", f"{where}/{operator}/{part}", "has no state files") for part in missing
        ]
    for store in sorted(stores):
        try:
            need = _needed(folder, files, store, version)
        except ValueError as error:
            findings.append(Defect("STATE_BROKEN", "critical", f"{folder}/{store}", str(error)))
            continue
        if need.missing:
            what = f"lacks {', '.join(need.missing[:3])}, needed for version {version}"
            findings.append(Defect("STATE_GONE", "critical", f"{folder}/{store}", what))
        empty = [name for name in need.files if not files[f"{store}/{name}"]]
        findings += [Defect("STATE_BROKEN", "critical", f"{folder}/{store}/{name}", "is empty") for name in empty]
    return findings


def _needed(folder: str, files: Mapping[str, int], store: str, version: int) -> state_files.StateChain:
    return state_files.needed(files, store, version, lambda path: trees.read_bytes(f"{folder}/{path}"))


def _checksums(folder: str, files: Mapping[str, int]) -> list[Defect]:
    """Check Hadoop's checksums (`.<name>.crc`, local disks only) of the files that the next start reads."""
    findings = []
    for path in _read_at_start(folder, files):
        parent, _, name = path.rpartition("/")
        crc = f"{parent}/.{name}.crc".lstrip("/")
        if files[path] and crc in files and not _matches(f"{folder}/{path}", f"{folder}/{crc}"):
            fault = "STATE_BROKEN" if path.startswith(state_files.STATE) else "CHECKSUM"
            findings.append(
                Defect(fault, "critical", f"{folder}/{path}", "does not match the checksum it was written with")
            )
    return findings


def _read_at_start(folder: str, files: Mapping[str, int]) -> Iterable[str]:
    for log in ("offsets", "commits"):
        ids = sorted(
            int(path.rpartition("/")[2]) for path in files if path.startswith(f"{log}/") and path[8:].isdigit()
        )
        yield from (f"{log}/{batch}" for batch in ids[-2:])
    commits = [int(path[8:]) for path in files if path.startswith("commits/") and path[8:].isdigit()]
    for store in state_files.stores(files):
        with contextlib.suppress(ValueError):  # already reported by a finding about the state
            yield from (f"{store}/{name}" for name in _needed(folder, files, store, max(commits, default=-1) + 1).files)


def _matches(path: str, crc: str) -> bool:
    """Return whether a file matches the CRC-32 of each chunk that Hadoop's ChecksumFileSystem recorded."""
    try:
        content, noted = trees.read_bytes(path), trees.read_bytes(crc)
    except FileNotFoundError:  # purged meanwhile
        return True
    if noted[:4] != b"crc\0":
        return True
    (size,) = struct.unpack(">i", noted[4:8])
    sums = [zlib.crc32(content[start : start + size]) for start in range(0, len(content), size)]
    return noted[8:] == struct.pack(f">{len(sums)}I", *sums)


def _behind(paths: GenerationPaths, written: int | None, directory: int | None, planned: int) -> list[Defect]:
    """Check that neither ledger nor file sink has a batch that the checkpoint has not planned yet.

    Such a checkpoint was reset or restored by hand: file and table sinks would take the next batches for replays.
    """
    findings = []
    if written is not None and written > planned:
        what = f"is at batch {planned}, its ledger at {written}: it was reset or restored by hand"
        findings.append(Defect("BEHIND_LEDGER", "critical", paths.checkpoint, what))
    if directory is not None and directory > planned:
        what = f"has batch {directory}, the checkpoint only {planned}: new batches would be taken for replays and lost"
        findings.append(Defect("BEHIND_FILES", "critical", paths.files, what))
    return findings


def _ledger_agrees(paths: GenerationPaths, committed: int) -> list[Defect]:
    """Check that the ledger has every committed batch, with the same offsets as the log for the newest one."""
    runs = ledger.runs(paths.ledger)
    holes = [(a.stop, b.start) for a, b in itertools.pairwise(runs) if a.stop <= committed]
    if not runs or runs[-1].stop <= committed:
        holes.append((runs[-1].stop if runs else committed, committed + 1))
    missing = [batch for first, end in holes[:5] for batch in range(first, min(end, committed + 1, first + 5))][:5]
    findings = []
    if missing:
        what = f"lacks batch(es) {missing}: which of their rows were late can no longer be determined"
        findings.append(Defect("LEDGER_GAP", "warning", paths.ledger, what))
    record = ledger.record(paths.ledger, committed)
    try:
        entry = checkpoint_log.read_entry(paths.checkpoint, committed)
    except (ValueError, KeyError):
        entry = None
    if record and entry and ledger.ends(record) != entry[1]:
        what = (
            f"has other offsets for batch {committed} than {checkpoint_log.offsets_entry(paths.checkpoint, committed)}"
        )
        findings.append(Defect("LEDGER_DIFFERS", "critical", paths.ledger, what))
    return findings
