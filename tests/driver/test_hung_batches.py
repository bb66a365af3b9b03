"""What counts as life of a running batch, when a batch hangs, and when it only takes long."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.driver import hung_batches
from headrace.driver.hung_batches import STUCK_SECONDS
from headrace.driver.work import Busy, Done, Watcher
from headrace.driver.writer import Counters
from headrace.store.driver_files import RunningBatch

BEAT = 3_000
HOUR = 3_600_000


@dataclass
class Jobs:
    """A driver's jobs as a test wants them; `spend` says what the threads use in a second."""

    running: dict[int, bool] = field(default_factory=dict)
    what: Done = field(default_factory=Done)
    spend: Busy | None = field(default_factory=lambda: Busy(0, 0, 0.001))
    _spent: Busy = field(default_factory=lambda: Busy(0, 0, 0))

    def jobs(self, run_id: str) -> dict[int, bool]:
        assert run_id == "run-1"
        return dict(self.running)

    def done(self, jobs: Iterable[int]) -> Done:
        return self.what if set(jobs) else Done()

    def busy(self) -> Busy | None:
        if self.spend is None:
            return None
        was, more = self._spent, self.spend
        self._spent = Busy(
            was.tasks + 3 * more.tasks, was.collector + 3 * more.collector, was.everything + 3 * more.everything
        )
        return self._spent


class Driver:
    """One query whose watcher looks every three seconds."""

    def __init__(self, **fields: Any) -> None:
        self.store, self.now = Jobs(**fields), 1_000_000
        self.watcher = Watcher(self.store)
        self.query: Any = SimpleNamespace(
            name="p.q", counters=Counters(running_batch=3), query=SimpleNamespace(runId="run-1")
        )

    def beats(self, seconds: float) -> bool:
        """Look for so long; return whether the batch is taken for one that hangs at the end."""
        until = self.now + int(seconds * 1000)
        while self.now < until:
            self.now += BEAT
            self.watcher.observe([self.query], self.now)
        return bool(hung_batches.find(self.watcher, [self.query], self.now))

    @property
    def still(self) -> float:
        """Seconds since it was last seen to move."""
        return (self.now - (self.watcher.moved_ms(self.query) or 0)) / 1000


@pytest.mark.parametrize("running", [{}, {7: True}], ids=["no job", "a job whose tasks do nothing"])
def test_a_batch_of_which_nothing_moves_hangs_after_the_limit_and_not_before(running: dict[int, bool]) -> None:
    driver = Driver(running=running)
    assert not driver.beats(STUCK_SECONDS)
    assert driver.still > STUCK_SECONDS - 10
    assert driver.beats(10)


@pytest.mark.parametrize("what", ["tasks_done", "records"])
def test_a_batch_whose_tasks_end_or_whose_rows_move_may_take_as_long_as_it_needs(what: str) -> None:
    driver = Driver(running={7: True})
    for done in range(40):
        driver.store.what = Done(**{"tasks": 100, what: done})
        assert not driver.beats(STUCK_SECONDS - 10)
    assert driver.beats(STUCK_SECONDS + 10)


def test_a_batch_that_begins_one_short_job_after_another_moves() -> None:
    driver = Driver()
    for job in range(5):
        driver.store.running = {job: False}
        assert not driver.beats(STUCK_SECONDS - 10)


def test_a_task_that_only_computes_moves_by_the_processor_it_uses() -> None:
    driver = Driver(running={7: True}, spend=Busy(0.5, 0.1, 0.7))
    assert not driver.beats(4 * STUCK_SECONDS)
    assert driver.still < 20
    driver.store.spend = Busy(0.005, 0, 0.3)  # it polls; the rest of the driver works
    assert driver.beats(STUCK_SECONDS + 20)


def test_a_collector_that_takes_all_time_is_no_progress_and_is_reported() -> None:
    driver = Driver(running={7: True}, spend=Busy(0.05, 1.9, 2.0))
    driver.beats(60)
    assert 40 < driver.watcher.garbage_seconds(driver.now) <= 60
    assert driver.still > 50
    driver.store.spend = Busy(0.5, 0.5, 1.0)
    driver.beats(6)
    assert driver.watcher.garbage_seconds(driver.now) == 0


def test_a_batch_that_waits_for_a_store_does_not_hang() -> None:
    driver = Driver()
    driver.query.counters.waits = "Cassandra is unavailable"
    assert not driver.beats(3 * STUCK_SECONDS)
    work = driver.watcher.work(driver.query)
    assert work is not None
    assert work.waits == "Cassandra is unavailable"
    driver.query.counters.waits = ""
    assert driver.beats(STUCK_SECONDS + 10)


def test_where_tasks_run_on_other_machines_one_at_work_may_take_its_time() -> None:
    driver = Driver(running={7: True}, what=Done(tasks=4, tasks_done=3), spend=None)
    assert not driver.beats(4 * STUCK_SECONDS)
    driver.store.what = Done(tasks=4, tasks_done=4)
    assert driver.beats(STUCK_SECONDS + 10)


def test_the_next_batch_starts_fresh_and_a_query_between_two_batches_does_not_hang() -> None:
    driver = Driver()
    assert not driver.beats(STUCK_SECONDS)
    driver.query.counters.running_batch = 4
    assert not driver.beats(10)
    driver.query.counters.running_batch = None
    assert not driver.beats(9 * STUCK_SECONDS)
    assert driver.watcher.work(driver.query) is None


def test_a_batch_tells_its_tasks_and_since_when_it_runs() -> None:
    driver = Driver(running={7: True}, what=Done(tasks=32, tasks_done=14, records=900))
    driver.beats(30)
    work = driver.watcher.work(driver.query)
    assert work is not None
    assert work == RunningBatch(since_ms=1_003_000, tasks=32, tasks_done=14, records=900, waits="", blind=False)
