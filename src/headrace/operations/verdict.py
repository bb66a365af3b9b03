"""The verdict on a pipeline and each of its queries: a pure function of what was observed and what is remembered.

"Running" alone is never healthy: a batch must move, or there must be nothing to do. What could not be asked (launcher,
Kafka, checkpoint) is UNKNOWN and never dead. Rules: design section 7; apache/airflow#68134 for what happens otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from headrace.contract import names
from headrace.contract.exits import HELPS, TOLD_TO_STOP, Exit
from headrace.contract.model import Pipeline
from headrace.contract.state import max_groups
from headrace.contract.submit import ARCHIVE_TRIGGER
from headrace.operations.drivers import Driver, own_beat
from headrace.operations.intent import Intent
from headrace.operations.supervision import GRAVITY, WORKING, Mark, Memory, Verdict

NO_RESTART = {
    "DAMAGED": "`headrace checkpoint verify` says what and names the runbook",
    "REFUSED": "the error names the way out",
}
"""Ends that a restart cannot mend (contract.exits), and what leads on."""

STOPPED = ("ended without an error", TOLD_TO_STOP)
"""What a heartbeat says of a query that its driver stopped because another one had ended."""

ADOPTED_MS = 10_000  # three heartbeats


@dataclass(frozen=True)
class Limits:
    """When patience ends, in seconds, and how many restarts there are.

    A heartbeat comes every 3 s: ten missing ones are a frozen driver. A driver that ends has its grace time and Spark's
    stop. A wish that is younger than `head_start` is still being carried out by whoever wrote it. What looks like a
    fault that asks for a fence is believed after `confirm`: a machine that slept wakes up with old heartbeats.
    A batch may take as long as it needs while anything of it moves (`streaming.work`), but not stand still for `still`.
    """

    silent: float = 30
    start: float = 300
    end: float = 90
    head_start: float = 20
    confirm: float = 4
    stall: float = 120
    still: float = 100
    unseen: int = 4  # times `stall` may a batch take of which the heartbeat does not say whether it moves
    restarts: int = 8
    same_ends: int = 3  # in a row of one class of `HELPS`: the same batch ends each driver
    stable: float = 600
    first_wait: float = 5
    longest_wait: float = 300
    away_wait: float = 15  # between two starts while a store is away: they cost nothing of the budget


LIMITS = Limits()


@dataclass(frozen=True)
class Position:
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
    """One look. `drivers` is None where the launcher cannot say; `unknown` says in words what did not answer, or is ""."""

    now_ms: int
    wish: Intent
    drivers: tuple[Driver, ...] | None
    beat: dict[str, Any] | None = None
    outcome: Mapping[str, Any] | None = None
    positions: Mapping[str, Position] = field(default_factory=dict)
    unknown: str = ""
    ended: Mapping[str, Any] | None = None  # how the newest driver ended by the launcher's own account


@dataclass(frozen=True)
class Finding:
    """A verdict and its reason in words. `ripe`: patience is over, so that something may be done about it.

    `sign` is what a second look must find unchanged: an old heartbeat that changes between two looks is a clock that is
    wrong, not a frozen driver. `end` is the class of the driver's end, an `Exit` name, if that is what was found.
    """

    verdict: Verdict
    reason: str
    ripe: bool = False
    sign: str = ""
    end: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict on a pipeline, and on each query by its short name."""

    pipeline: Finding
    queries: Mapping[str, Finding]


def remember(seen: Observation, memory: Memory) -> Memory:
    """Return the memory with what this look adds: which driver lives, what moved, what waits. UNKNOWN adds nothing."""
    if seen.drivers is None:
        return memory
    if len(seen.drivers) == 1 and seen.drivers[0].identity != memory.driver:
        driver = seen.drivers[0]
        memory = replace(
            memory,
            driver=driver.identity,
            life=driver.life,
            request=seen.wish.request,
            started_ms=int(driver.started * 1000),
            first_beat_ms=0,
        )
    if seen.drivers and not memory.first_beat_ms and own_beat(seen.beat, seen.drivers[0]):
        memory = replace(memory, first_beat_ms=seen.now_ms, calm_since_ms=0)
    marks, held = dict(memory.marks), dict(memory.held)
    for query, position in seen.positions.items():
        if position.error:
            continue
        before = marks.get(query)
        moved = before is not None and (before.generation, before.batch) != (position.generation, position.batch)
        since = before.behind_since_ms if before and not moved else 0
        marks[query] = Mark(position.generation, position.batch, (since or seen.now_ms) if position.lag else 0)
        if position.held_at != held.get(query, ("", 0))[0]:
            held[query] = (position.held_at, seen.now_ms)
        if moved:
            memory = replace(memory, moved_ms=seen.now_ms)
    return replace(memory, marks=marks, held={query: each for query, each in held.items() if each[0]})


