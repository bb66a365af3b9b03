"""A short form of `make chaos`: faults on a running platform, every sink compared by a checker of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.platform, pytest.mark.long(group="chaos"), pytest.mark.timeout(2400)]

STORIES = ("topic made again", "restore,Cassandra slow", "disk full", "clock stepped")
"""Faults that a drawn round seldom has; a platform of two pipelines runs them one after the other."""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--rounds", "2"), id="drawn"),
        pytest.param(
            ("--rounds", str(len(STORIES)), "--pipelines", "web_events,user_logins", "--faults", ";".join(STORIES)),
            id="stories",
        ),
    ],
)
def test_faults_lose_double_and_change_nothing(project: Path, seed: int, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "chaos", "--seed", str(seed), "--no-shrink", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    rounds = [line for line in map(json.loads, done.stdout.splitlines()) if "round" in line]
    assert done.returncode == 0, done.stderr
    assert len(rounds) == int(options[1])
    assert all(outcome["records"] > 0 and not outcome["differences"] for outcome in rounds)
