"""The supervisor: the one place in which drivers are restarted.

Airflow's mapped tasks run it every minute (`supervise_for_airflow`); `headrace stream supervise` runs it without Airflow.

One pass over one pipeline (`run_pass`) takes these steps:

1. Take the turn. On a disk a lock file admits one supervisor at a time. One that does not get the lock in TURN_SECONDS only
   observes. An object store has no lock; see invariant 6.
2. Read the memory of the last pass (supervision.json) and the desired state (intent.json).
3. Observe (`observe.observe`): which drivers the launcher knows, the heartbeat, the exit record, the launcher's record
   of the end, where each checkpoint stands, and how far that is from the ends of Kafka. What does not answer is noted as
   unknown.
4. Remember (`verdict.remember`): which driver runs, which queries committed a batch, since when each is behind.
5. Judge (`verdict.judge`, pure): one verdict a query. The gravest is the verdict on the pipeline. The assessment is
   actionable once its grace period is over.
6. Decide (`decide.decide`, pure): NOTHING, START, FENCE_AND_START, RESTART, STOP or GIVE_UP, and the memory in
   which the attempt already counts. A fence requires that two passes observe the same. Starts wait out a back-off with
   jitter and stop when the budget is spent.
7. Adjust the pace: after a driver ran out of memory, the next one reads less at once. A stable run restores the pace.
8. Write the attempt down (supervision.json) before it is made.
9. Read again what the decision rests on: the desired state and the drivers that the launcher knows. If either changed, do
   nothing; the next pass judges the new state.
10. Act: fence (kill at once) or stop, then start with the spec of the desired state.
11. Read the desired state again after a start. If an operator decided otherwise meanwhile, stop the driver again; if the
    operator wants another release or other generations, start that.
12. Write the result down (supervision.json): verdict, action, memory, and twice a minute a point of the history
    (history.json). If the launcher fell silent in 9 to 11, the verdict is UNKNOWN and the memory is that of step 4: nothing
    is spent.

Invariants:

1. An operator wins (ADR 0012). The supervisor never writes the desired state. It stops a driver that it started if the
   operator decided otherwise meanwhile.
2. Unknown is never dead. If the launcher, Kafka or the storage does not answer, the verdict is UNKNOWN and no driver is
   started, stopped or counted.
3. An attempt is written down before it is made. A supervisor that dies in the middle has spent it, so that no crash loop
   of the supervisor restarts drivers without limit.
4. A pass decides on at most one start. A driver that runs is adopted, never doubled (`Launcher.submit`).
5. GIVE_UP raises one alarm. Only an operator's start or a stable run resets the budget.
6. Exactness never rests on the supervisor. Two passes at once (object store) can at worst spend two restarts on one:
   `Launcher.submit` adopts the running driver, and a second driver is refused by the fence that the driver itself holds.
"""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.drivers.interface import Driver, Launcher, LauncherSilentError
from headrace.operations.supervisor import history
from headrace.operations.supervisor import memory as supervision
from headrace.operations.supervisor.decide import decide, restarts_left
from headrace.operations.supervisor.driver_health import LIMITS, Limits
from headrace.operations.supervisor.memory import Action, DriverSummary, Memory, QueryVerdict, Supervision
from headrace.operations.supervisor.observe import SILENCE, Ends, KafkaEnds, observe
from headrace.operations.supervisor.verdict import Assessment, Judgement, Observation, judge, remember
from headrace.operations.waiting import poll
from headrace.store import pace, paths

PASS_SECONDS = 5.0
TURN_SECONDS = 10.0


@dataclass(frozen=True)
class Context:
    """What the passes over one pipeline need. `ends` asks Kafka; `rng` gives the jitter."""

    launcher: Launcher
    pipeline: Pipeline
    ends: Ends
    limits: Limits = LIMITS
    rng: random.Random = field(default_factory=random.SystemRandom)

    @property
    def root(self) -> str:
        """Return the storage root."""
        return self.launcher.root


@dataclass(frozen=True)
class Supervised:
    """The last of several passes, and all actions that these took."""

    last: Supervision
    actions: tuple[Action, ...]


