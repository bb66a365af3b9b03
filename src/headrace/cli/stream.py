"""`headrace stream ...`: start, stop and watch the drivers of the pipelines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

import typer

from headrace.cli.common import (
    NOT_RUNNING,
    Json,
    Names,
    console,
    deployed,
    errors,
    folder,
    known_names,
    pipelines_of,
    print_json,
    print_result,
    progress_bars,
    startable_pipelines,
    who,
)
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations import streams, tables
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import control, desired_state, generations, interface, upgrade
from headrace.operations.drivers.interface import Driver, Launcher
from headrace.operations.supervisor import cycle, memory
from headrace.operations.supervisor.memory import Supervision
from headrace.operations.supervisor.observe import KafkaEnds

stream = typer.Typer(no_args_is_help=True, help="Start, stop and watch the drivers of the pipelines.")

NewGeneration = Annotated[
    list[str] | None,
    typer.Option(
        metavar="QUERY", help="Begin a new generation of this query; `all`: of every query, including the archives."
    ),
]
Rows = Annotated[
    str, typer.Option(metavar="keep|empty", help="With --new-generation: what to do with rows of older generations.")
]
Reason = Annotated[str, typer.Option(help="The reason, shown together with the pipeline's state.")]
Wait = Annotated[bool, typer.Option(help="Wait until the queries run.")]


@stream.command("start")
def stream_start(
    names: Names = None,
    new_generation: NewGeneration = None,
    rows: Rows = "",
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Start drivers, or adopt running ones."""
    queries = _new_generations(names, new_generation, rows)
    _start_each(
        names,
        lambda launcher, name: control.start(launcher, name, by=who(), new_generations=queries),
        wait,
        as_json,
    )


def _start_each(names: Names, begin: Callable[[Launcher, str], tuple[Driver, bool]], wait: bool, as_json: bool) -> None:
    """Start the drivers of the named pipelines with `begin`, wait until their queries run, and show them."""
    pipelines = startable_pipelines(names)
    deployment = deployed(starting=True)
    _check_logins(deployment, pipelines)
    launcher, timeout_s = deployment.launcher(), Settings.load().start_timeout_s
    started = {}
    for name in pipelines:
        try:
            started[name] = begin(launcher, name)
        except control.PausedError as paused:
            if names:  # the user named it
                raise
            errors.print(str(paused), highlight=False, soft_wrap=True)
    if wait:
        with progress_bars() as report:
            for name, (driver, new) in started.items():
                report(f"starting driver {name}", None)
                if new:
                    interface.await_first_heartbeat(launcher, driver, timeout_s)
    shown = {name: {"driver": driver.identity, "started": new} for name, (driver, new) in started.items()}
    lines = [(name, d.where, "started" if new else "adopted") for name, (d, new) in started.items()]
    print_result(shown, ("pipeline", "driver", ""), lines, as_json=as_json)


def _check_logins(deployment: Deployment, names: Iterable[str]) -> None:
    """Raise HeadraceError, before any driver starts, for pipelines without a login from provisioning.

    In a cluster the logins are Secrets, which only the pods of the drivers see.
    """
    if deployment.drivers.kind != "local":
        return
    logins = deployment.drivers.driver_bindings
    absent = [name for name in names if not (logins / name / "cassandra" / "password").exists()]
    if absent:
        raise HeadraceError(
            f"{', '.join(absent)}: topics, tables and login are missing. Run `headrace provision {' '.join(absent)}` first."
        )


@stream.command("stop")
def stream_stop(names: Names = None, as_json: Json = False) -> None:
    """Stop drivers. A running batch may finish within the grace period."""
    launcher = deployed().launcher()
    _show_ends({name: control.stop(launcher, name, by=who()) for name in known_names(launcher, names)}, as_json)


def _show_ends(ends: Mapping[str, bool | None], as_json: bool) -> None:
    stopped = {name: interface.end_in_words(gentle) for name, gentle in ends.items()}
    print_result(stopped, ("pipeline", ""), stopped.items(), as_json=as_json)


@stream.command("status")
def stream_status(names: Names = None, as_json: Json = False) -> None:
    """Show every query: verdict and reason, rows, lag, batch age, watermark. Exit code 3 if one does not work."""
    deployment, described = deployed(), folder()
    launcher = deployment.launcher()
    strays = streams.strays(launcher, described.pipelines, described.broken)
    if names:
        strays = {name: strays[name] for name in names if name in strays}
    pipelines = described.pipelines.values() if not names else [described.pipeline(n) for n in names if n not in strays]
    rows = streams.rows(launcher, pipelines, deployment.bindings)
    rows += [row for name, reason in strays.items() for row in streams.stray_rows(launcher, name, reason)]
    if as_json:
        print_json(rows)
    else:
        console.print(tables.queries(rows, width=console.width))
        console.print(tables.verdicts(rows))
    if any(row.driver not in {"RUNNING", "STARTING"} or row.verdict in memory.FAULTS for row in rows):
        raise typer.Exit(NOT_RUNNING)