def judge(pipeline: Pipeline, seen: Observation, memory: Memory, limits: Limits = LIMITS) -> Judgement:
    """Return the verdict on a pipeline. `memory` is what `remember` made of this look; nothing is decided here."""
    whole = _of_pipeline(seen, memory, limits)
    if whole is not None:
        return Judgement(whole, dict.fromkeys(names.query_names(pipeline), whole))
    found = {query: _of_query(pipeline, query, seen, memory, limits) for query in names.query_names(pipeline)}
    gravest = max(found, key=lambda query: (GRAVITY.index(found[query].verdict), found[query].ripe))
    return Judgement(replace(found[gravest], reason=f"{gravest}: {found[gravest].reason}"), found)


def last_word(seen: Observation, memory: Memory) -> Mapping[str, Any] | None:
    """Return how the driver that lived last has ended, if it or its launcher says so; an earlier one's word does not count.

    What the launcher saw of a driver that ran out of memory counts more: the driver may have seen nothing but its JVM gone.
    """
    ended, word = (told if _is_of_last(told, seen, memory) else None for told in (seen.ended, seen.outcome))
    return ended if ended and (word is None or word["exit"] == Exit.TRANSIENT.name) else word


def _is_of_last(word: Mapping[str, Any] | None, seen: Observation, memory: Memory) -> bool:
    """Return whether a word is that of the driver that lived last: by its life, else by the wish that it was started for.

    Two machines' clocks are compared only where a driver of an earlier release has left neither.
    """
    if word is None:
        return False
    life, request = word.get("life"), word.get("request")
    if life and memory.life:
        unseen = memory.request != seen.wish.request  # a driver of this wish came and went between two looks
        return bool(life == memory.life or (unseen and request and request == seen.wish.request))
    if life and request and not memory.driver:
        return bool(request == seen.wish.request)
    return bool(word["at_ms"] >= max(seen.wish.at_ms, memory.started_ms - 1000))


def stall_seconds(pipeline: Pipeline, query: str, limits: Limits) -> float:
    """Return how long a query may be behind without finishing a batch: three triggers, twice the promised freshness."""
    return max(limits.stall, 2 * pipeline.slo.freshness.total_seconds(), 3 * _trigger(pipeline, query).total_seconds())


def _of_pipeline(seen: Observation, memory: Memory, limits: Limits) -> Finding | None:
    """Return the verdict that holds for all queries alike, or None if each is to be looked at."""
    wish = seen.wish
    if seen.drivers is None:
        return Finding("UNKNOWN", seen.unknown)
    if wish.want != "RUNNING":
        why = f"wanted {wish.want}{f' by {wish.by}' if wish.by else ''}: {wish.reason}"
        if seen.drivers:
            # Whoever wanted that is stopping it: a running batch has its grace time.
            late = seen.now_ms - wish.at_ms > limits.end * 1000
            return Finding("IDLE", f"{why}; {_where(seen)} still runs", ripe=late)
        return Finding("IDLE", why)
    if not seen.drivers:
        return _of_missing(seen, memory, limits)
    if seen.unknown:
        return Finding("UNKNOWN", seen.unknown)
    if len(seen.drivers) > 1:
        return Finding("DUPLICATE", f"{len(seen.drivers)} drivers run: {_where(seen)}", ripe=True)
    return _of_driver(seen, seen.drivers[0], memory, limits)


