"""Drivers on one machine: submit, find, stop, logs. The Kubernetes launcher has the same four functions.

A driver is a process group of its own that outlives whoever started it. Its fence is the lock that it holds itself
(`streaming.lock`): whatever this module believes, a second driver leaves before it writes anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from headrace.contract import paths, storage
from headrace.errors import HeadraceError
from headrace.operations import processes


@dataclass(frozen=True)
class LocalLauncher:
    """Where local drivers live and what they get. `bindings` has one binding root a pipeline."""

    project: Path
    root: str
    run_dir: Path
    log_dir: Path
    tmp_dir: Path
    bindings: Path
    environment: Mapping[str, str]
    conf: Mapping[str, str] = field(default_factory=dict)
    main: Path | None = None
    grace_seconds: float = 30
    ui_port: int = 4040  # first port tried for a driver's Spark UI
    keep: bool = True  # restart the driver after a transient end (`keeper`); off where a supervisor does that

    def name(self, pipeline: str) -> str:
        """Return the name of a driver's record and log."""
        return f"driver-{pipeline}"

    def lock_file(self, pipeline: str) -> Path:
        """Return the lock that the driver holds for its life; as an argument it also marks the driver's process."""
        return self.run_dir / f"{self.name(pipeline)}.lock"

    def log_file(self, pipeline: str) -> Path:
        """Return the driver's log."""
        return self.log_dir / f"{self.name(pipeline)}.log"


def submit(launcher: LocalLauncher, pipeline: str, new_generations: Sequence[str] = ()) -> tuple[int, bool]:
    """Return (process id, whether it was started now). A driver that lives is adopted, never doubled."""
    with _submitting(launcher, pipeline):
        living = find(launcher, pipeline)
        if living:
            return living.pid, False
        _sweep(launcher, pipeline)
        main = launcher.main or launcher.project / "spark_jobs" / "main.py"
        keeper = ["-m", "headrace.operations.keeper"] if launcher.keep else []
        record = processes.spawn(
            launcher.name(pipeline),
            launcher.run_dir,
            [sys.executable, *keeper, str(main), pipeline, _mark(launcher, pipeline)],
            _mark(launcher, pipeline),
            _environment(launcher, pipeline, new_generations),
            launcher.log_file(pipeline),
        )
        return record.pid, True


def find(launcher: LocalLauncher, pipeline: str) -> psutil.Process | None:
    """Return the pipeline's living driver, or None."""
    return processes.find(launcher.name(pipeline), launcher.run_dir, _mark(launcher, pipeline))


def stop(launcher: LocalLauncher, pipeline: str) -> bool | None:
    """Stop the driver: SIGTERM, the grace time and a little more, then SIGKILL to the whole group, JVM and workers too.

    Returns None if none ran, else whether SIGTERM was enough.
    """
    process = find(launcher, pipeline)
    if process is None:
        return None
    group = os.getpgid(process.pid)
    gentle = processes.stop(process, launcher.grace_seconds + 15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return gentle


def heartbeat(launcher: LocalLauncher, pipeline: str) -> dict[str, Any] | None:
    """Return the newest heartbeat of the pipeline's driver, or None if there never was one."""
    beat: dict[str, Any] | None = storage.read_json(paths.heartbeat(launcher.root, pipeline))
    return beat


def await_first_heartbeat(
    launcher: LocalLauncher, pipeline: str, since_ms: int, timeout_seconds: float
) -> dict[str, Any]:
    """Wait until the driver says that its queries run. Raises HeadraceError with the end of its log if it ends first."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        beat = heartbeat(launcher, pipeline)
        if beat and beat["at_ms"] >= since_ms and beat["exit"] is None:
            return beat
        if find(launcher, pipeline) is None:
            raise HeadraceError(f"The driver of {pipeline} ended at its start: {last_error(launcher, pipeline)}")
        time.sleep(0.3)
    raise HeadraceError(
        f"The driver of {pipeline} gave no heartbeat within {timeout_seconds:.0f} s: see `headrace logs {pipeline}`."
    )


def last_error(launcher: LocalLauncher, pipeline: str) -> str:
    """Return the last ERROR line of the driver's log, or where the log is."""
    log = launcher.log_file(pipeline)
    if log.exists():
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 65_536))
            lines = handle.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if " ERROR headrace" in line]
        if errors:
            return errors[-1].partition(": ")[2]
    return f"see `headrace logs {pipeline}`."


def _mark(launcher: LocalLauncher, pipeline: str) -> str:
    return str(launcher.lock_file(pipeline))


def _environment(launcher: LocalLauncher, pipeline: str, new_generations: Sequence[str]) -> dict[str, str]:
    scratch = launcher.tmp_dir / launcher.name(pipeline)
    return dict(launcher.environment) | {
        "PYSPARK_PYTHON": sys.executable,  # Spark's Python workers: else whatever `python3` is on the PATH
        "HEADRACE_STORAGE_ROOT": launcher.root,
        "SERVICE_BINDING_ROOT": str(launcher.bindings / pipeline),
        "HEADRACE_PIPELINES": str(launcher.project / "pipelines"),
        "HEADRACE_NEW_GENERATIONS": " ".join(new_generations),
        "HEADRACE_REQUEST": uuid.uuid4().hex,
        "HEADRACE_GRACE_SECONDS": str(launcher.grace_seconds),
        "HEADRACE_SPARK_UI_PORT": str(launcher.ui_port),
        "HEADRACE_SPARK_CONF": json.dumps(dict(launcher.conf)),
        "SPARK_LOCAL_DIRS": str(scratch),
        "TMPDIR": str(scratch),
    }


def _sweep(launcher: LocalLauncher, pipeline: str) -> None:
    """Remove the scratch files of drivers that were killed; no driver of this pipeline lives now."""
    scratch = launcher.tmp_dir / launcher.name(pipeline)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)


@contextmanager
def _submitting(launcher: LocalLauncher, pipeline: str) -> Iterator[None]:
    """Hold off other submits of this pipeline."""
    launcher.run_dir.mkdir(parents=True, exist_ok=True)
    with (launcher.run_dir / f"submit-{pipeline}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
