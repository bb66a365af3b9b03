"""Inspection of a query's checkpoint. It only reads files, so it is safe beside a running driver."""

from __future__ import annotations

import time
from dataclasses import asdict

from headrace.contract import fingerprint, names
from headrace.store import checkpoint_log, generation, ledger, trees
from headrace.store import snapshot as kept
from headrace.store.paths import GenerationPaths
from headrace.store.records import Json


def inspect(root: str, pipeline: str, query: str) -> Json:
    """Return the generations of a query, oldest first, and its snapshots, as JSON values.

    Times are milliseconds since 1970, ages are seconds, sizes are bytes. An unknown value is None.
    """
    generations = generation.all_of(root, pipeline, query)
    now_ms = time.time_ns() // 1_000_000
    return {
        "query": names.query_name(pipeline, query),
        "current": generations[-1].number if generations else None,
        "generations": [_generation(one, one.paths(root), now_ms) for one in generations],
        "snapshots": [snapshot.summary() for snapshot in kept.listed(root, pipeline, query)],
    }


def has_batch(root: str, pipeline: str, query: str) -> bool:
    """Return whether the query's current generation has a finished batch."""
    current = generation.current(root, pipeline, query)
    return current is not None and checkpoint_log.newest_batch(current.paths(root).checkpoint) is not None


def _generation(chosen: generation.Generation, paths: GenerationPaths, now_ms: int) -> Json:
    planned = checkpoint_log.newest_batch(paths.checkpoint, "offsets")
    committed = checkpoint_log.newest_batch(paths.checkpoint)
    newest = ledger.newest(paths.ledger)
    sizes = trees.files(paths.folder)
    return {
        "generation": chosen.number,
        "started_ms": chosen.started_micros // 1000,
        "planned_batch": planned,
        "committed_batch": committed,
        "offsets": _ends(newest) if newest else None,
        "watermark_ms": newest["watermark_ms"] if newest else None,
        "written_ms": newest["written_ms"] if newest else None,
        "age_seconds": round((now_ms - newest["written_ms"]) / 1000, 1) if newest else None,
        "state_bytes": sum(size for path, size in sizes.items() if "/state/" in f"/{path}"),
        "bytes": sum(sizes.values()),
        "files": len(sizes),
        "ledger_records": sum(map(len, ledger.runs(paths.ledger))),
        "fingerprint": fingerprint.digest(chosen.fingerprint)[:12] if chosen.fingerprint else None,
    } | {
        key: value
        for key, value in asdict(chosen).items()
        if key in {"reason", "by", "snapshot", "lineage", "starting_ms"}
    }


def _ends(record: ledger.Record) -> dict[str, dict[str, int]]:
    return {topic: {part: end for part, (_, end) in parts.items()} for topic, parts in record["offsets"].items()}
