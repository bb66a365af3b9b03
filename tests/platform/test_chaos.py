"""A short form of `make chaos`: drawn faults on a running platform, every sink compared by a checker of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.platform, pytest.mark.long(group="chaos"), pytest.mark.timeout(2400)]

ROUNDS = 4


def test_drawn_faults_lose_double_and_change_nothing(project: Path, seed: int) -> None:
    command = [sys.executable, "-m", "chaos", "--rounds", str(ROUNDS), "--seed", str(seed), "--no-shrink"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    rounds = [told for told in map(json.loads, done.stdout.splitlines()) if "round" in told]
    assert done.returncode == 0, done.stderr
    assert len(rounds) == ROUNDS
    assert all(told["records"] > 0 and not told["differences"] for told in rounds)


def test_the_checker_sees_what_is_lost_doubled_and_changed() -> None:
    """A checker that cannot fail proves nothing: three planted faults in one comparison."""
    from chaos.check import Checker

    checker = Checker(Path(), Path())
    wanted = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('d', '4')) AS t(k, v)"
    present = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('b', '2'), ('c', '9'), ('e', '5')) AS t(k, v)"
    found = checker._compare("planted", wanted, present)
    assert (found.lost, found.doubled, found.wrong) == (1, 1, 2)
    assert "c: 9 instead of 3" in found.examples
    repeated = checker._compare("planted", wanted, present, repeats=True)
    assert (repeated.lost, repeated.doubled, repeated.wrong) == (1, 0, 2)
