"""The verdict on a pipeline and each of its queries: a pure function of what was observed and what is remembered.

"Running" alone is never healthy: a batch must move, or there must be nothing to do. If the launcher, Kafka or the checkpoint
does not answer, the verdict is UNKNOWN and never dead (apache/airflow#68134 shows what happens otherwise).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from headrace.contract import names
from headrace.contract.exit_codes import HELPS, TOLD_TO_STOP, Exit
from headrace.contract.model import Pipeline
from headrace.contract.state import max_groups
from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.drivers.interface import Driver, heartbeat_of
from headrace.operations.supervisor.driver_health import LIMITS, Limits, silent_seconds
from headrace.operations.supervisor.memory import GRAVITY, WORKING, Mark, Memory, Verdict
from headrace.store.driver_files import ExitRecord, Heartbeat, QueryState
from headrace.store.spark_conf import ARCHIVE_TRIGGER

NO_RESTART = {
    "DAMAGED": "`headrace checkpoint verify` says what and names the runbook",
    "REFUSED": "the error names the way out",
}
"""Ends that a restart cannot repair (contract.exit_codes), and what leads on."""

OF_A_RECORD = (Exit.TRANSIENT.name, Exit.WORKER_LOST.name)
"""Ends that a record can cause on which a transform fails (ADR 49)."""

STOPPED = ("ended without an error", TOLD_TO_STOP)
"""What a heartbeat says of a query that its driver stopped because another one had ended."""

ADOPTED_MS = 10_000  # three heartbeats


@dataclass(frozen=True)
class CheckpointPosition:
    """Where a query's checkpoint stands. `lag` is in offsets, None if not known; `error` says why nothing is known.

    `lag` is up to the end of the committed records. `held`: offsets of its topics that stand behind open transactions, and
    that no reader of committed records gets before these end; `held_at`: where they begin, "" without one.
    """

    generation: int | None = None
    batch: int | None = None
    lag: int | None = None
    error: str = ""
    held: int = 0
    held_at: str = ""


@dataclass(frozen=True)
class Observation:
    """What one pass observes. `drivers` is None if the launcher cannot say; `unknown` says what did not answer, or is "".

    `exit_record` is the newest that a driver wrote, `launcher_record` how the newest driver ended as the launcher knows it.
    """

    now_ms: int
    desired: DesiredState
    drivers: tuple[Driver, ...] | None
    heartbeat: Heartbeat | None = None
    exit_record: ExitRecord | None = None
    positions: Mapping[str, CheckpointPosition] = field(default_factory=dict)
    unknown: str = ""
    launcher_record: ExitRecord | None = None


@dataclass(frozen=True)
class Assessment:
    """A verdict and its reason in words. `actionable`: the grace period is over and the supervisor may act.

    A second pass must find `sign` unchanged: an old heartbeat that changes between two passes is a wrong clock, not a frozen
    driver. `end` is the class of the driver's end, an `Exit` name, if the verdict is about an end.
    """

    verdict: Verdict
    reason: str
    actionable: bool = False
    sign: str = ""
    end: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict on a pipeline, and on each query by its short name."""

    pipeline: Assessment
    queries: Mapping[str, Assessment]


def remember(observation: Observation, memory: Memory) -> Memory:
    """Return the memory with what this pass adds: which driver runs, what moved, what waits. UNKNOWN adds nothing."""
    if observation.drivers is None:
        return memory
    if len(observation.drivers) == 1 and observation.drivers[0].identity != memory.driver:
        memory = memory.following(observation.drivers[0], observation.desired.request)
    if observation.drivers and not memory.first_beat_ms and heartbeat_of(observation.heartbeat, observation.drivers[0]):
        memory = replace(memory, first_beat_ms=observation.now_ms, calm_since_ms=0)
    marks, held = dict(memory.marks), dict(memory.held)
    for query, position in observation.positions.items():
        if position.error:
            continue
        before = marks.get(query)
        moved = before is not None and (before.generation, before.batch) != (position.generation, position.batch)
        since = before.behind_since_ms if before and not moved else 0
        marks[query] = Mark(position.generation, position.batch, (since or observation.now_ms) if position.lag else 0)
        if position.held_at != held.get(query, ("", 0))[0]:
            held[query] = (position.held_at, observation.now_ms)
        if moved:
            memory = replace(memory, moved_ms=observation.now_ms)
    return replace(memory, marks=marks, held={query: since for query, since in held.items() if since[0]})


