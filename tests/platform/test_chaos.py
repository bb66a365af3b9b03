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
    rounds = [line for line in map(json.loads, done.stdout.splitlines()) if "round" in line]
    assert done.returncode == 0, done.stderr
    assert len(rounds) == ROUNDS
    assert all(outcome["records"] > 0 and not outcome["differences"] for outcome in rounds)
