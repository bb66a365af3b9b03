"""When a batch hangs, and when it only takes long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headrace.streaming.stuck import STUCK_SECONDS, StuckBatches
from headrace.streaming.writer import Counters


class Tracker:
    """Spark's status tracker: one job of the query, with a status or none."""

    def __init__(self) -> None:
        self.status: str | None = None

    def getJobIdsForGroup(self, group: str) -> list[int]:  # noqa: N802 - Spark's name
        assert group == "run-1"
        return [7]

    def getJobInfo(self, job: int) -> Any:  # noqa: N802 - Spark's name
        return SimpleNamespace(status=self.status) if self.status else None


@pytest.fixture
def running() -> Any:
    return SimpleNamespace(name="p.q", counters=Counters(running_batch=3), query=SimpleNamespace(runId="run-1"))


def _found(stuck: StuckBatches, running: Any, *moments: float) -> list[bool]:
    return [bool(stuck.find([running], moment)) for moment in moments]


def test_a_batch_without_a_job_hangs_after_the_limit_and_not_before(running: Any) -> None:
    assert _found(StuckBatches(Tracker()), running, 10, 10 + STUCK_SECONDS, 11 + STUCK_SECONDS) == [False, False, True]


def test_a_batch_with_a_job_may_take_as_long_as_it_needs(running: Any) -> None:
    tracker = Tracker()
    stuck = StuckBatches(tracker)
    tracker.status = "RUNNING"
    assert _found(stuck, running, 0, STUCK_SECONDS * 100) == [False, False]
    tracker.status = "SUCCEEDED"
    assert _found(stuck, running, STUCK_SECONDS * 101, STUCK_SECONDS * 103) == [False, True]


def test_the_next_batch_begins_anew(running: Any) -> None:
    stuck = StuckBatches(Tracker())
    assert _found(stuck, running, 0, STUCK_SECONDS) == [False, False]
    running.counters.running_batch = 4
    assert _found(stuck, running, STUCK_SECONDS + 1) == [False]
    running.counters.running_batch = None
    assert _found(stuck, running, STUCK_SECONDS * 9) == [False]