def judge(pipeline: Pipeline, observation: Observation, memory: Memory, limits: Limits = LIMITS) -> Judgement:
    """Return the verdict on a pipeline. `memory` is what `remember` made of this pass; nothing is decided here."""
    overall = _of_pipeline(pipeline.name, observation, memory, limits)
    if overall is not None:
        return Judgement(overall, dict.fromkeys(names.query_names(pipeline), overall))
    assessments = {
        query: _of_query(pipeline, query, observation, memory, limits) for query in names.query_names(pipeline)
    }
    gravest = max(
        assessments, key=lambda query: (GRAVITY.index(assessments[query].verdict), assessments[query].actionable)
    )
    return Judgement(replace(assessments[gravest], reason=f"{gravest}: {assessments[gravest].reason}"), assessments)


def last_exit(observation: Observation, memory: Memory) -> ExitRecord | None:
    """Return how the driver that ran last ended, if it or its launcher says so. The record of an earlier driver is ignored.

    The launcher's record of a driver that ran out of memory wins over TRANSIENT: the driver only observed that its JVM was
    gone.
    """
    launcher_record, exit_record = (
        record if record and _is_of_last(record, observation, memory) else None
        for record in (observation.launcher_record, observation.exit_record)
    )
    if launcher_record and (exit_record is None or exit_record.exit == Exit.TRANSIENT.name):
        return launcher_record
    return exit_record


def _is_of_last(record: ExitRecord, observation: Observation, memory: Memory) -> bool:
    """Return whether an exit record is that of the driver that ran last: by its instance, else by the request of its start.

    The clocks of two machines are compared only if a driver of an earlier release left neither.
    """
    desired = observation.desired
    if record.instance and memory.instance:
        # A driver of this desired state may have come and gone between two passes.
        unobserved = memory.request != desired.request
        same_request = bool(record.request) and record.request == desired.request
        return record.instance == memory.instance or (unobserved and same_request)
    if record.instance and record.request and not memory.driver:
        return record.request == desired.request
    return record.at_ms >= max(desired.at_ms, memory.started_ms - 1000)


def stall_seconds(pipeline: Pipeline, query: str, limits: Limits) -> float:
    """Return how long a query may be behind without finishing a batch: three triggers, twice the promised freshness."""
    return max(limits.stall, 2 * pipeline.slo.freshness.total_seconds(), 3 * _trigger(pipeline, query).total_seconds())


def _of_pipeline(pipeline: str, observation: Observation, memory: Memory, limits: Limits) -> Assessment | None:
    """Return the verdict that holds for all queries alike, or None if each query is to be judged."""
    desired = observation.desired
    if observation.drivers is None:
        return Assessment("UNKNOWN", observation.unknown)
    if desired.want != "RUNNING":
        why = f"wanted {desired.want}{f' by {desired.by}' if desired.by else ''}: {desired.reason}"
        if observation.drivers:
            # The operator who wanted that is stopping it: a running batch has its grace time.
            late = observation.now_ms - desired.at_ms > limits.end * 1000
            return Assessment("IDLE", f"{why}; {_where(observation)} still runs", actionable=late)
        return Assessment("IDLE", why)
    if not observation.drivers:
        return _of_missing(pipeline, observation, memory, limits)
    if observation.unknown:
        return Assessment("UNKNOWN", observation.unknown)
    if len(observation.drivers) > 1:
        return Assessment(
            "DUPLICATE", f"{len(observation.drivers)} drivers run: {_where(observation)}", actionable=True
        )
    return _of_driver(observation, observation.drivers[0], memory, limits)


def _of_missing(pipeline: str, observation: Observation, memory: Memory, limits: Limits) -> Assessment:
    """Judge a pipeline that should run and has no driver."""
    desired, record = observation.desired, last_exit(observation, memory)
    end = record.exit if record else ""
    ended = f"the driver ended with {end}: {record.error or _error_of_queries(observation)}" if record else ""
    if end in NO_RESTART:
        return Assessment(
            "CRASH_LOOP", f"{ended}; no restart can correct that, {NO_RESTART[end]}", actionable=True, end=end
        )
    locked_ms = record.at_ms if record and end == Exit.LOCKED.name else 0
    if locked_ms and observation.now_ms - locked_ms < limits.longest_wait * 1000:  # then it may be gone: tried again
        return Assessment("DUPLICATE", f"{ended}; the launcher does not know it", end=end)
    if observation.unknown:
        return Assessment("UNKNOWN", observation.unknown)
    helps = HELPS.get(Exit[end]) if end in Exit.__members__ else None
    search = (
        f". If a record is to blame, this names it: headrace stream stop {pipeline}; headrace dead-letters find {pipeline}"
        if end in OF_A_RECORD
        else ""
    )
    used = len(memory.restarts_since(desired))
    if helps:
        ended = f"{ended.rstrip('.')}; {helps}"
        if used and memory.same_end == end and memory.same_ends >= limits.same_ends:
            why = f"{ended}; {memory.same_ends} drivers in a row ended so, the next would too{search}"
            return Assessment("CRASH_LOOP", why, actionable=True, end=end)
    if used >= limits.restarts and end != Exit.STORE_AWAY.name:
        why = f"{ended or 'no driver runs'} after {used} restarts; the budget is spent{search}"
        return Assessment("CRASH_LOOP", why, actionable=True, end=end)
    why = ended or ("the driver vanished without an exit record" if _ran(observation, memory) else "no driver runs")
    if observation.now_ms - desired.at_ms < limits.head_start * 1000:
        return Assessment("MISSING", f"{why}; {desired.by or 'an operator'} is starting it", end=end)
    return Assessment("MISSING", why, actionable=True, end=end)


