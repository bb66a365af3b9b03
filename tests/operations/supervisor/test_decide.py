"""What is done about a verdict: budget, back-off, error classes, and what is never done."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.operations.supervisor.decide import decide, restarts_left, wait_seconds
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.operations.supervisor.memory import Action, Memory
from headrace.operations.supervisor.verdict import Observation, judge, remember
from tests.operations.supervising import NOW, RUNNING, beat, driver, record, seen
from tests.operations.supervisor.test_verdict import KNOWN, PIPELINE, memories, observations

RNG = random.Random(1)


def decided(observation: Observation, memory: Memory = KNOWN) -> tuple[Action, Memory]:
    remembered = remember(observation, memory)
    return decide(judge(PIPELINE, observation, remembered).pipeline, observation, remembered, LIMITS, RNG)


def later(observation: Observation, seconds: float) -> Observation:
    return replace(observation, now_ms=observation.now_ms + int(seconds * 1000))


def gone(end: str | None = None, at_ms: int = NOW - 500) -> Observation:
    """No driver lives; it ended with `end`, or was killed."""
    word = record({"exit": end, "error": "why", "at_ms": at_ms}) if end else None
    return seen(PIPELINE, drivers=(), exit_record=word)


@pytest.mark.parametrize("end", [None, "TRANSIENT", "CUT_OFF", "FINISHED", "DUPLICATE_WRITER"])
def test_a_driver_that_fell_is_started_at_once_the_first_time(end: str | None) -> None:
    action, memory = decided(gone(end))
    assert (action.kind, memory.restarts) == ("START", (NOW,))
    assert action.reason.endswith("start 1 of 8")


@pytest.mark.parametrize("end", ["DAMAGED", "REFUSED"])
def test_what_a_restart_cannot_correct_is_given_up_with_one_alarm(end: str) -> None:
    action, memory = decided(gone(end))
    assert (action.kind, memory.restarts) == ("GIVE_UP", ())
    action, memory = decided(later(gone(end), 60), memory)
    assert action.kind == "NOTHING"
    again = replace(RUNNING, budget_reset_ms=NOW + 70_000)
    assert decided(replace(later(gone(end), 80), desired=again), memory)[0].kind == "GIVE_UP"


def test_a_driver_that_the_launcher_does_not_know_is_left_alone() -> None:
    assert decided(gone("LOCKED"))[0].kind == "NOTHING"


def test_a_driver_that_found_its_lock_taken_is_tried_again_after_a_while() -> None:
    assert decided(later(gone("LOCKED"), LIMITS.longest_wait + 1))[0].kind == "START"


def test_starts_while_a_store_is_away_cost_nothing_and_come_every_few_seconds() -> None:
    memory, starts, observation = KNOWN, [], gone("STORE_AWAY")
    for second in range(600):
        action, memory = decided(
            replace(observation, exit_record=gone("STORE_AWAY", observation.now_ms - 1).exit_record), memory
        )
        starts += [second] if action.kind == "START" else []
        observation = later(observation, 1)
    assert starts == list(range(0, 600, int(LIMITS.away_wait)))
    assert memory.restarts == ()
    spent = replace(KNOWN, restarts=tuple(NOW - 1000 * n for n in range(8)))
    assert decided(gone("STORE_AWAY"), spent)[0].kind == "START", "a spent budget is not its own"


def test_ends_of_one_class_in_a_row_are_counted_until_another_comes() -> None:
    memory = KNOWN
    for end, count in (("OUT_OF_MEMORY", 1), ("OUT_OF_MEMORY", 2), ("TRANSIENT", 1), ("OUT_OF_MEMORY", 1)):
        action, memory = decided(gone(end), replace(memory, next_start_ms=0, restarts=()))
        assert (action.kind, memory.same_end, memory.same_ends) == ("START", end, count)


def test_waits_grow_up_to_the_longest_and_then_the_budget_is_spent() -> None:
    assert wait_seconds(0, LIMITS, RNG) == 0
    for used, longest in enumerate((5, 10, 20, 40, 80, 160, 300), start=1):
        assert longest / 2 <= wait_seconds(used, LIMITS, RNG) <= longest
    memory, kinds, observation = KNOWN, [], gone()
    for _ in range(4000):
        action, memory = decided(observation, memory)
        kinds += [action.kind] if action.kind != "NOTHING" else []
        observation = later(observation, 1)
    assert kinds == ["START"] * 8 + ["GIVE_UP"]
    assert restarts_left(observation, memory, LIMITS) == 0


def test_a_stable_run_gives_the_budget_back_and_an_unknown_moment_does_not_break_it() -> None:
    spent = replace(KNOWN, restarts=(NOW - 9000, NOW - 8000))
    calm = decided(seen(PIPELINE), spent)[1]
    for seconds in range(0, int(LIMITS.stable), 100):
        assert calm.restarts == spent.restarts
        look = seen(PIPELINE, now_ms=NOW + seconds * 1000, heartbeat=beat(PIPELINE, age=-seconds))
        calm = decided(replace(look, unknown="Kafka is away") if seconds == 300 else look, calm)[1]
    look = seen(PIPELINE, now_ms=NOW + int(LIMITS.stable * 1000), heartbeat=beat(PIPELINE, age=-LIMITS.stable))
    assert decided(look, calm)[1].restarts == ()


def test_an_operators_request_restores_the_budget() -> None:
    spent = replace(KNOWN, restarts=tuple(NOW - 1000 * n for n in range(8)), gave_up_ms=NOW - 100)
    assert decided(gone(), spent)[0].kind == "NOTHING"
    action, memory = decided(replace(gone(), desired=replace(RUNNING, budget_reset_ms=NOW)), spent)
    assert (action.kind, memory.restarts) == ("START", (NOW,))


def test_a_start_that_an_operator_is_making_is_not_made_twice() -> None:
    young = replace(RUNNING, at_ms=NOW - 1000)
    assert decided(replace(gone(), desired=young))[0].kind == "NOTHING"
    assert decided(later(replace(gone(), desired=young), LIMITS.head_start))[0].kind == "START"


def test_a_frozen_driver_is_fenced_when_a_second_observation_finds_the_same() -> None:
    frozen = seen(PIPELINE, heartbeat=beat(PIPELINE, age=40))
    action, memory = decided(frozen)
    assert action.kind == "NOTHING"
    action, memory = decided(later(frozen, 5), memory)
    assert (action.kind, len(memory.restarts)) == ("FENCE_AND_START", 1)


def test_an_old_heartbeat_that_changes_is_a_wrong_clock_and_no_reason_to_fence() -> None:
    memory = KNOWN
    for seconds in range(0, 60, 5):
        look = later(seen(PIPELINE, heartbeat=beat(PIPELINE, age=40 - seconds)), seconds)
        action, memory = decided(look, memory)
        assert action.kind == "NOTHING"


def test_a_driver_that_woke_up_with_its_machine_is_not_fenced() -> None:
    _, memory = decided(seen(PIPELINE, heartbeat=beat(PIPELINE, age=40)))
    action, memory = decided(later(seen(PIPELINE), 5), memory)
    assert (action.kind, memory.suspect) == ("NOTHING", "")


def test_two_living_drivers_are_fenced_and_replaced_by_one() -> None:
    both = seen(PIPELINE, drivers=(driver(PIPELINE), driver(PIPELINE, identity="b")))
    _, memory = decided(both)
    assert decided(later(both, 5), memory)[0].kind == "FENCE_AND_START"


def test_a_driver_that_stalls_with_the_budget_spent_is_left_alive() -> None:
    frozen = seen(PIPELINE, heartbeat=beat(PIPELINE, age=40))
    spent = replace(KNOWN, restarts=tuple(NOW - 1000 * n for n in range(8)))
    _, memory = decided(frozen, spent)
    action, memory = decided(later(frozen, 5), memory)
    assert action.kind == "GIVE_UP"
    assert decided(later(frozen, 10), memory)[0].kind == "NOTHING"


def test_a_driver_whose_settings_the_deployment_has_changed_is_renewed_without_cost_unless_it_is_held_or_unwanted() -> (
    None
):
    old = (driver(PIPELINE, outdated=True),)
    for look in (seen(PIPELINE, drivers=old), seen(PIPELINE, drivers=old, heartbeat=None)):  # it does well; it starts
        action, memory = decided(look)
        assert (action.kind, memory.restarts) == ("RESTART", ())
    assert decided(seen(PIPELINE))[0].kind == "NOTHING"
    held = replace(RUNNING, held_until_ms=NOW + 1000, reason="upgrade to v2")
    assert decided(seen(PIPELINE, drivers=old, desired=held))[0].kind == "NOTHING"
    just_now = replace(RUNNING, want="PAUSED", at_ms=NOW - 1000)
    assert decided(seen(PIPELINE, drivers=old, desired=just_now))[0].kind == "NOTHING"


def test_what_is_not_wanted_is_stopped_and_what_an_upgrade_holds_is_left_alone() -> None:
    paused = replace(RUNNING, want="PAUSED")
    assert decided(seen(PIPELINE, desired=paused))[0].kind == "STOP"
    held = replace(RUNNING, held_until_ms=NOW + 1000, reason="upgrade to v2")
    action, memory = decided(replace(gone(), desired=held))
    assert (action.kind, action.reason) == ("NOTHING", "an upgrade runs: only observed for 1 s more")
    assert decided(later(replace(gone(), desired=held), 2), memory)[0].kind == "START"


@settings(max_examples=100, deadline=None)
@given(observations(), memories(), st.integers(0, 2**32))
def test_the_unknown_is_never_touched_and_a_cycle_makes_at_most_one_start(
    observation: Observation, memory: Memory, seed: int
) -> None:
    remembered = remember(observation, memory)
    assessment = judge(PIPELINE, observation, remembered).pipeline
    action, after = decide(assessment, observation, remembered, LIMITS, random.Random(seed))
    desired, starts = observation.desired, action.kind in {"START", "FENCE_AND_START"}
    if assessment.verdict == "UNKNOWN" or observation.drivers is None or desired.held_until_ms > NOW:
        assert action.kind == "NOTHING"
    before, now = remembered.restarts_since(desired), after.restarts_since(desired)
    if starts:
        assert desired.want == "RUNNING"
        assert len(before) < LIMITS.restarts
        assert len(now) == len(before) + (desired.budget_reset_ms < NOW)
    else:
        assert now in (before, ())
    assert action.kind != "START" or observation.drivers == ()
    assert action.kind not in {"FENCE_AND_START", "RESTART", "STOP"} or observation.drivers
    assert action.kind != "STOP" or desired.want != "RUNNING"
    assert action.kind in {"NOTHING", "RESTART"} or assessment.actionable
    renewed = desired.want == "RUNNING" and any(living.outdated for living in observation.drivers or ())
    if assessment.verdict in {"HEALTHY", "LAGGING", "CRASH_LOOP"}:
        assert action.kind in {"NOTHING", "GIVE_UP", *(["RESTART"] if renewed else [])}
