"""What an operator does to a stream: start, stop, pause, resume, restart. The CLI and the DAGs both call these.

The wish is written before anything is done, so that the supervisor never works against an operator: a driver that it
started in the same moment is stopped again by its next pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import intent
from headrace.operations.drivers import Driver, Launcher

CLOCK_MS = 1000  # a driver's start is known to a second


class PausedError(HeadraceError):
    """A start found the pipeline paused: whoever paused it had a reason, so only `resume` goes on."""


def require_queries(chosen: Sequence[Pipeline], queries: Sequence[str]) -> None:
    """Raise HeadraceError unless `queries`, which shall begin anew, are queries of the one pipeline that is chosen."""
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
    """Want the pipeline to run and start its driver, or adopt the one that lives. Returns it and whether it is new.

    `request` names this start, so that a repeat of it (a task's retry) goes on where the first broke off.
    Raises HeadraceError if queries shall begin anew while a driver lives: it would be adopted as it is; PausedError where
    the pipeline is paused.
    """
    before = intent.read(launcher.root, pipeline)
    if before.want == "PAUSED" and not resumed:
        who = f" by {before.by}" if before.by else ""
        raise PausedError(
            f"{pipeline} is paused{who}: {before.reason}; it goes on with `headrace stream resume {pipeline}`."
        )
    if request and before.request == request and before.want == "RUNNING":
        return launcher.submit(pipeline, before.order())
    living = launcher.find(pipeline) if new_generations else []
    if living:
        raise HeadraceError(
            f"{pipeline} runs ({living[0].where}), so {', '.join(new_generations)} cannot begin new generations: stop it first, "
            "or use restart."
        )
    wish = intent.write(
        launcher.root,
        pipeline,
        "RUNNING",
        by,
        reason,
        release=release,
        new_generations=new_generations,
        request=request,
    )
    return launcher.submit(pipeline, wish.order())


def stop(launcher: Launcher, pipeline: str, *, by: str, reason: str = "stop") -> bool | None:
    """Want the pipeline stopped and stop its driver. None: none ran; False: it had to be killed."""
    intent.write(launcher.root, pipeline, "STOPPED", by, reason)
    return launcher.stop(pipeline)


def pause(launcher: Launcher, pipeline: str, *, by: str, reason: str) -> bool | None:
    """Stop the pipeline's driver until `resume`; the reason is shown wherever its state is. Returns as `stop`."""
    if not reason.strip():
        raise HeadraceError(f"A pause of {pipeline} needs a reason: whoever finds it paused must know why.")
    intent.write(launcher.root, pipeline, "PAUSED", by, reason)
    return launcher.stop(pipeline)


def resume(launcher: Launcher, pipeline: str, *, by: str) -> tuple[Driver, bool]:
    """Start a paused pipeline again. Raises HeadraceError if it is not paused."""
    wish = intent.read(launcher.root, pipeline)
    if wish.want != "PAUSED":
        raise HeadraceError(f"{pipeline} is not paused (desired state {wish.want}): use start or restart.")
    return start(launcher, pipeline, by=by, reason=f"resumed after: {wish.reason}", resumed=True)


def restart(
    launcher: Launcher,
    pipeline: str,
    *,
    by: str,
    reason: str,
    new_generations: Sequence[str] = (),
    request: str = "",
) -> tuple[Driver, bool]:
    """Stop the driver and start a new one; also gives the restart budget back (the way out of CRASH_LOOP).

    A supervisor that sees the gap starts it with the same order, so that it is then adopted here. `request` names this
    restart: a repeat of it (a task's retry) stops no driver that it has started, and begins no generation twice.
    """
    wish = intent.read(launcher.root, pipeline)
    again = bool(request) and wish.request == request and wish.want == "RUNNING"
    if not again:
        wish = intent.write(
            launcher.root, pipeline, "RUNNING", by, reason, new_generations=new_generations, request=request
        )
    living = launcher.find(pipeline)
    if not (again and living and living[0].started * 1000 >= wish.at_ms - CLOCK_MS):
        launcher.stop(pipeline)
    return launcher.submit(pipeline, wish.order())
