"""A stage whose driver is kept by the supervisor: the loop of `headrace stream supervise` in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from headrace.contract import driver_files
from headrace.contract.records import to_json
from headrace.operations import control, supervisor
from headrace.operations.driver_health import LIMITS, Limits
from headrace.operations.supervisor import Context
from headrace.operations.supervisor_observe import KafkaEnds
from tests.support.drivers import DEADLINE_SECONDS, Stage, group_of


class Supervised:
    """Starts the stage's driver as an operator would, and looks every `every` seconds until it is left.

    `looks` has all that was told. The stage's own `child` stays empty: drivers come and go.
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
        """Want the pipeline to run and return its driver's process id."""
        control.start(self.stage.launcher, self.stage.name, by="the test", new_generations=new_generations)
        return self.pid

    @property
    def pid(self) -> int:
        """The process id of the driver that lives."""
        (living,) = self.stage.launcher.find(self.stage.name)
        return int(living.identity.partition("@")[0])

    @property
    def group(self) -> list[psutil.Process]:
        """All processes of the driver that lives."""
        return group_of(self.pid)

    def stop(self) -> None:
        """Stop as an operator would; the driver must end in order."""
        assert control.stop(self.stage.launcher, self.stage.name, by="the test"), self.stage.log[-3000:]
        record = driver_files.exit_record(self.stage.root, self.stage.name)
        assert record is not None
        assert record.exit == "FINISHED", record

    def actions(self, since: int = 0) -> list[str]:
        """What was done in the looks from number `since` on."""
        return [told["action"]["kind"] for told in self.looks[since:] if told["action"]["kind"] != "NOTHING"]

    def await_look(self, fact: Callable[[dict[str, Any]], bool], what: str, since: int = 0) -> dict[str, Any]:
        """Wait for a look, from number `since` on, of which a fact holds, and return it."""
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found.extend(told for told in self.looks[since:] if fact(told))
            return bool(found)

        self.stage.await_until(seen, f"{what}: {self.looks[-1:]}", DEADLINE_SECONDS)
        return found[0]

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.looks.append(to_json(supervisor.run_pass(self._context)))
            self._stop.wait(max(0.0, self._every - (time.monotonic() - began)))
