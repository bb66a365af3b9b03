"""One driver per pipeline on this machine: exclusive locks that the driver holds while it runs.

There are two locks because a driver is two processes. Python takes the first before anything else, so a second driver
exits at once. The JVM takes the second, because a JVM whose Python was killed may keep writing for a moment. The kernel
releases both with their processes, so no stale lock remains.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path

from py4j.java_gateway import JavaObject
from pyspark.sql import SparkSession
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.store.paths import jvm_lock

log = logging.getLogger(__name__)


def hold(path: Path, pipeline: str) -> int:
    """Take the driver lock and write this process's id into it. Returns the descriptor; keep it open until exit.

    Raises HeadraceError(LOCKED), which names the holder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise HeadraceError(
            f"A driver of {pipeline} already runs (process {_holder(path)}). See `headrace stream status {pipeline}`. "
            f"To replace it, first run `headrace stream stop {pipeline}`.",
            exit_code=Exit.LOCKED,
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
    return descriptor


def hold_in_jvm(spark: SparkSession, path: Path, pipeline: str, patience_seconds: float = 30) -> JavaObject:
    """Take the JVM's lock, waiting for a previous driver's JVM to exit. Returns the Java lock; keep it until exit."""
    jvm = spark._jvm
    channel = jvm.java.io.RandomAccessFile(str(jvm_lock(path)), "rw").getChannel()
    lock = channel.tryLock()
    if lock is None:
        log.warning("%s waits for the JVM of a previous driver to exit", pipeline)
        taken = retry_if_result(lambda lock: lock is None)
        tries = Retrying(retry=taken, stop=stop_after_delay(patience_seconds), wait=wait_fixed(0.2))
        try:
            lock = tries(channel.tryLock)
        except RetryError:
            raise HeadraceError(
                f"The JVM of a previous driver of {pipeline} still runs. Stop it with `headrace stream stop {pipeline}`.",
                exit_code=Exit.LOCKED,
            ) from None
    return lock


def _holder(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return "unknown"