def _ran(observation: Observation, memory: Memory) -> bool:
    """Return whether a driver of this desired state ran: one that it adopted may have given its last heartbeat just before."""
    heartbeat = observation.heartbeat
    if memory.driver:
        return True
    return heartbeat is not None and not heartbeat.exit and heartbeat.at_ms >= observation.desired.at_ms - ADOPTED_MS


def _error_of_queries(observation: Observation) -> str:
    """Return what ended a driver, from its last heartbeat: a query's error, but not of those that the driver stopped."""
    heartbeat = observation.heartbeat
    if heartbeat is None or not heartbeat.exit:
        return "no error given"
    if heartbeat.why:
        return heartbeat.why
    for state in heartbeat.queries:
        if state.error and not any(phrase in state.error for phrase in STOPPED):
            return f"{state.query} ended: {state.error}"
    return "no error given"


def _of_driver(observation: Observation, driver: Driver, memory: Memory, limits: Limits) -> Assessment | None:
    """Judge the one driver that runs by its heartbeat; None if it gives one and no query has ended."""
    heartbeat = heartbeat_of(observation.heartbeat, driver)
    alive_ms = max(heartbeat.at_ms if heartbeat else memory.started_ms, memory.moved_ms)
    age = (observation.now_ms - alive_ms) / 1000
    if driver.pending or heartbeat is None:
        doing = "is pending" if driver.pending else "starts"
        if age > limits.start:
            return Assessment(
                "STALLED", f"{driver.where} {doing} for {age:.0f} s, longer than {limits.start:.0f} s", True
            )
        return Assessment("IDLE", f"{driver.where} {doing}")
    if heartbeat.exit:
        late = age > limits.end
        return Assessment("STALLED", f"{driver.where} ends with {heartbeat.exit} since {max(age, 0):.0f} s", late)
    ended = [state for state in heartbeat.queries if not state.active]
    if ended:
        why = f"{ended[0].query} ended: {ended[0].error}; {driver.where} stops the others"
        return Assessment("STALLED", why, age > limits.end)
    silent = silent_seconds(heartbeat, memory.moved_ms, observation.now_ms, limits)
    if silent is not None:
        why = f"{driver.where} runs, but its last heartbeat is {silent:.0f} s old"
        return Assessment("STALLED", why, True, str(heartbeat.at_ms))
    return None


def _of_query(pipeline: Pipeline, query: str, observation: Observation, memory: Memory, limits: Limits) -> Assessment:
    """Judge one query of a driver that gives heartbeats."""
    position = observation.positions.get(query, CheckpointPosition(error="its checkpoint was not read"))
    if position.error:
        return Assessment("UNKNOWN", position.error)
    state = _state(pipeline, query, observation)
    if state is None:
        return Assessment("IDLE", "the driver runs a release without it: it comes with a restart")
    if position.lag is None:
        return Assessment("UNKNOWN", "its lag is not known")
    assessment = _of_position(pipeline, query, observation, memory, limits)
    most = max_groups(pipeline, query)
    if most is not None and state.groups > most and assessment.verdict in WORKING:
        return Assessment("TOO_MANY_KEYS", _beyond_keys(pipeline, query, state.groups, most))
    return assessment


def _of_position(
    pipeline: Pipeline, query: str, observation: Observation, memory: Memory, limits: Limits
) -> Assessment:
    """Judge a query whose driver and position are known, by its lag and its batches."""
    position, state, now_ms = observation.positions[query], _state(pipeline, query, observation), observation.now_ms
    assert state is not None
    age = None if state.batch_written_ms is None else max(0.0, (now_ms - state.batch_written_ms) / 1000)
    if position.lag == 0:
        waits = (now_ms - memory.held[query][1]) / 1000 if position.held_at and query in memory.held else 0.0
        if waits > pipeline.slo.freshness.total_seconds():
            return Assessment("LAGGING", _behind_transaction(position, waits))
        if age is None or age > _recent(pipeline, query):
            return Assessment("IDLE", "nothing to do: it has taken all that its topics hold")
        return Assessment("HEALTHY", f"batch {position.batch} {age:.0f} s ago, no lag")
    return _of_waiting(pipeline, query, observation, memory, limits, age)


