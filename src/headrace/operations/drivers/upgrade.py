"""Upgrade a pipeline to another release, or go back, unattended: check, stop, snapshot, start, watch, keep or roll back.

A release is a folder with pipelines/ and spark_jobs/ (local) or an image. Each step is one function that may be repeated
after a fault. Meanwhile the supervisor only observes, for a limited time that a running upgrade renews: a crashed one releases
it automatically. An operator always wins (ADR 0012): a pipeline that is paused or stopped, before or meanwhile, stays so; it
gets the release without being started.

Both releases run on the same checkpoint: the check before the stop allows only what Spark allows (guide, "Recovery
semantics after changes in a streaming query"), and batches are replayed exactly. The snapshot is the way back if the old
release cannot go on from what the new one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import restore, snapshots
from headrace.operations.drivers import control, desired_state, interface
from headrace.operations.drivers.control import RunningDriver
from headrace.operations.drivers.desired_state import DesiredState, Want
from headrace.operations.drivers.interface import Launcher, StartSpec
from headrace.operations.supervisor.observe import SILENCE, KafkaEnds, positions_of
from headrace.store import driver_files, records
from headrace.store.driver_files import Heartbeat, QueryState

HOLD_SECONDS = 900.0
"""For how long one step holds the supervisor: longer than any but `watch`, which renews it; short enough that a crashed
upgrade delays nothing for long."""

SILENT_SECONDS = 60.0
"""A new release counts as hanging after twice the supervisor's limit: its first batches may be slow, and a roll-back is dear."""

SETTLED_SECONDS = 30.0
"""A query without new records counts as good when it has been active and caught up for so long."""


@dataclass(frozen=True)
class ReleaseChange:
    """The change of a pipeline's release; "" is the deployment's own."""

    pipeline: str
    old: str = records.key("from")
    new: str = records.key("to")


@dataclass(frozen=True)
class Started:
    """The result of a start. Where the pipeline is not `wanted` to run nothing is `running`. `restored`: from the snapshot."""

    COMPUTED: ClassVar = ("driver",)
    pipeline: str
    wanted: Want
    running: RunningDriver | None = None
    restored: bool = False

    @property
    def driver(self) -> str | None:
        """Return the identity of the driver that runs."""
        return self.running.driver if self.running else None


@dataclass(frozen=True)
class Watched:
    """What a watch observed: batches a query since the start, and the queries that had nothing to do."""

    batches: dict[str, int]
    idle: list[str]
    seconds: float


@dataclass(frozen=True)
class Upgraded(ReleaseChange):
    """A finished upgrade, with what was watched. `driver` is None if the pipeline is not wanted to run."""

    batches: dict[str, int] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    seconds: float = 0.0
    driver: str | None = None


Behind = Callable[[], Mapping[str, int | None]]
"""Returns offsets behind Kafka by short query name; None, or no entry, where that is not known."""


def not_known() -> Mapping[str, int | None]:
    """Return that nothing is known of any query: then only what a driver's heartbeat says counts."""
    return {}


def behind(root: str, pipeline: Pipeline, bindings: Path) -> Behind:
    """Return a function that asks checkpoints and Kafka how far each query is behind. `bindings` is an admin's root."""
    ends = KafkaEnds(bindings)

    def ask() -> Mapping[str, int | None]:
        try:
            positions = positions_of(root, pipeline, ends(pipeline.sources))
        except SILENCE:
            return {}
        return {query: None if position.error else position.lag for query, position in positions.items()}

    return ask


def check(launcher: Launcher, pipeline: str, release: str) -> ReleaseChange:
    """Check a release and return the change to it. Raises HeadraceError with every unsafe change and the way out."""
    result = launcher.check(pipeline, StartSpec(release=release))
    if result.changes:
        changes = "; ".join(f"{query}: {', '.join(what)}" for query, what in sorted(result.changes.items()))
        queries = " ".join(f"--new-generation {query}" for query in sorted(result.changes))
        raise HeadraceError(
            f"{release} cannot take over the checkpoints of {pipeline}: {changes}. Nothing was stopped. Undo the change, "
            f"or migrate: headrace stream restart {pipeline} {queries} --rows keep once the release is the deployment's own."
        )
    if result.exit != "FINISHED":
        raise HeadraceError(f"{release} cannot run {pipeline}: {result.error} Nothing was stopped.")
    return ReleaseChange(pipeline, desired_state.read(launcher.root, pipeline).release, release)


