"""The checker of `make chaos` can fail: it names planted differences, and imports nothing of the product."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import typer

from chaos import check
from chaos.check import Checker
from chaos.faults import FAULTS
from headrace.cli.app import app


def test_the_checker_sees_what_is_lost_doubled_and_changed() -> None:
    """A checker that cannot fail proves nothing: three planted faults in one comparison."""
    checker = Checker(Path(), Path(), [])
    wanted = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('d', '4')) AS t(k, v)"
    present = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('b', '2'), ('c', '9'), ('e', '5')) AS t(k, v)"
    comparison = checker._compare("planted", wanted, present)
    assert (comparison.lost, comparison.doubled, comparison.wrong) == (1, 1, 2)
    assert "c: 9 instead of 3" in comparison.examples
    repeated = checker._compare("planted", wanted, present, repeats=True)
    assert (repeated.lost, repeated.doubled, repeated.wrong) == (1, 0, 2)


def test_the_checker_and_its_load_import_nothing_of_the_product(project: Path) -> None:
    for path in (project / "chaos").glob("*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import headrace", "from headrace"))], path


def test_every_command_that_chaos_runs_exists() -> None:
    lines: list[tuple[str, ...]] = []
    ground: Any = SimpleNamespace(pipelines=["x"], headrace=lambda *words: lines.append(words))
    for act in FAULTS.values():
        if act.__qualname__.startswith("_command."):
            act(ground, random.Random(0))
    assert ("checkpoint", "compact", "x") in lines
    root = typer.main.get_command(app)
    for line in lines:
        command, context = root, click.Context(root)
        words = list(line)
        while isinstance(command, click.Group):
            name = words.pop(0)
            known = command.get_command(context, name)
            assert known is not None, f"headrace {' '.join(line)}: there is no {name}"
            command = known


def test_how_far_a_query_is_comes_from_the_newest_piece_of_its_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "p" / "q" / "0001" / "ledger"
    folder.mkdir(parents=True)
    records = [{"batch": batch, "offsets": {"t": {"0": [batch, batch + 1]}}} for batch in range(4)]
    gathered = "\n".join(json.dumps(record) for record in records[:3])
    (folder / "0000000000-0000000002.ndjson").write_text(gathered)
    assert check.reached(tmp_path, "p", "q", "t") == {0: 3}
    (folder / "0000000003.json").write_text(json.dumps(records[3]))
    assert check.reached(tmp_path, "p", "q", "t") == {0: 4}
    assert check.reached(tmp_path, "p", "other", "t") == {}
    assert check.ledger(tmp_path, "p", "q") == records
