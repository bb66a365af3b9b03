"""Each row of the table is a situation, the command line that is printed there, and what holds once it was run as printed.

Here are the situations that need no server. `tests/test_printed_commands.py` parses all printed command lines;
`tests/platform` and `make chaos` run those that need servers.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli import app, checkpoint, common
from headrace.errors import HeadraceError
from headrace.operations.drivers import desired_state
from headrace.store import generation, integrity, paths, small_files
from headrace.store.checkpoint_log import commits_entry
from tests.support.checkpoints import begin, put, run

RESTORE = "checkpoint restore pos_sales.tumbling"
SNAPSHOT = "checkpoint snapshot pos_sales.tumbling"
OLD = "checkpoint prune --generation-days 0"


@pytest.fixture
def root(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(project)
    # Without bindings a restore does not ask Kafka, which does not run here.
    monkeypatch.setattr(
        checkpoint, "deployed", lambda **asked: common.deployed(**asked).model_copy(update={"bindings": None})
    )
    storage = str(tmp_path / "home" / "storage")
    run(storage, begin(storage), range(3))
    return storage


def typed(line: str) -> tuple[int, str]:
    """Run `headrace LINE`; return its exit code and what it prints."""
    done = CliRunner().invoke(app.app, shlex.split(line))
    if done.exception and not isinstance(done.exception, (SystemExit, HeadraceError)):
        raise done.exception
    refusal = str(done.exception) if isinstance(done.exception, HeadraceError) else ""
    return done.exit_code, done.output + refusal


def _number(root: str) -> int:
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    return now.number


def _start_check(root: str) -> str:
    """Return what the check of a driver's start says about the query; "" if the driver may continue."""
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    try:
        integrity.require_sound(root, now, stateful=True, files=False)
    except HeadraceError as refusal:
        return str(refusal)
    return ""


def _wanted(root: str) -> None:
    typed(SNAPSHOT)
    desired_state.write(root, "pos_sales", "RUNNING", "ann", "")


def _damaged(root: str) -> None:
    typed(SNAPSHOT)
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    put(commits_entry(now.paths(root).checkpoint, 2), "")


@dataclass(frozen=True)
class Situation:
    """`arrange` makes it, `line` meets it, `remedy` is what is printed then, `holds` is true after `remedy` was run."""

    line: str
    remedy: str
    holds: Callable[[str], bool]
    arrange: Callable[[str], object] = lambda _root: None


SITUATIONS = {
    "a query without a snapshot is restored": Situation(
        RESTORE, SNAPSHOT, lambda _: "To carry it out: headrace" in typed(RESTORE)[1]
    ),
    "a query without a snapshot is drilled": Situation(
        "checkpoint drill pos_sales.tumbling", SNAPSHOT, lambda _: "To carry it out: headrace" in typed(RESTORE)[1]
    ),
    "a pipeline that is wanted running is restored": Situation(
        RESTORE,
        "stream stop pos_sales",
        lambda _: "To carry it out: headrace" in typed(RESTORE)[1],
        _wanted,
    ),
    "a snapshot that does not exist is restored": Situation(
        f"{RESTORE} --from x",
        "checkpoint inspect pos_sales.tumbling",
        lambda root: (
            small_files.list_names(f"{root}/snapshots/pos_sales/tumbling")[0]
            in typed("checkpoint inspect pos_sales.tumbling")[1]
        ),
        lambda _: typed(SNAPSHOT),
    ),
    "a snapshot is taken of a query that never ran": Situation(
        "checkpoint snapshot pos_sales.items", "checkpoint inspect", lambda _: typed("checkpoint inspect")[0] == 0
    ),
    "a checkpoint is damaged": Situation("", RESTORE, lambda root: bool(_start_check(root)), _damaged),
}

PLANS: dict[str, tuple[str, Callable[[str], bool], Callable[[str], object]]] = {
    "restore": (RESTORE, lambda root: _number(root) == 2 and not _start_check(root), _damaged),
    "reset": (
        f"{RESTORE} --reset --at 2026-01-01T00:00:00 --reason 'a bad release'",
        lambda root: _number(root) == 2,
        lambda _root: None,
    ),
    "prune": (
        OLD,
        lambda root: not Path(paths.generation_paths(root, "pos_sales", "tumbling", 1).folder).exists(),
        begin,
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_refusal_prints_a_command_that_works_there(root: str, name: str) -> None:
    situation = SITUATIONS[name]
    situation.arrange(root)
    text = typed(situation.line)[1] if situation.line else _start_check(root)
    assert f"headrace {situation.remedy}" in text
    code, output = typed(situation.remedy)
    assert code == 0, output
    assert situation.holds(root)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_ends_with_a_command_that_carries_it_out(root: str, name: str) -> None:
    line, holds, arrange = PLANS[name]
    arrange(root)
    assert not holds(root)
    code, output = typed(line)
    assert code == 0, output
    printed = output.splitlines()[-1].partition("To carry it out: headrace ")[2]
    code, output = typed(printed)
    assert code == 0, output
    assert holds(root)
