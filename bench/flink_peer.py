"""PyFlink as a peer: its virtual environment (its dependencies collide with ours), its configuration, its command."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from bench import java_peers
from headrace.access.bindings import KafkaBinding, write_private
from headrace.driver.session import kafka_options
from headrace.errors import HeadraceError
from headrace.local import jars
from headrace.local.java import child_environment, find_java
from headrace.local.settings import Settings

LOCK = java_peers.SOURCES / "flink.lock"
CHILD = java_peers.SOURCES / "flink.py"


def python(settings: Settings) -> Path:
    """Return the Python of PyFlink's environment, after making it from bench/peers/flink.lock if it is not there.

    Raises HeadraceError where the package index does not have it.
    """
    folder = settings.cache / "bench" / f"flink-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    interpreter, ready = folder / "bin" / "python", folder / ".ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with jars.locked(folder.with_suffix(".lock")):
        if not ready.exists():
            uv = str(Path(sys.executable).parent / "uv")
            for command in (
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
                [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(interpreter), str(LOCK)],
            ):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise HeadraceError(f"PyFlink cannot be installed: {done.stderr.strip()[-1_000:]}")
            ready.touch()
    return interpreter


def command(settings: Settings, binding: KafkaBinding, output: str, folder: Path) -> list[str]:
    """Write the configuration, which holds the login, for its owner alone, and return what starts the peer."""
    config = {
        "jar": str(java_peers.peer_jars(settings)["flink-sql-connector-kafka"]),
        "output": output,
        "folder": str(folder / "checkpoints"),
        "client": {name.removeprefix("kafka."): value for name, value in kafka_options(binding).items()},
    }
    write_private(folder / "flink.json", json.dumps(config))
    return [str(python(settings)), str(CHILD), str(folder / "flink.json")]


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the peer: PyFlink starts the Java of JAVA_HOME."""
    return child_environment(find_java(settings))
