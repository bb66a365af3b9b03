"""What the command groups share: output, options, the pipelines of this project, and who is at the keyboard."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from headrace.contract.files import pipeline_names
from headrace.contract.load import Folder, by_name, read_folder
from headrace.contract.model import Pipeline
from headrace.contract.rules_between import in_order
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.local import launcher as local
from headrace.local.settings import Settings
from headrace.operations.drivers_local import LocalLauncher


class LiteralConsole(Console):
    r"""A console that acts on nothing in a string: no markup, no emoji code, no escape sequence, no line end of its own.

    Colour comes from `Text` and `style` only; several lines are several strings (`sep="\n"`).
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - rich's own
        """Return a string as text, all that is not printable as escapes."""
        return super().render_str(printable(text), **options)


console = LiteralConsole()
errors = LiteralConsole(stderr=True)
NOT_RUNNING = 3

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Default: all pipelines.")]
ProjectFolder = Path()
left_out: set[str] = set()
"""Pipelines that this command left out: it did the others, and ends with exit code 1 where it would be 0."""


def pipelines_of(names: Sequence[str] | None = None) -> Mapping[str, Pipeline]:
    """Return the named pipelines of this project, or all whose files load; what is wrong with the others is printed.

    Raises HeadraceError for a name that there is not, and for a named pipeline whose file does not load.
    """
    found = folder()
    if names:
        return {name: found.pipeline(name) for name in names}
    _leave_out(found.broken)
    return found.pipelines


def startable_pipelines(names: Sequence[str] | None = None) -> Mapping[str, Pipeline]:
    """Return as `pipelines_of`, writers before their readers, without those that clash: they must not be started."""
    found = folder()
    if names:
        return in_order({name: found.startable(name) for name in names})
    _leave_out({**found.broken, **found.clashes})
    return in_order({name: pipeline for name, pipeline in found.pipelines.items() if name not in found.clashes})


def folder() -> Folder:
    """Return what the pipeline files of this project hold. Raises HeadraceError only where there is none at all."""
    return read_folder(ProjectFolder / "pipelines")


def known_names(own: LocalLauncher, names: Sequence[str] | None) -> list[str]:
    """Return the named pipelines, or all: those of a file, whether it loads or not, and those whose driver lives.

    For what must work whatever the files hold. Raises HeadraceError for a name that is neither.
    """
    known = dict.fromkeys([*pipeline_names(ProjectFolder / "pipelines"), *own.running()])
    return [by_name({each: each for each in known}, name) for name in names] if names else list(known)


def _leave_out(faults: Mapping[str, str]) -> None:
    for line in dict.fromkeys(line for text in faults.values() for line in text.splitlines()):
        errors.print(f"Left out: {line}", style="red", soft_wrap=True)
    left_out.update(faults)


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


def time_of(text: str | None) -> datetime | None:
    """Return an option's time, UTC where it names no zone. Raises HeadraceError for what is none."""
    if text is None:
        return None
    try:
        if not re.match(r"\d{4}-\d\d-\d\d", text):  # Python also reads 1761031200000, as a day in the year 1761
            raise ValueError(text)
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise HeadraceError(f"A time is 2026-11-23 or 2026-11-23T10:00 in UTC, not {text!r}.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def milliseconds_of(text: str | None) -> int | None:
    """Return an option's time in milliseconds since 1970. Raises HeadraceError for what is none."""
    found = time_of(text)
    return None if found is None else int(found.timestamp() * 1000)


def pairs_of(option: str, form: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Return what an option that is given several times says, such as --key COLUMN=VALUE; HeadraceError without `=`."""
    wrong = [text for text in texts or () if "=" not in text]
    if wrong:
        raise HeadraceError(f"{option} takes {form}, not {wrong[0]!r}.")
    return dict(text.split("=", 1) for text in texts or ())


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Show stages as bars on stderr; a stage without a fraction spins. Where stderr is no terminal, each is one line."""
    if not errors.is_terminal:
        said: set[str] = set()

        def say(stage: str, fraction: float | None) -> None:
            if stage not in said:
                said.add(stage)
                errors.print(printable(stage), markup=False, highlight=False, soft_wrap=True)

        yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as shown:
        tasks: dict[str, Any] = {}

        def report(stage: str, fraction: float | None) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(printable(stage), total=None)
            if fraction is not None:
                shown.update(tasks[stage], total=1.0, completed=fraction)

        yield report
