"""Ends what an interrupted run of pytest leaves: servers and drivers have their own sessions, which Ctrl-C does not reach.

A guard process waits until pytest closes a pipe, which also happens when pytest is killed. Unless pytest says that it ends in
order, the guard kills every process that names a path in the run's temporary folder: as an argument, in its environment, or as
its working folder. With pytest-xdist the guard belongs to the controller: a worker whose controller is killed goes on with its
test until it misses its servers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

IN_ORDER = b"ends in order"
_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def guard(folder: Path) -> Iterator[Callable[[], None]]:
    """Run a guard over the processes of `folder` for as long as the context lasts; call what is returned if all is in order."""
    command = [sys.executable, "-m", __name__, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd=_ROOT)
    pipe = process.stdin
    assert pipe is not None

    def in_order() -> None:
        pipe.write(IN_ORDER)

    try:
        yield in_order
    finally:
        with suppress(BrokenPipeError):
            pipe.close()
        process.wait()


def processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes that name the folder, without this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _names(process, folder)]


def _names(process: psutil.Process, folder: str) -> bool:
    with suppress(psutil.Error):
        words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        return any(f"{folder}/" in word for word in words)
    return False


def main(folder: str) -> None:
    """Wait for the end of standard input; kill what is left of the run, unless it ends in order."""
    if sys.stdin.buffer.read() == IN_ORDER:
        return
    for process in processes_of(folder):
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1])