def _of_missing(seen: Observation, memory: Memory, limits: Limits) -> Finding:
    """Judge a pipeline that should run and has no driver."""
    word = last_word(seen, memory)
    end = str(word["exit"]) if word else ""
    ended = f"the driver ended with {end}: {word['error'] or _told_by_queries(seen)}" if word else ""
    if end in NO_RESTART:
        return Finding("CRASH_LOOP", f"{ended}; no restart can correct that, {NO_RESTART[end]}", ripe=True, end=end)
    locked_ms = word["at_ms"] if word and end == Exit.LOCKED.name else 0
    if locked_ms and seen.now_ms - locked_ms < limits.longest_wait * 1000:  # then it may be gone: tried again
        return Finding("DUPLICATE", f"{ended}; it is not one that the launcher knows", end=end)
    if seen.unknown:
        return Finding("UNKNOWN", seen.unknown)
    helps = HELPS.get(Exit[end]) if end in Exit.__members__ else None
    used = len(memory.restarts_since(seen.wish))
    if helps:
        ended = f"{ended.rstrip('.')}; {helps}"
        if used and memory.same_end == end and memory.same_ends >= limits.same_ends:
            why = f"{ended}; {memory.same_ends} drivers in a row ended so, the next would too"
            return Finding("CRASH_LOOP", why, ripe=True, end=end)
    if used >= limits.restarts and end != Exit.STORE_AWAY.name:
        why = f"{ended or 'no driver runs'} after {used} restarts; the budget is spent"
        return Finding("CRASH_LOOP", why, ripe=True, end=end)
    # A driver that was adopted by this wish may have beaten last right before it.
    lived = memory.driver or (
        seen.beat is not None and not seen.beat["exit"] and seen.beat["at_ms"] >= seen.wish.at_ms - ADOPTED_MS
    )
    why = ended or ("the driver vanished without a word" if lived else "no driver runs")
    if seen.now_ms - seen.wish.at_ms < limits.head_start * 1000:
        return Finding("MISSING", f"{why}; {seen.wish.by or 'somebody'} is starting it", end=end)
    return Finding("MISSING", why, ripe=True, end=end)


def _told_by_queries(seen: Observation) -> str:
    """Return what ended a driver, from its last heartbeat: a query's own error; those that it stopped have none."""
    last = seen.beat if seen.beat and seen.beat["exit"] else {}
    if last.get("why"):
        return str(last["why"])
    fallen = [
        entry
        for entry in last.get("queries", ())
        if entry["error"] and not any(words in entry["error"] for words in STOPPED)
    ]
    return f"{fallen[0]['query']} ended: {fallen[0]['error']}" if fallen else "no error told"


def _of_driver(seen: Observation, driver: Driver, memory: Memory, limits: Limits) -> Finding | None:
    """Judge the one driver that lives by its heartbeat; None if it beats."""
    beat = own_beat(seen.beat, driver)
    alive_ms = max(beat["at_ms"] if beat else memory.started_ms, memory.moved_ms)
    age = (seen.now_ms - alive_ms) / 1000
    if driver.pending or beat is None:
        doing = "is pending" if driver.pending else "starts"
        if age > limits.start:
            return Finding("STALLED", f"{driver.where} {doing} for {age:.0f} s, longer than {limits.start:.0f} s", True)
        return Finding("IDLE", f"{driver.where} {doing}")
    if beat["exit"]:
        late = age > limits.end
        return Finding("STALLED", f"{driver.where} ends with {beat['exit']} since {max(age, 0):.0f} s", late)
    ended = [entry for entry in beat["queries"] if not entry["active"]]
    if ended:
        why = f"{ended[0]['query']} ended: {ended[0]['error']}; {driver.where} stops the others"
        return Finding("STALLED", why, age > limits.end)
    if age > limits.silent:
        why = f"{driver.where} runs, but its last heartbeat is {age:.0f} s old"
        return Finding("STALLED", why, True, str(beat["at_ms"]))
    return None


def _of_query(pipeline: Pipeline, query: str, seen: Observation, memory: Memory, limits: Limits) -> Finding:
    """Judge one query of a driver that beats."""
    position = seen.positions.get(query, Position(error="its checkpoint was not looked at"))
    if position.error:
        return Finding("UNKNOWN", position.error)
    entry = _entry(pipeline, query, seen)
    if entry is None:
        return Finding("IDLE", "the driver runs a release without it: it comes with a restart")
    if position.lag is None:
        return Finding("UNKNOWN", "its lag is not known")
    found = _of_position(pipeline, query, seen, memory, limits)
    keys, most = entry.get("groups") or 0, max_groups(pipeline, query)
    if most is not None and keys > most and found.verdict in WORKING:
        return Finding("TOO_MANY_KEYS", _beyond_keys(pipeline, query, keys, most))
    return found


def _of_position(pipeline: Pipeline, query: str, seen: Observation, memory: Memory, limits: Limits) -> Finding:
    """Judge by its lag and its batches a query whose driver and position are known."""
    position, entry = seen.positions[query], _entry(pipeline, query, seen)
    assert entry is not None
    age = None if entry["batch_written_ms"] is None else max(0.0, (seen.now_ms - entry["batch_written_ms"]) / 1000)
    if position.lag == 0:
        waits = (seen.now_ms - memory.held[query][1]) / 1000 if position.held_at and query in memory.held else 0.0
        if waits > pipeline.slo.freshness.total_seconds():
            return Finding("LAGGING", _behind_transaction(position, waits))
        if age is None or age > _recent(pipeline, query):
            return Finding("IDLE", "nothing to do: it has taken all that its topics hold")
        return Finding("HEALTHY", f"batch {position.batch} {age:.0f} s ago, no lag")
    return _of_waiting(pipeline, query, seen, memory, limits, age)


