"""Kafka, Cassandra and Airflow as one unit: up, down, status, clean. Safe to repeat, concurrently and after any crash."""

from __future__ import annotations

import fcntl
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal

import psutil

from headrace.access.bindings import write_private
from headrace.errors import HeadraceError
from headrace.local import airflow, airflow_config, cassandra, class_archive, doctor, jars, kafka
from headrace.local.jars import Progress
from headrace.local.java import Java, child_environment, find_java
from headrace.local.launcher import write_deployment
from headrace.local.passwords import require_kept
from headrace.local.settings import Settings
from headrace.operations import processes

State = Literal["RUNNING", "STARTING", "STOPPED", "CRASHED"]
HOME_MARK = ".headrace-home"  # `clean` removes only folders that contain it


@dataclass(frozen=True)
class Part:
    """How to start, observe and stop one server."""

    name: str
    port: int | None  # the port it listens on; of Airflow's components only the API server has one
    mark: str
    command: Callable[[Settings, Java], list[str]]  # prepares its files and returns the command that starts it
    environment: Callable[[Settings, Java], dict[str, str]]
    answers: Callable[[Settings], bool]  # a cheap check, for `status`
    usable: Callable[[Settings], bool]  # whether clients can log in
    write_bindings: Callable[[Settings], None] = lambda _settings: None
    output: str = "out"  # suffix of the file with its standard output; its log has the suffix "log"


@dataclass(frozen=True)
class PartStatus:
    """One line of `headrace status`; `rss` in bytes, `uptime` in seconds."""

    name: str
    state: State
    port: int | None
    detail: str
    pid: int | None = None
    rss: int | None = None
    uptime: float | None = None


def parts(settings: Settings) -> list[Part]:
    """Return the servers of the platform in display order."""
    return [*_servers(settings), *(_airflow_parts(settings) if settings.airflow else [])]


def _servers(settings: Settings) -> list[Part]:
    def command(module: ModuleType, settings: Settings, java: Java) -> list[str]:
        require_kept(module.NAME, settings.home / "data" / module.NAME, settings)
        arguments: list[str] = module.prepare(settings, java, jars.ensure(module.NAME, settings, java))
        return arguments

    return [
        Part(
            name=module.NAME,
            port=port,
            mark=module.mark(settings),
            command=partial(command, module),
            environment=_java_environment,
            answers=partial(_listens, port=port),
            usable=module.usable,
            write_bindings=module.write_bindings,
        )
        for module, port in ((kafka, settings.kafka_port), (cassandra, settings.cassandra_port))
    ]


def _java_environment(_settings: Settings, java: Java) -> dict[str, str]:
    return child_environment(java)


def _airflow_command(name: str, settings: Settings, java: Java) -> list[str]:
    return airflow.command(settings, java, name)


def _airflow_parts(settings: Settings) -> list[Part]:
    return [
        Part(
            name=name,
            port=settings.airflow_port if name == airflow.API_SERVER else None,
            mark=airflow.mark(settings, name),
            command=partial(_airflow_command, name),
            environment=airflow_config.environment,
            answers=partial(airflow.answers, name=name),
            usable=partial(airflow.answers, name=name),
            output="log",
        )
        for name in airflow.COMPONENTS
    ]


def up(settings: Settings, progress: Progress | None = None) -> list[PartStatus]:
    """Start stopped parts, adopt running ones, and return the state of all parts once clients can log in.

    Raises HeadraceError: before anything starts if a check fails, otherwise after stopping what this call started.
    """
    report = progress or (lambda _stage, _fraction: None)
    doctor.require(settings)
    java = find_java(settings)
    _make_home(settings)
    with _locked(settings):
        doctor.require(settings)  # a port may have been taken while this call waited
        for set_name in jars.LOCAL:
            jars.ensure(set_name, settings, java, report)
        class_archive.ensure(settings, java, report)
        write_deployment(settings, Path.cwd())
        _start_all(settings, java, report)
        return status(settings)


def down(settings: Settings, progress: Progress | None = None) -> None:
    """Stop all parts; a part that does not run is skipped."""
    report = progress or (lambda _stage, _fraction: None)
    if not settings.home.exists():
        return
    with _locked(settings):
        # The parts that start tasks end first, so that running tasks can still use the others.
        for together in _waves(settings):
            _stop_all(together, settings, report)


def stop_scheduling(settings: Settings, progress: Progress | None = None) -> None:
    """Stop the parts that start tasks, so that no supervisor restarts a driver that `down` stops."""
    if settings.home.exists() and settings.airflow:
        with _locked(settings):
            _stop_all(_waves(settings)[0], settings, progress or (lambda _stage, _fraction: None))


def _waves(settings: Settings) -> tuple[list[Part], list[Part]]:
    first = set(airflow.COMPONENTS) - {airflow.API_SERVER}
    every = parts(settings)
    return [part for part in every if part.name in first], [part for part in every if part.name not in first]


def _stop_all(together: Sequence[Part], settings: Settings, report: Progress) -> None:
    with ThreadPoolExecutor() as pool:
        stopping = [pool.submit(_down_part, part, settings, report) for part in together]
        for result in stopping:
            result.result()


def status(settings: Settings) -> list[PartStatus]:
    """Return the current state of every part; starts and changes nothing."""
    return [_status_part(part, settings) for part in parts(settings)]


