"""Upgrade a pipeline to another release, or go back, unattended: check, stop, snapshot, start, watch, keep or roll back.

A release is a folder with pipelines/ and spark_jobs/ (local) or an image. Each step is one function that may be repeated
after a fault; between them the supervisor is held off for a bounded time, so a dead upgrade lets go by itself.

Both releases run on the same checkpoint: the check before the stop allows only what Spark allows (guide, "Recovery
semantics after changes in a streaming query"), and batches are replayed exactly. The snapshot is the way back where the
old release cannot go on from what the new one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import drivers, duties, intent
from headrace.operations.checkpoints import restore, snapshots
from headrace.operations.drivers import Launcher, Order

HOLD_SECONDS = 900.0
"""How long the supervisor is held off by one step: longer than any, short enough that nobody waits for a dead one."""

SETTLED_SECONDS = 30.0
"""A query without new records counts as good when it has been active and caught up for so long."""


@dataclass(frozen=True)
class Watched:
    """What a watch saw: batches a query since the start, and the queries that had nothing to do."""

    batches: dict[str, int]
    idle: list[str]
    seconds: float


def check(launcher: Launcher, pipeline: str, release: str) -> dict[str, Any]:
    """Return the old release and what the check said. Raises HeadraceError with every unsafe change and the way out."""
    word = launcher.check(pipeline, Order(release=release))
    if word["changes"]:
        changes = "; ".join(f"{query}: {', '.join(what)}" for query, what in sorted(word["changes"].items()))
        queries = " ".join(f"--new-generation {query}" for query in sorted(word["changes"]))
        raise HeadraceError(
            f"{release} cannot take over the checkpoints of {pipeline}: {changes}. Nothing was stopped. Undo the change, "
            f"or migrate: headrace stream restart {pipeline} {queries} once the release is the deployment's own."
        )
    if word["exit"] != "FINISHED":
        raise HeadraceError(f"{release} cannot run {pipeline}: {word['error']} Nothing was stopped.")
    return {"pipeline": pipeline, "from": intent.read(launcher.root, pipeline).release, "to": release}


def stop(launcher: Launcher, pipeline: str, *, by: str, release: str) -> dict[str, Any]:
    """Hold the supervisor off and stop the driver; a running batch may finish."""
    _hold(launcher, pipeline, by, f"upgrade to {release or 'the deployment'}")
    gentle = launcher.stop(pipeline)
    return {"pipeline": pipeline, "ended": {None: "did not run", True: "stopped", False: "killed"}[gentle]}


def snapshot(launcher: Launcher, pipeline: Pipeline) -> dict[str, str]:
    """Take a snapshot of every query and return query -> snapshot id, for `roll_back`."""
    return snapshots.take_all(launcher.root, pipeline, reason="before an upgrade")


def start(launcher: Launcher, pipeline: str, *, by: str, release: str) -> dict[str, Any]:
    """Start a release while the supervisor is held off, and wait until its queries run. Raises HeadraceError if not."""
    _hold(launcher, pipeline, by, f"upgrade to {release or 'the deployment'}")
    living = launcher.find(pipeline)
    if living and living[0].release != release:
        launcher.stop(pipeline)
    driver, new = launcher.submit(pipeline, Order(release=release))
    return duties.await_queries(launcher, driver, new=new) | {"at_ms": time.time_ns() // 1_000_000}


def watch(
    launcher: Launcher,
    pipeline: str,
    *,
    batches: int,
    seconds: float,
    report: Callable[[str], None] = lambda _text: None,
) -> Watched:
    """Watch the driver that lives until each query has written `batches` batches, or has had nothing to do.

    Raises HeadraceError if the driver ends, a query ends, or one has not come so far after `seconds`.
    """
    began, said = time.monotonic(), ""
    first: dict[str, int] = {}
    calm_since: dict[str, float] = {}
    while True:
        beat = _living_heartbeat(launcher, pipeline)
        now = time.monotonic()
        done: dict[str, int] = {}
        idle: list[str] = []
        for entry in beat["queries"]:
            name, count = entry["query"], int(entry["batches"])
            done[name] = count - first.setdefault(name, 0)
            calm = entry["running_batch"] is None and not entry["lag"]
            since = calm_since.setdefault(name, now) if calm else now
            if not calm:
                calm_since.pop(name, None)
            if done[name] < batches and calm and now - since >= SETTLED_SECONDS:
                idle.append(name)
        missing = [name for name, count in done.items() if count < batches and name not in idle]
        if not missing:
            return Watched(done, idle, round(now - began, 1))
        text = ", ".join(f"{name} {done[name]} of {batches}" for name in missing)
        if text != said:
            report(text)
            said = text
        if now - began > seconds:
            raise HeadraceError(f"{pipeline} stalls: after {seconds:.0f} s there are batches of {text}.")
        time.sleep(2)


def keep(launcher: Launcher, pipeline: str, *, by: str, release: str) -> dict[str, Any]:
    """Make the new release the one that the supervisor keeps running."""
    wish = intent.write(
        launcher.root, pipeline, "RUNNING", by, f"upgraded to {release or 'the deployment'}", release=release
    )
    return asdict(wish)


def roll_back(
    launcher: Launcher, described: Pipeline, *, by: str, release: str, cut: dict[str, str] | None = None
) -> dict[str, Any]:
    """End whatever runs and start the old release; where it cannot go on from the checkpoint, restore the `cut` first.

    `described` is the pipeline as the old release has it. The old release is also what the supervisor keeps running
    afterwards, also if it does not come up at once.
    """
    pipeline = described.name
    reason = f"rolled back to {release or 'the deployment'}"
    intent.write(launcher.root, pipeline, "RUNNING", by, reason, release=release, hold_seconds=HOLD_SECONDS)
    launcher.stop(pipeline, 0)
    restored = False
    try:
        try:
            told = start(launcher, pipeline, by=by, release=release)
        except HeadraceError:
            word = drivers.outcome(launcher.root, pipeline) or {}
            if not cut or word.get("exit") not in {"DAMAGED", "REFUSED"}:
                raise
            launcher.stop(pipeline, 0)
            restore.restore_all(launcher, described, cut, by=by, reason=reason)
            restored = True
            told = start(launcher, pipeline, by=by, release=release)
    finally:
        intent.write(launcher.root, pipeline, "RUNNING", by, reason, release=release)
    return told | {"restored": restored}


def run(
    launcher: Launcher,
    described: Pipeline,
    *,
    by: str,
    release: str,
    old: Pipeline,
    batches: int,
    seconds: float,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Carry out a whole upgrade, as the DAG does task by task. Raises HeadraceError after it was refused or rolled back.

    `described` is the pipeline now, `old` as the release that runs has it (the same but for a release in a folder).
    """
    report("check")
    plan = check(launcher, described.name, release)
    cut: dict[str, str] | None = None
    try:
        report("stop")
        stop(launcher, described.name, by=by, release=release)
        report("snapshot")
        cut = snapshot(launcher, described)
        report("start")
        start(launcher, described.name, by=by, release=release)
        seen = watch(launcher, described.name, batches=batches, seconds=seconds, report=report)
        keep(launcher, described.name, by=by, release=release)
    except HeadraceError as fault:
        report("roll back")
        back = roll_back(launcher, old, by=by, release=plan["from"], cut=cut)
        how = "from the snapshot" if back["restored"] else "from its checkpoint"
        raise HeadraceError(
            f"{described.name} was rolled back to {plan['from'] or 'the deployment'}, which runs again {how}: {fault}"
        ) from fault
    return plan | asdict(seen)


def _hold(launcher: Launcher, pipeline: str, by: str, reason: str) -> None:
    """Hold the supervisor off for this step; the release that it would start stays the old one."""
    intent.write(launcher.root, pipeline, "RUNNING", by, reason, hold_seconds=HOLD_SECONDS)


def _living_heartbeat(launcher: Launcher, pipeline: str) -> dict[str, Any]:
    """Return the heartbeat of a driver whose queries all run. Raises HeadraceError if one does not."""
    living = launcher.find(pipeline)
    beat = drivers.heartbeat(launcher.root, pipeline)
    if not living or beat is None or beat["exit"]:
        raise HeadraceError(f"The driver of {pipeline} ended: {drivers.last_error(launcher, pipeline)}")
    dead = [f"{entry['query']} ({entry['error']})" for entry in beat["queries"] if not entry["active"]]
    if dead:
        raise HeadraceError(f"Queries of {pipeline} ended: {', '.join(dead)}")
    age = time.time() - beat["at_ms"] / 1000
    if age > 60:
        raise HeadraceError(f"{pipeline} hangs: its last heartbeat is {age:.0f} s old.")
    return beat
