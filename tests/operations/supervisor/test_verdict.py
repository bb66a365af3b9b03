"""The verdict on a pipeline: one rule a test, then random observations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contract.exit_codes import HELPS, TOLD_TO_STOP, Exit
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.operations.supervisor.memory import FAULTS, GRAVITY, Mark, Memory, runbook
from headrace.operations.supervisor.verdict import (
    CheckpointPosition,
    Judgement,
    Observation,
    judge,
    remember,
    stall_seconds,
)
from tests.conftest import PROJECT
from tests.operations.supervising import NOW, RUNNING, beat, driver, positions, record, seen

PIPELINE = load_pipeline(PROJECT / "pipelines" / "user_logins.yaml")
KNOWN = Memory(driver="a", started_ms=NOW - 60_000, first_beat_ms=NOW - 50_000)


def judged(observation: Observation, memory: Memory = KNOWN) -> Judgement:
    return judge(PIPELINE, observation, remember(observation, memory))


def verdict(observation: Observation, memory: Memory = KNOWN) -> tuple[str, str]:
    judgement = judged(observation, memory).pipeline
    return judgement.verdict, judgement.reason


def test_a_batch_that_moves_without_lag_is_healthy() -> None:
    assert verdict(seen(PIPELINE)) == ("HEALTHY", "last_login: batch 7 2 s ago, no lag")


def test_a_query_that_has_taken_everything_long_ago_is_idle() -> None:
    old = beat(PIPELINE, batch_written_ms=NOW - 3_600_000)
    assert verdict(seen(PIPELINE, heartbeat=old))[0] == "IDLE"
    assert verdict(seen(PIPELINE, heartbeat=beat(PIPELINE, batch_written_ms=None)))[0] == "IDLE"


def test_a_silent_launcher_is_unknown_whatever_else_is_seen() -> None:
    assert verdict(seen(PIPELINE, drivers=None, unknown="The API answered 500.")) == (
        "UNKNOWN",
        "The API answered 500.",
    )


def test_an_unreachable_kafka_or_checkpoint_is_unknown_with_and_without_a_driver() -> None:
    assert verdict(seen(PIPELINE, unknown="Kafka is away", positions={}))[0] == "UNKNOWN"
    assert verdict(seen(PIPELINE, drivers=(), unknown="Kafka is away", positions={}))[0] == "UNKNOWN"
    one_broken = positions(PIPELINE) | {"last_login": CheckpointPosition(error="offsets/7 is cut")}
    assert verdict(seen(PIPELINE, positions=one_broken)) == ("UNKNOWN", "last_login: offsets/7 is cut")


def test_absence_is_missing_when_the_launcher_could_answer_and_the_reason_is_the_drivers_word() -> None:
    assert verdict(seen(PIPELINE, drivers=())) == ("MISSING", "the driver vanished without an exit record")
    word = record({"exit": "TRANSIENT", "error": "Kafka is away", "at_ms": NOW - 1000})
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word)) == (
        "MISSING",
        "the driver ended with TRANSIENT: Kafka is away",
    )


@pytest.mark.parametrize("consequence", ["ended without an error", f"InterruptedError: {TOLD_TO_STOP}"])
def test_a_driver_that_ended_for_a_query_says_which_and_why(consequence: str) -> None:
    first, second = beat(PIPELINE, active=False, error=consequence).queries
    second = replace(second, error="Cassandra is away")
    last = replace(beat(PIPELINE), exit="TRANSIENT", queries=(first, second))
    word = record({"exit": "TRANSIENT", "error": "", "at_ms": NOW - 500})
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word, heartbeat=last)) == (
        "MISSING",
        "the driver ended with TRANSIENT: user_logins.archive_logins ended: Cassandra is away",
    )


def test_the_word_of_an_earlier_driver_does_not_count() -> None:
    word = record({"exit": "DAMAGED", "error": "cut", "at_ms": NOW - 70_000})
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word)) == (
        "MISSING",
        "the driver vanished without an exit record",
    )
    started_again = replace(RUNNING, at_ms=NOW - 30_000)
    word = record({"exit": "DAMAGED", "error": "cut", "at_ms": NOW - 40_000})
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word, desired=started_again))[0] == "MISSING"


OWN = replace(KNOWN, instance="L2", request="R")
DESIRED = replace(RUNNING, request="R")


@pytest.mark.parametrize(
    ("word", "memory", "counts"),
    [
        ({"life": "L2", "request": "R"}, OWN, True),
        ({"life": "L1", "request": "R"}, OWN, False),  # the driver before it, under the same desired
        ({"life": "L3", "request": "R"}, replace(OWN, request="earlier"), True),  # it came and went between two looks
        ({"life": "L3", "request": "other"}, replace(OWN, request="earlier"), False),
        ({"life": "L2", "request": "earlier"}, replace(OWN, request="earlier"), True),  # adopted by a later desired
        ({"life": "L3", "request": "R"}, Memory(), True),  # nobody has looked yet
        ({"life": "L3", "request": "other"}, Memory(), False),
    ],
)
def test_a_word_is_matched_by_the_life_that_left_it_and_never_by_clocks(
    word: dict[str, Any], memory: Memory, counts: bool
) -> None:
    for skew in (-3_600_000, 0, 3_600_000):  # of the node against the supervisor's machine
        left = record(word | {"exit": "DAMAGED", "error": "cut", "at_ms": NOW + skew})
        shown = verdict(seen(PIPELINE, drivers=(), exit_record=left, desired=DESIRED, heartbeat=None), memory)
        assert (shown[0] == "CRASH_LOOP") is counts


def test_what_the_launcher_saw_of_an_end_counts_where_the_driver_only_saw_its_jvm_gone() -> None:
    ended = record({"exit": "OUT_OF_MEMORY", "error": "OOMKilled", "at_ms": NOW, "life": "L2", "request": ""})
    word = record({"exit": "TRANSIENT", "error": "calling o604.isActive", "at_ms": NOW, "life": "L2", "request": "R"})
    for left in (word, None):
        name, why = verdict(seen(PIPELINE, drivers=(), exit_record=left, launcher_record=ended, desired=DESIRED), OWN)
        assert (name, why) == (
            "MISSING",
            f"the driver ended with OUT_OF_MEMORY: OOMKilled; {HELPS[Exit.OUT_OF_MEMORY]}",
        )
    damaged = replace(word, exit="DAMAGED")
    assert (
        verdict(seen(PIPELINE, drivers=(), exit_record=damaged, launcher_record=ended, desired=DESIRED), OWN)[0]
        == "CRASH_LOOP"
    )
    old = replace(ended, instance="L1")
    assert (
        verdict(seen(PIPELINE, drivers=(), launcher_record=old, desired=DESIRED), OWN)[1]
        == "the driver vanished without an exit record"
    )


@pytest.mark.parametrize("end", HELPS)
def test_the_same_lack_three_times_in_a_row_is_a_crash_loop_that_names_the_setting(end: Exit) -> None:
    word = record({"exit": end.name, "error": "it lacked.", "at_ms": NOW - 1000})
    again = replace(KNOWN, restarts=(NOW - 9,) * 3, same_end=end.name, same_ends=LIMITS.same_ends)
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word), replace(again, same_ends=2))[0] == "MISSING"
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word), replace(again, same_end="TRANSIENT"))[0] == "MISSING"
    name, why = verdict(seen(PIPELINE, drivers=(), exit_record=word), again)
    assert name == "CRASH_LOOP"
    same = f"the driver ended with {end.name}: it lacked; {HELPS[end]}; 3 drivers in a row ended so, the next would too"
    search = f"headrace stream stop {PIPELINE.name}; headrace dead-letters find {PIPELINE.name}"
    of_a_record = f". If a record is to blame, this names it: {search}" if end is Exit.WORKER_LOST else ""
    assert why == same + of_a_record
    given_back = replace(RUNNING, budget_reset_ms=NOW)
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word, desired=given_back), again)[0] == "MISSING"


@pytest.mark.parametrize(
    ("end", "leads_on"),
    [
        ("DAMAGED", "`headrace checkpoint verify` says what and names the runbook"),
        ("REFUSED", "the error names the way out"),
    ],
)
def test_what_a_restart_cannot_correct_is_a_crash_loop_at_once(end: str, leads_on: str) -> None:
    word = record({"exit": end, "error": "the plan changed", "at_ms": NOW - 1000})
    name, why = verdict(seen(PIPELINE, drivers=(), exit_record=word, unknown="Kafka is away"))
    assert name == "CRASH_LOOP"
    assert why == f"the driver ended with {end}: the plan changed; no restart can correct that, {leads_on}"


def test_a_spent_budget_is_a_crash_loop_and_an_operators_request_restores_it() -> None:
    spent = replace(KNOWN, restarts=tuple(NOW - 1000 * n for n in range(LIMITS.restarts)))
    assert verdict(seen(PIPELINE, drivers=()), spent)[0] == "CRASH_LOOP"
    again = replace(RUNNING, budget_reset_ms=NOW)
    assert verdict(seen(PIPELINE, drivers=(), desired=again), spent)[0] == "MISSING"


def test_two_living_drivers_or_one_that_the_launcher_does_not_know_are_duplicates() -> None:
    both = (driver(PIPELINE), driver(PIPELINE, identity="b"))
    assert verdict(seen(PIPELINE, drivers=both)) == ("DUPLICATE", "2 drivers run: process a, process b")
    word = record({"exit": "LOCKED", "error": "another lives", "at_ms": NOW - 1000})
    assert verdict(seen(PIPELINE, drivers=(), exit_record=word))[0] == "DUPLICATE"


def test_a_pipeline_that_is_not_wanted_is_idle_with_the_desired_state_as_its_reason() -> None:
    paused = replace(RUNNING, want="PAUSED", reason="till upgrade", by="ann")
    assert verdict(seen(PIPELINE, drivers=(), desired=paused)) == ("IDLE", "wanted PAUSED by ann: till upgrade")
    judgement = judged(seen(PIPELINE, desired=paused)).pipeline
    assert (judgement.verdict, judgement.reason) == ("IDLE", "wanted PAUSED by ann: till upgrade; process a still runs")
    assert judgement.actionable
    just_now = replace(paused, at_ms=NOW - 1000)
    assert not judged(seen(PIPELINE, desired=just_now)).pipeline.actionable, "whoever paused it is stopping it"


def test_a_frozen_driver_is_stalled_but_not_if_batches_move_without_heartbeats() -> None:
    frozen = seen(PIPELINE, heartbeat=beat(PIPELINE, age=31))
    assert verdict(frozen) == ("STALLED", "process a runs, but its last heartbeat is 31 s old")
    marks = {query: Mark(1, 6) for query in positions(PIPELINE)}
    assert verdict(frozen, replace(KNOWN, marks=marks))[0] == "HEALTHY"


def test_a_query_that_ended_inside_a_living_driver_is_stalled_at_once_and_ripe_when_the_driver_does_not_end() -> None:
    ended = beat(PIPELINE, age=2, active=False, error="Kafka is away")
    judgement = judged(seen(PIPELINE, heartbeat=ended)).pipeline
    assert judgement.verdict == "STALLED"
    assert judgement.reason == "user_logins.last_login ended: Kafka is away; process a stops the others"
    assert not judgement.actionable
    assert judged(
        seen(PIPELINE, heartbeat=replace(ended, at_ms=NOW - 91_000)), replace(KNOWN, started_ms=0)
    ).pipeline.actionable


def test_a_driver_that_starts_is_idle_and_one_that_starts_for_ever_is_stalled() -> None:
    old = beat(PIPELINE, age=0.2)  # of driver "a": its end and the start of "b" may fall into one second
    for living, age in ((driver(PIPELINE, 20, "b"), 20), (driver(PIPELINE, 301, "b", pending=True), 301)):
        name, _ = verdict(seen(PIPELINE, drivers=(living,), heartbeat=old), Memory())
        assert name == ("IDLE" if age < LIMITS.start else "STALLED")


def waiting(lag: int, waits: float, **fields: Any) -> tuple[str, str]:
    marks = {query: Mark(1, 7, int(NOW - waits * 1000)) for query in positions(PIPELINE)}
    memory = replace(KNOWN, marks=marks, first_beat_ms=NOW - 3_600_000)
    return verdict(seen(PIPELINE, positions=positions(PIPELINE, lag), heartbeat=beat(PIPELINE, **fields)), memory)


def test_what_waits_is_healthy_then_lagging_then_stalled() -> None:
    assert waiting(5, 2)[0] == "HEALTHY"
    assert waiting(5, 70) == ("LAGGING", "last_login: 5 offsets behind, and no batch finished for 70 s")
    assert waiting(PIPELINE.slo.lag + 1, 2)[0] == "LAGGING"
    assert waiting(5, stall_seconds(PIPELINE, "last_login", LIMITS) + 1)[0] == "STALLED"


def test_a_batch_that_runs_may_take_longer_and_a_start_is_not_healthy_before_its_first_batch() -> None:
    bound = stall_seconds(PIPELINE, "last_login", LIMITS)
    assert waiting(5, bound + 1, running_batch=8)[0] == "LAGGING"
    assert waiting(5, bound * LIMITS.unseen + 1, running_batch=8)[0] == "STALLED"
    assert waiting(5, 2, batch_written_ms=None)[0] == "LAGGING"


def working(still: float, **fields: Any) -> dict[str, Any]:
    """What a heartbeat says of a query whose batch 8 runs for 2 hours and moved last `still` seconds ago."""
    work = {"since_ms": NOW - 7_200_000, "tasks": 32, "tasks_done": 14, "records": 9, "waits": "", "blind": False}
    return {"running_batch": 8, "moved_ms": NOW - 1000 - int(still * 1000), "work": work | fields}


def test_a_batch_of_which_anything_moves_is_never_stalled_however_long_it_takes() -> None:
    for still in (0, LIMITS.still - 1):
        name, why = waiting(5, 7_200, **working(still))
        assert name == "LAGGING"
        assert why.endswith("no batch finished for 3600 s; batch 8 runs for 7200 s, 14 of 32 tasks done")


def test_a_batch_of_which_nothing_moves_is_stalled_within_two_minutes() -> None:
    assert LIMITS.still + LIMITS.confirm + 10 < 120, "a heartbeat and two looks later"
    name, why = waiting(5, 7_200, **working(LIMITS.still + 1))
    assert name == "STALLED"
    assert why == ("last_login: 5 offsets behind, no progress for 101 s: batch 8 runs for 7200 s, 14 of 32 tasks done")
    assert waiting(5, 50, **working(LIMITS.still + 1))[0] == "HEALTHY", "it had nothing to do for the rest of that time"


def test_a_batch_that_waits_for_a_store_and_says_so_is_lagging() -> None:
    name, why = waiting(5, 7_200, **working(1, waits="Cassandra is away"))
    assert (name, why.rpartition("; ")[2]) == ("LAGGING", "batch 8 waits: Cassandra is away")


def test_a_task_on_another_machine_that_is_not_seen_to_move_is_given_more_time() -> None:
    bound = stall_seconds(PIPELINE, "last_login", LIMITS) * LIMITS.unseen
    assert waiting(5, 7_200, **working(bound - 1, blind=True))[0] == "LAGGING"
    assert waiting(5, 7_200, **working(bound + 1, blind=True))[0] == "STALLED"
    assert waiting(5, 7_200, **working(LIMITS.still + 1, blind=True, tasks_done=32))[0] == "STALLED"


def test_a_long_batch_that_has_ended_a_moment_ago_leaves_time_for_its_commit() -> None:
    ended = {"running_batch": None, "moved_ms": NOW - 1000, "work": None}
    assert waiting(5, 7_200, **ended)[0] == "LAGGING"


def test_a_record_that_comes_after_a_long_silence_is_no_stall() -> None:
    quiet = {query: Mark(1, 7, 0) for query in positions(PIPELINE)}
    memory = replace(KNOWN, marks=quiet)
    fresh = seen(PIPELINE, positions=positions(PIPELINE, 1), heartbeat=beat(PIPELINE, batch_written_ms=NOW - 3_600_000))
    assert verdict(fresh, memory)[0] == "HEALTHY"


def test_every_verdict_but_two_has_its_runbook() -> None:
    for name in GRAVITY:
        page = runbook(name)
        assert bool(page) == (name not in {"HEALTHY", "IDLE"})
        assert not page or (PROJECT / page).is_file(), f"{page} is missing"
    assert set(GRAVITY) - {"HEALTHY", "IDLE", "LAGGING", "TOO_MANY_KEYS"} == FAULTS


TIMES = st.integers(NOW - 4_000_000, NOW)
MAYBE = st.none() | TIMES
ENDS = st.sampled_from(["FINISHED", "CUT_OFF", "TRANSIENT", "DUPLICATE_WRITER", "DAMAGED", "REFUSED", "LOCKED"])


def _names(pipeline: Pipeline) -> list[str]:
    return list(positions(pipeline))


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """Anything that a look could see."""
    desired = replace(
        RUNNING, want=draw(st.sampled_from(["RUNNING"] * 4 + ["PAUSED", "STOPPED"])), at_ms=draw(TIMES),
        budget_reset_ms=draw(TIMES), held_until_ms=draw(st.sampled_from([0, 0, 0, NOW + 1000])),
    )  # fmt: skip
    living = draw(
        st.none()
        | st.lists(
            st.builds(driver, st.just(PIPELINE), st.floats(0, 4000), st.sampled_from("abc"), st.booleans(), st.booleans()),
            max_size=2, unique_by=lambda d: d.identity,
        ).map(tuple)
    )  # fmt: skip
    entry: dict[str, Any] = {
        "active": draw(st.sampled_from([True, True, True, False])),
        "batch_written_ms": draw(MAYBE),
        "running_batch": draw(st.none() | st.just(8)),
    }
    a_beat = replace(
        beat(PIPELINE, instance=draw(st.sampled_from("aaab")), **entry),
        at_ms=draw(TIMES),
        exit=draw(st.none() | st.none() | ENDS),
    )
    where = st.builds(
        CheckpointPosition, st.just(1), st.integers(5, 8), st.none() | st.integers(0, 3) | st.just(10**6),
        st.sampled_from(["", "", "", "it is cut"]),
    )  # fmt: skip
    return Observation(
        NOW, desired, living, draw(st.none() | st.just(a_beat)),
        draw(st.none() | st.builds(lambda e, t: record({"exit": e, "error": "x", "at_ms": t}), ENDS, TIMES)),
        draw(st.fixed_dictionaries(dict.fromkeys(_names(PIPELINE), where))),
        "it is away" if living is None else draw(st.sampled_from(["", "", "Kafka is away"])),
    )  # fmt: skip


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Anything that could be remembered."""
    marks = st.dictionaries(
        st.sampled_from(_names(PIPELINE)), st.builds(Mark, st.just(1), st.integers(5, 8), st.just(0) | TIMES)
    )
    return Memory(
        draw(st.sampled_from(["", "a", "b"])), draw(TIMES), draw(st.just(0) | TIMES), draw(st.just(0) | TIMES),
        draw(st.just(0) | TIMES), draw(marks), tuple(sorted(draw(st.lists(TIMES, max_size=10)))),
        draw(st.just(0) | st.integers(NOW - 10_000, NOW + 10_000)), draw(st.just(0) | TIMES),
        draw(st.sampled_from(["", "STALLED a", "DUPLICATE a b"])), draw(TIMES),
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(observations(), memories())
def test_nothing_is_called_healthy_without_a_moving_batch_or_no_lag(observation: Observation, memory: Memory) -> None:
    remembered = remember(observation, memory)
    judgement = judge(PIPELINE, observation, remembered)
    for query, assessment in judgement.queries.items():
        assert assessment.reason
        if assessment.verdict != "HEALTHY":
            continue
        (living,) = observation.drivers or ()
        assert observation.desired.want == "RUNNING"
        assert not living.pending
        assert not observation.unknown
        assert observation.heartbeat is not None
        assert observation.heartbeat.queries[0].batch_written_ms is not None
        position = observation.positions[query]
        assert position.lag is not None
        assert position.lag <= PIPELINE.slo.lag
        since = max(remembered.marks[query].behind_since_ms, remembered.first_beat_ms)
        assert position.lag == 0 or NOW - since <= PIPELINE.slo.freshness.total_seconds() * 1000
    worst = max(GRAVITY.index(assessment.verdict) for assessment in judgement.queries.values())
    assert GRAVITY.index(judgement.pipeline.verdict) == worst


@settings(max_examples=60, deadline=None)
@given(observations(), memories())
def test_what_could_not_be_asked_is_never_called_dead(observation: Observation, memory: Memory) -> None:
    judgement = judge(PIPELINE, observation, remember(observation, memory)).pipeline
    if observation.drivers is None:
        assert judgement.verdict == "UNKNOWN"
    if judgement.verdict == "MISSING":
        assert observation.drivers == ()
        assert not observation.unknown
    if observation.unknown and observation.desired.want == "RUNNING":
        assert judgement.verdict in {"UNKNOWN", "CRASH_LOOP", "DUPLICATE"}


def test_the_page_of_every_runbook_says_what_never_to_do() -> None:
    for page in sorted(Path(PROJECT / "docs" / "runbooks").glob("*.md")):
        if page.stem in FAULTS | {"LAGGING", "TOO_MANY_KEYS"}:
            assert "Never" in page.read_text(), page
