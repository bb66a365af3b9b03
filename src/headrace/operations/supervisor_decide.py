"""From a verdict to what is done about it: a pure decision with a restart budget, back-off and jitter.

The error class decides (design section 7): a transient end or a kill is restarted; DAMAGED and REFUSED never are; after
DUPLICATE_WRITER a start needs that exactly no driver lives, which a MISSING verdict says; UNKNOWN touches nothing.
"""

from __future__ import annotations

import random
from dataclasses import replace

from headrace.contract.exits import Exit
from headrace.operations.supervision import WORKING, Action, Kind, Memory
from headrace.operations.verdict import Finding, Limits, Observation


def decide(
    finding: Finding, seen: Observation, memory: Memory, limits: Limits, dice: random.Random
) -> tuple[Action, Memory]:
    """Return what to do about a pipeline's verdict, and the memory in which a start is counted already.

    At most one start a call. `dice` gives the jitter, so that pipelines that fell together do not start together.
    """
    memory = _count_calm(finding, seen, memory, limits)
    if finding.verdict == "UNKNOWN":
        return _nothing(seen, "what is not known is not touched"), memory
    if seen.wish.held(seen.now_ms):
        left = (seen.wish.held_until_ms - seen.now_ms) / 1000
        return _nothing(seen, f"held off for {left:.0f} s more by an upgrade"), _trust(memory)
    if seen.drivers:
        memory = replace(memory, next_start_ms=0)
    if not finding.ripe:
        return _leave_or_renew(finding, seen, _trust(memory))
    if seen.wish.want != "RUNNING":
        return _did("STOP", finding.reason, seen, memory)
    if finding.verdict == "MISSING" and finding.end == Exit.STORE_AWAY.name:
        return _try_start(finding, seen, memory, limits)
    if finding.verdict == "MISSING":
        return _start(finding, seen, memory, limits, dice)
    if finding.verdict == "CRASH_LOOP":
        return _give_up(finding.reason, seen, memory)
    return _fence(finding, seen, memory, limits)


def restarts_left(seen: Observation, memory: Memory, limits: Limits) -> int:
    """Return how many restarts the budget still has."""
    return max(0, limits.restarts - len(memory.restarts_since(seen.wish)))


def wait_seconds(used: int, limits: Limits, dice: random.Random) -> float:
    """Return how long to wait before the next start: not at all before the first, then ever longer, with jitter."""
    if used == 0:
        return 0.0
    longest = min(limits.longest_wait, limits.first_wait * 2.0 ** (used - 1))
    return dice.uniform(longest / 2, longest)


def _leave_or_renew(finding: Finding, seen: Observation, memory: Memory) -> tuple[Action, Memory]:
    """Leave what does well, or is given time; renew a driver whose settings the deployment has changed (`helm upgrade`).

    That is no fault and costs no budget: the new one carries the new settings, so it happens once.
    """
    lives = seen.wish.want == "RUNNING" and finding.verdict in WORKING
    if lives and any(driver.outdated for driver in seen.drivers or ()):
        return _did("RESTART", "it runs with settings that the deployment no longer has", seen, memory)
    return _nothing(seen, "all is as it should be" if finding.verdict == "HEALTHY" else finding.reason), memory


def _start(
    finding: Finding, seen: Observation, memory: Memory, limits: Limits, dice: random.Random
) -> tuple[Action, Memory]:
    memory = _trust(memory)
    used = len(memory.restarts_since(seen.wish))
    due = memory.next_start_ms if used else seen.now_ms
    if not due:
        due = seen.now_ms + int(wait_seconds(used, limits, dice) * 1000)
        memory = replace(memory, next_start_ms=due)
    if seen.now_ms < due:
        left = (due - seen.now_ms) / 1000
        return _nothing(seen, f"{finding.reason}; restart {used + 1} of {limits.restarts} in {left:.0f} s"), memory
    memory = _count_end(finding.end, _spend(seen, memory))
    return _did("START", f"{finding.reason}; start {used + 1} of {limits.restarts}", seen, memory)


