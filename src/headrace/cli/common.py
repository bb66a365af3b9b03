"""Shared by the command groups: output, options, the pipelines of this project, and the current user."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from headrace.contract.files import pipeline_names
from headrace.contract.load import Folder, by_name, read_folder
from headrace.contract.model import Pipeline
from headrace.contract.rules_between import in_order
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.local import launcher as local
from headrace.local.settings import Settings
from headrace.operations import tables
from headrace.operations.deployment import VARIABLE, Deployment, load
from headrace.operations.drivers.interface import Launcher
from headrace.store.records import plain


class LiteralConsole(Console):
    r"""A console that interprets nothing in a string: no markup, no emoji code, no escape sequence, no line break.

    Colour comes only from `Text` and `style`; pass several lines as several strings (`sep="\n"`).
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - rich's own
        """Return a string as text, with unprintable characters escaped."""
        return super().render_str(printable(text), **options)


console = LiteralConsole()
errors = LiteralConsole(stderr=True)
NOT_RUNNING = 3

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all pipelines.")]
left_out: set[str] = set()
"""Pipelines that this command skipped. It processes the others and exits with code 1 instead of 0."""


def pipelines_of(names: Sequence[str] | None = None) -> Mapping[str, Pipeline]:
    """Return the named pipelines of this project, or all whose files load; the faults of the others are printed.

    Raises HeadraceError for an unknown name, or for a named pipeline whose file does not load.
    """
    content = folder()
    if names:
        return {name: content.pipeline(name) for name in names}
    _leave_out(content.broken)
    return content.pipelines


def startable_pipelines(names: Sequence[str] | None = None) -> Mapping[str, Pipeline]:
    """Return the pipelines as `pipelines_of` does, writers before readers, except clashing ones, which must not start."""
    content = folder()
    if names:
        return in_order({name: content.startable(name) for name in names})
    _leave_out({**content.broken, **content.clashes})
    return in_order({name: pipeline for name, pipeline in content.pipelines.items() if name not in content.clashes})


def folder() -> Folder:
    """Return the content of this project's pipelines folder. Raises HeadraceError only if it has no pipeline file."""
    return read_folder(project() / "pipelines")


def known_names(launcher: Launcher, names: Sequence[str] | None) -> list[str]:
    """Return the given names, or all: those with a pipeline file, even a broken one, and those whose driver runs.

    For commands that must work whatever the files contain. Raises HeadraceError for a name that is neither.
    """
    known = dict.fromkeys([*pipeline_names(project() / "pipelines"), *launcher.running()])
    return [by_name({known_name: known_name for known_name in known}, name) for name in names] if names else list(known)


def _leave_out(faults: Mapping[str, str]) -> None:
    for line in dict.fromkeys(line for text in faults.values() for line in text.splitlines()):
        errors.print(f"Skipped: {line}", style="red", soft_wrap=True)
    left_out.update(faults)


def deployed(*, starting: bool = False) -> Deployment:
    """Return the deployment that this command works on.

    HEADRACE_DEPLOYMENT names its file in a pod of the cluster and in a task of Airflow. Without it the deployment is the
    project in the working folder on this machine; with `starting` its launcher can also start drivers, and HeadraceError is
    raised if Java or jars are missing.
    """
    if os.environ.get(VARIABLE):
        if starting:
            _airflow_logs_to_stderr()
        return load()
    return local.deployment(Settings.load(), Path().resolve(), starting=starting)


def _airflow_logs_to_stderr() -> None:
    """Airflow's hook, which starts pods, logs to standard output. That is for what the command prints."""
    import airflow.providers.apache.spark.hooks.spark_submit  # noqa: F401 - its import configures structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))


def provisioned(*, starting: bool = False) -> Deployment:
    """Return the deployment as `deployed` does. Raises HeadraceError if its servers have never been started here."""
    deployment = deployed(starting=starting)
    if not (deployment.bindings / "kafka").exists():
        raise HeadraceError(f"No platform was started here: {deployment.bindings} is missing. Run `headrace up` first.")
    return deployment


def on_a_cluster() -> bool:
    """Return whether the deployment of this command is a cluster."""
    return bool(os.environ.get(VARIABLE)) and load().drivers.kind != "local"


def this_machine(command: str, instead: str) -> Settings:
    """Return the settings of this machine. Raises HeadraceError where the deployment is a cluster; `instead` says what to do."""
    if on_a_cluster():
        raise HeadraceError(
            f"The command {command} manages the servers of one machine, and this is a cluster. {instead}"
        )
    return Settings.load()


def project() -> Path:
    """Return the folder with pipelines/ and spark_jobs/ of the deployment."""
    return load().project if os.environ.get(VARIABLE) else Path()


def who() -> str:
    """Return the user who runs this command, as recorded with the desired state. A pod's user may have no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user} (command line)"


def print_json(value: object) -> None:
    """Print a value, with the dataclasses in it, as indented JSON on stdout."""
    sys.stdout.write(json.dumps(plain(value), indent=1, default=str) + "\n")


def print_result(
    value: object, heads: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool, title: str = ""
) -> None:
    """Print what a command found: `value` as JSON, or its rows as a table with these heads."""
    if as_json:
        print_json(value)
    else:
        console.print(tables.plain(heads, rows, title))


def time_of(text: str | None) -> datetime | None:
    """Return an option's time, in UTC unless it has a zone. Raises HeadraceError if it is not a time."""
    if text is None:
        return None
    try:
        if not re.match(r"\d{4}-\d\d-\d\d", text):  # Python would read 1761031200000 as a day in the year 1761
            raise ValueError(text)
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise HeadraceError(f"{text!r} is not a time. Write 2026-11-23 or 2026-11-23T10:00 (UTC).") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def milliseconds_of(text: str | None) -> int | None:
    """Return an option's time in milliseconds since 1970. Raises HeadraceError if it is not a time."""
    moment = time_of(text)
    return None if moment is None else int(moment.timestamp() * 1000)


def pairs_of(option: str, form: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Return the pairs of a repeatable option such as --key COLUMN=VALUE. Raises HeadraceError for a value without `=`."""
    wrong = [text for text in texts or () if "=" not in text]
    if wrong:
        raise HeadraceError(f"{option} takes {form}, not {wrong[0]!r}.")
    return dict(text.split("=", 1) for text in texts or ())


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Show stages as bars on stderr; a stage without a fraction spins. If stderr is not a terminal, print one line each."""
    if not errors.is_terminal:
        printed: set[str] = set()

        def print_once(stage: str, fraction: float | None) -> None:
            if stage not in printed:
                printed.add(stage)
                errors.print(printable(stage), markup=False, highlight=False, soft_wrap=True)

        yield print_once
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, fraction: float | None) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(printable(stage), total=None)
            if fraction is not None:
                shown.update(tasks[stage], total=1.0, completed=fraction)

        yield report
