"""What a driver is to the operator's tools, whatever it runs on: one small interface, and the files a driver writes.

Two launchers: `drivers_local` (a process group that outlives its starter) and `drivers_kubernetes` (a pod with a fixed
name). Neither is believed when it comes to exactness: the driver holds its own fence.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.contract import paths, storage
from headrace.errors import HeadraceError


class LauncherSilentError(HeadraceError):
    """The launcher cannot say what runs (API error, no right): unknown, which is never the same as dead."""


@dataclass(frozen=True)
class Driver:
    """One living driver. `identity` tells this life of it from every other: process id and start, or the pod's UID.

    `life` is drawn by whoever starts it and repeated in its heartbeat: what a heartbeat says of this driver and what of
    the one before it is not told by clocks (a process's start is known to a second, a pod's node has a clock of its own).
    """

    pipeline: str
    identity: str
    started: float  # seconds since 1970
    where: str  # in words: "process 4711", "pod pos-sales-driver"
    pending: bool = False  # asked for, but not running yet: a pod without a node or an image
    release: str = ""
    life: str = ""
    outdated: bool = False  # it was started with other settings than the deployment has now


@dataclass(frozen=True)
class Order:
    """What a driver is started with. `release` is a folder (local) or an image; "" is the deployment's own."""

    new_generations: tuple[str, ...] = ()
    release: str = ""
    request: str = ""  # names this start in heartbeat and outcome; "" lets the launcher draw one


PLAIN = Order()


class Launcher(Protocol):
    """Starts and ends drivers. All methods raise LauncherSilentError where the truth cannot be known."""

    @property
    def root(self) -> str:
        """Return the storage root that its drivers use."""

    def find(self, pipeline: str) -> list[Driver]:
        """Return every living driver of a pipeline: none, one, or (a fault) more."""

    def running(self) -> list[str]:
        """Return the pipelines that have a living driver, sorted; whether a pipeline file still names them or not."""

    def submit(self, pipeline: str, order: Order = PLAIN) -> tuple[Driver, bool]:
        """Return the pipeline's driver and whether it was started now; one that lives is adopted, never doubled."""

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        """End every driver of the pipeline and wait until they are gone. None: none ran; False: had to be killed.

        `grace_seconds` is what a running batch may take; 0 kills at once (the fence for a driver that hangs).
        """

    def check(self, pipeline: str, order: Order) -> dict[str, Any]:
        """Plan what a release would run, beside the driver that lives, and return its `check.json`: exit, error, changes.

        `changes` has, by query, what the checkpoint cannot take of the plan; none is safe. Nothing is started.
        """

    def ended(self, pipeline: str) -> dict[str, Any] | None:
        """Return how the newest driver ended where the launcher knows more than the driver could say: exit, error, life.

        None where it knows no more, or a driver lives. An exit is an `Exit` name; `at_ms` and `request` as in `outcome`.
        """

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        """Return the end of the log of the pipeline's newest driver, or an empty string."""


def heartbeat(root: str, pipeline: str) -> dict[str, Any] | None:
    """Return the newest heartbeat of the pipeline's driver, or None if there never was one."""
    beat: dict[str, Any] | None = storage.read_json(paths.heartbeat(root, pipeline))
    return beat


def outcome(root: str, pipeline: str) -> dict[str, Any] | None:
    """Return how the newest driver that could tell has ended: exit (an `Exit` name), error, at_ms, request, life."""
    told: dict[str, Any] | None = storage.read_json(paths.outcome(root, pipeline))
    return told


def own_beat(beat: dict[str, Any] | None, driver: Driver) -> dict[str, Any] | None:
    """Return a pipeline's heartbeat if this very driver wrote it, else None: then it is of one that lived before."""
    return beat if beat is not None and beat.get("life", "") == driver.life else None


def await_first_heartbeat(launcher: Launcher, driver: Driver, timeout_seconds: float) -> dict[str, Any]:
    """Wait until a driver says that its queries run. Raises HeadraceError with the cause if it ends first."""
    pipeline, deadline = driver.pipeline, time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        beat = own_beat(heartbeat(launcher.root, pipeline), driver)
        if beat and beat["exit"] is None:
            return beat
        if not launcher.find(pipeline):
            raise HeadraceError(f"The driver of {pipeline} ended at its start: {last_error(launcher, pipeline)}")
        time.sleep(0.3)
    raise HeadraceError(
        f"The driver of {pipeline} gave no heartbeat within {timeout_seconds:.0f} s: see `headrace logs {pipeline}`."
    )


def last_error(launcher: Launcher, pipeline: str) -> str:
    """Return the last ERROR entry of the driver's log, or where the log is. What is indented belongs to an entry (logs.py)."""
    lines = launcher.log_tail(pipeline, 500).splitlines()
    errors = [line for line in lines if " ERROR headrace" in line and not line[0].isspace()]
    return errors[-1].partition(": ")[2] if errors else f"see `headrace logs {pipeline}`."
