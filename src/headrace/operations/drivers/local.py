"""Drivers on one machine.

A driver is a separate process group that outlives its starter. Its fence is the lock that it holds itself
(`driver.lock`): whatever this module believes, a second driver exits before it writes anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from headrace.access.bindings import ROOT_VARIABLE
from headrace.contract import driver_environment
from headrace.contract.driver_environment import DriverEnvironment
from headrace.errors import HeadraceError
from headrace.operations import processes
from headrace.operations.drivers.interface import DEFAULT_START, Driver, StartSpec
from headrace.store import driver_files
from headrace.store.driver_files import CheckResult, ExitRecord
from headrace.store.paths import jvm_lock

ORPHANED_JVM_SECONDS = 5.0  # a JVM usually ends by itself one second after its Python process
CHECK_SECONDS = 300.0  # a JVM, every query planned; 15 s on a calm machine


@dataclass(frozen=True)
class LocalLauncher:
    """Where local drivers run and what they are given. `bindings` has one binding root a pipeline."""

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

    def name(self, pipeline: str) -> str:
        """Return the name of a driver's record and log."""
        return f"driver-{pipeline}"

    def lock_file(self, pipeline: str) -> Path:
        """Return the lock that the driver holds while it runs; as an argument it also marks the driver's process."""
        return self.run_dir / f"{self.name(pipeline)}.lock"

    def log_file(self, pipeline: str) -> Path:
        """Return the driver's log."""
        return self.log_dir / f"{self.name(pipeline)}.log"

    def find(self, pipeline: str) -> list[Driver]:
        """Return the pipeline's driver if it runs; the lock prevents a second one.

        A JVM whose Python process has ended counts too: it may still write, and only its end lets another driver begin.
        """
        process = self._process(pipeline) or self._orphaned_jvm(pipeline)
        try:
            return [self._driver(pipeline, process)] if process else []
        except psutil.NoSuchProcess:  # it ended meanwhile; its JVM may still run
            return self.find(pipeline)

    def running(self) -> list[str]:
        """Return the pipelines whose driver runs, by its record or lock, with or without a pipeline file."""
        prefix = self.name("")
        known = {path.stem for path in self.run_dir.glob(f"{prefix}*") if path.suffix in (".json", ".lock")}
        return [name for name in sorted(stem.removeprefix(prefix) for stem in known) if self.find(name)]

    def submit(self, pipeline: str, spec: StartSpec = DEFAULT_START) -> tuple[Driver, bool]:
        """Return the pipeline's driver and whether this call started it. A driver that runs is adopted, never doubled."""
        with self._submitting(pipeline):
            if self._process(pipeline) is None:
                self._end_orphaned_jvm(pipeline)
            running = self.find(pipeline)
            if running:
                return running[0], False
            self._sweep(pipeline)
            project = Path(spec.release) if spec.release else self.project
            main = self.main or project / "spark_jobs" / "main.py"
            instance = uuid.uuid4().hex
            record = processes.spawn(
                self.name(pipeline),
                self.run_dir,
                [sys.executable, str(main), pipeline, str(self.lock_file(pipeline))],
                str(self.lock_file(pipeline)),
                self.driver_environment(pipeline, spec, instance),
                self.log_file(pipeline),
            )
            return _driver_of(pipeline, record.pid, record.created, spec.release, instance), True

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        """Stop the driver: SIGTERM, the grace time and a little more, then SIGKILL to the complete group, JVM and workers.

        Returns None if none ran, else whether SIGTERM was enough.
        """
        process = self._process(pipeline)
        if process is None:
            return self._end_orphaned_jvm(pipeline)
        grace = self.grace_seconds if grace_seconds is None else grace_seconds
        try:
            group = os.getpgid(process.pid)
        except ProcessLookupError:
            return None
        if grace == 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        gentle = processes.stop(process, grace + 15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self._end_orphaned_jvm(pipeline)  # in whatever group: it is the one that could still write
        return gentle and grace > 0

    def check(self, pipeline: str, spec: StartSpec) -> CheckResult:
        """Run the release's entry point, which only checks, beside the driver that runs. Returns what it wrote."""
        project = Path(spec.release) if spec.release else self.project
        request = spec.request or uuid.uuid4().hex
        scratch = self.tmp_dir / f"check-{pipeline}"
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = replace(self.environment_of(pipeline, replace(spec, request=request)), check_only=True)
        try:
            with (self.log_dir / f"check-{pipeline}.log").open("ab") as log:
                subprocess.run(
                    [sys.executable, str(project / "spark_jobs" / "main.py"), pipeline],
                    env=self.variables(pipeline, environment, scratch),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=CHECK_SECONDS,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise HeadraceError(
                f"The check of {pipeline} from {project} took more than {CHECK_SECONDS:.0f} s: read {log.name}."
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        result = driver_files.check_result(self.root, pipeline)
        if result is None or result.request != request:
            raise HeadraceError(f"The check of {pipeline} from {project} ended without a result: read {log.name}.")
        return result

    def ended(self, pipeline: str) -> ExitRecord | None:
        """Return None: on one machine a driver writes down all that this launcher could observe."""
        return None

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        """Return the end of the driver's log, or an empty string."""
        return processes.tail(self.log_file(pipeline), lines)

    def environment_of(self, pipeline: str, spec: StartSpec = DEFAULT_START, instance: str = "") -> DriverEnvironment:
        """Return what a driver is started with."""
        project = Path(spec.release) if spec.release else self.project
        return DriverEnvironment(
            storage_root=self.root,
            pipelines=str(project / "pipelines"),
            new_generations=spec.new_generations,
            request=spec.request or instance,
            instance=instance,
            release=spec.release,
            grace_seconds=self.grace_seconds,
            spark_conf=self.conf,
            spark_ui_port=self.ui_port,
        )

    def driver_environment(self, pipeline: str, spec: StartSpec = DEFAULT_START, instance: str = "") -> dict[str, str]:
        """Return all variables of a driver's process."""
        return self.variables(
            pipeline, self.environment_of(pipeline, spec, instance), self.tmp_dir / self.name(pipeline)
        )

    def variables(self, pipeline: str, environment: DriverEnvironment, scratch: Path) -> dict[str, str]:
        """Return all variables of a process. None is secret: the bindings are files."""
        paths = {ROOT_VARIABLE: str(self.bindings / pipeline), "SPARK_LOCAL_DIRS": str(scratch), "TMPDIR": str(scratch)}
        # PYSPARK_PYTHON: else Spark's Python workers are whatever `python3` is on the PATH.
        return dict(self.environment) | environment.to_env() | paths | {"PYSPARK_PYTHON": sys.executable}

    def _process(self, pipeline: str) -> psutil.Process | None:
        return processes.find(self.name(pipeline), self.run_dir, str(self.lock_file(pipeline)))

    def _orphaned_jvm(self, pipeline: str) -> psutil.Process | None:
        """Return the JVM that holds the JVM lock of this pipeline's driver (`driver.lock`), whose Python process has ended."""
        return processes.holder(jvm_lock(self.lock_file(pipeline)))

    def _end_orphaned_jvm(self, pipeline: str) -> bool | None:
        """End a JVM whose Python process has ended: nothing else can control it. None: none runs; False: it was ended."""
        jvm = self._orphaned_jvm(pipeline)
        if jvm is None:
            return None
        processes.stop(jvm, ORPHANED_JVM_SECONDS)
        return False

    def _driver(self, pipeline: str, process: psutil.Process) -> Driver:
        created = process.create_time()
        environment: dict[str, str] = {}
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
        release, instance = (
            environment.get(name, "") for name in (driver_environment.RELEASE, driver_environment.INSTANCE)
        )
        driver = _driver_of(pipeline, process.pid, created, release, instance)
        return (
            replace(driver, where=f"{driver.where}, a JVM whose Python process has ended")
            if process.name() == "java"
            else driver
        )

    def _sweep(self, pipeline: str) -> None:
        """Remove the scratch files of drivers that were killed; no driver of this pipeline runs now."""
        scratch = self.tmp_dir / self.name(pipeline)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True, mode=0o700)

    @contextmanager
    def _submitting(self, pipeline: str) -> Iterator[None]:
        """Block other submits of this pipeline."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / f"submit-{pipeline}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _driver_of(pipeline: str, pid: int, created: float, release: str, instance: str) -> Driver:
    return Driver(pipeline, f"{pid}@{created:.2f}", created, f"process {pid}", release=release, instance=instance)
