"""A task that is killed in the middle of a start, at ten places: then there is one driver, never two, never none."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headrace.operations.drivers import desired_state
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.supervisor.cycle import run_pass
from tests.operations import light_driver
from tests.operations.supervisor.test_local import NAME, context, launcher, living

__all__ = ["launcher"]  # the fixture
PLACES = 10

# Starts as a task does and kills itself at the nth line that our own code runs; n = 0 counts the lines.
STARTER = """
import os, signal, sys
from pathlib import Path
from headrace.operations.drivers import control
from headrace.operations.drivers.local import LocalLauncher
folder, main, pipeline, nth = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
launcher = LocalLauncher(
    project=folder, root=str(folder / "storage"), run_dir=folder / "run", log_dir=folder / "log", tmp_dir=folder / "tmp",
    bindings=folder, environment={}, main=main, grace_seconds=1,
)
lines = 0
def trace(frame, event, argument):
    global lines
    if "/headrace/" not in frame.f_code.co_filename:
        return None
    if event == "line":
        lines += 1
        if lines == nth:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
control.start(launcher, pipeline, by="a task", request="one run")
sys.settrace(None)
if nth:  # it ran fewer lines than the one that counted, which waited longer for its process
    os.kill(os.getpid(), signal.SIGKILL)
print(lines)
"""


def _start(tmp_path: Path, nth: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", STARTER, str(tmp_path), light_driver.__file__, NAME, str(nth)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_a_start_that_is_killed_at_ten_places_leaves_one_driver_after_the_next_observation(
    launcher: LocalLauncher, tmp_path: Path, seed: int
) -> None:
    """Slow: twenty processes, one after the other."""
    counted = _start(tmp_path, 0)
    assert counted.returncode == 0, counted.stderr
    total = int(counted.stdout)
    dice = random.Random(seed)
    for place in range(PLACES):
        launcher.stop(NAME, 0)
        desired_state.write(launcher.root, NAME, "STOPPED", "the test", "between two places")
        nth = dice.randrange(1 + total * place // PLACES, 1 + total * (place + 1) // PLACES)
        killed = _start(tmp_path, nth)
        assert killed.returncode == -signal.SIGKILL, f"place {nth} of {total}: {killed.stderr}"
        assert len(living(launcher)) <= 1, f"place {nth} of {total}"
        wished = desired_state.read(launcher.root, NAME).want == "RUNNING"
        deadline = time.monotonic() + 300
        while wished and not living(launcher):
            run_pass(context(launcher))
            assert time.monotonic() < deadline, f"place {nth} of {total}: no driver"
        if not wished:  # killed before the wish stood: the task's next try makes it
            assert _start(tmp_path, 0).returncode == 0
        run_pass(context(launcher))
        again = _start(tmp_path, 0)  # the task's next try
        assert again.returncode == 0, again.stderr
        running = living(launcher)
        assert len(running) == 1, f"place {nth} of {total}: {running}"
        assert launcher.find(NAME)[0].where == f"process {running[0].pid}"
        assert psutil.pid_exists(running[0].pid)
