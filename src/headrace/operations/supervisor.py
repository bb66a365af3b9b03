"""The supervisor: look at a pipeline, judge, act, write it down. The one place in which drivers are restarted.

Run by Airflow's mapped tasks every minute (`supervise_for_airflow`) or by `headrace stream supervise` without Airflow.
It never works against an operator: the wish is read again right before and right after it acts, and what it started is
stopped again if an operator meanwhile wanted otherwise. An attempt is written down before it is made, so that a
supervisor that dies in the middle has spent it.

Two passes at once take turns by a lock file where the storage is a disk. On an object store there is no lock: there
`Launcher.submit` adopts a living driver and the driver's own fence refuses a second, so that two passes can at worst
spend two restarts on one. The rest is Airflow's max_active_runs=1.
"""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace.contract import names, pace, paths
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import intent, supervision
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import Driver, Launcher, LauncherSilentError
from headrace.operations.intent import Intent
from headrace.operations.supervision import Action, Memory
from headrace.operations.supervisor_decide import decide, restarts_left
from headrace.operations.supervisor_observe import SILENCE, Ends, KafkaEnds, observe
from headrace.operations.verdict import LIMITS, Finding, Judgement, Limits, Observation, judge, remember

LOOK_SECONDS = 5.0
TURN_SECONDS = 10.0


@dataclass(frozen=True)
class Scene:
    """What the looks at one pipeline need. `ends` asks Kafka; `dice` gives the jitter."""

    launcher: Launcher
    pipeline: Pipeline
    ends: Ends
    limits: Limits = LIMITS
    dice: random.Random = field(default_factory=random.SystemRandom)

    @property
    def root(self) -> str:
        """Return the storage root."""
        return self.launcher.root


def supervise_for_airflow(deployment: Deployment, pipeline: str, watch_seconds: float = 50) -> dict[str, Any]:
    """Make one pass over one pipeline of a deployment; returns as `supervise`.

    Raises HeadraceError for an unknown name, and once (the alarm) when the pipeline needs a person.
    """
    scene = Scene(deployment.launcher(), deployment.pipeline(pipeline), KafkaEnds(deployment.bindings))
    told = supervise(scene, watch_seconds=watch_seconds)
    given_up = [action["reason"] for action in told["actions"] if action["kind"] == "GIVE_UP"]
    if given_up:
        raise HeadraceError(f"{pipeline} needs a person: {given_up[-1]}; see {told['runbook'] or 'its log'}.")
    return told


def supervise(scene: Scene, *, watch_seconds: float = 0, look_seconds: float = LOOK_SECONDS) -> dict[str, Any]:
    """Look once, and then every `look_seconds` until `watch_seconds` are over; act at once where something is wrong.

    Returns the last look as `supervision.json` has it (JSON-safe; see `supervision`), with `actions`: all that were
    taken in this pass. An every-minute task that watches for 50 s leaves few seconds in which nobody looks.
    """
    deadline = time.monotonic() + watch_seconds
    actions: list[Any] = []
    while True:
        told = look(scene)
        if told["action"]["kind"] != "NOTHING":
            actions.append(told["action"])
        if time.monotonic() + look_seconds > deadline:
            return told | {"actions": actions}
        time.sleep(look_seconds)


def look(scene: Scene) -> dict[str, Any]:
    """Look once at a pipeline, act where something is wrong, and write it down. Returns what was written."""
    try:
        with _turn(scene) as mine:
            if mine:
                return _look(scene)
            return describe(scene) | _acted("another supervisor is at work on it")
    except SILENCE as error:
        return _unreadable(scene, error)


def describe(scene: Scene) -> dict[str, Any]:
    """Look once without doing or writing anything: the verdicts as of now, in the shape of `supervision.json`."""
    try:
        memory = supervision.memory_of(supervision.read(scene.root, scene.pipeline.name))
        seen = observe(scene.launcher, scene.pipeline, intent.read(scene.root, scene.pipeline.name), scene.ends)
    except SILENCE as error:
        return _unreadable(scene, error)
    memory = remember(seen, memory)
    action = Action("NOTHING", "only looked at", seen.now_ms)
    return _told(scene, seen, judge(scene.pipeline, seen, memory, scene.limits), memory, action)


def _look(scene: Scene) -> dict[str, Any]:
    name = scene.pipeline.name
    before = supervision.memory_of(supervision.read(scene.root, name))
    seen = observe(scene.launcher, scene.pipeline, intent.read(scene.root, name), scene.ends)
    remembered = remember(seen, before)
    judgement = judge(scene.pipeline, seen, remembered, scene.limits)
    action, memory = decide(judgement.pipeline, seen, remembered, scene.limits, scene.dice)
    if judgement.pipeline.end in pace.SLOWED_BY:
        # On Kubernetes the JVM takes Python along: the driver cannot write it down itself.
        pace.slow_down(scene.root, name, remembered.life, judgement.pipeline.end)
    elif remembered.same_end in pace.SLOWED_BY and not memory.same_end:
        pace.restore(scene.root, name)  # for the next driver: this one has run long enough
    if action.kind not in {"NOTHING", "GIVE_UP"}:
        supervision.write(scene.root, name, _told(scene, seen, judgement, memory, action))
        action, memory, silence = _act(scene, seen, action, memory, remembered)
        if silence:
            judgement = Judgement(
                Finding("UNKNOWN", silence), dict.fromkeys(judgement.queries, Finding("UNKNOWN", silence))
            )
    told = _told(scene, seen, judgement, memory, action)
    supervision.write(scene.root, name, told)
    return told


