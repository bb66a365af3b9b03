"""Server processes that survive the shell that started them.

A process is ours if its pid, start time and command line match the record; those of a recycled pid never match.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from headrace.access.bindings import write_private
from headrace.operations.waiting import poll

_PROGRAMS = ("python", "java")
KILLED_SECONDS = 30.0
"""How long a process may be seen after SIGKILL: a busy machine, or one that writes memory to disk, ends it late."""

# A garbage-collected Popen of a running child warns. With this list, a child is also reaped when it ends.
_children: list[subprocess.Popen[bytes]] = []
_changing = threading.Lock()  # threads start and reap side by side


@dataclass(frozen=True)
class ProcessRecord:
    """The record of a process: `created` is psutil's start time (epoch seconds), `mark` is one of its arguments."""

    name: str
    pid: int
    created: float
    mark: str


def spawn(
    name: str, run_dir: Path, argv: Sequence[str], mark: str, env: Mapping[str, str], output: Path
) -> ProcessRecord:
    """Start a process in a new session, append its output to a file, and record it. `mark` is one of `argv`.

    When this returns, the process has its new command line, or it has ended.
    """
    output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with output.open("ab") as handle:
        child = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, start_new_session=True
        )
    try:
        process = psutil.Process(child.pid)
        record = ProcessRecord(name, child.pid, process.create_time(), mark)
    finally:
        with _changing:  # not earlier: another thread would reap a child that ended before its start time is read
            _children.append(child)
    _write(run_dir, record)
    # Linux reports the exec to Popen before the new command line is visible: 0.1 ms, 20 ms on a busy machine.
    with contextlib.suppress(psutil.NoSuchProcess):
        while _is_alive(process) and not _command_line(process):
            time.sleep(0.001)
    return record


def find(name: str, run_dir: Path, mark: str) -> psutil.Process | None:
    """Return our running process of this name: by its record, else by its mark (its starter died before it wrote the record).

    All our processes are Java or Python: an editor or a pager that has the marked file open is not ours.
    """
    _reap()
    record = read_record(name, run_dir)
    if record and (process := living(record)):
        return process
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if mark in words[1:] and Path(words[0]).name.startswith(_PROGRAMS) and _is_alive(process):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                _write(run_dir, ProcessRecord(name, process.pid, process.create_time(), mark))
                return process
    return None


def living(record: ProcessRecord) -> psutil.Process | None:
    """Return the process of a record, or None if it ended or its pid now belongs to another process."""
    try:
        process = psutil.Process(record.pid)
        # One clock tick is 10 ms; a pid is not recycled within half a second of the first process's start.
        same = abs(process.create_time() - record.created) < 0.5
        if not same or not _is_alive(process):
            return None
        # A killed process has lost its command line while it still holds its ports.
        words = _command_line(process)
        return process if not words or record.mark in words else None
    except psutil.Error:
        return None


def holder(path: Path) -> psutil.Process | None:
    """Return the running process that holds a lock on a file (flock or fcntl), or None. Other users' files are not visible."""
    try:
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # 3: POSIX  ADVISORY  WRITE 4711 08:01:131099 0 EOF; a process that waits for the lock adds a line "3: -> POSIX ..."
    for fields in (line.split() for line in locks if "->" not in line):
        if len(fields) > 5 and fields[5].rpartition(":")[2] == str(inode) and int(fields[4]) > 0:
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(int(fields[4]))
                opened = (link.readlink() for link in Path(f"/proc/{process.pid}/fd").iterdir())
                if path.resolve() in opened and _is_alive(process):
                    return process
    return None


def stop(process: psutil.Process, timeout: float) -> bool:
    """End a process: SIGTERM, wait up to `timeout` seconds, SIGKILL. Return whether SIGTERM was enough."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        if not _wait_until_gone(process, timeout):
            process.kill()
            _wait_until_gone(process, max(timeout, KILLED_SECONDS))
            return False
    return True


def read_record(name: str, run_dir: Path) -> ProcessRecord | None:
    """Return the record of a name, or None if no readable record exists."""
    try:
        return ProcessRecord(**json.loads((run_dir / f"{name}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def records(run_dir: Path) -> Iterator[ProcessRecord]:
    """Yield all records in a folder."""
    for path in sorted(run_dir.glob("*.json")):
        if record := read_record(path.stem, run_dir):
            yield record


def forget(name: str, run_dir: Path) -> None:
    """Remove the record of a process that was stopped on purpose."""
    (run_dir / f"{name}.json").unlink(missing_ok=True)


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, or an empty string."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - 65_536))
            return "\n".join(handle.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _write(run_dir: Path, record: ProcessRecord) -> None:
    write_private(run_dir / f"{record.name}.json", json.dumps(asdict(record)))


def _is_alive(process: psutil.Process) -> bool:
    """Return whether a process still holds its ports and files: a zombie does until its last thread has ended."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or _ends(process))
    except psutil.Error:
        return False


def _ends(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() > 1


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.ZombieProcess:
        return []


def _wait_until_gone(process: psutil.Process, timeout: float) -> bool:
    """Wait up to `timeout` seconds. psutil's wait would wait for ever for a zombie that is never reaped."""
    if not poll(lambda: not _is_alive(process), timeout, 0.02):
        return False
    _reap()
    return True


def _reap() -> None:
    with _changing:
        _children[:] = [child for child in _children if child.poll() is None]
