"""A poll asks before it sleeps, ends with the first answer that is enough, and asks a last time once its time is over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tenacity

from headrace.operations.waiting import poll


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace tenacity's clock by a list of its sleeps: time goes on only while it sleeps. Other threads keep theirs."""
    slept: list[float] = []
    ours = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr(tenacity, "time", ours)
    monkeypatch.setattr(tenacity.nap, "time", ours)
    return slept


def test_an_answer_that_is_enough_at_once_is_not_waited_for(clock: list[float]) -> None:
    assert poll(lambda: "here", 10, 1) == "here"
    assert clock == []


def test_the_first_answer_that_is_enough_ends_the_poll(clock: list[float]) -> None:
    answers = iter([0, 1, 2, 3])
    assert poll(lambda: next(answers), 10, 0.5, lambda answer: answer == 2) == 2
    assert clock == [0.5, 0.5]


@pytest.mark.parametrize(("seconds", "asked"), [(0, 1), (2, 3), (2.5, 4)])
def test_the_last_question_is_asked_once_the_time_is_over(clock: list[float], seconds: float, asked: int) -> None:
    times: list[float] = []
    assert poll(lambda: times.append(sum(clock)), seconds, 1) is None
    assert len(times) == asked
    assert times[-1] >= seconds


def test_an_error_of_a_question_ends_the_poll(clock: list[float]) -> None:
    with pytest.raises(KeyError, match="gone"):
        poll(lambda: dict[str, int]()["gone"], 10, 1)
    assert clock == []
