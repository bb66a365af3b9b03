"""One driver a pipeline on this machine: exclusive locks that the driver itself holds for its life.

Two locks, because a driver is two processes: Python takes the first before anything else (a second driver leaves at
once); the JVM takes the second, since a JVM whose Python was killed may still be writing for a moment. The kernel drops
both with their processes, so nothing stale is ever left.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from pathlib import Path

from py4j.java_gateway import JavaObject
from pyspark.sql import SparkSession

from headrace.contract.exits import Exit
from headrace.contract.paths import jvm_lock
from headrace.errors import HeadraceError

log = logging.getLogger(__name__)


def hold(path: Path, pipeline: str) -> int:
    """Take the driver lock and write this process's id into it. Returns the descriptor, to be kept open for life.

    Raises HeadraceError(LOCKED) that names the holder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise HeadraceError(
            f"A driver of {pipeline} runs already (process {_holder(path)}): see `headrace stream status {pipeline}`; "
            f"to replace it, `headrace stream stop {pipeline}` first.",
            exit_code=Exit.LOCKED,
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
    return descriptor


def hold_in_jvm(spark: SparkSession, path: Path, pipeline: str, patience_seconds: float = 30) -> JavaObject:
    """Take the JVM's lock, waiting for a dying JVM of an earlier driver. Returns the Java lock, to be kept for life."""
    jvm = spark._jvm
    channel = jvm.java.io.RandomAccessFile(str(jvm_lock(path)), "rw").getChannel()
    deadline = time.monotonic() + patience_seconds
    waits = False
    while True:
        lock = channel.tryLock()
        if lock is not None:
            return lock
        if not waits:
            log.warning("%s waits for the JVM of an earlier driver to end", pipeline)
            waits = True
        if time.monotonic() > deadline:
            raise HeadraceError(
                f"The JVM of an earlier driver of {pipeline} still runs: end it with `headrace stream stop {pipeline}`.",
                exit_code=Exit.LOCKED,
            )
        time.sleep(0.2)


def _holder(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return "unknown"
