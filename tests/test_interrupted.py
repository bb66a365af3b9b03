"""A run of pytest that is killed leaves no process behind; one that ends in order kills nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import interrupted

ROOT = Path(__file__).resolve().parent.parent
RUN = """
import subprocess, sys, time
from pathlib import Path
from tests.support import interrupted
folder = Path(sys.argv[1])
with interrupted.guard(folder) as in_order:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(folder / "server")], start_new_session=True)
    (folder / "started").touch()
    if sys.argv[2] == "killed":
        time.sleep(600)
    if sys.argv[2] == "ends":
        in_order()
"""


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _run(folder: Path, end: str) -> subprocess.Popen[bytes]:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(folder), end], cwd=ROOT)
    _wait((folder / "started").exists)
    return run


def test_a_run_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    run = _run(tmp_path, "killed")
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _wait(lambda: interrupted.processes_of(str(tmp_path)) == [])


def test_a_run_that_is_interrupted_leaves_no_process_behind(tmp_path: Path) -> None:
    assert _run(tmp_path, "interrupted").wait() == 0
    _wait(
        lambda: interrupted.processes_of(str(tmp_path)) == []
    )  # a killed process is seen until its memory is given back


def test_a_run_that_ends_in_order_leaves_its_processes_to_its_fixtures(tmp_path: Path) -> None:
    assert _run(tmp_path, "ends").wait() == 0
    _wait(lambda: len(interrupted.processes_of(str(tmp_path))) == 1)
    (server,) = interrupted.processes_of(str(tmp_path))
    server.kill()
    server.wait()