def supervise_for_airflow(deployment: Deployment, pipeline: str, watch_seconds: float = 50) -> Supervised:
    """Supervise one pipeline of a deployment for a while.

    Raises HeadraceError for an unknown name, and once (the alarm) when the pipeline needs a person.
    """
    context = Context(deployment.launcher(), deployment.pipeline(pipeline), KafkaEnds(deployment.bindings))
    result = supervise(context, watch_seconds=watch_seconds)
    given_up = [action.reason for action in result.actions if action.kind == "GIVE_UP"]
    if given_up:
        raise HeadraceError(f"{pipeline} needs a person: {given_up[-1]}; see {result.last.runbook or 'its log'}.")
    return result


def supervise(context: Context, *, watch_seconds: float = 0, pass_seconds: float = PASS_SECONDS) -> Supervised:
    """Make one pass, and then one every `pass_seconds` until `watch_seconds` are over.

    An every-minute task that watches for 50 s leaves few seconds unobserved.
    """
    deadline = time.monotonic() + watch_seconds
    actions: list[Action] = []
    while True:
        result = run_pass(context)
        if result.action.kind != "NOTHING":
            actions.append(result.action)
        if time.monotonic() + pass_seconds > deadline:
            return Supervised(result, tuple(actions))
        time.sleep(pass_seconds)


def run_pass(context: Context) -> Supervision:
    """Make one pass over a pipeline, as the module describes, and return what was written."""
    try:
        with _turn(context) as mine:
            if mine:
                return _pass(context)
            busy = Action("NOTHING", "another supervisor is at work on it", _now_ms())
            return replace(describe(context), action=busy)
    except SILENCE as error:
        return _unreadable(context, error)


def describe(context: Context) -> Supervision:
    """Observe and judge once without acting or writing: the verdicts as of now."""
    name = context.pipeline.name
    try:
        memory = supervision.memory(context.root, name)
        observation = observe(context.launcher, context.pipeline, desired_state.read(context.root, name), context.ends)
    except SILENCE as error:
        return _unreadable(context, error)
    memory = remember(observation, memory)
    action = Action("NOTHING", "only observed", observation.now_ms)
    judgement = judge(context.pipeline, observation, memory, context.limits)
    return _supervision(context, observation, judgement, memory, action)


def _pass(context: Context) -> Supervision:
    name = context.pipeline.name
    before = supervision.memory(context.root, name)
    observation = observe(context.launcher, context.pipeline, desired_state.read(context.root, name), context.ends)
    remembered = remember(observation, before)
    judgement = judge(context.pipeline, observation, remembered, context.limits)
    action, memory = decide(judgement.pipeline, observation, remembered, context.limits, context.rng)
    _adjust_pace(context, judgement.pipeline.end, remembered, memory)
    if action.kind not in {"NOTHING", "GIVE_UP"}:
        supervision.write(context.root, name, _supervision(context, observation, judgement, memory, action))
        action, memory, silence = _act(context, observation, action, memory, remembered)
        if silence:
            unknown = Assessment("UNKNOWN", silence)
            judgement = Judgement(unknown, dict.fromkeys(judgement.queries, unknown))
    result = _supervision(context, observation, judgement, memory, action)
    supervision.write(context.root, name, result)
    history.add(context.root, name, observation, judgement.queries)
    return result


def _adjust_pace(context: Context, end: str, remembered: Memory, memory: Memory) -> None:
    name = context.pipeline.name
    if end in pace.SLOWED_BY:
        # On Kubernetes the JVM takes Python along: the driver cannot write it down itself.
        pace.slow_down(context.root, name, remembered.instance, end)
    elif remembered.same_end in pace.SLOWED_BY and not memory.same_end:
        pace.restore(context.root, name)  # for the next driver: this one has run long enough


def _act(
    context: Context, observation: Observation, action: Action, memory: Memory, unspent: Memory
) -> tuple[Action, Memory, str]:
    """Carry out an action, unless the desired state or the drivers changed since they were observed.

    Returns what came of it, the memory, and what the launcher does not know, or "". If the launcher fell silent, nothing is
    spent: a driver that may still write is not known to have failed, and none was started beside it.
    """
    launcher, name = context.launcher, context.pipeline.name
    try:
        changed = _changed(context, observation)
    except LauncherSilentError as silence:
        unknown = f"the launcher cannot say which drivers run: {silence}"
        return replace(action, kind="NOTHING", reason=unknown), unspent, unknown
    if changed:
        reason = "it changed during this pass: see the next pass"
        return replace(action, kind="NOTHING", reason=reason), unspent, ""
    try:
        if action.kind != "START":
            launcher.stop(name, 0 if action.kind == "FENCE_AND_START" else None)
        if action.kind == "STOP":
            return action, memory, ""
        driver = _start(context)
    except LauncherSilentError as silence:
        tried = f"{action.kind} was tried ({_why(action)}) and the launcher does not answer: {silence}"
        return replace(action, kind="NOTHING", reason=tried), unspent, tried
    except HeadraceError as error:
        return replace(action, reason=f"{action.reason}; it could not be started: {error}"), memory, ""
    if driver is None:
        return replace(action, reason=f"{action.reason}; undone, an operator decided otherwise"), memory, ""
    return action, memory.following(driver, observation.desired.request), ""


