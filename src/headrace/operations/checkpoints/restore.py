"""Restore and reset: always a new generation, and with it a new ledger and a new file-sink directory.

RestorePlan (reads only), then act with the plan's fingerprint: what was approved is what is done. The manifest is written last:
until then the new folder is nobody's, and its number is never used again (`generation.next_number`).

The sinks stay exact (ADR 0013): tables by the new generation's greater writetime, topics by the records' identities, files
by a new directory, the archive by the offsets that its newest snapshot notes. What was read after the cut is read again
in one first batch where the query has a watermark: in smaller ones a row that was counted could become late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from headrace.contract import fingerprint, names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import snapshots, verify
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Launcher
from headrace.store import archive_notes, checkpoint_log, generation, integrity, ledger, paths, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.checkpoint_log import Offsets
from headrace.store.generation import Generation
from headrace.store.records import Json, short_id, to_json
from headrace.store.snapshot import Snapshot


@dataclass(frozen=True)
class RestorePlan:
    """What a restore or a reset would do. `blockers` must be empty to act; `fingerprint` is what an approval is for.

    `snapshot` is "" for a reset; `batch` is the last one taken over (None: none); `again` are the offsets that the new
    generation reads again; `starting_ms` the broker time of a reset (None: the topic's beginning).
    """

    pipeline: str
    query: str
    snapshot: str
    source_generation: int | None
    batch: int | None
    new_generation: int
    again: int
    starting_ms: int | None
    blockers: tuple[str, ...]
    warnings: tuple[str, ...]
    fingerprint: str


def plan(
    launcher: Launcher, pipeline: Pipeline, query: str, snapshot: str | None = None, bindings: Path | None = None
) -> RestorePlan:
    """Return what a restore from a snapshot (default: the newest) would do. Nothing is changed.

    Raises HeadraceError where there is no such snapshot.
    """
    root = launcher.root
    chosen = _choose(root, pipeline.name, query, snapshot)
    again = _again(root, pipeline.name, query, chosen)
    own = chosen.paths(root)
    in_the_way = blockers(launcher, pipeline.name)
    wrong = kept.damaged(root, chosen)
    if wrong:
        in_the_way.append(f"{len(wrong)} file(s) of the snapshot have another hash than when it was taken: {wrong[0]}")
    if bindings:
        found = verify.kafka_holds(bindings, own.checkpoint, chosen.batch)
        found += verify.same_topics(bindings, own, pipeline.name)
        in_the_way += [f"{each.where} {each.what} ({each.fault})" for each in found]
    now = generation.current(root, pipeline.name, query)
    return _finish(
        RestorePlan(
            pipeline=pipeline.name,
            query=query,
            snapshot=chosen.id,
            source_generation=chosen.generation,
            batch=chosen.batch,
            new_generation=generation.next_number(root, pipeline.name, query),
            again=_distance(_ends(own.checkpoint, chosen.batch), again),
            starting_ms=None,
            blockers=tuple(in_the_way),
            warnings=tuple(_foreign(root, pipeline.name, query, chosen)),
            fingerprint=chosen.digest,
        ),
        now,
    )


def plan_reset(launcher: Launcher, pipeline: Pipeline, query: str, starting_ms: int | None = None) -> RestorePlan:
    """Return what a reset would do: a new generation that begins with empty state at a broker time, or at the beginning."""
    root = launcher.root
    now = generation.current(root, pipeline.name, query)
    if now is None and not generation.lost(root, pipeline.name, query):
        raise HeadraceError(f"{names.query_name(pipeline.name, query)} never ran: it begins at the beginning anyway.")
    warnings = []
    declared = pipeline.queries.get(query)
    if declared and (declared.aggregate or declared.join):
        warnings.append("state begins empty: totals in the sinks fall, and windows that are read in part are wrong")
    return _finish(
        RestorePlan(
            pipeline=pipeline.name,
            query=query,
            snapshot="",
            source_generation=now.number if now else None,
            batch=None,
            new_generation=generation.next_number(root, pipeline.name, query),
            again=0,
            starting_ms=starting_ms,
            blockers=tuple(blockers(launcher, pipeline.name)),
            warnings=tuple(warnings),
            fingerprint="reset",
        ),
        now,
    )


def act(
    launcher: Launcher,
    pipeline: Pipeline,
    planned: RestorePlan,
    *,
    by: str,
    reason: str,
    bindings: Path | None = None,
) -> Generation:
    """Carry out a plan and return the new generation. Raises HeadraceError if anything is not as it was planned."""
    if planned.snapshot:
        now = plan(launcher, pipeline, planned.query, planned.snapshot, bindings)
    else:
        now = plan_reset(launcher, pipeline, planned.query, planned.starting_ms)
    name = names.query_name(pipeline.name, planned.query)
    if now.blockers:
        raise HeadraceError(f"{name} cannot be restored: {'; '.join(now.blockers)}.")
    if now.fingerprint != planned.fingerprint:
        raise HeadraceError(f"{name} is not as it was when this was planned: look at a new plan.")
    made = Generation(
        pipeline=pipeline.name,
        query=planned.query,
        number=now.new_generation,
        started_micros=generation.next_start_micros(launcher.root, pipeline.name, planned.query),
        fingerprint={},
        reason=reason,
        by=by,
        at_ms=time.time_ns() // 1_000_000,
        starting_ms=planned.starting_ms,
    )
    if planned.snapshot:
        made = _copy(
            launcher.root, pipeline, _choose(launcher.root, pipeline.name, planned.query, planned.snapshot), made
        )
    if launcher.find(pipeline.name):
        raise HeadraceError(
            f"A driver of {pipeline.name} came up meanwhile: nothing was changed; stop it and make a new plan."
        )
    generation.write(launcher.root, made)
    return made


def restore(
    launcher: Launcher,
    pipeline: Pipeline,
    query: str,
    snapshot: str | None = None,
    *,
    by: str,
    reason: str,
    bindings: Path | None = None,
) -> Json:
    """RestorePlan, act and verify in one go, for who decides without a person (the upgrade's way back)."""
    planned = plan(launcher, pipeline, query, snapshot, bindings)
    made = act(launcher, pipeline, planned, by=by, reason=reason, bindings=bindings)
    report = verify.verify(launcher.root, pipeline, query, bindings)
    return to_json(planned) | {"generation": made.number, "sound": report.sound, "findings": len(report.findings)}


def restore_all(
    launcher: Launcher, pipeline: Pipeline, taken: dict[str, str], *, by: str, reason: str, bindings: Path | None = None
) -> Json:
    """Restore every query of `snapshots.take_all`'s answer."""
    return {
        query: restore(launcher, pipeline, query, snapshot, by=by, reason=reason, bindings=bindings)
        for query, snapshot in taken.items()
    }


def _choose(root: str, pipeline: str, query: str, snapshot: str | None) -> Snapshot:
    name = names.query_name(pipeline, query)
    if snapshot:
        found = kept.read(root, pipeline, query, snapshot)
        if found is None:
            raise HeadraceError(
                f"There is no snapshot {snapshot!r} of {name}: see `headrace checkpoint inspect {name}`."
            )
        return found
    known = kept.listed(root, pipeline, query)
    if not known:
        raise HeadraceError(f"{name} has no snapshot: take one with `headrace checkpoint snapshot {name}`.")
    return known[-1]


def blockers(launcher: Launcher, pipeline: str) -> list[str]:
    """Return why a driver of the pipeline may write, with the command that ends that; empty where none can."""
    found = [f"its driver runs ({each.where}): headrace stream stop {pipeline}" for each in launcher.find(pipeline)]
    desired = desired_state.read(launcher.root, pipeline)
    if desired.want == "RUNNING" and not desired.held(time.time_ns() // 1_000_000):
        found.append(f"{pipeline} is wanted RUNNING and would be started any moment: headrace stream stop {pipeline}")
    return found


def _finish(planned: RestorePlan, now: Generation | None) -> RestorePlan:
    """Put into the fingerprint all that an approval rests on."""
    basis = [planned.fingerprint, planned.new_generation, planned.starting_ms, now.number if now else 0]
    basis += [fingerprint.digest(now.fingerprint) if now else "", planned.pipeline, planned.query]
    return replace(planned, fingerprint=short_id(basis))


def _copy(root: str, pipeline: Pipeline, chosen: Snapshot, made: Generation) -> Generation:
    """Copy a snapshot into the new generation's folder, hash by hash, and return the generation with its lineage."""
    source, target = chosen.paths(root), made.paths(root)
    if small_files.list_names(target.folder) or small_files.list_names(target.files):
        raise HeadraceError(f"{target.folder} is not empty: make a new plan.")
    small_files.write_json(target.draft, {"snapshot": chosen.id, "at_ms": made.at_ms})
    for path, wanted in chosen.files.items():
        if path == _inside(source.manifest, source.folder):
            continue
        if trees.copy(f"{source.folder}/{path}", f"{target.folder}/{path}") != wanted:
            raise HeadraceError(
                f"{source.folder}/{path} has another hash than when it was taken: use an older snapshot."
            )
    old = generation.read(source.manifest)
    assert old is not None, source.manifest
    declared = pipeline.queries.get(chosen.query)
    if declared and declared.watermark:
        _pin_first_batch(root, chosen, target.checkpoint)
    wrong = [
        each for each in integrity.structure(target, stateful=snapshots.is_stateful(old)) if each.severity == "critical"
    ]
    if wrong:
        raise HeadraceError(f"{wrong[0].where} {wrong[0].what} ({wrong[0].fault}): use an older snapshot.")
    lineage = tuple(each for each in old.lineage if each[1] < chosen.batch)
    return replace(
        made,
        fingerprint=old.fingerprint,
        snapshot=chosen.id,
        lineage=(*lineage, (chosen.generation, chosen.batch)),
        starting_ms=old.starting_ms,
    )


def _pin_first_batch(root: str, chosen: Snapshot, folder: str) -> None:
    """RestorePlan the first batch of the restored checkpoint: all that was read after the cut, in one piece."""
    again = _again(root, chosen.pipeline, chosen.query, chosen)
    if _distance(_ends(folder, chosen.batch), again):
        watermark = checkpoint_log.next_watermark_ms(folder, chosen.batch)
        entry = checkpoint_log.planned_entry(folder, chosen.batch + 1, again, watermark)
        small_files.write_text(checkpoint_log.offsets_entry(folder, chosen.batch + 1), entry)


def _again(root: str, pipeline: str, query: str, chosen: Snapshot) -> Offsets:
    """Return up to where this generation and those after it have read: the greatest planned offset of each partition."""
    found: Offsets = {}
    ran = [each.number for each in generation.all_of(root, pipeline, query)]
    for number in [*ran, *generation.lost(root, pipeline, query)]:
        if number >= chosen.generation:
            own = paths.generation_paths(root, pipeline, query, number)
            found = archive_notes.latest(found, _newest_ends(own.checkpoint, own.ledger))
    return found


def _newest_ends(folder: str, records: str) -> Offsets:
    """Return the newest end offsets of a generation, by its log or, where that is damaged, by its ledger."""
    found: Offsets = {}
    for batch in reversed(checkpoint_log.batches(folder, "offsets")):
        found = _read(partial(_ends, folder, batch)) or {}
        if found:
            break
    record = _read(partial(ledger.newest, records))
    if record:
        found = archive_notes.latest(found, ledger.ends(record))
    return found


def _read(reading: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Return what a damaged checkpoint still tells, or None."""
    try:
        return reading()
    except (ValueError, KeyError, HeadraceError):
        return None


def _ends(folder: str, batch: int) -> Offsets:
    entry = checkpoint_log.read_entry(folder, batch)
    return entry[1] if entry else {}


def _distance(start: Offsets, end: Offsets) -> int:
    return sum(
        max(0, offset - start.get(topic, {}).get(partition, 0))
        for topic, parts in end.items()
        for partition, offset in parts.items()
    )


def _foreign(root: str, pipeline: str, query: str, chosen: Snapshot) -> list[str]:
    """Tell of generations after the snapshot's that did not come from it: rows that only they wrote stay in the tables."""
    later = [each for each in generation.all_of(root, pipeline, query) if each.number > chosen.generation]
    strange = [each.number for each in later if chosen.generation not in {number for number, _ in each.lineage}]
    if not strange:
        return []
    told = f"generation(s) {strange} began after this snapshot: rows that only they wrote stay in Cassandra"
    return [f"{told} until their window or key is written again"]


def _inside(path: str, folder: str) -> str:
    return path[len(folder) + 1 :]
