"""The checker of `make chaos` can fail: it names planted differences, and imports nothing of the product."""

from __future__ import annotations

from pathlib import Path

from chaos.check import Checker


def test_the_checker_sees_what_is_lost_doubled_and_changed() -> None:
    """A checker that cannot fail proves nothing: three planted faults in one comparison."""
    checker = Checker(Path(), Path(), [])
    wanted = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('d', '4')) AS t(k, v)"
    present = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('b', '2'), ('c', '9'), ('e', '5')) AS t(k, v)"
    found = checker._compare("planted", wanted, present)
    assert (found.lost, found.doubled, found.wrong) == (1, 1, 2)
    assert "c: 9 instead of 3" in found.examples
    repeated = checker._compare("planted", wanted, present, repeats=True)
    assert (repeated.lost, repeated.doubled, repeated.wrong) == (1, 0, 2)


def test_the_checker_and_its_load_import_nothing_of_the_product(project: Path) -> None:
    for path in (project / "chaos").glob("*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import headrace", "from headrace"))], path
