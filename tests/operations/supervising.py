"""What the tests of the supervisor share: a launcher of the imagination, and observations."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.drivers.interface import DEFAULT_START, Driver, LauncherSilentError, StartSpec
from headrace.operations.supervisor.verdict import CheckpointPosition, Observation
from headrace.store.driver_files import CheckResult, ExitRecord, Heartbeat
from headrace.store.records import from_json

NOW = 1_800_000_000_000  # milliseconds since 1970
RUNNING = DesiredState("RUNNING", "start", "ann", NOW - 3_600_000, budget_reset_ms=NOW - 3_600_000)


def driver(
    pipeline: Pipeline, age: float = 60, identity: str = "a", pending: bool = False, outdated: bool = False
) -> Driver:
    """A living driver that was started `age` seconds ago."""
    where = f"process {identity}"
    return Driver(pipeline.name, identity, NOW / 1000 - age, where, pending, instance=identity, outdated=outdated)


def beat(pipeline: Pipeline, age: float = 1, instance: str = "a", **fields: Any) -> Heartbeat:
    """A heartbeat of driver `instance`, `age` seconds ago; queries run and wrote a batch 2 s ago, but for `fields`."""
    entry = {"active": True, "batch": 7, "batch_written_ms": NOW - 2000, "running_batch": None, "error": None} | fields
    queries = [entry | {"query": names.query_name(pipeline.name, name)} for name in names.query_names(pipeline)]
    head = {"pipeline": pipeline.name, "at_ms": int(NOW - age * 1000), "exit": None, "life": instance}
    return from_json(Heartbeat, head | {"queries": queries})


def record(fields: dict[str, Any]) -> ExitRecord:
    """An exit record as a driver of some release wrote it."""
    return from_json(ExitRecord, fields)


def positions(
    pipeline: Pipeline, lag: int | None = 0, batch: int = 7, error: str = ""
) -> dict[str, CheckpointPosition]:
    """Every query at one place."""
    return {query: CheckpointPosition(1, batch, lag, error) for query in names.query_names(pipeline)}


def seen(pipeline: Pipeline, **fields: Any) -> Observation:
    """An observation of a pipeline that does well, but for `fields`."""
    well: dict[str, Any] = {
        "now_ms": NOW,
        "desired": RUNNING,
        "drivers": (driver(pipeline),),
        "heartbeat": beat(pipeline),
        "positions": positions(pipeline),
    }
    return Observation(**(well | fields))


@dataclass
class Imagined:
    """A launcher whose drivers are names. `hooks` are called right before submit and stop, to be somebody else."""

    root: str
    alive: list[Driver] = field(default_factory=list)
    silent: bool = False
    slow: float = 0  # seconds that a submit takes until its driver can be found
    hooks: dict[str, Any] = field(default_factory=dict)
    starts: list[StartSpec] = field(default_factory=list)
    stops: list[float | None] = field(default_factory=list)
    _count: Any = field(default_factory=lambda: itertools.count(1))

    def find(self, pipeline: str) -> list[Driver]:
        if self.silent:
            raise LauncherSilentError("The API answered 500.")
        return list(self.alive)

    def running(self) -> list[str]:
        return sorted({driver.pipeline for driver in self.alive})

    def submit(self, pipeline: str, spec: StartSpec = DEFAULT_START) -> tuple[Driver, bool]:
        self._call("submit")
        if self.alive:
            return self.alive[0], False
        time.sleep(self.slow)
        number = next(self._count)
        self.starts.append(spec)
        made = Driver(pipeline, f"{number}@x", time.time(), f"process {number}", release=spec.release)
        self.alive.append(made)
        self._call("submitted")
        return made, True

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        self._call("stop")
        self.stops.append(grace_seconds)
        if not self.alive:
            return None
        self.alive.clear()
        return True

    def check(self, pipeline: str, spec: StartSpec) -> CheckResult:
        return CheckResult()

    def ended(self, pipeline: str) -> ExitRecord | None:
        return None

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        return ""

    def _call(self, name: str) -> None:
        hook = self.hooks.pop(name, None)
        if hook:
            hook()
