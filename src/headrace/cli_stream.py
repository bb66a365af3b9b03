"""`headrace stream ...`: start, stop and watch the drivers of the pipelines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from headrace.cli_common import (
    NOT_RUNNING,
    Json,
    Names,
    console,
    launcher,
    pipelines_of,
    print_json,
    progress_bars,
    starting_launcher,
    who,
)
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations import control, drivers, streams, tables

stream = typer.Typer(no_args_is_help=True, help="Start, stop and watch the drivers of the pipelines.")


@stream.command("start")
def stream_start(
    names: Names = None,
    new_generation: Annotated[
        list[str] | None, typer.Option(metavar="QUERY", help="Begin a new generation of this query.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the queries run.")] = True,
    as_json: Json = False,
) -> None:
    """Start drivers, or adopt those that run."""
    settings = Settings.load()
    pipelines = pipelines_of(names)
    _check_new_generations(pipelines, names, new_generation or [])
    own = starting_launcher(settings)
    began = time.time_ns() // 1_000_000
    started = {name: control.start(own, name, by=who(), new_generations=new_generation or []) for name in pipelines}
    if wait:
        with progress_bars() as report:
            for name, (_, new) in started.items():
                report(f"driver {name} starts", None)
                if new:
                    drivers.await_first_heartbeat(own, name, began, settings.start_timeout_s)
    if as_json:
        print_json({name: {"driver": d.identity, "started": new} for name, (d, new) in started.items()})
    else:
        rows = [(name, d.where, "started" if new else "adopted") for name, (d, new) in started.items()]
        console.print(tables.plain(("pipeline", "driver", ""), rows))


@stream.command("stop")
def stream_stop(names: Names = None, as_json: Json = False) -> None:
    """Stop drivers: running batches may finish, then the driver ends."""
    own = launcher(Settings.load())
    words = {None: "did not run", True: "stopped", False: "killed after the grace time"}
    stopped = {name: words[control.stop(own, name, by=who())] for name in pipelines_of(names)}
    if as_json:
        print_json(stopped)
    else:
        console.print(tables.plain(("pipeline", ""), stopped.items()))


@stream.command("status")
def stream_status(names: Names = None, as_json: Json = False) -> None:
    """Show every query: rows, lag, batch age, watermark. Exit code 3 if a driver does not run."""
    rows = streams.rows(launcher(Settings.load()), pipelines_of(names).values())
    if as_json:
        print_json([row.to_json_dict() for row in rows])
    else:
        console.print(tables.queries(rows, width=console.width))
    if any(row.driver not in {"RUNNING", "STARTING"} for row in rows):
        raise typer.Exit(NOT_RUNNING)


def _check_new_generations(pipelines: Mapping[str, Pipeline], names: Names, queries: Sequence[str]) -> None:
    if queries and (names is None or len(names) != 1):
        raise HeadraceError("--new-generation goes with exactly one pipeline.")
    for query in queries:
        known = list(next(iter(pipelines.values())).queries)
        if query not in known:
            raise HeadraceError(f"There is no query {query!r} to begin anew: there is {', '.join(known)}.")
