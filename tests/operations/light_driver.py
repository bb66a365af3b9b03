"""A driver without Spark for races and crash loops: `light_driver.py PIPELINE LOCK`, with the environment of a driver.

It takes the driver's lock as `driver.lock.hold` does (that module would import Spark for each of hundreds), beats
until it is told to stop, and leaves its word. HEADRACE_LIGHT_END names the exit that it ends with at once instead.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

LIFE = os.environ.get("HEADRACE_LIFE", "")


def write(name: str, value: Any) -> None:
    folder = Path(os.environ["HEADRACE_STORAGE_ROOT"]) / "checkpoints" / sys.argv[1]
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{name}.{os.getpid()}"
    aside.write_text(json.dumps(value | {"at_ms": time.time_ns() // 1_000_000, "request": "", "life": LIFE}))
    aside.rename(folder / name)


def main() -> int:
    """Live as a driver does."""
    descriptor = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 24
    with (Path(sys.argv[2]).parent / "starts").open("a") as starts:
        starts.write("x")
    end = os.environ.get("HEADRACE_LIGHT_END", "")
    if end:
        write("outcome.json", {"exit": end, "error": "as the test wants it"})
        return 20
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(0.2):
        write("heartbeat.json", {"exit": None, "queries": []})
    write("outcome.json", {"exit": "FINISHED", "error": ""})
    return 0


if __name__ == "__main__":
    sys.exit(main())
