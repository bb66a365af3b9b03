"""A stage whose driver is kept running by the supervisor: the loop of `headrace stream supervise` in a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from headrace.operations.drivers import control
from headrace.operations.supervisor import cycle
from headrace.operations.supervisor.cycle import Context
from headrace.operations.supervisor.driver_health import LIMITS, Limits
from headrace.operations.supervisor.observe import KafkaEnds
from headrace.store import driver_files
from headrace.store.records import to_json
from tests.support.drivers import DEADLINE_SECONDS, Stage, group_of


class Supervised:
    """Starts the stage's driver as an operator would, and runs a pass every `every` seconds inside the block.

    `looks` has the report of each pass. The stage's `child` stays empty, because drivers are replaced.
    """

    def __init__(self, stage: Stage, *, every: float = 3.0, limits: Limits = LIMITS) -> None:
        self.stage = stage
        self.looks: list[dict[str, Any]] = []
        self._context = Context(stage.launcher, stage.pipeline, KafkaEnds(stage.admin), limits)
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Supervised:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.stage.launcher.stop(self.stage.name, 0)

    def start(self, *new_generations: str) -> int:
        """Set the desired state to running and return the driver's process id."""
        control.start(self.stage.launcher, self.stage.name, by="the test", new_generations=new_generations)
        return self.pid

    @property
    def pid(self) -> int:
        """Return the process id of the running driver."""
        (living,) = self.stage.launcher.find(self.stage.name)
        return int(living.identity.partition("@")[0])

    def signal(self, number: int) -> list[psutil.Process]:
        """Send a signal to all processes of the running driver at once (none can react to another's end); return them."""
        pid = self.pid
        members = group_of(pid)
        os.killpg(pid, number)
        return members

    def stop(self) -> None:
        """Stop as an operator would; the driver must exit cleanly."""
        assert control.stop(self.stage.launcher, self.stage.name, by="the test"), self.stage.log[-3000:]
        record = driver_files.exit_record(self.stage.root, self.stage.name)
        assert record is not None
        assert record.exit == "FINISHED", record

    def actions(self, since: int = 0) -> list[str]:
        """Return the actions of the passes from number `since` on."""
        return [report["action"]["kind"] for report in self.looks[since:] if report["action"]["kind"] != "NOTHING"]

    def await_look(self, fact: Callable[[dict[str, Any]], bool], what: str, since: int = 0) -> dict[str, Any]:
        """Wait for a pass, from number `since` on, for which a condition holds, and return its report."""
        matching: list[dict[str, Any]] = []

        def seen() -> bool:
            matching.extend(report for report in self.looks[since:] if fact(report))
            return bool(matching)

        self.stage.await_until(seen, f"{what}: {self.looks[-1:]}", DEADLINE_SECONDS)
        return matching[0]

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.looks.append(to_json(cycle.run_pass(self._context)))
            self._stop.wait(max(0.0, self._every - (time.monotonic() - began)))