def stop(launcher: Launcher, pipeline: str) -> str:
    """Hold the supervisor and stop the driver; a running batch may finish. Returns in words how the driver ended."""
    desired_state.hold(launcher.root, pipeline, HOLD_SECONDS)
    return interface.end_in_words(launcher.stop(pipeline))


def snapshot(launcher: Launcher, pipeline: Pipeline) -> dict[str, str]:
    """Take a snapshot of every query and return query -> snapshot id, for `roll_back`."""
    return snapshots.take_all(launcher.root, pipeline, reason="before an upgrade")


def start(launcher: Launcher, pipeline: str, release: str) -> Started:
    """Start a release while the supervisor is held, and wait until its queries run. Raises HeadraceError if not."""
    desired = desired_state.hold(launcher.root, pipeline, HOLD_SECONDS)
    if desired.want != "RUNNING":
        return Started(pipeline, desired.want)
    running = launcher.find(pipeline)
    if running and running[0].release != release:
        launcher.stop(pipeline)
    driver, new = launcher.submit(pipeline, StartSpec(release=release))
    if driver.release != release:
        raise HeadraceError(
            f"Another start of {pipeline} with {driver.release or 'the deployment'} came first: upgrade again."
        )
    return Started(pipeline, desired.want, control.await_queries(launcher, driver, new=new))


def watch(
    launcher: Launcher,
    pipeline: str,
    *,
    driver: str | None,
    batches: int,
    seconds: float,
    report: Callable[[str], None] = lambda _text: None,
    lag: Behind = not_known,
) -> Watched:
    """Watch the driver of this identity until each query has written `batches` batches, or has had nothing to do.

    The hold is renewed meanwhile. A query has nothing to do where its heartbeat or `lag` says that it is not behind: not
    known is not nothing. With `driver` None the pipeline is not wanted to run, and there is nothing to watch.

    Raises HeadraceError if that driver ends or is replaced, a query ends, the pipeline is paused or stopped, or one has not
    come so far after `seconds`.
    """
    if driver is None:
        return Watched({}, [], 0.0)
    began, reported, held = time.monotonic(), "", -HOLD_SECONDS
    observed = _Observed(batches, lag)
    while True:
        now = time.monotonic()
        if now - held > HOLD_SECONDS / 3:
            _require_wanted(desired_state.hold(launcher.root, pipeline, HOLD_SECONDS))
            held = now
        observed.add(_heartbeat_of_running(launcher, pipeline, driver).queries, now)
        missing = [name for name, count in observed.done.items() if count < batches and name not in observed.idle]
        if not missing:
            return Watched(observed.done, observed.idle, round(now - began, 1))
        text = ", ".join(f"{name} {observed.done[name]} of {batches}" for name in missing)
        if text != reported:
            report(text)
            reported = text
        if now - began > seconds:
            raise HeadraceError(f"{pipeline} stalls: after {seconds:.0f} s there are batches of {text}.")
        time.sleep(2)


@dataclass
class _Observed:
    """What a watch has observed so far: batches a query since the first heartbeat, and queries with nothing to do.

    A batch without offsets does not count: it runs no record through the new transform. Spark plans one after a batch that
    moved the watermark (`spark.sql.streaming.noDataMicroBatches.enabled`), and the old driver may leave it to the new one.
    """

    batches: int
    lag: Behind
    done: dict[str, int] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    _first: dict[str, int] = field(default_factory=dict)
    _calm_since: dict[str, float] = field(default_factory=dict)

    def add(self, states: Sequence[QueryState], now: float) -> None:
        """Add the queries of a heartbeat; `now` is of the monotonic clock."""
        resting = [state for state in states if state.running_batch is None]
        asked = self.lag() if any(state.lag is None for state in resting) else {}
        lags = {
            state.query: asked.get(state.query.partition(".")[2]) if state.lag is None else state.lag
            for state in resting
        }
        self._calm_since = {name: self._calm_since.get(name, now) for name, lag in lags.items() if lag == 0}
        for state in states:
            count = state.batches if state.reading_batches is None else state.reading_batches
            self.done[state.query] = count - self._first.setdefault(state.query, count)
        self.idle = [
            name
            for name, since in self._calm_since.items()
            if self.done[name] < self.batches and now - since >= SETTLED_SECONDS
        ]


def keep(launcher: Launcher, pipeline: str, *, by: str, release: str) -> DesiredState:
    """Make the new release the one that the supervisor keeps running, and release the supervisor.

    Raises HeadraceError where another release runs: it was replaced after the watch.
    """
    other = [driver for driver in launcher.find(pipeline) if driver.release != release]
    if other:
        raise HeadraceError(
            f"{pipeline} runs {other[0].release or 'the deployment'} ({other[0].where}), not the release."
        )
    reason = f"upgraded to {release or 'the deployment'}"
    return desired_state.run_release(launcher.root, pipeline, by, reason, release)


