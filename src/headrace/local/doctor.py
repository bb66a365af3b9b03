"""Checks of this machine and this installation, run before anything starts; each failure states its remedy."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headrace.errors import HeadraceError
from headrace.local import airflow, cassandra, jars, kafka
from headrace.local.java import find_java
from headrace.local.settings import PREFIX, Settings
from headrace.operations import deployment, processes
from headrace.operations.waiting import poll

PYTHON = ((3, 11), (3, 13))  # from (inclusive) to (exclusive)
PYSPARK = "3.5.7"
TAKEN = "is taken"
RELEASE_SECONDS = 10
AIRFLOW_MB = 1280  # measured: its four components, their idle workers and a few tasks
_MB = 1024 * 1024


@dataclass(frozen=True)
class MachineCheck:
    """One line of `headrace doctor`. A failed check that blocks also prevents `headrace up`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    blocks: bool = True


def run(settings: Settings) -> list[MachineCheck]:
    """Run and return all checks; changes nothing on the machine."""
    return [*_blocking(settings), *_advisory(settings)]


def require(settings: Settings) -> None:
    """Raise HeadraceError for the first failed check that blocks, with the problem and the remedy."""
    for check in _blocking(settings):
        if not check.ok:
            raise HeadraceError(f"{check.detail}: {check.remedy}.")


def _blocking(settings: Settings) -> Iterator[MachineCheck]:
    yield check_python(sys.version_info[:2])
    yield check_java(settings)
    yield check_pyspark()
    yield from (check_folder(name, path) for name, path in (("home", settings.home), ("cache", settings.cache)))
    yield check_disk(settings)
    yield check_ports(settings)
    yield check_memory(settings)


def _advisory(settings: Settings) -> Iterator[MachineCheck]:
    yield check_jars(settings)
    yield check_variables(dict(os.environ))
    yield check_lock(Path("requirements.lock"))


def check_python(version: tuple[int, ...]) -> MachineCheck:
    """Check the version of the running Python."""
    (low, high), shown = PYTHON, ".".join(map(str, version))
    wanted = f"{low[0]}.{low[1]} or {high[0]}.{high[1] - 1}"
    return MachineCheck(
        "python", low <= version < high, f"Python is {shown}", f"create the environment again with Python {wanted}"
    )


def check_java(settings: Settings) -> MachineCheck:
    """Check that there is a Java 17."""
    try:
        java = find_java(settings)
    except HeadraceError as error:
        what, _, remedy = str(error).rpartition(": ")
        return MachineCheck("java", False, what, remedy.rstrip("."))
    return MachineCheck("java", True, f"Java {java.version} from {java.source} ({java.home})")


def check_pyspark() -> MachineCheck:
    """Check that pyspark is intact: the package pyspark-client overwrites some of its files."""
    remedy = "run `make setup`, which installs exactly the versions in requirements.lock"
    if _installed("pyspark-client"):
        detail = f"pyspark-client {_installed('pyspark-client')} is installed and has overwritten files of pyspark"
        return MachineCheck(
            "pyspark", False, detail, f"remove it (`pip uninstall pyspark-client pyspark`) and {remedy}"
        )
    version = _installed("pyspark")
    if version != PYSPARK:
        return MachineCheck("pyspark", False, f"pyspark is {version or 'not installed'}, not {PYSPARK}", remedy)
    try:
        import pyspark
    except Exception as error:
        return MachineCheck("pyspark", False, f"pyspark {version} does not import ({error})", remedy)
    return MachineCheck("pyspark", pyspark.__version__ == PYSPARK, f"pyspark imports as {pyspark.__version__}", remedy)


