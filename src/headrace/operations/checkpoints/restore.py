"""Restore and reset: always a new generation, and with it a new ledger and a new file-sink directory.

`plan` and `plan_reset` only read; `act` and `reset` carry out the approved plan (ADR 48). The manifest is written last: until
then the new folder belongs to no generation, and its number is never reused (`generation.next_number`).

The sinks stay exact (ADR 0013): tables by the greater writetime of the new generation, topics by the identities of the
records, files by a new directory, the archive by the offsets that its newest snapshot notes. If the query has a watermark,
all records after the cut are read again in one first batch: in smaller batches a row that was counted could become late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from headrace.contract import fingerprint, names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.checkpoints import snapshots, verify
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Launcher
from headrace.operations.plans import Approval, Item, Plan
from headrace.store import archive_notes, checkpoint_log, generation, integrity, ledger, paths, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.checkpoint_log import Offsets
from headrace.store.generation import Generation
from headrace.store.snapshot import Snapshot


@dataclass(frozen=True)
class Restored:
    """The result of a restore or a reset: the plan's id, the new generation, and what `verify` says about it."""

    plan: str
    query: str
    generation: int
    sound: bool
    findings: int


def plan(
    launcher: Launcher, pipeline: Pipeline, query: str, snapshot: str | None = None, bindings: Path | None = None
) -> Plan:
    """Return what a restore from a snapshot (default: the newest) would do. Changes nothing.

    Raises HeadraceError if the snapshot does not exist.
    """
    root = launcher.root
    chosen = choose(root, pipeline.name, query, snapshot)
    folders = chosen.paths(root)
    blocked_by = blockers(launcher, pipeline.name)
    damaged = kept.damaged(root, chosen)
    if damaged:
        blocked_by.append(
            f"{len(damaged)} file(s) of the snapshot have another hash than when it was taken: {damaged[0]}"
        )
    if bindings:
        findings = verify.kafka_holds(bindings, folders.checkpoint, chosen.batch)
        findings += verify.same_topics(bindings, folders, pipeline.name)
        blocked_by += [f"{finding.where} {finding.what} ({finding.fault})" for finding in findings]
    origin = f"from snapshot {chosen.id}, batch {chosen.batch} of generation {chosen.generation}"
    cut = checkpoint_log.ends(folders.checkpoint, chosen.batch)
    again = checkpoint_log.distance(cut, _again(root, pipeline.name, query, chosen))
    return Plan(
        "restore",
        names.query_name(pipeline.name, query),
        succession(
            root, pipeline.name, query, f"{origin}, files {chosen.digest[:12]}", f"{again:,} offsets are read again"
        ),
        tuple(blocked_by),
        tuple(_foreign(root, pipeline.name, query, chosen)),
    )


def plan_reset(launcher: Launcher, pipeline: Pipeline, query: str, starting_ms: int | None = None) -> Plan:
    """Return what a reset would do: a new generation with empty state, from a broker time or from the topic's beginning.

    Raises HeadraceError if the query never ran.
    """
    require_ran(launcher.root, pipeline.name, query)
    declared = pipeline.queries.get(query)
    stateful = declared and (declared.aggregate or declared.join)
    state = "State begins empty: totals in the sinks fall, and windows that are read in part are wrong."
    at = "the beginning" if starting_ms is None else datetime.fromtimestamp(starting_ms / 1000, UTC).isoformat()
    return Plan(
        "reset",
        names.query_name(pipeline.name, query),
        succession(launcher.root, pipeline.name, query, f"with empty state, from {at} of its topics"),
        tuple(blockers(launcher, pipeline.name)),
        (state,) if stateful else (),
    )


def require_ran(root: str, pipeline: str, query: str) -> None:
    """Raise HeadraceError if the query never ran."""
    if generation.current(root, pipeline, query) is None and not generation.lost(root, pipeline, query):
        raise HeadraceError(f"{names.query_name(pipeline, query)} never ran: it begins at the beginning anyway.")


def succession(root: str, pipeline: str, query: str, origin: str, note: str = "") -> tuple[Item, ...]:
    """Return the items of a plan that begins a generation: the new one with its origin, and the current one that it leaves."""
    current = generation.current(root, pipeline, query)
    begun = Item("begin", f"generation {generation.next_number(root, pipeline, query)}", origin, note)
    if current is None:
        return (begun,)
    plan_of_it = fingerprint.digest(current.fingerprint)[:12] if current.fingerprint else "none yet"
    return begun, Item("leave", f"generation {current.number}", f"fingerprint {plan_of_it}")


