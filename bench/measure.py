"""The cost of a process tree over a span of time: CPU seconds, wall seconds and peak memory.

A measured process speaks one protocol: it reads one line from stdin, does the load that the line names, prints one JSON
line and waits for the next line. The harness reads the accounting while the tree waits, so both ends of a span are exact.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

SAMPLE_SECONDS = 0.25
TIMEOUT_SECONDS = 900.0
LAST_LINES = 25


class PeerError(Exception):
    """A measured process ended, or did not report in time. The text has the last lines of its log."""


@dataclass(frozen=True)
class Cost:
    """What one load costs. `peak_rss_mb` adds the resident memory of all processes, so shared pages count often."""

    cpu_s: float
    wall_s: float
    peak_rss_mb: float


def tree(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants that run; an empty list once it is gone."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_seconds(root: psutil.Process) -> float:
    """Return user and system seconds of a tree: every process that runs, and every child that one of them reaped."""
    spent = 0.0
    for process in tree(root):
        with suppress(psutil.Error):
            spent += sum(process.cpu_times()[:4])  # user, system, and both of reaped children
    return spent


def rss_mb(root: psutil.Process) -> float:
    """Return the resident memory of a tree in MiB."""
    total = 0
    for process in tree(root):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20


class Peer:
    """One measured process. A context manager: at its end the process and its descendants are gone."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start `command` in a session and a process group that no other process shares; stderr goes to `log`."""
        self._log = log
        with log.open("ab") as handle:
            self._child = subprocess.Popen(
                list(command), env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=handle,
                start_new_session=True,
            )  # fmt: skip
        self._root = psutil.Process(self._child.pid)
        self._text = b""
        self._cpu_s = 0.0

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = tree(self._root)
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        for process in left:  # a JVM that PySpark or PyFlink starts is in another group
            with suppress(psutil.Error):
                process.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()

    def load(self, *what: object) -> tuple[dict[str, Any], Cost]:
        """Let the process do the load that the words name; return its report and its cost.

        What the process did before counts with its first load. Raises PeerError where it ends, or is silent for
        TIMEOUT_SECONDS.
        """
        cpu, began = self._cpu_s, time.monotonic()
        assert self._child.stdin
        with suppress(BrokenPipeError):  # it has ended: the error with its log comes from the read
            self._child.stdin.write(" ".join(map(str, what)).encode() + b"\n")
            self._child.stdin.flush()
        report, peak = self._await_report(began + TIMEOUT_SECONDS)
        self._cpu_s = cpu_seconds(self._root)
        return report, Cost(self._cpu_s - cpu, time.monotonic() - began, peak)

    def _await_report(self, deadline: float) -> tuple[dict[str, Any], float]:
        assert self._child.stdout
        peak = rss_mb(self._root)
        with selectors.DefaultSelector() as ready:
            ready.register(self._child.stdout, selectors.EVENT_READ)
            while True:
                *lines, self._text = self._text.split(b"\n")
                for line in lines:
                    if line.startswith(b"{"):
                        return json.loads(line), max(peak, rss_mb(self._root))
                if time.monotonic() > deadline:
                    raise PeerError(f"There is no report after {TIMEOUT_SECONDS:.0f} s. {self._tail()}")
                if ready.select(SAMPLE_SECONDS):
                    read = os.read(self._child.stdout.fileno(), 65_536)
                    if not read:
                        raise PeerError(f"The process ended with {self._child.wait()}. {self._tail()}")
                    self._text += read
                peak = max(peak, rss_mb(self._root))

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([f"The end of {self._log.name}:", *lines])
