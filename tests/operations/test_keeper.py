"""The keeper restarts what a restart can mend, within a budget."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headrace.contract.exits import Exit
from headrace.operations.keeper import Budget, keep, restartable

DICE = random.Random(1)


def test_a_transient_end_and_a_kill_are_restarted_and_nothing_else():
    assert restartable(Exit.TRANSIENT)
    assert restartable(-signal.SIGKILL)
    assert restartable(128 + signal.SIGKILL)
    others = (Exit.FINISHED, Exit.CUT_OFF, Exit.DUPLICATE_WRITER, Exit.DAMAGED, Exit.REFUSED, Exit.LOCKED)
    assert not any(restartable(code) for code in others)


def test_waits_grow_up_to_the_longest_and_then_the_budget_is_spent():
    budget = Budget(restarts=6, first_wait_seconds=1, longest_wait_seconds=8)
    waits = [budget.wait_after(5, DICE) for _ in range(7)]
    assert waits[6] is None
    for wait, longest in zip(waits[:6], (1, 2, 4, 8, 8, 8), strict=True):
        assert wait is not None
        assert longest / 2 <= wait <= longest


def test_a_stable_run_gives_the_budget_back():
    budget = Budget(restarts=1, stable_seconds=600)
    assert budget.wait_after(1, DICE) is not None
    assert budget.wait_after(1, DICE) is None
    assert budget.wait_after(601, DICE) is not None


@pytest.fixture
def counting(tmp_path: Path) -> tuple[Path, Path]:
    """A driver that notes each start and ends with the codes of its argument, one after the other."""
    script, starts = tmp_path / "driver.py", tmp_path / "starts"
    script.write_text(
        "import os, sys\n"
        "path, *codes = sys.argv[1:]\n"
        "with open(path, 'a+') as f:\n"
        "    f.seek(0); n = len(f.read()); f.write('x')\n"
        "code = int(codes[min(n, len(codes) - 1)])\n"
        "os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)\n"
    )
    return script, starts


def test_a_driver_that_crashes_twice_and_then_finishes_ends_with_its_last_code(counting: tuple[Path, Path]):
    script, starts = counting
    code = keep([str(script), str(starts), "20", "-9", "0"], Budget(first_wait_seconds=0.01))
    assert code == Exit.FINISHED
    assert starts.read_text() == "xxx"


def test_a_refused_start_is_not_tried_again(counting: tuple[Path, Path]):
    script, starts = counting
    assert keep([str(script), str(starts), "23"], Budget(first_wait_seconds=0.01)) == Exit.REFUSED
    assert starts.read_text() == "x"


def test_a_crash_loop_ends_when_the_budget_is_spent(counting: tuple[Path, Path]):
    script, starts = counting
    assert keep([str(script), str(starts), "20"], Budget(restarts=3, first_wait_seconds=0.01)) == Exit.TRANSIENT
    assert starts.read_text() == "xxxx"


def test_sigterm_to_the_keeper_reaches_the_driver_and_ends_both(tmp_path: Path):
    script, ready = tmp_path / "driver.py", tmp_path / "ready"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(600)\n"
    )
    keeper = subprocess.Popen([sys.executable, "-m", "headrace.operations.keeper", str(script), str(ready)])
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(keeper.pid).children()
        keeper.terminate()
        assert keeper.wait(60) == Exit.FINISHED
        assert not any(child.is_running() for child in children)
    finally:
        keeper.kill()
