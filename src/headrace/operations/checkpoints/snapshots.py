"""Snapshots: a consistent cut of a query's checkpoint at its newest committed batch N, taken while the query may run.

Spark writes offsets/N, then version N + 1 of the state, then commits/N. It writes each of them atomically and never changes it
afterwards. So everything up to N is final once commits/N exists. Spark may still purge or compact these files during the
copy; then a later cut is taken. Files beyond N are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.store import checkpoint_log, generation, integrity, ledger, paths, small_files, state_files, trees
from headrace.store.snapshot import Snapshot

KEPT_BATCHES = 10
"""The number of log entries that are copied. Spark needs two; the others show people the history."""
TRIES = 5


def take(root: str, pipeline: str, query: str, *, reason: str = "", number: int | None = None) -> Snapshot:
    """Take a snapshot of a query's current generation (or of generation `number`) and return it. The driver may run.

    Raises HeadraceError if there is no committed batch, or if the checkpoint is not sound.
    """
    name = names.query_name(pipeline, query)
    chosen = generation.current(root, pipeline, query)
    if number is not None:
        chosen = generation.read(paths.generation_paths(root, pipeline, query, number).manifest)
    if chosen is None:
        raise HeadraceError(
            f"{name} has no generation {number or ''} to take a snapshot of: see `headrace checkpoint inspect`."
        )
    fault: Exception | None = None
    for _ in range(TRIES):
        cut = checkpoint_log.newest_batch(chosen.paths(root).checkpoint)
        if cut is None:
            raise HeadraceError(
                f"{name} has no finished batch in generation {chosen.number}: there is nothing to keep yet."
            )
        now = datetime.now(UTC)
        snapshot_id = f"{chosen.number:04d}-{cut:010d}-{now:%Y%m%dT%H%M%S%f}"
        try:
            return _take(root, chosen, cut, snapshot_id, reason)
        except (FileNotFoundError, ValueError) as error:  # purged meanwhile, or only partly written
            fault = error
            trees.remove(paths.snapshot_paths(root, pipeline, query, snapshot_id).folder)
    raise HeadraceError(
        f"{name} lacks files that batch {cut} of generation {chosen.number} needs ({fault}): headrace checkpoint verify {name}"
    )


def take_all(root: str, pipeline: Pipeline, *, reason: str = "") -> dict[str, str]:
    """Take a snapshot of every query of a pipeline that has a finished batch; return query -> snapshot id."""
    taken = {}
    for query in names.query_names(pipeline):
        chosen = generation.current(root, pipeline.name, query)
        if chosen and checkpoint_log.newest_batch(chosen.paths(root).checkpoint) is not None:
            taken[query] = take(root, pipeline.name, query, reason=reason).id
    return taken


def is_stateful(chosen: generation.Generation) -> bool:
    """Return whether the generation's plan keeps state (`fingerprint.declared`)."""
    return chosen.fingerprint.get("state_partitions") is not None


def _take(root: str, chosen: generation.Generation, cut: int, snapshot_id: str, reason: str) -> Snapshot:
    source = chosen.paths(root)
    target = paths.snapshot_paths(root, chosen.pipeline, chosen.query, snapshot_id)
    hashes = {}
    for path in _of_cut(source.checkpoint, cut):
        copied = f"{target.checkpoint}/{path}"
        hashes[copied] = trees.copy(f"{source.checkpoint}/{path}", copied)
    write_ledger(target.ledger, [record for record in ledger.read(source.ledger) if record["batch"] <= cut])
    hashes[target.manifest] = trees.copy(source.manifest, target.manifest)
    if small_files.read_text(source.topics) is not None:
        hashes[target.topics] = trees.copy(source.topics, target.topics)
    for path in trees.files(target.ledger):
        hashes[f"{target.ledger}/{path}"] = trees.sha256(f"{target.ledger}/{path}")
    critical = integrity.critical(integrity.structure(target, stateful=is_stateful(chosen)))
    if critical:
        raise FileNotFoundError(f"{critical[0].where} {critical[0].what}")
    snapshot = Snapshot(
        id=snapshot_id,
        pipeline=chosen.pipeline,
        query=chosen.query,
        generation=chosen.number,
        batch=cut,
        taken_ms=time.time_ns() // 1_000_000,
        reason=reason,
        bytes=sum(trees.files(target.folder).values()),
        files={path[len(target.folder) + 1 :]: digest for path, digest in sorted(hashes.items())},
    )
    small_files.write_json(paths.snapshot_record(root, chosen.pipeline, chosen.query, snapshot_id), asdict(snapshot))
    return snapshot


def write_ledger(folder: str, records: Iterable[ledger.BatchRecord]) -> None:
    """Write records as segments, one for each run of batches without gaps."""
    run: list[ledger.BatchRecord] = []
    for record in records:
        if run and record["batch"] != run[-1]["batch"] + 1:
            ledger.write_segment(folder, run)
            run = []
        run.append(record)
    if run:
        ledger.write_segment(folder, run)


def _of_cut(folder: str, cut: int) -> list[str]:
    """Return the files of a checkpoint that a start after batch `cut` needs. Raises FileNotFoundError if one is missing."""
    files = trees.files(folder)
    complete = [path for path in files if not path.rpartition("/")[2].startswith(".")]
    wanted = [path for path in complete if path == "metadata" or path.startswith("sources/") or "/_metadata/" in path]
    for log in ("offsets", "commits"):
        wanted += _log(log, {path for path in complete if path.startswith(f"{log}/")}, cut)
    for store in state_files.stores(files):
        need = state_files.needed(files, store, cut + 1, lambda path: trees.read_bytes(f"{folder}/{path}"))
        if need.missing:
            raise FileNotFoundError(f"{store}/{need.missing[0]}")
        wanted += [f"{store}/{name}" for name in need.files]
    return wanted


def _log(log: str, files: set[str], cut: int) -> list[str]:
    """Return the newest entries of a log up to the cut, without gaps."""
    ids = sorted((int(name) for path in files if (name := path.rpartition("/")[2]).isdigit()), reverse=True)
    ids = [batch for batch in ids if batch <= cut][:KEPT_BATCHES]
    length = next((position for position, (a, b) in enumerate(pairwise(ids), 1) if b != a - 1), len(ids))
    if not ids or ids[0] != cut or (cut > 0 and length < 2 and log == "offsets"):
        raise FileNotFoundError(f"{log}/{cut if not ids or ids[0] != cut else cut - 1}")
    return [f"{log}/{batch}" for batch in ids[:length]]
