"""What the command groups share: output, options, the pipelines of this project, and who is at the keyboard."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from headrace.contract.load import by_name, load_pipelines
from headrace.contract.model import Pipeline
from headrace.local import launcher as local
from headrace.local.settings import Settings
from headrace.operations.drivers_local import LocalLauncher

console = Console()
errors = Console(stderr=True)
NOT_RUNNING = 3

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all pipelines.")]
ProjectFolder = Path()


def pipelines_of(names: Sequence[str] | None = None) -> Mapping[str, Pipeline]:
    """Return the named pipelines of this project, or all. Raises HeadraceError for a name that there is not."""
    found = load_pipelines(ProjectFolder / "pipelines")
    return {name: by_name(found, name) for name in names} if names else found


def launcher(settings: Settings) -> LocalLauncher:
    """Return the launcher that finds and stops drivers; it needs neither Java nor jars."""
    return local.launcher(settings, ProjectFolder.resolve())


def who() -> str:
    """Return who gives this command, as the wish records it."""
    return f"{getpass.getuser()} (command line)"


def starting_launcher(settings: Settings) -> LocalLauncher:
    """Return the launcher that also starts drivers."""
    return local.starting_launcher(settings, ProjectFolder.resolve())


def print_json(value: object) -> None:
    """Print a value as indented JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Show stages as bars on stderr; a stage without a fraction spins."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as shown:
        tasks: dict[str, Any] = {}

        def report(stage: str, fraction: float | None) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=None)
            if fraction is not None:
                shown.update(tasks[stage], total=1.0, completed=fraction)

        yield report