def act(
    launcher: Launcher,
    pipeline: Pipeline,
    query: str,
    approval: Approval,
    snapshot: str | None = None,
    bindings: Path | None = None,
) -> Generation:
    """Carry out the approved restore and return the new generation. Raises HeadraceError as `plans.begin` does."""
    chosen = choose(launcher.root, pipeline.name, query, snapshot)
    plans.begin(launcher.root, plan(launcher, pipeline, query, chosen.id, bindings), approval)
    return _write(
        launcher, _copy(launcher.root, pipeline, chosen, _next(launcher.root, pipeline.name, query, approval))
    )


def reset(
    launcher: Launcher, pipeline: Pipeline, query: str, approval: Approval, starting_ms: int | None = None
) -> Generation:
    """Carry out the approved reset and return the new generation. Raises HeadraceError as `plans.begin` does."""
    plans.begin(launcher.root, plan_reset(launcher, pipeline, query, starting_ms), approval)
    return _write(launcher, replace(_next(launcher.root, pipeline.name, query, approval), starting_ms=starting_ms))


def verified(
    launcher: Launcher, pipeline: Pipeline, made: Generation, plan_id: str, bindings: Path | None = None
) -> Restored:
    """Verify the generation that a plan began, and return the result."""
    report = verify.verify(launcher.root, pipeline, made.query, bindings)
    return Restored(plan_id, report.query, made.number, report.sound, len(report.findings))


def restore(
    launcher: Launcher,
    pipeline: Pipeline,
    query: str,
    snapshot: str | None = None,
    *,
    by: str,
    reason: str,
    bindings: Path | None = None,
) -> Restored:
    """Plan, act and verify in one call, for code that decides without a person (the rollback of an upgrade)."""
    planned = plan(launcher, pipeline, query, snapshot, bindings)
    approval = Approval(planned.id, by=by, reason=reason)
    made = act(launcher, pipeline, query, approval, snapshot, bindings)
    return verified(launcher, pipeline, made, planned.id, bindings)


def restore_all(
    launcher: Launcher, pipeline: Pipeline, taken: dict[str, str], *, by: str, reason: str, bindings: Path | None = None
) -> dict[str, Restored]:
    """Restore every query in the result of `snapshots.take_all`."""
    return {
        query: restore(launcher, pipeline, query, snapshot, by=by, reason=reason, bindings=bindings)
        for query, snapshot in taken.items()
    }


def choose(root: str, pipeline: str, query: str, snapshot: str | None) -> Snapshot:
    """Return a snapshot of a query (default: the newest). Raises HeadraceError if it does not exist."""
    name = names.query_name(pipeline, query)
    if snapshot:
        chosen = kept.read(root, pipeline, query, snapshot)
        if chosen is None:
            raise HeadraceError(
                f"There is no snapshot {snapshot!r} of {name}: see `headrace checkpoint inspect {name}`."
            )
        return chosen
    known = kept.listed(root, pipeline, query)
    if not known:
        raise HeadraceError(f"{name} has no snapshot: take one with `headrace checkpoint snapshot {name}`.")
    return known[-1]