def roll_back(
    launcher: Launcher, described: Pipeline, *, by: str, release: str, cut: dict[str, str] | None = None
) -> Started:
    """End whatever runs and start the old release; where it cannot go on from the checkpoint, restore the `cut` first.

    `described` is the pipeline as the old release has it. The old release is also what the supervisor keeps running
    afterwards, also if it does not come up at once. A pipeline that is paused or stopped meanwhile stays so: then nothing
    is started, and `driver` is None.
    """
    pipeline = described.name
    reason = f"rolled back to {release or 'the deployment'}"
    desired_state.run_release(launcher.root, pipeline, by, reason, release, hold_seconds=HOLD_SECONDS)
    launcher.stop(pipeline, 0)
    restored = False
    try:
        try:
            started = start(launcher, pipeline, release)
        except HeadraceError:
            record = driver_files.exit_record(launcher.root, pipeline)
            if not cut or record is None or record.exit not in {"DAMAGED", "REFUSED"}:
                raise
            launcher.stop(pipeline, 0)
            restore.restore_all(launcher, described, cut, by=by, reason=reason)
            restored = True
            started = start(launcher, pipeline, release)
    finally:
        desired_state.hold(launcher.root, pipeline, 0)
    return replace(started, restored=restored)


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
    lag: Behind = not_known,
) -> Upgraded:
    """Carry out a complete upgrade, as the DAG does task by task. Raises HeadraceError after it was refused or rolled back.

    A pipeline that is not wanted to run gets the release for its next start; `driver` is None then.

    `described` is the pipeline now, `old` as the release that runs has it (the same but for a release in a folder).
    """
    report("check")
    change = check(launcher, described.name, release)
    cut: dict[str, str] | None = None
    try:
        report("stop")
        stop(launcher, described.name)
        report("snapshot")
        cut = snapshot(launcher, described)
        report("start")
        driver = start(launcher, described.name, release).driver
        watched = watch(
            launcher, described.name, driver=driver, batches=batches, seconds=seconds, report=report, lag=lag
        )
        keep(launcher, described.name, by=by, release=release)
    except HeadraceError as fault:
        report("roll back")
        back = roll_back(launcher, old, by=by, release=change.old, cut=cut)
        how = "from the snapshot" if back.restored else "from its checkpoint"
        now = f"which runs again {how}" if back.running else f"and stays {back.wanted}"
        raise HeadraceError(
            f"{described.name} was rolled back to {change.old or 'the deployment'}, {now}: {fault}"
        ) from fault
    return Upgraded(**vars(change), **vars(watched), driver=driver)


def _require_wanted(desired: DesiredState) -> None:
    if desired.want != "RUNNING":
        who = f" by {desired.by}" if desired.by else ""
        raise HeadraceError(f"The desired state became {desired.want}{who} meanwhile ({desired.reason}).")


def _heartbeat_of_running(launcher: Launcher, pipeline: str, identity: str) -> Heartbeat:
    """Return the heartbeat of the driver of this identity, whose queries all run. Raises HeadraceError if one does not."""
    running = launcher.find(pipeline)
    _require_wanted(desired_state.read(launcher.root, pipeline))
    if not running:
        raise HeadraceError(f"The driver of {pipeline} ended: {interface.last_error(launcher, pipeline)}")
    if running[0].identity != identity:
        other = running[0].release or "the deployment"
        raise HeadraceError(
            f"The driver of {pipeline} ended and another one runs ({running[0].where}, {other}): "
            f"{interface.last_error(launcher, pipeline)}"
        )
    heartbeat = interface.heartbeat_of(driver_files.heartbeat(launcher.root, pipeline), running[0])
    if heartbeat is None or heartbeat.exit:
        raise HeadraceError(f"The driver of {pipeline} ended: {interface.last_error(launcher, pipeline)}")
    ended = [f"{state.query} ({state.error})" for state in heartbeat.queries if not state.active]
    if ended:
        raise HeadraceError(f"Queries of {pipeline} ended: {', '.join(ended)}")
    age = time.time() - heartbeat.at_ms / 1000
    if age > SILENT_SECONDS:
        raise HeadraceError(f"{pipeline} hangs: its last heartbeat is {age:.0f} s old.")
    return heartbeat
