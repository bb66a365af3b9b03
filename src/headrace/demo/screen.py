"""The demo: everything started, four drivers, a flow of events, and the state of each query and each sink, live."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from headrace.access.bindings import read_kafka
from headrace.contract.model import Pipeline
from headrace.demo.first_rows import first_rows
from headrace.errors import HeadraceError
from headrace.local import airflow_config, jars, kafka
from headrace.local.airflow_client import Airflow
from headrace.local.java import find_java
from headrace.local.settings import Settings
from headrace.operations import streams, tables
from headrace.operations.dimensions import load_users
from headrace.operations.drivers import control, interface
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.produce.accounts import user_directory
from headrace.operations.produce.mix import make_mix
from headrace.operations.produce.run import produce_generated
from headrace.operations.provision.run import provision
from headrace.operations.waiting import poll
from headrace.store import driver_files
from headrace.store.records import Row

REFRESH_SECONDS = 1.0
RESULTS_EVERY_SECONDS = 8.0
HEAD_START_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
START_SECONDS = 300.0
START_DAG = "stream_start"


def run(
    settings: Settings,
    launcher: LocalLauncher,
    pipelines: Mapping[str, Pipeline],
    seconds: float,
    rate: float,
    console: Console,
) -> None:
    """Provision, let Airflow start the drivers in turn, send events for `seconds`, and show the streams meanwhile.

    The platform must be up; it and the drivers are left running.
    """
    root = settings.bindings()
    step = partial(_step, console)
    step("creating topics, tables and logins")
    provision(list(pipelines.values()), root, settings.home / "bindings")
    mix = make_mix(duration=seconds, seed=int(time.time()), catch_up=min(20.0, seconds / 2)).at_rate(rate)
    load_users(root, pipelines["user_logins"].dimensions["users"], user_directory(mix))
    with ThreadPoolExecutor(max_workers=2) as background:
        feeding = background.submit(produce_generated, read_kafka(root), pipelines, mix, mix.total_rate)
        starting = background.submit(_start_in_turn, settings, launcher, list(pipelines), step)
        step(f"sending events for {seconds:.0f} s")
        _watch(settings, launcher, pipelines, console, (feeding, starting))
    for finished in (feeding, starting):
        finished.result()


def _step(console: Console, text: str) -> None:
    """Print a step if the output is not a terminal; on a terminal the screen shows it."""
    if not console.is_terminal:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _watch(
    settings: Settings,
    launcher: LocalLauncher,
    pipelines: Mapping[str, Pipeline],
    console: Console,
    running: Sequence[Future[Any]],
) -> None:
    """Show the streams until all of `running` have ended and each query has written a batch, then a final time."""
    root, began = settings.bindings(), time.monotonic()
    results: dict[str, list[Row]] = {}
    first_row_after: float | None = None
    next_results = 0.0
    with Live(console=console, refresh_per_second=2, screen=console.is_terminal) as live:
        last_moment = None
        while last_moment is None or (time.monotonic() < last_moment and not _all_wrote(launcher, pipelines)):
            if last_moment is None and all(future.done() for future in running):
                last_moment = time.monotonic() + PATIENCE_SECONDS
            if time.monotonic() >= next_results:
                results = first_rows(root, launcher.root, pipelines.values())
                next_results = time.monotonic() + RESULTS_EVERY_SECONDS
                if first_row_after is None and any(rows for sink, rows in results.items() if sink.startswith("table")):
                    first_row_after = time.monotonic() - began
            live.update(_screen(launcher, pipelines, results, first_row_after, console.width))
            time.sleep(REFRESH_SECONDS)
    results = first_rows(root, launcher.root, pipelines.values())
    console.print(_screen(launcher, pipelines, results, first_row_after, console.width))
    console.print(_where_to_look(settings, launcher))


def _all_wrote(launcher: LocalLauncher, pipelines: Mapping[str, Pipeline]) -> bool:
    """Return whether each query has a batch in its sinks, or no driver that could write one."""
    return all(
        row.batch is not None or row.driver not in {"RUNNING", "STARTING"}
        for row in streams.rows(launcher, pipelines.values())
    )


def _start_in_turn(settings: Settings, launcher: LocalLauncher, names: list[str], step: Callable[[str], None]) -> None:
    """Start each driver once the previous one has written: four JVMs starting at once on two cores are all slow."""
    with Airflow.login(settings) if settings.airflow else nullcontext() as airflow:
        if airflow:
            airflow.wait_for_dag(START_DAG, PATIENCE_SECONDS)
        for name in names:
            if launcher.find(name):
                continue
            step(f"starting driver {name}")
            if airflow:
                _start_by_airflow(airflow, name)
            else:
                try:
                    driver, _ = control.start(launcher, name, by="the demo")
                except control.PausedError:  # the table shows the reason
                    continue
                interface.await_first_heartbeat(launcher, driver, START_SECONDS)
            poll(partial(_wrote, launcher, name), HEAD_START_SECONDS, REFRESH_SECONDS)


def _start_by_airflow(airflow: Airflow, name: str) -> None:
    """Let Airflow submit a driver and wait until its queries run. Raises HeadraceError with the reason if they do not."""
    run_id, state = airflow.run(START_DAG, {"pipelines": [name], "reason": "the demo"}, START_SECONDS)
    if state != "success":
        states = ", ".join(f"{task} {what}" for task, what in airflow.task_states(START_DAG, run_id).items())
        raise HeadraceError(f"Airflow could not start {name} ({states}). See run {run_id} of {START_DAG}.")


def _wrote(launcher: LocalLauncher, name: str) -> bool:
    """Return whether a query of the pipeline has a batch in its sinks."""
    heartbeat = driver_files.heartbeat(launcher.root, name)
    return heartbeat is not None and any(state.batch is not None for state in heartbeat.queries)


def _screen(
    launcher: LocalLauncher,
    pipelines: Mapping[str, Pipeline],
    results: dict[str, list[Row]],
    first_row_after: float | None,
    width: int,
) -> Group:
    first = (
        "" if first_row_after is None else f"first row in Cassandra {first_row_after:.0f} s after the platform was up"
    )
    return Group(
        tables.queries(streams.rows(launcher, pipelines.values()), "Queries", width=width),
        tables.first_rows(results),
        Text(first),
    )


def _where_to_look(settings: Settings, launcher: LocalLauncher) -> Text:
    java = find_java(settings)
    consumer = kafka.console_consumer(settings, java, jars.ensure("kafka", settings, java), "pos_final_windows")
    admin = settings.bindings() / "cassandra"
    password = f"$(cat {airflow_config.password_file(settings)})"
    page = f"{airflow_config.url(settings)}/plugin/streams"
    airflow = f"  {page}    the streams in Airflow, as {airflow_config.USER}, password {password}"
    lines = (
        "The platform is still running. Where to look:",
        *([airflow] if settings.airflow else []),
        "  headrace stream status                 the current state of every query",
        "  headrace produce --duration 60         more events",
        f"  {launcher.root}/files/web_events/files/0001/      JSON files, one directory per batch",
        f"  cqlsh: user $(cat {admin}/username), password $(cat {admin}/password), {settings.host} {settings.cassandra_port}",
        "         SELECT * FROM pos_sales.product_totals LIMIT 10;",
        f"  {consumer}",
        "  headrace down                          stop everything; `headrace clean` removes all data",
    )
    return Text("\n".join(lines))