def clean(settings: Settings, *, cache: bool = False) -> None:
    """Remove the home folder, and with `cache` the cache. Raises HeadraceError while something runs."""
    running = sorted({record.name for record in processes.records(settings.run_dir) if processes.living(record)})
    running += [item.name for item in status(settings) if item.pid and item.name not in running]
    locks = settings.run_dir.glob("driver-*.lock*")  # also finds a driver without a record, or an orphaned JVM
    running += sorted({lock.name.partition(".")[0] for lock in locks if processes.holder(lock)} - set(running))
    if running:
        raise HeadraceError(f"{', '.join(running)} still runs. Run `headrace down` before `headrace clean`.")
    if settings.home.exists():
        if not (settings.home / HOME_MARK).exists():
            raise HeadraceError(
                f"{settings.home} was not created by headrace (it has no {HOME_MARK}). If it is not needed, remove it yourself."
            )
        shutil.rmtree(settings.home)
    if cache:
        for part in ("jars", "classes"):
            shutil.rmtree(settings.cache / part, ignore_errors=True)


def logs(settings: Settings, name: str) -> Path:
    """Return the log file of a part. Raises HeadraceError for an unknown part."""
    names = [part.name for part in parts(settings)]
    if name not in names:
        raise HeadraceError(f"Unknown part {name!r}. Known parts: {', '.join(names)}.")
    return settings.log_dir / f"{name}.log"


def _start_all(settings: Settings, java: Java, report: Progress) -> None:
    """Start all parts at once; at the first failure or an interrupt, stop everything that this call started."""
    started: list[Part] = []
    give_up = threading.Event()
    try:
        with ThreadPoolExecutor() as pool:
            futures = [
                pool.submit(_up_part, part, settings, java, report, started, give_up) for part in parts(settings)
            ]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # Without a fault all have finished by now; after a fault there is no need to wait for the others.
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
    # A process found here may be dying: a killed server exists for a moment without answering.
    if process is None or not _becomes_usable(part, settings, process.pid, give_up):
        report(f"start {part.name}", None)
        command = part.command(settings, java)
        output = settings.log_dir / f"{part.name}.{part.output}"
        environment = part.environment(settings, java)
        if output.exists():
            output.replace(output.with_suffix(f".{part.output}.1"))
        started.append(part)
        record = processes.spawn(part.name, settings.run_dir, command, part.mark, environment, output)
        if not _becomes_usable(part, settings, record.pid, give_up):
            log = logs(settings, part.name)
            raise HeadraceError(f"{part.name} exited during its start. Its log ({log}) says: {_why(part, settings)}")
    part.write_bindings(settings)
    report(f"start {part.name}", 1.0)


def _becomes_usable(part: Part, settings: Settings, pid: int, give_up: threading.Event) -> bool:
    """Wait until clients can log in; False if the process ends before. Raises HeadraceError after the start timeout."""
    deadline = time.monotonic() + settings.start_timeout_s
    while time.monotonic() < deadline and not give_up.is_set():
        if processes.find(part.name, settings.run_dir, part.mark) is None:
            return False
        if part.answers(settings) and part.usable(settings):
            return True
        time.sleep(0.1)
    where = f" on port {part.port}" if part.port else ""
    raise HeadraceError(
        f"{part.name} (pid {pid}) did not answer{where} within {settings.start_timeout_s:g} s. "
        f"See {logs(settings, part.name)}, or set a higher HEADRACE_START_TIMEOUT_S."
    )


def _why(part: Part, settings: Settings) -> str:
    """Return the last messages, without stack frames, of the server's output, or else of its log."""
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
    if part.name in airflow.COMPONENTS:
        airflow.end_leftovers(settings, part.name)
    processes.forget(part.name, settings.run_dir)
    if report:
        report(f"stop {part.name}", 1.0)


def _status_part(part: Part, settings: Settings) -> PartStatus:
    process = processes.find(part.name, settings.run_dir, part.mark)
    if process is None:
        if processes.read_record(part.name, settings.run_dir) is None:
            return PartStatus(part.name, "STOPPED", part.port, "not started, or stopped by `headrace down`")
        return PartStatus(part.name, "CRASHED", part.port, "exited by itself; `headrace up` restarts it")
    try:
        rss, uptime = process.memory_info().rss, time.time() - process.create_time()
    except psutil.Error:
        return PartStatus(part.name, "CRASHED", part.port, "exited by itself; `headrace up` restarts it")
    if part.answers(settings):
        return PartStatus(part.name, "RUNNING", part.port, "answers", process.pid, rss, uptime)
    return PartStatus(part.name, "STARTING", part.port, "runs, but does not answer yet", process.pid, rss, uptime)


def _listens(settings: Settings, port: int) -> bool:
    try:
        with socket.create_connection((settings.host, port), timeout=1):
            return True
    except OSError:
        return False


def _make_home(settings: Settings) -> None:
    for folder in (settings.home, settings.run_dir, settings.log_dir, settings.tmp_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(settings.home / HOME_MARK, "Created by headrace; `headrace clean` removes this folder.\n")


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """Serialise `up` and `down` on this home; a second one waits."""
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.run_dir / "platform.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
