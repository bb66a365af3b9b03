"""The checker of `make chaos` can fail: it names planted differences, and imports nothing of the product."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import typer

from chaos import read
from chaos.check import Checker
from chaos.faults import FAULTS
from headrace.cli.app import app


def test_the_checker_sees_what_is_lost_doubled_and_changed() -> None:
    """A checker that cannot fail proves nothing: three planted faults in one comparison."""
    checker = Checker(Path(), Path(), [])
    wanted = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('d', '4')) AS t(k, v)"
    present = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('b', '2'), ('c', '9'), ('e', '5')) AS t(k, v)"
    comparison = checker.compare("planted", wanted, present)
    assert (comparison.lost, comparison.doubled, comparison.wrong) == (1, 1, 2)
    assert "c: 9 instead of 3" in comparison.examples
    repeated = checker.compare("planted", wanted, present, repeats=True)
    assert (repeated.lost, repeated.doubled, repeated.wrong) == (1, 0, 2)


def test_rows_of_an_older_generation_are_due_until_the_new_one_writes_their_key() -> None:
    checker = Checker(Path(), Path(), [])
    old, new = "SELECT * FROM (VALUES ('a', 1), ('b', 2)) AS t(k, v)", "SELECT 'b' AS k, 7 AS v"

    def bad(sink: str, wanted: str, present: str) -> tuple[int, int, int]:
        found = checker.compare(sink, wanted, present, stays="" if "files" in sink else "value")
        return found.lost, found.doubled, found.wrong

    for sink in ("pos totals", "pos files", "web totals"):
        assert bad(sink, old, old) == (0, 0, 0)
    checker.begin_again("pos")
    assert bad("pos totals", new, "SELECT * FROM (VALUES ('a', '1'), ('b', '7')) AS t(k, v)") == (0, 0, 0)
    assert bad("pos totals", new, new) == (1, 0, 0), "the row that stays is lost"
    assert bad("pos totals", new, old) == (0, 0, 1), "the row that was written again has its old value"
    assert bad("pos files", new, new) == (0, 0, 0), "a new directory begins empty"
    assert bad("web totals", old, new) == (1, 0, 1), "another pipeline began nothing"


def test_the_lines_of_a_restored_file_sink_are_those_up_to_each_cut_and_then_the_new_ones(tmp_path: Path) -> None:
    def directory(generation: str, name: str) -> None:
        folder = tmp_path / "files" / "p" / "q" / generation / name
        folder.mkdir(parents=True)
        (folder / "part-0").write_text(f"{generation} {name}\n")

    for number, lineage in (("0001", []), ("0002", [[1, 4]])):
        folder = tmp_path / "checkpoints" / "p" / "q" / number
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"lineage": lineage}))
    (tmp_path / "checkpoints" / "p" / "q" / "0003").mkdir()  # a restore that was not finished
    for name in ("batch_id=0-2", "batch_id=1", "batch_id=3", "batch_id=4", "batch_id=5"):
        directory("0001", name)
    directory("0002", "batch_id=5")
    assert sorted(read.lines(tmp_path, "p", "q")) == [
        "0001 batch_id=0-2",
        "0001 batch_id=3",
        "0001 batch_id=4",
        "0002 batch_id=5",
    ]


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
    (folder.parent / "manifest.json").write_text("{}")
    records = [{"batch": batch, "offsets": {"t": {"0": [batch, batch + 1]}}} for batch in range(4)]
    gathered = "\n".join(json.dumps(record) for record in records[:3])
    (folder / "0000000000-0000000002.ndjson").write_text(gathered)
    assert read.reached(tmp_path, "p", "q", "t") == {0: 3}
    (folder / "0000000003.json").write_text(json.dumps(records[3]))
    assert read.reached(tmp_path, "p", "q", "t") == {0: 4}
    assert read.reached(tmp_path, "p", "other", "t") == {}
    assert read.ledger(tmp_path, "p", "q") == records