def _why(action: Action) -> str:
    """Return why an action was taken, without the number of the start."""
    return action.reason.partition("; start ")[0]


def _changed(context: Context, observation: Observation) -> bool:
    """Return whether the desired state or the drivers are no longer those of the observation."""
    name = context.pipeline.name
    observed = {driver.identity for driver in observation.drivers or ()}
    if desired_state.read(context.root, name) != observation.desired:
        return True
    return {driver.identity for driver in context.launcher.find(name)} != observed


def _start(context: Context) -> Driver | None:
    """Start what is wanted now and check that it still is wanted afterwards. None: it is not wanted, and none runs."""
    launcher, name = context.launcher, context.pipeline.name
    desired = desired_state.read(context.root, name)
    while desired.want == "RUNNING":
        driver, new = launcher.submit(name, desired.start_spec())
        now = desired_state.read(context.root, name)
        if now == desired or (now.want == "RUNNING" and not (new and _differ(now, desired))):
            return driver
        launcher.stop(name)
        desired = now
    return None


def _differ(now: DesiredState, before: DesiredState) -> bool:
    """Return whether a driver that was started in an earlier desired state is not the one that is wanted now."""
    return now.release != before.release or (bool(now.new_generations) and now.request != before.request)


def _supervision(
    context: Context, observation: Observation, judgement: Judgement, memory: Memory, action: Action
) -> Supervision:
    """Return the result of a pass."""
    desired, overall = observation.desired, judgement.pipeline
    return Supervision(
        pipeline=context.pipeline.name,
        at_ms=observation.now_ms,
        verdict=overall.verdict,
        reason=overall.reason,
        runbook=supervision.runbook(overall.verdict),
        wanted=desired.want,
        wanted_reason=desired.reason,
        wanted_by=desired.by,
        wanted_at_ms=desired.at_ms,
        driver=_summary(observation.drivers[0]) if observation.drivers else None,
        queries=tuple(
            _query_verdict(context.pipeline, query, observation, assessment)
            for query, assessment in judgement.queries.items()
        ),
        action=action,
        last_action=memory.last_action,
        restarts_left=restarts_left(observation, memory, context.limits),
        restarts=memory.restarts_since(desired),
        next_start_ms=memory.next_start_ms,
        memory=memory,
    )


def _summary(driver: Driver) -> DriverSummary:
    return DriverSummary(driver.identity, driver.where, int(driver.started * 1000), driver.pending, driver.release)


def _query_verdict(pipeline: Pipeline, query: str, observation: Observation, assessment: Assessment) -> QueryVerdict:
    position = observation.positions.get(query)
    return QueryVerdict(
        query=names.query_name(pipeline.name, query),
        verdict=assessment.verdict,
        reason=assessment.reason,
        generation=position.generation if position else None,
        batch=position.batch if position else None,
        lag=position.lag if position else None,
    )


def _unreadable(context: Context, error: Exception) -> Supervision:
    """Return UNKNOWN for a pipeline whose files cannot be read or written; nothing was done."""
    now_ms = _now_ms()
    assessment = Assessment("UNKNOWN", f"the storage does not answer: {error}")
    observation = Observation(now_ms, DesiredState(reason="not known"), None)
    judgement = Judgement(assessment, dict.fromkeys(names.query_names(context.pipeline), assessment))
    action = Action("NOTHING", "what is not known is not touched", now_ms)
    return _supervision(context, observation, judgement, Memory(), action)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _turn(context: Context) -> Iterator[bool]:
    """Take this pipeline's turn among supervisors; False if another keeps it for too long (it waits for a stop)."""
    if "://" in context.root:
        yield True
        return
    path = Path(paths.supervision_lock(context.root, context.pipeline.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        yield poll(lambda: _try_lock(handle.fileno()), TURN_SECONDS, 0.1)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
