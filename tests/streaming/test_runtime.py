"""How a driver's session ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from py4j.protocol import Py4JNetworkError

from headrace.streaming import runtime


def _session(told: list[str], *queries: Any) -> Any:
    return SimpleNamespace(streams=SimpleNamespace(active=queries), stop=lambda: told.append("session"))


def _query(told: list[str], name: str, error: Exception | None = None) -> Any:
    def stop() -> None:
        told.append(name)
        if error:
            raise error

    return SimpleNamespace(stop=stop)


@pytest.mark.parametrize("error", [None, Py4JNetworkError("did not stop in time")])
def test_queries_that_a_failed_start_left_are_stopped_before_their_session(error: Exception | None) -> None:
    told: list[str] = []
    runtime._end_session(_session(told, _query(told, "first", error), _query(told, "second")))
    assert sorted(told[:2]) == ["first", "second"]
    assert told[2:] == ["session"]


def test_queries_that_do_not_stop_are_waited_for_together() -> None:
    together = threading.Barrier(3, timeout=30)  # broken, and an error, if one is stopped after another
    runtime._stop_queries([cast("Any", SimpleNamespace(stop=together.wait)) for _ in range(3)])
    assert not together.broken