@stream.command("pause")
def stream_pause(names: Names = None, reason: Reason = "", as_json: Json = False) -> None:
    """Stop drivers until `resume`. The reason is shown with the pipeline's state."""
    launcher = deployed().launcher()
    _show_ends(
        {name: control.pause(launcher, name, by=who(), reason=reason) for name in known_names(launcher, names)},
        as_json,
    )


@stream.command("resume")
def stream_resume(names: Names = None, wait: Wait = True, as_json: Json = False) -> None:
    """Start paused drivers again. Refused for a pipeline that is not paused."""
    _start_each(names, lambda launcher, name: control.resume(launcher, name, by=who()), wait, as_json)


@stream.command("restart")
def stream_restart(
    names: Names = None,
    reason: Reason = "restart",
    new_generation: NewGeneration = None,
    rows: Rows = "",
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Stop drivers and start new ones. Resets the restart budget, so it also ends a CRASH_LOOP."""
    queries = _new_generations(names, new_generation, rows)
    _start_each(
        names,
        lambda launcher, name: control.restart(launcher, name, by=who(), reason=reason, new_generations=queries),
        wait,
        as_json,
    )


@stream.command("supervise")
def stream_supervise(
    names: Names = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two passes over a pipeline.")] = 20.0,
    once: Annotated[
        bool, typer.Option("--once", help="Run one pass. Exit code 3 if a pipeline does not work.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep drivers running without Airflow: observe, judge, restart within the budget. Ends with Ctrl-C."""
    deployment = deployed(starting=True)
    launcher, ends = deployment.launcher(), KafkaEnds(deployment.bindings)
    contexts = [cycle.Context(launcher, pipeline, ends) for pipeline in pipelines_of(names).values()]
    shown: dict[str, tuple[str, str]] = {}
    while True:
        began = time.monotonic()
        passes = [cycle.run_pass(context) for context in contexts]
        if as_json:
            print_json(passes)
        else:
            _show_passes(passes, shown)
        if once:
            raise typer.Exit(NOT_RUNNING if any(result.verdict in memory.FAULTS for result in passes) else 0)
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def _show_passes(passes: Sequence[Supervision], shown: dict[str, tuple[str, str]]) -> None:
    """Print a line for each pipeline whose verdict or action differs from that of the last pass."""
    for result in passes:
        action = result.action
        acted = f"{action.kind}: {action.reason}" if action.kind != "NOTHING" else ""
        if acted or shown.get(result.pipeline) != (result.verdict, result.wanted):
            pipeline = f"{tables.clock(result.at_ms)} {result.pipeline}"
            console.print(pipeline, tables.coloured(result.verdict), acted or result.reason, soft_wrap=True)
        shown[result.pipeline] = (result.verdict, result.wanted)


def _new_generations(names: Names, asked: Sequence[str] | None, rows: str) -> list[str]:
    """Return the queries that begin a new generation, after handling the rows in their tables as `rows` says."""
    if not asked:
        return []
    if names is None or len(names) != 1:
        raise HeadraceError("--new-generation needs exactly one pipeline.")
    deployment, pipeline = deployed(), startable_pipelines(names)[names[0]]
    queries = generations.named(pipeline, asked)
    generations.prepare(deployment.launcher(), deployment.bindings, pipeline, queries, rows)
    return queries


@stream.command("upgrade")
def stream_upgrade(
    pipeline: Annotated[str, typer.Argument(help="The pipeline to upgrade.")],
    release: Annotated[
        str,
        typer.Option(
            help="Folder with pipelines/ and spark_jobs/, on a cluster an image. Default: the deployment's own."
        ),
    ] = "",
    batches: Annotated[int, typer.Option(min=1, help="Number of batches of each query to watch.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time limit for these batches, in minutes.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Upgrade a pipeline: check the release, stop, take a snapshot, start and watch. Roll back if it fails.

    Exit code 1 if it was rolled back.
    """
    described = startable_pipelines([pipeline])[pipeline]
    deployment = deployed(starting=True)
    launcher = deployment.launcher()
    wanted = _release(deployment, release)
    running = desired_state.read(launcher.root, pipeline).release
    with progress_bars() as report:
        done = upgrade.run(
            launcher,
            described,
            by=who(),
            release=wanted,
            old=deployment.pipeline(pipeline, running) if running else described,
            batches=batches,
            seconds=minutes * 60,
            report=lambda text: report(text, None),
            lag=upgrade.behind(launcher.root, described, deployment.bindings),
        )
    if as_json:
        print_json(done)
    else:
        to, want = done.new or "the deployment's own release", desired_state.read(launcher.root, pipeline).want
        watched = f"{pipeline} runs {to}; watched for {done.seconds} s."
        console.print(watched if done.driver else f"{pipeline} will run {to} at its next start; it stays {want}.")


def _release(deployment: Deployment, release: str) -> str:
    """Return a release as launchers name it: the full path of a folder, or an image; "" is the deployment's own."""
    if not release or deployment.drivers.kind != "local":
        return release
    place = deployment.project.joinpath(release).resolve()
    if not place.is_dir():
        raise HeadraceError(f"{place} is not a folder. Name one with pipelines/ and spark_jobs/.")
    return str(place)