def blockers(launcher: Launcher, pipeline: str) -> list[str]:
    """Return each reason why a driver of the pipeline may write, with the command that stops it. Empty if no driver can."""
    reasons = [
        f"its driver runs ({driver.where}): headrace stream stop {pipeline}" for driver in launcher.find(pipeline)
    ]
    desired = desired_state.read(launcher.root, pipeline)
    if desired.want == "RUNNING" and not desired.held(time.time_ns() // 1_000_000):
        reasons.append(f"{pipeline} is wanted RUNNING and would be started any moment: headrace stream stop {pipeline}")
    return reasons


def _next(root: str, pipeline: str, query: str, approval: Approval) -> Generation:
    now_ms = time.time_ns() // 1_000_000
    begun = generation.next_of(root, pipeline, query)
    return replace(begun, reason=approval.reason, by=approval.by, at_ms=now_ms)


def _write(launcher: Launcher, made: Generation) -> Generation:
    """Write the manifest, which makes a generation the current one, unless a driver was started meanwhile."""
    if launcher.find(made.pipeline):
        raise HeadraceError(
            f"A driver of {made.pipeline} came up meanwhile: nothing was changed; stop it and make a new plan."
        )
    generation.write(launcher.root, made)
    return made


def _copy(root: str, pipeline: Pipeline, chosen: Snapshot, restored: Generation) -> Generation:
    """Copy a snapshot into the new generation's folder, compare each hash, and return the generation with its lineage."""
    source, target = chosen.paths(root), restored.paths(root)
    if small_files.list_names(target.folder) or small_files.list_names(target.files):
        raise HeadraceError(f"{target.folder} is not empty: make a new plan.")
    small_files.write_json(target.draft, {"snapshot": chosen.id, "at_ms": restored.at_ms})
    for path, digest in chosen.files.items():
        if path == _inside(source.manifest, source.folder):
            continue
        if trees.copy(f"{source.folder}/{path}", f"{target.folder}/{path}") != digest:
            raise HeadraceError(
                f"{source.folder}/{path} has another hash than when it was taken: use an older snapshot."
            )
    origin = generation.read(source.manifest)
    assert origin is not None, source.manifest
    declared = pipeline.queries.get(chosen.query)
    if declared and declared.watermark:
        _pin_first_batch(root, chosen, target.checkpoint)
    critical = integrity.critical(integrity.structure(target, stateful=snapshots.is_stateful(origin)))
    if critical:
        raise HeadraceError(f"{critical[0].where} {critical[0].what} ({critical[0].fault}): use an older snapshot.")
    lineage = tuple(ancestor for ancestor in origin.lineage if ancestor[1] < chosen.batch)
    return replace(
        restored,
        fingerprint=origin.fingerprint,
        snapshot=chosen.id,
        lineage=(*lineage, (chosen.generation, chosen.batch)),
        starting_ms=origin.starting_ms,
    )


def _pin_first_batch(root: str, chosen: Snapshot, folder: str) -> None:
    """Plan the first batch of the restored checkpoint: all records that were read after the cut, in one batch."""
    again = _again(root, chosen.pipeline, chosen.query, chosen)
    if checkpoint_log.distance(checkpoint_log.ends(folder, chosen.batch), again):
        watermark = checkpoint_log.next_watermark_ms(folder, chosen.batch)
        entry = checkpoint_log.planned_entry(folder, chosen.batch + 1, again, watermark)
        small_files.write_text(checkpoint_log.offsets_entry(folder, chosen.batch + 1), entry)


def _again(root: str, pipeline: str, query: str, chosen: Snapshot) -> Offsets:
    """Return the greatest planned offset of each partition over the snapshot's generation and all later ones."""
    latest: Offsets = {}
    known = [one.number for one in generation.all_of(root, pipeline, query)]
    for number in [*known, *generation.lost(root, pipeline, query)]:
        if number >= chosen.generation:
            folders = paths.generation_paths(root, pipeline, query, number)
            latest = archive_notes.latest(latest, _newest_ends(folders.checkpoint, folders.ledger))
    return latest


def _newest_ends(folder: str, records: str) -> Offsets:
    """Return the newest end offsets of a generation, from its log and its ledger. A damaged one of them is left out."""
    ends: Offsets = {}
    for batch in reversed(checkpoint_log.batches(folder, "offsets")):
        ends = _read(partial(checkpoint_log.ends, folder, batch)) or {}
        if ends:
            break
    record = _read(partial(ledger.newest, records))
    if record:
        ends = archive_notes.latest(ends, ledger.ends(record))
    return ends


def _read(reading: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Return what `reading` returns, or None if the checkpoint is damaged there."""
    try:
        return reading()
    except (ValueError, KeyError, HeadraceError):
        return None


def _foreign(root: str, pipeline: str, query: str, chosen: Snapshot) -> list[str]:
    """Return a note about later generations that do not descend from the snapshot: their rows stay in the tables."""
    later = [one for one in generation.all_of(root, pipeline, query) if one.number > chosen.generation]
    unrelated = [one.number for one in later if chosen.generation not in {number for number, _ in one.lineage}]
    if not unrelated:
        return []
    note = f"Generation(s) {unrelated} began after this snapshot: rows that only they wrote stay in Cassandra"
    return [f"{note} until their window or key is written again."]


def _inside(path: str, folder: str) -> str:
    return path[len(folder) + 1 :]