def _of_waiting(
    pipeline: Pipeline, query: str, seen: Observation, memory: Memory, limits: Limits, age: float | None
) -> Finding:
    """Judge a query that is behind Kafka; `age` is that of the newest batch of this driver, if it has finished one."""
    position, entry = seen.positions[query], _entry(pipeline, query, seen)
    assert position.lag is not None
    assert entry is not None
    since = max(memory.marks[query].behind_since_ms if query in memory.marks else seen.now_ms, memory.first_beat_ms)
    waits = max(0.0, (seen.now_ms - since) / 1000)
    still = _still_seconds(entry, seen, waits)
    bound, doing = stall_seconds(pipeline, query, limits), doing_now(entry, seen.now_ms)
    if entry["running_batch"] is not None:
        work = entry.get("work")
        unseen = work is None or (work["blind"] and work["tasks_done"] < work["tasks"])
        bound = bound * limits.unseen if unseen else limits.still
    behind = f"{position.lag:,} offsets behind"
    if still > bound:
        what = f"nothing of it moved for {still:.0f} s: {doing}" if doing else f"no batch finished for {still:.0f} s"
        return Finding("STALLED", f"{behind} and {what}", ripe=True)
    doing = f"; {doing}" if doing else ""
    if age is None:
        return Finding("LAGGING", f"{behind}; the first batch since the start is not finished{doing}")
    if position.lag > pipeline.slo.lag:
        return Finding("LAGGING", f"{behind}, promised are at most {pipeline.slo.lag:,}{doing}")
    if waits > pipeline.slo.freshness.total_seconds():
        return Finding("LAGGING", f"{behind}, and no batch finished for {waits:.0f} s{doing}")
    return Finding("HEALTHY", f"batch {position.batch} {age:.0f} s ago, {behind}")


def _beyond_keys(pipeline: Pipeline, query: str, keys: int, most: int) -> str:
    aggregate = pipeline.queries[query].aggregate
    by = ", ".join(aggregate.keys) if aggregate else ""
    return (
        f"its state holds {keys:,} groups, and max_distinct of {by} declares at most {most:,}; it goes on, and the state grows "
        "for ever: raise max_distinct if so many are right, or find who sends such values"
    )


def doing_now(entry: Mapping[str, Any], now_ms: int) -> str:
    """Return in words what the running batch of a heartbeat's query has done, or "" where none runs or it is not told."""
    work = entry.get("work")
    if entry.get("running_batch") is None or work is None:
        return ""
    if work["waits"]:
        return f"batch {entry['running_batch']} waits: {work['waits']}"
    age = max(0.0, (now_ms - work["since_ms"]) / 1000)
    return f"batch {entry['running_batch']} runs for {age:.0f} s, {work['tasks_done']} of {work['tasks']} tasks done"


def _still_seconds(entry: Mapping[str, Any], seen: Observation, waits: float) -> float:
    """Return for how long a query has not moved, at most `waits`; told by the driver's clock alone where it says."""
    moved_ms = entry.get("moved_ms")
    if moved_ms is None or seen.beat is None:
        return waits
    return min(waits, max(0.0, float(seen.beat["at_ms"] - moved_ms) / 1000))


def _behind_transaction(position: Position, waits: float) -> str:
    return (
        f"it has taken all that is committed; {position.held:,} offsets stand behind an open transaction since {waits:.0f} s: "
        f"{position.held_at}. They come when its producer commits or aborts, or its transaction times out"
    )


def _entry(pipeline: Pipeline, query: str, seen: Observation) -> Mapping[str, Any] | None:
    """Return what the heartbeat says of a query."""
    entries = seen.beat["queries"] if seen.beat else []
    full = names.query_name(pipeline.name, query)
    return next((entry for entry in entries if entry["query"] == full), None)


def _trigger(pipeline: Pipeline, query: str) -> timedelta:
    declared = pipeline.queries.get(query)
    return declared.trigger if declared else ARCHIVE_TRIGGER


def _recent(pipeline: Pipeline, query: str) -> float:
    """Return how old, in seconds, a batch may be that shows that a query moves."""
    return max(pipeline.slo.freshness.total_seconds(), 3 * _trigger(pipeline, query).total_seconds())


def _where(seen: Observation) -> str:
    return ", ".join(driver.where for driver in seen.drivers or ())
