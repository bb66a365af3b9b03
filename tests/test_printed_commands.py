"""Each `headrace ...` that a message, a verdict, a runbook or a how-to prints is a command line that parses."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import click
import pytest
import typer

from headrace.cli.app import app

ROOT = Path(__file__).parents[1]
IN_QUOTES = re.compile(r"`(?:\.venv/bin/)?headrace ([^`]+)`")
ON_A_LINE = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?headrace ([a-z][^`#]+?)\s*(?:#.*|\s{2}.*)?$", re.MULTILINE)
AFTER_A_COLON = re.compile(r": headrace ([^`.;,()\n]+?)(?= once |[`.;,()\n]|$)")
PLACEHOLDER = "X"


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a Python file that a person may see: every string, a docstring too; values as placeholders."""
    tree = ast.parse(path.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else PLACEHOLDER for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def printed() -> dict[str, str]:
    """Return each command line that is printed anywhere, with one place where it is."""
    commands: dict[str, str] = {}
    for path in sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("dags/*.py"), *ROOT.glob("plugins/*.py")]):
        for text in texts_of(path):
            for line in [*IN_QUOTES.findall(text), *AFTER_A_COLON.findall(text), *ON_A_LINE.findall(text)]:
                commands.setdefault(" ".join(line.split()), str(path.relative_to(ROOT)))
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "pipelines" / "README.md"]
    for path in sorted(
        page for page in pages if page.name not in ("cli.md", "CHANGELOG.md") and "adr" not in page.parts
    ):
        text = path.read_text()
        for line in [*IN_QUOTES.findall(text), *ON_A_LINE.findall(text)]:
            commands.setdefault(" ".join(line.split()), str(path.relative_to(ROOT)))
    return commands


@cache
def program() -> typer.core.TyperGroup:
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    return command


def lines_of(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a line: `a b|c` is two, `a && headrace b` too, and X stands for what is left out."""
    for part in text.split("&&"):
        before_pipe = part.partition(" | ")[0].replace("...", "")  # what a pipe leads to is another program's
        words = [word.strip("[]") for word in shlex.split(before_pipe)]
        words = [word for word in words if word not in ("", "\\")]
        words = words[1:] if words[:1] == ["headrace"] else words
        if words != ["COMMAND", "--help"]:  # a manual's word for any of them
            yield from (list(choice) for choice in product(*(word.split("|") for word in words)))


def check(text: str) -> None:
    """Raise click's UsageError where a line names no command, an option that there is not, too many words or too few."""
    for words in lines_of(text):
        context = typer.Context(program())
        while isinstance(context.command, typer.core.TyperGroup) and words and not words[0].startswith("-"):
            known = context.command.commands
            if words[0] not in known:
                raise click.UsageError(f"no command {words[0]!r}, there are {', '.join(sorted(known))}")
            context, words = typer.Context(known[words[0]], parent=context), words[1:]
        values, left, _ = context.command.make_parser(context).parse_args(list(words))
        if left:
            raise click.UsageError(f"too many words: {' '.join(map(str, left))}")
        missing = [
            parameter.name
            for parameter in context.command.params
            if parameter.required and not values.get(parameter.name or "")
        ]
        if words and missing and "--help" not in words:  # without any word it only names the command
            raise click.UsageError(f"too few words: {', '.join(map(str, missing))}")


def test_each_printed_command_line_parses() -> None:
    wrong = []
    for line, place in printed().items():
        try:
            check(line)
        except Exception as error:
            wrong.append(f"{place} prints `headrace {line}`: {error}")
    assert wrong == []


def test_the_commands_of_messages_and_of_pages_are_found() -> None:
    commands = printed()
    assert any(place.startswith("src/") for place in commands.values())
    assert any(place.startswith("docs/runbooks/") for place in commands.values())
    assert len(commands) > 50


@pytest.mark.parametrize(
    "line",
    [
        "reconcile",
        "batch reconcil",
        "stream start --now",
        "status X",
        "provision --consent",
        "--no-such",
        "up && headrace x",
    ],
)
def test_a_command_line_that_does_not_parse_is_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"no command|[Nn]o such option|too many words|requires an argument"):
        check(line)
