"""A platform of its own for a bench, and the commands of a user on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.local.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
HEADRACE = PROJECT / ".venv" / "bin" / "headrace"
PORTS = {"kafka_port": 29092, "kafka_controller_port": 29093, "cassandra_port": 29042, "cassandra_storage_port": 27000,
         "cassandra_jmx_port": 27199}  # fmt: skip


@contextmanager
def platform(home: Path, **changes: str) -> Iterator[dict[str, str]]:
    """Start Kafka and Cassandra in an empty `home` and provision all pipelines; yields the environment of its commands.

    `changes` are other settings. Everything is stopped and removed at the end.
    """
    shutil.rmtree(home, ignore_errors=True)
    settings = {"home": home, "airflow": "false", **PORTS, **changes}
    environment = os.environ | {f"HEADRACE_{name.upper()}": str(value) for name, value in settings.items()}
    try:
        run(environment, "up")
        run(environment, "provision")
        yield environment
    finally:
        run(environment, "down")
        shutil.rmtree(home, ignore_errors=True)


def settings_of(home: Path) -> Settings:
    """Return the settings of a bench's platform."""
    return Settings.load(home=home, airflow=False, **PORTS)


def run(environment: dict[str, str], *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command and return what it prints; another exit code than `codes` ends the bench."""
    done = subprocess.run([HEADRACE, *words], env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        sys.exit(f"headrace {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def lags(environment: dict[str, str], *pipelines: str) -> list[int]:
    """Return the lag of each query that reports one, in offsets."""
    return _lags(json.loads(run(environment, "stream", "status", *pipelines, "--json", codes=(0, 3))))


def _lags(document: Any) -> list[int]:  # noqa: ANN401 - JSON
    if isinstance(document, dict):
        here = [document["lag"]] if isinstance(document.get("lag"), int) else []
        return here + [lag for value in document.values() for lag in _lags(value)]
    return [lag for value in document for lag in _lags(value)] if isinstance(document, list) else []
