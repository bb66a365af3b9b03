"""Races for one driver lock: `racer.py PIPELINE LOCK ROUNDS`, with the environment of a driver. Prints one JSON line per race.

Each race forks two drivers that start at the same instant through the tree's main.py. A driver that gets the lock reports
and stays at the point where it would start Spark, until it is killed; the other exits with its exit code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.driver import session

HELD = 0  # the winner's report
HEAD_START_SECONDS = 0.05


def load_main() -> ModuleType:
    """Return the tree's spark_jobs/main.py as a module."""
    path = Path(os.environ["HEADRACE_PIPELINES"]).parent / "spark_jobs" / "main.py"
    spec = importlib.util.spec_from_file_location("driver_main", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contend(module: ModuleType, pipeline: str, lock: str, at: float, report: int) -> None:
    """Run one driver of a race; never returns."""

    def hold_here(*_: Any, **__: Any) -> None:
        os.write(report, f"{HELD}\n".encode())
        signal.pause()

    session.start = hold_here
    while time.monotonic() < at:
        pass
    code = module.main(pipeline, lock)
    os.write(report, f"{code}\n".encode())
    os._exit(code)


def race(module: ModuleType, pipeline: str, lock: str) -> list[int]:
    """Run one race and return both reports, sorted: the winner HELD, the loser its exit code."""
    read, write = os.pipe()
    at = time.monotonic() + HEAD_START_SECONDS
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            contend(module, pipeline, lock, at, write)
        children.append(child)
    os.close(write)
    output = b""
    while output.count(b"\n") < 2:
        output += os.read(read, 100)
    os.close(read)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return sorted(int(line) for line in output.splitlines())


def main(pipeline: str, lock: str, rounds: str) -> None:
    """Run the races."""
    module = load_main()
    for _ in range(int(rounds)):
        print(json.dumps(race(module, pipeline, lock)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
