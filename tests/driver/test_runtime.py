"""How a driver's session ends."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark import SparkContext

from headrace.contract.exit_codes import Exit
from headrace.driver import runtime, session


def _session(ended: list[str], *queries: Any) -> Any:
    return SimpleNamespace(streams=SimpleNamespace(active=queries), stop=lambda: ended.append("session"))


def _query(ended: list[str], name: str, error: Exception | None = None) -> Any:
    def stop() -> None:
        ended.append(name)
        if error:
            raise error

    return SimpleNamespace(stop=stop)


@pytest.mark.parametrize("error", [None, Py4JNetworkError("did not stop in time")])
def test_queries_that_a_failed_start_left_are_stopped_before_their_session(error: Exception | None) -> None:
    ended: list[str] = []
    runtime._end_session(_session(ended, _query(ended, "first", error), _query(ended, "second")))
    assert sorted(ended[:2]) == ["first", "second"]
    assert ended[2:] == ["session"]


def test_queries_that_do_not_stop_are_waited_for_together() -> None:
    together = threading.Barrier(3, timeout=300)  # broken, and an error, if one is stopped after another
    runtime._stop_queries([cast("Any", SimpleNamespace(stop=together.wait)) for _ in range(3)])
    assert not together.broken


@pytest.fixture
def jvm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lets a process of this test be the session's JVM: it runs what the shell is told."""
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(runtime, "JVM_END_SECONDS", 300.0)

    def start(script: str) -> None:
        started.append(subprocess.Popen(["sh", "-c", script]))
        monkeypatch.setattr(SparkContext, "_gateway", SimpleNamespace(proc=started[-1]))

    yield start
    for process in started:
        process.kill()
        process.wait()


LOST = Py4JError("An error occurred while calling o604.isActive")


def test_a_jvm_that_ended_for_want_of_memory_is_named_and_not_the_call_that_met_it(jvm: Callable[[str], None]) -> None:
    jvm("exit 3")
    end, error = runtime.end_of(LOST)
    assert (end, error) == (
        Exit.OUT_OF_MEMORY,
        'the JVM ran out of memory and ended ("Terminating due to java.lang.OutOfMemoryError")',
    )


@pytest.mark.parametrize(("kills", "end"), [(7, Exit.TRANSIENT), (8, Exit.OUT_OF_MEMORY), (None, Exit.TRANSIENT)])
def test_a_killed_jvm_is_the_kernels_oom_kill_where_the_kernel_counted_one(
    jvm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, kills: int | None, end: Exit
) -> None:
    monkeypatch.setattr(session, "oom_kills", lambda: kills)
    jvm("kill -9 $$")
    exit_code, error = runtime.end_of(LOST, 7)
    assert exit_code is end
    assert "OOM kill" in error if end is Exit.OUT_OF_MEMORY else error == "the JVM was killed (SIGKILL)"


def test_a_jvm_that_still_ends_is_waited_for(jvm: Callable[[str], None]) -> None:
    jvm("sleep 0.5; exit 3")
    assert runtime.end_of(LOST)[0] is Exit.OUT_OF_MEMORY


def test_a_fault_beside_a_running_jvm_is_reported_by_its_own_text_and_causes(jvm: Callable[[str], None]) -> None:
    jvm("sleep 600")
    fault = RuntimeError("the ledger was not written")
    fault.__cause__ = OSError(28, "No space left on device")
    assert runtime.end_of(fault) == (Exit.DISK_FULL, "the ledger was not written")
