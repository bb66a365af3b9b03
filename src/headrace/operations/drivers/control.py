"""What an operator does to a stream: start, stop, pause, resume, restart. The CLI and the DAGs both call these.

The desired state is written before anything is done, so that the supervisor never works against an operator: a driver that it
started at the same moment is stopped again by its next pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Driver, Launcher, await_first_heartbeat

CLOCK_MS = 1000  # a driver's start is known to a second
START_SECONDS = 300.0
"""How long a driver may take until its queries run; a pod may wait that long for a node and an image."""


class PausedError(HeadraceError):
    """A start found the pipeline paused. Somebody paused it for a reason, so only `resume` starts it again."""


def require_queries(chosen: Sequence[Pipeline], queries: Sequence[str]) -> None:
    """Raise HeadraceError unless `queries`, which begin new generations, belong to the one pipeline that is chosen."""
    if queries and len(chosen) != 1:
        raise HeadraceError(f"New generations ({', '.join(queries)}) go with exactly one pipeline: choose one.")
    for query in queries:
        known = names.query_names(chosen[0])
        if query not in known:
            raise HeadraceError(f"Unknown query {query!r}. Known queries: {', '.join(known)}.")


def start(
    launcher: Launcher,
    pipeline: str,
    *,
    by: str,
    reason: str = "start",
    new_generations: Sequence[str] = (),
    release: str | None = None,
    request: str = "",
    resumed: bool = False,
) -> tuple[Driver, bool]:
    """Set the desired state RUNNING and start the driver, or adopt the one that runs. Returns it and whether it is new.

    `request` names this start: a repeat (a task's retry) goes on where the first broke off. Raises HeadraceError if queries
    are to begin new generations while a driver runs, which would be adopted as it is; PausedError if the pipeline is paused.
    """
    before = desired_state.read(launcher.root, pipeline)
    if before.want == "PAUSED" and not resumed:
        who = f" by {before.by}" if before.by else ""
        raise PausedError(
            f"{pipeline} is paused{who}: {before.reason}. To start it again, run `headrace stream resume {pipeline}`."
        )
    if request and before.request == request and before.want == "RUNNING":
        return launcher.submit(pipeline, before.start_spec())
    running = launcher.find(pipeline) if new_generations else []
    if running:
        raise HeadraceError(
            f"{pipeline} runs ({running[0].where}), so {', '.join(new_generations)} cannot begin new generations: stop it first, "
            "or use restart."
        )
    desired = desired_state.write(
        launcher.root,
        pipeline,
        "RUNNING",
        by,
        reason,
        release=release,
        new_generations=new_generations,
        request=request,
    )
    return launcher.submit(pipeline, desired.start_spec())


def stop(launcher: Launcher, pipeline: str, *, by: str, reason: str = "stop") -> bool | None:
    """Set the desired state STOPPED and stop the driver. None: none ran; False: it had to be killed."""
    desired_state.write(launcher.root, pipeline, "STOPPED", by, reason)
    return launcher.stop(pipeline)


def pause(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> bool | None:
    """Stop the pipeline's driver until `resume`; the reason is shown wherever its state is. Returns as `stop`."""
    if not reason.strip():
        raise HeadraceError(f"A pause of {pipeline} needs a reason: say why, for whoever finds it paused.")
    desired_state.write(launcher.root, pipeline, "PAUSED", by, reason)
    return launcher.stop(pipeline)


def resume(launcher: Launcher, pipeline: str, *, by: str) -> tuple[Driver, bool]:
    """Start a paused pipeline again. Raises HeadraceError if it is not paused."""
    desired = desired_state.read(launcher.root, pipeline)
    if desired.want != "PAUSED":
        raise HeadraceError(f"{pipeline} is not paused (desired state {desired.want}): use start or restart.")
    return start(launcher, pipeline, by=by, reason=f"resumed after: {desired.reason}", resumed=True)


def restart(
    launcher: Launcher,
    pipeline: str,
    *,
    by: str,
    reason: str,
    new_generations: Sequence[str] = (),
    request: str = "",
) -> tuple[Driver, bool]:
    """Stop the driver and start a new one; also resets the restart budget (the way out of CRASH_LOOP).

    A supervisor that observes the gap starts the driver with the same spec, and it is then adopted here. `request` names this
    restart: a repeat (a task's retry) stops no driver that it has started, and begins no generation twice.
    """
    desired = desired_state.read(launcher.root, pipeline)
    repeated = bool(request) and desired.request == request and desired.want == "RUNNING"
    if not repeated:
        desired = desired_state.write(
            launcher.root, pipeline, "RUNNING", by, reason, new_generations=new_generations, request=request
        )
    running = launcher.find(pipeline)
    if not (repeated and running and running[0].started * 1000 >= desired.at_ms - CLOCK_MS):
        launcher.stop(pipeline)
    return launcher.submit(pipeline, desired.start_spec())


@dataclass(frozen=True)
class RunningDriver:
    """A driver whose queries run: its identity and place, the generation of each query, and for how long it has run.

    `started`: this call started it, else it was adopted.
    """

    pipeline: str
    driver: str
    where: str
    started: bool
    generations: dict[str, int]
    seconds: float


def await_queries(launcher: Launcher, driver: Driver, *, new: bool, seconds: float = START_SECONDS) -> RunningDriver:
    """Wait until a driver's heartbeat says that its queries run. Raises HeadraceError if it ends first or says nothing."""
    heartbeat = await_first_heartbeat(launcher, driver, seconds)
    ended = [state.query for state in heartbeat.queries if not state.active]
    if ended:
        raise HeadraceError(f"{', '.join(ended)} ended at once: see `headrace logs {driver.pipeline}`.")
    generations = {state.query: state.generation for state in heartbeat.queries}
    since = round(time.time() - driver.started, 1)
    return RunningDriver(driver.pipeline, driver.identity, driver.where, new, generations, since)
