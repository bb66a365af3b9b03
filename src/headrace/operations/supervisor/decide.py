"""From a verdict to what is done about it: a pure decision with a restart budget, back-off and jitter.

The class of the end decides: a transient end or a kill is restarted; DAMAGED and REFUSED never are; after DUPLICATE_WRITER a
start requires that no driver runs, which a MISSING verdict says; UNKNOWN touches nothing.
"""

from __future__ import annotations

import random
from dataclasses import replace

from headrace.contract.exit_codes import Exit
from headrace.operations.supervisor.driver_health import Limits
from headrace.operations.supervisor.memory import WORKING, Action, Kind, Memory
from headrace.operations.supervisor.verdict import Assessment, Observation


def decide(
    assessment: Assessment, observation: Observation, memory: Memory, limits: Limits, rng: random.Random
) -> tuple[Action, Memory]:
    """Return what to do about a pipeline's verdict, and the memory in which a start already counts.

    At most one start a call. `rng` gives the jitter, so that pipelines that ended together do not start together.
    """
    memory = _count_calm(assessment, observation, memory, limits)
    if assessment.verdict == "UNKNOWN":
        return _nothing(observation, "what is not known is not touched"), memory
    if observation.desired.held(observation.now_ms):
        left = (observation.desired.held_until_ms - observation.now_ms) / 1000
        return _nothing(observation, f"an upgrade runs: only observed for {left:.0f} s more"), _trust(memory)
    if observation.drivers:
        memory = replace(memory, next_start_ms=0)
    if not assessment.actionable:
        return _leave_or_replace(assessment, observation, _trust(memory))
    if observation.desired.want != "RUNNING":
        return _act("STOP", assessment.reason, observation, memory)
    if assessment.verdict == "MISSING" and assessment.end == Exit.STORE_AWAY.name:
        return _try_start(assessment, observation, memory, limits)
    if assessment.verdict == "MISSING":
        return _start(assessment, observation, memory, limits, rng)
    if assessment.verdict == "CRASH_LOOP":
        return _give_up(assessment.reason, observation, memory)
    return _fence(assessment, observation, memory, limits)


def restarts_left(observation: Observation, memory: Memory, limits: Limits) -> int:
    """Return how many restarts the budget still has."""
    return max(0, limits.restarts - len(memory.restarts_since(observation.desired)))


def wait_seconds(used: int, limits: Limits, rng: random.Random) -> float:
    """Return how long to wait before the next start: not at all before the first, then longer each time, with jitter."""
    if used == 0:
        return 0.0
    longest = min(limits.longest_wait, limits.first_wait * 2.0 ** (used - 1))
    return rng.uniform(longest / 2, longest)


def _leave_or_replace(assessment: Assessment, observation: Observation, memory: Memory) -> tuple[Action, Memory]:
    """Leave a driver that does well or has time left; replace one whose settings the deployment has changed (`helm upgrade`).

    That is no fault and costs no budget: the new driver has the new settings, so it happens once.
    """
    works = observation.desired.want == "RUNNING" and assessment.verdict in WORKING
    if works and any(driver.outdated for driver in observation.drivers or ()):
        return _act("RESTART", "it runs with settings that the deployment no longer has", observation, memory)
    return _nothing(observation, "all is well" if assessment.verdict == "HEALTHY" else assessment.reason), memory


def _start(
    assessment: Assessment, observation: Observation, memory: Memory, limits: Limits, rng: random.Random
) -> tuple[Action, Memory]:
    memory = _trust(memory)
    used = len(memory.restarts_since(observation.desired))
    due = memory.next_start_ms if used else observation.now_ms
    if not due:
        due = observation.now_ms + int(wait_seconds(used, limits, rng) * 1000)
        memory = replace(memory, next_start_ms=due)
    if observation.now_ms < due:
        left = (due - observation.now_ms) / 1000
        return _nothing(
            observation, f"{assessment.reason}; restart {used + 1} of {limits.restarts} in {left:.0f} s"
        ), memory
    memory = _count_end(assessment.end, _spend(observation, memory))
    return _act("START", f"{assessment.reason}; start {used + 1} of {limits.restarts}", observation, memory)


