"""A driver that kills itself with SIGKILL, including its JVM, at a point chosen by a test: `LocalLauncher.main` of a test.

Production code has no hooks for this. The entry point wraps functions of the runtime, watches files of the checkpoint,
and strikes when the planned point is reached. The plan is a JSON file (HEADRACE_CRASH_PLAN) that may be written while
the driver runs: {"point", "query" ("" = any), "skip" (how many times to ignore it), "delay_ms"}. It is renamed to *.fired
right before the strike, so that it strikes once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

from headrace.driver import consumer_groups, iceberg_maintenance, queries, sinks, writer
from headrace.store import ledger, paths, small_files

PLAN = Path(os.environ.get("HEADRACE_CRASH_PLAN", "no plan"))
ARCHIVE_TRIGGER = timedelta(seconds=1)  # instead of ten, so that the archive is killed as often as the other queries
MAINTENANCE_BATCHES = 1  # instead of a thousand, so that the archive's maintenance is hit in an object store too
WATCH_SECONDS = 0.002

# In the order in which a batch reaches them.
BEFORE_BATCH = "offsets written, batch not begun"
STATE_COMMIT = "in the state commit"
MID_SINK = "in the middle of the sink write"
MID_FILES = "files written aside, not renamed"
MID_ARCHIVE = "dead letters written, archive not"
AFTER_SINK = "sinks written, ledger not"
AFTER_LEDGER = "ledger written, group not"
AFTER_GROUP = "group committed, Spark's commit not"
AFTER_COMMIT = "Spark's commit written"
POINTS = (
    BEFORE_BATCH,
    STATE_COMMIT,
    MID_SINK,
    MID_FILES,
    MID_ARCHIVE,
    AFTER_SINK,
    AFTER_LEDGER,
    AFTER_GROUP,
    AFTER_COMMIT,
)

# Points that are visible as new files of a query's generation.
IN_PLACE = ("batch_id=*/part-*",)  # MID_FILES without rename: the files exist, their marker does not
FILES = {
    STATE_COMMIT: ("checkpoint/state/0/*/.*.delta.*", "checkpoint/state/0/*/*.delta"),
    AFTER_COMMIT: ("checkpoint/commits/[0-9]*",),
    MID_FILES: (".aside-*/_SUCCESS",),
}

_lock = threading.Lock()
_now = threading.local()  # .query: the query whose batch this thread writes


def plan() -> dict[str, Any] | None:
    """Return the plan, or None if there is none (any more)."""
    try:
        content: dict[str, Any] = json.loads(PLAN.read_text())
    except (OSError, ValueError):
        return None
    return content


def meets(point: str, query: str) -> bool:
    """Return whether the plan asks to strike here and now; decrements `skip`."""
    with _lock:
        wanted = plan()
        if not wanted or wanted["point"] != point or wanted["query"] not in ("", query):
            return False
        if wanted["skip"] > 0:
            aside = PLAN.with_suffix(".new")
            aside.write_text(json.dumps(wanted | {"skip": wanted["skip"] - 1}))
            aside.rename(PLAN)
            return False
        return True


def strike(point: str, query: str) -> None:
    """Kill this driver's process group if the plan asks for it."""
    if meets(point, query):
        kill()


def kill() -> None:
    """End Python and JVM at once, without handlers or flush."""
    try:
        PLAN.rename(PLAN.with_suffix(".fired"))
    except FileNotFoundError:
        return
    os.killpg(os.getpgrp(), signal.SIGKILL)
    time.sleep(60)


def before(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function: the point is right before it."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        strike(point, getattr(_now, "query", ""))
        return function(*args, **kwargs)

    return wrapped


def after(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function: the point is right after it."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        strike(point, getattr(_now, "query", ""))
        return result

    return wrapped


def during(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function: the point is `delay_ms` after it begins, wherever it is then; at the latest when it ends."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not meets(point, getattr(_now, "query", "")):
            return function(*args, **kwargs)
        timer = threading.Timer((plan() or {"delay_ms": 0})["delay_ms"] / 1000, kill)
        timer.start()
        function(*args, **kwargs)
        kill()
        return None

    return wrapped


def install() -> None:
    """Wrap the runtime."""
    vars(queries)["ARCHIVE_TRIGGER"] = ARCHIVE_TRIGGER  # the module imports it
    iceberg_maintenance.MAINTENANCE_BATCHES = MAINTENANCE_BATCHES
    call = writer.Writer.__call__

    def batch(self: writer.Writer, frame: Any, number: int) -> None:
        _now.query = self.generation.query
        strike(BEFORE_BATCH, self.generation.query)
        call(self, frame, number)

    writer.Writer.__call__ = batch  # type: ignore[method-assign]
    ledger.write = after(AFTER_LEDGER, before(AFTER_SINK, ledger.write))
    consumer_groups.GroupCommitter.commit = after(AFTER_GROUP, consumer_groups.GroupCommitter.commit)  # type: ignore[method-assign]
    sinks.append_archive = before(MID_ARCHIVE, sinks.append_archive)
    for name in ("write_cassandra", "write_kafka", "write_files", "write_dead_letters", "append_archive"):
        setattr(sinks, name, during(MID_SINK, getattr(sinks, name)))
    threading.Thread(target=watch, daemon=True).start()


def watch() -> None:
    """Strike when a file appears that only the JVM writes."""
    while True:
        wanted = plan()
        if wanted is None or wanted["point"] not in FILES:
            time.sleep(0.05)
            continue
        known = files_of(wanted)
        while plan() == wanted:
            if files_of(wanted) - known:
                strike(wanted["point"], wanted["query"])
            time.sleep(WATCH_SECONDS)


def files_of(wanted: dict[str, Any]) -> set[str]:
    """Return the files that show that the plan's point is reached."""
    root, pipeline = os.environ["HEADRACE_STORAGE_ROOT"], sys.argv[1]
    in_files = wanted["point"] == MID_FILES
    folder = paths.query_files if in_files else paths.query_folder
    patterns = IN_PLACE if in_files and not small_files.renames(root) else FILES[wanted["point"]]
    fs, base = small_files.locate(folder(root, pipeline, wanted["query"]))
    return {path for pattern in patterns for path in fs.glob(f"{base}/[0-9]*/{pattern}")}


def main() -> int:
    """Run the tree's entry point with the wrapped functions."""
    install()
    return run_tree()


def run_tree() -> int:
    """Run the tree's entry point."""
    path = Path(os.environ["HEADRACE_PIPELINES"]).parent / "spark_jobs" / "main.py"
    spec = importlib.util.spec_from_file_location("driver_main", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.main(*sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