def _of_waiting(
    pipeline: Pipeline, query: str, observation: Observation, memory: Memory, limits: Limits, age: float | None
) -> Assessment:
    """Judge a query that is behind Kafka; `age` is that of the newest batch of this driver, if it has finished one."""
    position, state, now_ms = observation.positions[query], _state(pipeline, query, observation), observation.now_ms
    assert position.lag is not None
    assert state is not None
    since = max(memory.marks[query].behind_since_ms if query in memory.marks else now_ms, memory.first_beat_ms)
    waits = max(0.0, (now_ms - since) / 1000)
    still = _still_seconds(state, observation, waits)
    bound, doing = stall_seconds(pipeline, query, limits), doing_now(state, now_ms)
    if state.running_batch is not None:
        unobserved = state.work is None or (state.work.blind and state.work.tasks_done < state.work.tasks)
        bound = bound * limits.unseen if unobserved else limits.still
    behind = f"{position.lag:,} offsets behind"
    if still > bound:
        what = f"no progress for {still:.0f} s: {doing}" if doing else f"no batch finished for {still:.0f} s"
        return Assessment("STALLED", f"{behind}, {what}", actionable=True)
    doing = f"; {doing}" if doing else ""
    if age is None:
        return Assessment("LAGGING", f"{behind}; the first batch since the start is not finished{doing}")
    if position.lag > pipeline.slo.lag:
        return Assessment("LAGGING", f"{behind}, promised are at most {pipeline.slo.lag:,}{doing}")
    if waits > pipeline.slo.freshness.total_seconds():
        return Assessment("LAGGING", f"{behind}, and no batch finished for {waits:.0f} s{doing}")
    return Assessment("HEALTHY", f"batch {position.batch} {age:.0f} s ago, {behind}")


def _beyond_keys(pipeline: Pipeline, query: str, keys: int, most: int) -> str:
    aggregate = pipeline.queries[query].aggregate
    by = ", ".join(aggregate.keys) if aggregate else ""
    return (
        f"its state holds {keys:,} groups, and max_distinct of {by} declares at most {most:,}; it goes on, and the state grows "
        "for ever: raise max_distinct if so many are right, or find who sends such values"
    )


def doing_now(state: QueryState, now_ms: int) -> str:
    """Return in words what the running batch of a query has done, or "" if none runs or the heartbeat does not say."""
    work = state.work
    if state.running_batch is None or work is None:
        return ""
    if work.waits:
        return f"batch {state.running_batch} waits: {work.waits}"
    age = max(0.0, (now_ms - work.since_ms) / 1000)
    return f"batch {state.running_batch} runs for {age:.0f} s, {work.tasks_done} of {work.tasks} tasks done"


def _still_seconds(state: QueryState, observation: Observation, waits: float) -> float:
    """Return for how long a query has not moved, at most `waits`; by the driver's clock alone if the heartbeat says it."""
    if state.moved_ms is None or observation.heartbeat is None:
        return waits
    return min(waits, max(0.0, (observation.heartbeat.at_ms - state.moved_ms) / 1000))


def _behind_transaction(position: CheckpointPosition, waits: float) -> str:
    return (
        f"it has taken all that is committed; {position.held:,} offsets stand behind an open transaction since {waits:.0f} s: "
        f"{position.held_at}. They come when its producer commits or aborts, or its transaction times out"
    )


def _state(pipeline: Pipeline, query: str, observation: Observation) -> QueryState | None:
    """Return what the heartbeat says of a query."""
    return observation.heartbeat.query(names.query_name(pipeline.name, query)) if observation.heartbeat else None


def _trigger(pipeline: Pipeline, query: str) -> timedelta:
    declared = pipeline.queries.get(query)
    return declared.trigger if declared else ARCHIVE_TRIGGER


def _recent(pipeline: Pipeline, query: str) -> float:
    """Return how old, in seconds, a batch may be that shows that a query moves."""
    return max(pipeline.slo.freshness.total_seconds(), 3 * _trigger(pipeline, query).total_seconds())


def _where(observation: Observation) -> str:
    return ", ".join(driver.where for driver in observation.drivers or ())
