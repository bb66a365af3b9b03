"""Kafka and Cassandra as one thing: up, down, status, clean. Safe to call twice, at once and after any crash."""

from __future__ import annotations

import fcntl
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from headrace.contract.bindings import write_private
from headrace.errors import HeadraceError
from headrace.local import cassandra, doctor, jars, kafka
from headrace.local.jars import Progress
from headrace.local.java import Java, child_environment, find_java
from headrace.local.passwords import require_kept
from headrace.local.settings import Settings
from headrace.operations import processes

State = Literal["RUNNING", "STARTING", "STOPPED", "CRASHED"]
HOME_MARK = ".headrace-home"  # `clean` removes no folder without it


@dataclass(frozen=True)
class Part:
    """What the platform needs to know of one server."""

    name: str
    port: int
    mark: str
    prepare: Callable[[Settings, Java, list[Path]], list[str]]
    usable: Callable[[Settings], bool]
    write_bindings: Callable[[Settings], None]


@dataclass(frozen=True)
class PartStatus:
    """One line of `headrace status`; `rss` in bytes, `uptime` in seconds."""

    name: str
    state: State
    port: int
    detail: str
    pid: int | None = None
    rss: int | None = None
    uptime: float | None = None


def parts(settings: Settings) -> list[Part]:
    """Return the servers of the platform in the order in which they are shown."""
    return [
        Part(module.NAME, port, module.mark(settings), module.prepare, module.usable, module.write_bindings)
        for module, port in ((kafka, settings.kafka_port), (cassandra, settings.cassandra_port))
    ]


def up(settings: Settings, progress: Progress | None = None) -> list[PartStatus]:
    """Start what does not run, adopt what does, and return the state of all parts once clients can log in.

    Raises HeadraceError, before anything starts if a check fails; else after it has stopped what this call started.
    """
    report = progress or (lambda _stage, _fraction: None)
    doctor.require(settings)
    java = find_java(settings)
    _make_home(settings)
    with _locked(settings):
        doctor.require(settings)  # a port may have gone while this call waited
        for set_name in jars.ROOTS:
            jars.ensure(set_name, settings, java, report)
        _start_all(settings, java, report)
        return status(settings)


def down(settings: Settings, progress: Progress | None = None) -> None:
    """Stop all parts; one that does not run is no fault."""
    report = progress or (lambda _stage, _fraction: None)
    if not settings.home.exists():
        return
    with _locked(settings), ThreadPoolExecutor() as pool:
        stopping = [pool.submit(_down_part, part, settings, report) for part in parts(settings)]
        for result in stopping:
            result.result()


def status(settings: Settings) -> list[PartStatus]:
    """Return the state of every part as it is now; starts and changes nothing."""
    return [_status_part(part, settings) for part in parts(settings)]


def clean(settings: Settings, *, cache: bool = False) -> None:
    """Remove the home folder, and the jar cache if asked. Raises HeadraceError while something runs."""
    running = sorted({record.name for record in processes.records(settings.run_dir) if processes.living(record)})
    running += [item.name for item in status(settings) if item.pid and item.name not in running]
    if running:
        raise HeadraceError(f"{', '.join(running)} still runs: stop it with `headrace down` before `headrace clean`.")
    if settings.home.exists():
        if not (settings.home / HOME_MARK).exists():
            raise HeadraceError(
                f"{settings.home} was not made by headrace (it has no {HOME_MARK}): remove it yourself if it may go."
            )
        shutil.rmtree(settings.home)
    if cache:
        shutil.rmtree(settings.cache / "jars", ignore_errors=True)


def logs(settings: Settings, name: str) -> Path:
    """Return the log file of a part. Raises HeadraceError for an unknown part."""
    names = [part.name for part in parts(settings)]
    if name not in names:
        raise HeadraceError(f"There is no part {name!r}: the parts are {', '.join(names)}.")
    return settings.log_dir / f"{name}.log"