def _act(
    scene: Scene, seen: Observation, action: Action, memory: Memory, untouched: Memory
) -> tuple[Action, Memory, str]:
    """Carry out an action, unless the wish or the drivers changed since the look. Returns what came of it.

    The third is what the launcher does not know, or "". Then nothing is spent: a driver that may still write is not known
    to have failed, and none was started beside it.
    """
    launcher, name = scene.launcher, scene.pipeline.name
    try:
        changed = intent.read(scene.root, name) != seen.wish or _identities(scene) != _seen_identities(seen)
    except LauncherSilentError as silence:
        unknown = f"the launcher cannot say which drivers run: {silence}"
        return replace(action, kind="NOTHING", reason=unknown), untouched, unknown
    if changed:
        reason = "it changed while it was looked at: see the next look"
        return replace(action, kind="NOTHING", reason=reason), untouched, ""
    try:
        if action.kind != "START":
            launcher.stop(name, 0 if action.kind == "FENCE_AND_START" else None)
        if action.kind == "STOP":
            return action, memory, ""
        driver = _start(scene)
    except LauncherSilentError as silence:
        tried = f"{action.kind} was tried ({_why(action)}) and the launcher does not answer: {silence}"
        return replace(action, kind="NOTHING", reason=tried), untouched, tried
    except HeadraceError as error:
        return replace(action, reason=f"{action.reason}; it could not be started: {error}"), memory, ""
    if driver is None:
        return replace(action, reason=f"{action.reason}; undone, an operator decided otherwise"), memory, ""
    started_ms = int(driver.started * 1000)
    known = replace(
        memory,
        driver=driver.identity,
        life=driver.life,
        request=seen.wish.request,
        started_ms=started_ms,
        first_beat_ms=0,
    )
    return action, known, ""


def _why(action: Action) -> str:
    """Return why an action was taken, without the number of the start that it would have been."""
    return action.reason.partition("; start ")[0]


def _start(scene: Scene) -> Driver | None:
    """Start what is wanted now and see that it still is wanted afterwards. None: it is not wanted, and none lives."""
    launcher, name = scene.launcher, scene.pipeline.name
    wish = intent.read(scene.root, name)
    while wish.want == "RUNNING":
        driver, new = launcher.submit(name, wish.order())
        now = intent.read(scene.root, name)
        if now == wish or (now.want == "RUNNING" and not (new and _differ(now, wish))):
            return driver
        launcher.stop(name)
        wish = now
    return None


def _differ(now: Intent, before: Intent) -> bool:
    """Return whether a driver that was started under an earlier wish is not the one that is wanted now."""
    return now.release != before.release or (bool(now.new_generations) and now.request != before.request)


def _identities(scene: Scene) -> set[str]:
    return {driver.identity for driver in scene.launcher.find(scene.pipeline.name)}


def _seen_identities(seen: Observation) -> set[str]:
    return {driver.identity for driver in seen.drivers or ()}


def _told(scene: Scene, seen: Observation, found: Judgement, memory: Memory, action: Action) -> dict[str, Any]:
    """Return a look in the shape of `supervision.json`."""
    pipeline, wish, whole = scene.pipeline, seen.wish, found.pipeline
    driver = seen.drivers[0] if seen.drivers else None
    last = memory.last_action
    return {
        "pipeline": pipeline.name,
        "at_ms": seen.now_ms,
        "verdict": whole.verdict,
        "reason": whole.reason,
        "runbook": supervision.runbook(whole.verdict),
        "wanted": wish.want,
        "wanted_reason": wish.reason,
        "wanted_by": wish.by,
        "wanted_at_ms": wish.at_ms,
        "driver": driver and _driver_json(driver),
        "queries": [_query_json(pipeline, query, seen, finding) for query, finding in found.queries.items()],
        "action": vars(action),
        "last_action": last and vars(last),
        "restarts_left": restarts_left(seen, memory, scene.limits),
        "restarts": list(memory.restarts_since(wish)),
        "next_start_ms": memory.next_start_ms,
        "memory": supervision.memory_json(memory),
    }


def _driver_json(driver: Driver) -> dict[str, Any]:
    return {
        "identity": driver.identity,
        "where": driver.where,
        "started_ms": int(driver.started * 1000),
        "pending": driver.pending,
        "release": driver.release,
    }


def _query_json(pipeline: Pipeline, query: str, seen: Observation, finding: Finding) -> dict[str, Any]:
    position = seen.positions.get(query)
    return {
        "query": names.query_name(pipeline.name, query),
        "verdict": finding.verdict,
        "reason": finding.reason,
        "generation": position and position.generation,
        "batch": position and position.batch,
        "lag": position and position.lag,
    }


def _unreadable(scene: Scene, error: Exception) -> dict[str, Any]:
    """Return UNKNOWN for a pipeline whose own files cannot be read or written; nothing was done."""
    now_ms = time.time_ns() // 1_000_000
    finding = Finding("UNKNOWN", f"the storage does not answer: {error}")
    seen = Observation(now_ms, Intent(reason="not known"), None)
    queries = dict.fromkeys(names.query_names(scene.pipeline), finding)
    action = Action("NOTHING", "what is not known is not touched", now_ms)
    return _told(scene, seen, Judgement(finding, queries), Memory(), action)


def _acted(reason: str) -> dict[str, Any]:
    return {"action": vars(Action("NOTHING", reason, time.time_ns() // 1_000_000))}


@contextmanager
def _turn(scene: Scene) -> Iterator[bool]:
    """Take this pipeline's turn among supervisors; False if another keeps it for too long (it waits for a stop)."""
    if "://" in scene.root:
        yield True
        return
    path = Path(paths.supervision_lock(scene.root, scene.pipeline.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        deadline = time.monotonic() + TURN_SECONDS
        mine = _try_lock(handle.fileno())
        while not mine and time.monotonic() < deadline:
            time.sleep(0.1)
            mine = _try_lock(handle.fileno())
        yield mine


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