def _try_start(
    assessment: Assessment, observation: Observation, memory: Memory, limits: Limits
) -> tuple[Action, Memory]:
    """Start after an end for a store that is away: at once, then every `away_wait` seconds, and nothing is spent."""
    memory = _trust(memory)
    last = memory.last_action
    due = last.at_ms + int(limits.away_wait * 1000) if last and last.kind == "START" else observation.now_ms
    if observation.now_ms < due:
        left = (due - observation.now_ms) / 1000
        return _nothing(observation, f"{assessment.reason}; tried again in {left:.0f} s"), replace(
            memory, next_start_ms=due
        )
    reason = f"{assessment.reason}; tried again, at no cost of the budget"
    return _act("START", reason, observation, replace(_count_end(assessment.end, memory), next_start_ms=0))


def _count_end(end: str, memory: Memory) -> Memory:
    """Remember the class of an end after which a driver is started, and how many had it in a row."""
    return replace(memory, same_end=end, same_ends=memory.same_ends + 1 if memory.same_end == end else 1)


def _fence(assessment: Assessment, observation: Observation, memory: Memory, limits: Limits) -> tuple[Action, Memory]:
    """Fence a driver that hangs or runs twice, once two passes have observed the same, while the budget lasts."""
    suspect = " ".join(
        [assessment.verdict, *(driver.identity for driver in observation.drivers or ()), assessment.sign]
    ).strip()
    if memory.suspect != suspect:
        memory = replace(memory, suspect=suspect, suspect_since_ms=observation.now_ms)
    if observation.now_ms - memory.suspect_since_ms < limits.confirm * 1000:
        return _nothing(observation, f"{assessment.reason}; a second pass must find the same"), memory
    used = len(memory.restarts_since(observation.desired))
    if used >= limits.restarts:
        return _give_up(f"{assessment.reason}; the budget of {limits.restarts} restarts is spent", observation, memory)
    reason = f"{assessment.reason}; start {used + 1} of {limits.restarts}"
    return _act("FENCE_AND_START", reason, observation, _trust(_spend(observation, memory)))


def _give_up(reason: str, observation: Observation, memory: Memory) -> tuple[Action, Memory]:
    """Raise the alarm once: it is the action. The verdict stays."""
    if memory.gave_up_ms > observation.desired.budget_reset_ms:
        return _nothing(observation, f"{reason}; waits for an operator"), memory
    return _act("GIVE_UP", reason, observation, replace(_trust(memory), gave_up_ms=observation.now_ms))


def _count_calm(assessment: Assessment, observation: Observation, memory: Memory, limits: Limits) -> Memory:
    """Reset the budget after a stable run: the driver gives heartbeats and has had no fault for so long."""
    if assessment.verdict == "UNKNOWN":
        return memory
    if not observation.drivers or not memory.first_beat_ms or assessment.verdict not in WORKING:
        return replace(memory, calm_since_ms=0)
    memory = replace(memory, calm_since_ms=memory.calm_since_ms or observation.now_ms)
    if observation.now_ms - memory.calm_since_ms >= limits.stable * 1000:
        memory = replace(memory, restarts=(), gave_up_ms=0, same_end="", same_ends=0)
    return memory


def _spend(observation: Observation, memory: Memory) -> Memory:
    return replace(memory, restarts=(*memory.restarts_since(observation.desired), observation.now_ms), next_start_ms=0)


def _trust(memory: Memory) -> Memory:
    return replace(memory, suspect="", suspect_since_ms=0)


def _act(kind: Kind, reason: str, observation: Observation, memory: Memory) -> tuple[Action, Memory]:
    action = Action(kind, reason, observation.now_ms)
    return action, replace(memory, last_action=action)


def _nothing(observation: Observation, reason: str) -> Action:
    return Action("NOTHING", reason, observation.now_ms)
