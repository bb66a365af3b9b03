"""A batch and a Cassandra that goes away: what is waited for, what is repeated, what is told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from py4j.protocol import Py4JJavaError

from headrace.driver.cassandra_guard import PATIENCE_SECONDS, SETTLE_SECONDS, Connection, Link


class World:
    """A clock that a pause moves on, and a control connection that is one thing or another, or none ("") at a moment."""

    def __init__(self, connected: Callable[[float], str]) -> None:
        self.now, self.connected, self.begun, self.closed = 0.0, connected, list[float](), list[str]()
        self.link = Link("p.q", self.look, self.closed.append, self.pause, lambda: self.now)

    def look(self) -> Connection | None:
        channel = self.connected(self.now)
        return Connection(f"s{len(self.closed)}", channel) if channel else None

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def batch(self, *outcomes: Exception | None) -> int:
        """Run a batch whose tries end in these ways, one after another."""
        left: Iterator[Exception | None] = iter(outcomes)

        def work() -> int:
            self.begun.append(self.now)
            self.now += 1
            error = next(left)
            if error:
                raise error
            return 7

        return self.link.run_when_available(work)


FAULT = RuntimeError("Failed to write statements")


def test_a_batch_begins_once_cassandra_is_there_and_not_before() -> None:
    world = World(lambda now: "" if 5 <= now < 30 else "a" if now < 5 else "b")
    assert world.batch(None) == 7
    world.now = 6
    assert world.batch(None) == 7
    assert world.begun[1] >= 30
    assert world.closed == ["s0"]


def test_a_batch_that_fails_while_cassandra_stands_is_not_repeated() -> None:
    world = World(lambda now: "a")
    with pytest.raises(RuntimeError, match="Failed to write"):
        world.batch(FAULT)
    assert len(world.begun) == 1


def test_a_batch_whose_connection_was_lost_is_repeated_on_the_next_one() -> None:
    world = World(lambda now: "a" if now < 0.5 else "" if now < 20 else "b")
    assert world.batch(FAULT, None) == 7
    assert world.begun[1] >= 20


def test_a_session_that_lost_its_connection_is_closed_once_it_is_back_and_no_batch_uses_it() -> None:
    world = World(lambda now: "a" if now < 0.5 else "" if now < 20 else "b" if now < 50 else "c")
    assert world.batch(FAULT, None) == 7
    assert world.closed == ["s0"]
    world.now = 60
    assert world.batch(None, None) == 7
    assert world.closed == ["s0", "s1"]


def test_a_session_that_another_query_has_closed_is_not_closed_again() -> None:
    world = World(lambda now: "a" if now < 10 else "b")
    assert world.batch(None) == 7
    world.closed.append("s0")
    world.now = 30
    assert world.batch(None) == 7
    assert world.closed == ["s0"]


def test_executors_that_are_not_yet_back_are_given_time_and_no_more() -> None:
    world = World(lambda now: "a" if now < 0.5 else "b")
    assert world.batch(FAULT, FAULT, FAULT, None) == 7
    world.now += SETTLE_SECONDS
    with pytest.raises(RuntimeError):
        world.batch(FAULT)


def test_a_cassandra_that_stays_away_is_waited_for_and_the_batch_says_so() -> None:
    world = World(lambda now: "a" if now < 0.5 else "" if now < 40 * PATIENCE_SECONDS else "b")
    reported: list[tuple[float, str]] = []
    world.link.report = lambda what: reported.append((world.now, what))
    assert world.batch(FAULT, None) == 7, "the time in which Cassandra was away counts against no patience"
    assert world.begun[1] >= 40 * PATIENCE_SECONDS
    waits = [(at, what) for at, what in reported if what]
    assert [what for _, what in waits] == ["Cassandra is unavailable"]
    assert waits[0][0] < 3
    assert reported[-1][1] == ""


def test_a_batch_that_fails_for_as_long_as_connections_come_and_go_ends() -> None:
    world = World(lambda now: f"{now}")
    with pytest.raises(RuntimeError, match="Failed to write"):
        world.batch(*[FAULT] * 1000)
    assert PATIENCE_SECONDS < world.now < 3 * PATIENCE_SECONDS


def _refused(now: float) -> str:
    raise Py4JJavaError("refused", SimpleNamespace(_target_id="o1", _gateway_client=None))


def test_a_cassandra_that_never_let_the_driver_in_is_reported_at_once() -> None:
    world = World(_refused)
    with pytest.raises(Py4JJavaError):
        world.batch(None)
    assert world.now == 0


def test_a_session_that_cannot_be_reopened_is_waited_for() -> None:
    world = World(lambda now: "a")
    assert world.batch(None) == 7
    world.connected = lambda now: _refused(now) if now < 12 else "b"
    assert world.batch(None) == 7
    assert world.begun[1] >= 12


def test_a_query_that_is_stopped_does_not_wait() -> None:
    def stopped(seconds: float) -> None:
        raise InterruptedError("told to stop")

    link = Link("p.q", lambda: None, lambda session: None, stopped)
    with pytest.raises(InterruptedError):
        link.run_when_available(lambda: 7)