def _start_all(settings: Settings, java: Java, report: Progress) -> None:
    """Start all parts at once; the first that fails, or an interrupt, stops all that this call started."""
    started: list[Part] = []
    give_up = threading.Event()
    try:
        with ThreadPoolExecutor() as pool:
            each = [pool.submit(_up_part, part, settings, java, report, started, give_up) for part in parts(settings)]
            try:
                finished, _ = wait(each, return_when=FIRST_EXCEPTION)
            finally:
                # Without a fault all have finished by now; with one, nobody needs to wait for the others.
                give_up.set()
        for result in finished:
            result.result()
    except BaseException:
        for part in started:
            _down_part(part, settings)
        raise


def _up_part(
    part: Part, settings: Settings, java: Java, report: Progress, started: list[Part], give_up: threading.Event
) -> None:
    process = processes.find(part.name, settings.run_dir, part.mark)
    if process is None:
        require_kept(part.name, settings.home / "data" / part.name, settings)
        paths = jars.ensure(part.name, settings, java, report)
        command = part.prepare(settings, java, paths)
        report(f"start {part.name}", None)
        output = settings.log_dir / f"{part.name}.out"
        environment = child_environment(java)
        if output.exists():
            output.replace(output.with_suffix(".out.1"))
        started.append(part)
        record = processes.spawn(part.name, settings.run_dir, command, part.mark, environment, output)
        process = psutil.Process(record.pid)
    _wait_until_usable(part, settings, process, give_up)
    part.write_bindings(settings)
    report(f"start {part.name}", 1.0)


def _wait_until_usable(part: Part, settings: Settings, process: psutil.Process, give_up: threading.Event) -> None:
    deadline = time.monotonic() + settings.start_timeout_s
    while time.monotonic() < deadline and not give_up.is_set():
        if processes.find(part.name, settings.run_dir, part.mark) is None:
            log = logs(settings, part.name)
            raise HeadraceError(f"{part.name} ended while it started; its log ({log}) says: {_why(part, settings)}")
        if _listens(settings.host, part.port) and part.usable(settings):
            return
        time.sleep(0.1)
    raise HeadraceError(
        f"{part.name} (pid {process.pid}) did not answer on port {part.port} within {settings.start_timeout_s:g} s: "
        f"read {logs(settings, part.name)}, or give it longer with HEADRACE_START_TIMEOUT_S."
    )


def _why(part: Part, settings: Settings) -> str:
    """Return the last telling lines of what the server printed, else of its log: messages without stack frames."""
    for path in (settings.log_dir / f"{part.name}.out", logs(settings, part.name)):
        lines = [line.strip() for line in processes.tail(path, 80).splitlines()]
        telling = [line for line in lines if line and not line.startswith(("at ", "... ", "WARNING:"))]
        if telling:
            return " | ".join(telling[-4:])[:800]
    return "nothing."


def _down_part(part: Part, settings: Settings, report: Progress | None = None) -> None:
    process = processes.find(part.name, settings.run_dir, part.mark)
    if process:
        if report:
            report(f"stop {part.name}", None)
        processes.stop(process, settings.stop_timeout_s)
    processes.forget(part.name, settings.run_dir)
    if report:
        report(f"stop {part.name}", 1.0)


def _status_part(part: Part, settings: Settings) -> PartStatus:
    process = processes.find(part.name, settings.run_dir, part.mark)
    if process is None:
        if processes.read_record(part.name, settings.run_dir) is None:
            return PartStatus(part.name, "STOPPED", part.port, "not started, or stopped by `headrace down`")
        return PartStatus(part.name, "CRASHED", part.port, "ended by itself; `headrace up` starts it again")
    try:
        rss, uptime = process.memory_info().rss, time.time() - process.create_time()
    except psutil.Error:
        return PartStatus(part.name, "CRASHED", part.port, "ended by itself; `headrace up` starts it again")
    if _listens(settings.host, part.port):
        return PartStatus(part.name, "RUNNING", part.port, "answers", process.pid, rss, uptime)
    return PartStatus(part.name, "STARTING", part.port, "runs, but does not answer yet", process.pid, rss, uptime)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _make_home(settings: Settings) -> None:
    for folder in (settings.home, settings.run_dir, settings.log_dir, settings.tmp_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(settings.home / HOME_MARK, "Made by headrace; `headrace clean` removes this folder.\n")


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """Let one `up` or `down` at a time change this home; the next waits its turn."""
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.run_dir / "platform.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