def check_folder(name: str, path: Path) -> MachineCheck:
    """Check that a folder exists and is writable, or can be created."""
    place = _nearest(path)
    remedy = f"correct the permissions or set {PREFIX}{name.upper()} to another folder"
    if not place.is_dir():
        return MachineCheck(name, False, f"{place}, needed for {path}, is not a folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return MachineCheck(name, False, f"{place} cannot be written ({error.strerror})", remedy)
    return MachineCheck(name, True, f"{path} can be written")


def check_disk(settings: Settings) -> MachineCheck:
    """Check the free disk space for the home and the cache."""
    wanted = settings.min_free_disk_mb
    for path in (settings.home, settings.cache):
        free = shutil.disk_usage(_nearest(path)).free // _MB
        if free < wanted:
            detail = f"Only {free} MiB of disk space are free at {path}, {wanted} MiB are needed"
            return MachineCheck("disk", False, detail, f"free some, or lower {PREFIX}MIN_FREE_DISK_MB")
    return MachineCheck("disk", True, f"at least {wanted} MiB are free")


def check_memory(settings: Settings) -> MachineCheck:
    """Check that there is enough memory for the servers that do not run yet."""
    wanted = settings.min_free_memory_mb * (2 - len(_running(settings) & {kafka.NAME, cassandra.NAME})) // 2
    if settings.airflow and airflow.API_SERVER not in _running(settings):
        wanted += AIRFLOW_MB
    free = available_memory() // _MB
    detail = f"{free} MiB of memory are available, {wanted} MiB are needed to start"
    remedy = f"close other programs, or lower {PREFIX}MIN_FREE_MEMORY_MB (and the heaps with it)"
    return MachineCheck("memory", free >= wanted, detail, remedy)


def check_ports(settings: Settings) -> MachineCheck:
    """Check that every port is free or used by this platform, and that no two settings name the same one."""
    owners: dict[int, str] = {}
    taken: list[tuple[str, str, int, str]] = []
    for name, ports in _ports(settings).items():
        for setting, port in ports.items():
            if port in owners:
                detail = f"The settings {owners[port]} and {setting} name the same port {port}"
                return MachineCheck("ports", False, detail, _other_port(setting))
            owners[port] = setting
            if why := _why_taken(settings.host, port):
                taken.append((name, setting, port, why))
    running = _running(settings)  # after the probe: a port opened meanwhile by another `up` belongs to this platform
    for name, setting, port, why in taken:
        if name not in running:
            detail = f"Port {port} ({setting}) on {settings.host} {why}"
            return MachineCheck("ports", False, detail, f"stop that process, or {_other_port(setting)}")
    return MachineCheck("ports", True, f"{', '.join(map(str, owners))} are free or used by this platform")


def _other_port(setting: str) -> str:
    return f"set {PREFIX}{setting.upper()} to a free port"


def check_jars(settings: Settings) -> MachineCheck:
    """Check the jar cache against the committed lists."""
    absent = {name: len(jars.faulty(jars.read_list(name), jars.folder(name, settings))) for name in jars.LOCAL}
    if not any(absent.values()):
        return MachineCheck("jars", True, f"all jars in {settings.cache} match the lists", blocks=False)
    counts = ", ".join(f"{count} of {name}" for name, count in absent.items() if count)
    detail = f"The jar cache {settings.cache} has missing or damaged jars ({counts})"
    return MachineCheck("jars", False, detail, "`headrace up` fetches them", blocks=False)


def check_variables(environment: dict[str, str]) -> MachineCheck:
    """Check for unknown HEADRACE_ variables: a misspelt one silently has no effect."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    others = {deployment.VARIABLE}  # set in Airflow's tasks
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known | others)
    detail = f"{', '.join(unknown)} in the environment is not a setting" if unknown else "all variables are known"
    return MachineCheck("variables", not unknown, detail, f"known settings: {', '.join(sorted(known))}", blocks=False)


def check_lock(lock: Path) -> MachineCheck:
    """Check the installed versions against a requirements.lock."""
    if not lock.is_file():
        return MachineCheck("lock", True, "no requirements.lock in this folder: not compared", blocks=False)
    wrong = []
    for requirement in lock_entries(lock.read_text()):
        have, want = _installed(requirement.name), next(iter(requirement.specifier)).version
        if have != want:
            wrong.append(f"{canonicalize_name(requirement.name)} is {have or 'not installed'}, not {want}")
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    detail = f"The environment differs from requirements.lock ({'; '.join(wrong[:3])}{more})"
    if not wrong:
        return MachineCheck("lock", True, "all installed versions match requirements.lock", blocks=False)
    return MachineCheck("lock", False, detail, "run `make setup`", blocks=False)


def lock_entries(text: str) -> list[Requirement]:
    """Return the pinned requirements of a lock file that apply to this platform."""
    pinned = (line.rstrip("\\ ").strip() for line in text.splitlines() if "==" in line and line[:1].isalnum())
    entries = [Requirement(line) for line in pinned]
    return [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the usable memory in bytes: the machine's, or that of the control group if it is less."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free


def _ports(settings: Settings) -> dict[str, dict[str, int]]:
    """Return server -> {setting: port} for every server that listens."""
    ports_by_server = {module.NAME: module.ports(settings) for module in (kafka, cassandra)}
    return ports_by_server | ({airflow.API_SERVER: airflow.ports(settings)} if settings.airflow else {})


def _running(settings: Settings) -> set[str]:
    marks = {module.NAME: module.mark(settings) for module in (kafka, cassandra)}
    marks[airflow.API_SERVER] = airflow.mark(settings, airflow.API_SERVER)
    return {name for name, mark in marks.items() if processes.find(name, settings.run_dir, mark)}


def _why_taken(host: str, port: int) -> str | None:
    """Return why a port cannot be opened, None if it can.

    After a server is killed, its port stays taken until the kernel has released its memory, although no process listens. This
    function waits for such a port.
    """
    return poll(lambda: _why_not_free(host, port), RELEASE_SECONDS, 0.1, lambda why: why != TAKEN)


def _why_not_free(host: str, port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: a port in TIME_WAIT is free
        try:
            # No listen(): this blocks neither a server that starts now nor the probe of another `up`.
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"cannot be opened ({error.strerror})"
            return f"{TAKEN}{_holder(port)}"
    return None


def _holder(port: int) -> str:
    """Return ` by NAME (pid PID)`, or "" if the process is unknown or is exiting (then it has no command line)."""
    try:
        for item in psutil.net_connections("tcp"):
            if item.laddr and item.laddr.port == port and item.status == psutil.CONN_LISTEN and item.pid:
                process = psutil.Process(item.pid)
                return f" by {process.name()} (pid {item.pid})" if process.cmdline() else ""
    except (psutil.Error, OSError):
        pass
    return ""


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nearest(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _nearest(path.parent)
