"""What the operator's tasks do, one function a task: a wish through `control`, then wait until it is true.

Called by DAGs; each takes plain values and returns a small JSON-safe dict, so that a test needs no Airflow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from headrace.errors import HeadraceError
from headrace.operations import control, drivers, intent
from headrace.operations.drivers import Driver, Launcher

START_SECONDS = 300.0
"""How long a driver may take until its queries run; a pod may wait that long for a node and an image."""


def start(
    launcher: Launcher, pipeline: str, *, by: str, reason: str, new_generations: Sequence[str] = ()
) -> dict[str, Any]:
    """Start the driver or adopt it, and wait until its queries run. Raises HeadraceError with the driver's own word."""
    driver, new = control.start(launcher, pipeline, by=by, reason=reason, new_generations=new_generations)
    return await_queries(launcher, driver, new=new)


def resume(launcher: Launcher, pipeline: str, *, by: str) -> dict[str, Any]:
    """Start a paused pipeline again and wait until its queries run. A repeat after it was started waits only."""
    if intent.read(launcher.root, pipeline).want == "RUNNING" and (living := launcher.find(pipeline)):
        return await_queries(launcher, living[0], new=False)
    driver, new = control.resume(launcher, pipeline, by=by)
    return await_queries(launcher, driver, new=new)


def restart(
    launcher: Launcher, pipeline: str, *, by: str, reason: str, new_generations: Sequence[str] = ()
) -> dict[str, Any]:
    """Stop the driver, start a new one and wait until its queries run."""
    driver, new = control.restart(launcher, pipeline, by=by, reason=reason, new_generations=new_generations)
    return await_queries(launcher, driver, new=new)


def stop(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> dict[str, Any]:
    """Stop the driver and tell how it ended."""
    return _told(pipeline, control.stop(launcher, pipeline, by=by, reason=reason))


def pause(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> dict[str, Any]:
    """Stop the driver until it is resumed and tell how it ended."""
    return _told(pipeline, control.pause(launcher, pipeline, by=by, reason=reason))


def await_queries(launcher: Launcher, driver: Driver, *, new: bool, seconds: float = START_SECONDS) -> dict[str, Any]:
    """Wait until a driver's heartbeat says that its queries run. Raises HeadraceError if it ends first or says nothing."""
    beat = drivers.await_first_heartbeat(launcher, driver.pipeline, int(driver.started * 1000), seconds)
    dead = [entry["query"] for entry in beat["queries"] if not entry["active"]]
    if dead:
        raise HeadraceError(f"{', '.join(dead)} ended at once: see `headrace logs {driver.pipeline}`.")
    return {
        "pipeline": driver.pipeline,
        "driver": driver.identity,
        "where": driver.where,
        "started": new,
        "generations": {entry["query"]: entry["generation"] for entry in beat["queries"]},
        "seconds": round(time.time() - driver.started, 1),
    }


def _told(pipeline: str, gentle: bool | None) -> dict[str, Any]:
    words = {None: "did not run", True: "stopped", False: "killed after the grace time"}
    return {"pipeline": pipeline, "ended": words[gentle]}