def _try_start(finding: Finding, seen: Observation, memory: Memory, limits: Limits) -> tuple[Action, Memory]:
    """Start after an end for a store that is away: at once, then every `away_wait` seconds, and nothing is spent."""
    memory = _trust(memory)
    last = memory.last_action
    due = last.at_ms + int(limits.away_wait * 1000) if last and last.kind == "START" else seen.now_ms
    if seen.now_ms < due:
        left = (due - seen.now_ms) / 1000
        return _nothing(seen, f"{finding.reason}; tried again in {left:.0f} s"), replace(memory, next_start_ms=due)
    reason = f"{finding.reason}; tried again, at no cost of the budget"
    return _did("START", reason, seen, replace(_count_end(finding.end, memory), next_start_ms=0))


def _count_end(end: str, memory: Memory) -> Memory:
    """Remember the class of an end after which a driver is started, and how many had it in a row."""
    return replace(memory, same_end=end, same_ends=memory.same_ends + 1 if memory.same_end == end else 1)


def _fence(finding: Finding, seen: Observation, memory: Memory, limits: Limits) -> tuple[Action, Memory]:
    """Fence what hangs or is doubled, once two looks have found the same, while the budget lasts."""
    suspect = " ".join([finding.verdict, *(driver.identity for driver in seen.drivers or ()), finding.sign]).strip()
    if memory.suspect != suspect:
        memory = replace(memory, suspect=suspect, suspect_since_ms=seen.now_ms)
    if seen.now_ms - memory.suspect_since_ms < limits.confirm * 1000:
        return _nothing(seen, f"{finding.reason}; a second look must find the same"), memory
    used = len(memory.restarts_since(seen.wish))
    if used >= limits.restarts:
        return _give_up(f"{finding.reason}; the budget of {limits.restarts} restarts is spent", seen, memory)
    reason = f"{finding.reason}; start {used + 1} of {limits.restarts}"
    return _did("FENCE_AND_START", reason, seen, _trust(_spend(seen, memory)))


def _give_up(reason: str, seen: Observation, memory: Memory) -> tuple[Action, Memory]:
    """Say it once: the alarm is the action, the verdict stays."""
    if memory.gave_up_ms > seen.wish.budget_reset_ms:
        return _nothing(seen, f"{reason}; waits for an operator"), memory
    return _did("GIVE_UP", reason, seen, replace(_trust(memory), gave_up_ms=seen.now_ms))


def _count_calm(finding: Finding, seen: Observation, memory: Memory, limits: Limits) -> Memory:
    """Give the whole budget back after a stable run: a driver that beats and has had no fault for so long."""
    if finding.verdict == "UNKNOWN":
        return memory
    if not seen.drivers or not memory.first_beat_ms or finding.verdict not in WORKING:
        return replace(memory, calm_since_ms=0)
    memory = replace(memory, calm_since_ms=memory.calm_since_ms or seen.now_ms)
    if seen.now_ms - memory.calm_since_ms >= limits.stable * 1000:
        memory = replace(memory, restarts=(), gave_up_ms=0, same_end="", same_ends=0)
    return memory


def _spend(seen: Observation, memory: Memory) -> Memory:
    return replace(memory, restarts=(*memory.restarts_since(seen.wish), seen.now_ms), next_start_ms=0)


def _trust(memory: Memory) -> Memory:
    return replace(memory, suspect="", suspect_since_ms=0)


def _did(kind: Kind, reason: str, seen: Observation, memory: Memory) -> tuple[Action, Memory]:
    action = Action(kind, reason, seen.now_ms)
    return action, replace(memory, last_action=action)


def _nothing(seen: Observation, reason: str) -> Action:
    return Action("NOTHING", reason, seen.now_ms)
