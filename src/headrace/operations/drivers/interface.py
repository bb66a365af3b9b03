"""What a driver is to the operator's tools, whatever it runs on: one small interface, and the files a driver writes.

Two launchers: `local` (a process group that outlives its starter) and `kubernetes` (a pod with a fixed
name). Neither is believed when it comes to exactness: the driver holds its own fence.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from headrace.errors import HeadraceError
from headrace.store import driver_files
from headrace.store.driver_files import CheckResult, ExitRecord, Heartbeat


class LauncherSilentError(HeadraceError):
    """The launcher cannot say what runs (API error, missing permission): unknown, which is never the same as dead."""


class RunEndedError(HeadraceError):
    """The pod of a finite run ended without success, for a reason that may pass: the same run can be tried again."""


@dataclass(frozen=True)
class Driver:
    """One driver that runs. `identity` names its process or pod: process id and start, or the pod's UID.

    `instance` is drawn by the launcher that starts it, and the heartbeat repeats it. So no clock decides which driver wrote
    a heartbeat (a process's start is known to a second, a pod's node has its own clock).
    """

    pipeline: str
    identity: str
    started: float  # seconds since 1970
    where: str  # in words: "process 4711", "pod pos-sales-driver"
    pending: bool = False  # requested, but not running yet: a pod without a node or an image
    release: str = ""
    instance: str = ""
    outdated: bool = False  # it was started with other settings than the deployment has now


@dataclass(frozen=True)
class StartSpec:
    """What a driver is started with. `release` is a folder (local) or an image; "" is that of the deployment."""

    new_generations: tuple[str, ...] = ()
    release: str = ""
    request: str = ""  # names this start in heartbeat and exit record; "" lets the launcher draw one


DEFAULT_START = StartSpec()


class Launcher(Protocol):
    """Starts and ends drivers. All methods raise LauncherSilentError if the launcher cannot say what runs."""

    @property
    def root(self) -> str:
        """Return the storage root that its drivers use."""

    def find(self, pipeline: str) -> list[Driver]:
        """Return every driver of a pipeline that runs: none, one, or (a fault) more."""

    def running(self) -> list[str]:
        """Return the pipelines that have a running driver, sorted, with or without a pipeline file."""

    def submit(self, pipeline: str, spec: StartSpec = DEFAULT_START) -> tuple[Driver, bool]:
        """Return the pipeline's driver and whether this call started it. A driver that runs is adopted, never doubled."""

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        """End every driver of the pipeline and wait until they are gone. None: none ran; False: had to be killed.

        `grace_seconds` is what a running batch may take; 0 kills at once (the fence for a driver that hangs).
        """

    def check(self, pipeline: str, spec: StartSpec) -> CheckResult:
        """Plan what a release would run, beside the driver that runs, and return the result. Nothing is started."""

    def ended(self, pipeline: str) -> ExitRecord | None:
        """Return how the newest driver ended, if the launcher knows more than the driver could write down.

        None if it knows no more, or if a driver runs.
        """

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        """Return the end of the log of the pipeline's newest driver, or an empty string."""


def heartbeat_of(heartbeat: Heartbeat | None, driver: Driver) -> Heartbeat | None:
    """Return a pipeline's heartbeat if this driver wrote it, else None: an earlier driver wrote it."""
    return heartbeat if heartbeat is not None and heartbeat.instance == driver.instance else None


def await_first_heartbeat(launcher: Launcher, driver: Driver, timeout_seconds: float) -> Heartbeat:
    """Wait until a driver says that its queries run. Raises HeadraceError with the cause if it ends first."""
    pipeline, deadline = driver.pipeline, time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        heartbeat = heartbeat_of(driver_files.heartbeat(launcher.root, pipeline), driver)
        if heartbeat and heartbeat.exit is None:
            return heartbeat
        if not launcher.find(pipeline):
            raise HeadraceError(f"The driver of {pipeline} ended at its start: {last_error(launcher, pipeline)}")
        time.sleep(0.3)
    raise HeadraceError(
        f"The driver of {pipeline} gave no heartbeat within {timeout_seconds:.0f} s: see `headrace logs {pipeline}`."
    )


def last_error(launcher: Launcher, pipeline: str) -> str:
    """Return the last ERROR entry of the driver's log, or where the log is."""
    return last_error_entry(launcher.log_tail(pipeline, 500)) or f"see `headrace logs {pipeline}`."


def last_error_entry(log: str) -> str:
    """Return the message of the last ERROR entry of a log, "" without one. Indented lines belong to an entry (logs.py)."""
    errors = [line for line in log.splitlines() if " ERROR headrace" in line and not line[0].isspace()]
    return errors[-1].partition(": ")[2] if errors else ""


def end_in_words(gentle: bool | None) -> str:
    """Return in words what `Launcher.stop` returned."""
    return {None: "did not run", True: "stopped", False: "killed after the grace time"}[gentle]
