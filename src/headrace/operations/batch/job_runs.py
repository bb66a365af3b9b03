"""Finite Spark runs for operators: write the job spec, carry out the run, read its report.

The spec is a file in the run's folder; `spark_jobs/batch.py DUTY PIPELINE RUN` carries it out. A DAG starts that program with
the arguments and the environment of this module: on one machine with SparkSubmitOperator, on Kubernetes in a pod (`pod_runs`).
The command line starts it as a child process, on Kubernetes in a pod too.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from headrace.access.bindings import ROOT_VARIABLE
from headrace.contract.driver_environment import DriverEnvironment
from headrace.contract.job_files import Duty, JobProgress, JobSpec
from headrace.errors import HeadraceError
from headrace.operations.batch import pod_runs
from headrace.operations.deployment import Deployment
from headrace.operations.drivers.interface import last_error_entry
from headrace.operations.drivers.local import LocalLauncher
from headrace.store import paths, records, small_files, spark_conf, trees
from headrace.store.records import Record

OnProgress = Callable[[str, float | None], None]

KEPT_RUNS = 500  # folders of old runs of each pipeline; results stay in the report tables
DRIVER_MEMORY = "1536m"


@dataclass(frozen=True)
class BatchRun:
    """A run with a written job spec."""

    duty: Duty
    pipeline: str
    run: str
    spec: JobSpec

    @property
    def arguments(self) -> tuple[str, str, str]:
        """Return the arguments of `spark_jobs/batch.py`."""
        return self.duty, self.pipeline, self.run


def prepare(root: str, duty: Duty, pipeline: str, spec: JobSpec, run: str | None = None) -> BatchRun:
    """Write the job spec of a run and return the run.

    `run` is its name (such as an Airflow run id). The same name means the same run, whose earlier results are replaced.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", run) if run else _new_name(duty)
    folder = paths.batch_run(root, pipeline, name)
    spec = replace(spec, given_ms=time.time_ns() // 1_000_000)
    trees.remove_file(f"{folder}/report.json")
    records.write(f"{folder}/order.json", spec)
    _prune(root, pipeline)
    return BatchRun(duty, pipeline, name, spec)


def result(root: str, pipeline: str, run: str, kind: type[Record]) -> Record:
    """Return the report of a run; `kind` is its type in `job_reports`. Raises HeadraceError if the run failed."""
    report = records.read(kind, f"{paths.batch_run(root, pipeline, run)}/report.json")
    if report is None:
        raise HeadraceError(f"Run {run} of {pipeline} left no report: the last line of its log says why.")
    return report


def progress(root: str, pipeline: str, run: str) -> JobProgress | None:
    """Return the progress of a run; None before the run has written any."""
    return records.read(JobProgress, f"{paths.batch_run(root, pipeline, run)}/progress.json")


def environment_of(deployment: Deployment, pipeline: str) -> DriverEnvironment:
    """Return the settings of a batch run, on this machine or, on a cluster, in its pod."""
    launcher = deployment.launcher()
    # The settings of driver pods on a cluster (executors, event logs) do not apply to a batch run.
    local = launcher if isinstance(launcher, LocalLauncher) else None
    # A batch run computes for minutes, so the second JIT compiler is worth its cost.
    conf = {
        "spark.driver.memory": DRIVER_MEMORY,
        "spark.driver.extraJavaOptions": spark_conf.JAVA_OPTIONS,
        "spark.ui.enabled": "false",
    }
    batch = None if deployment.drivers.kind == "local" else deployment.drivers.batch
    if batch:
        size = batch.of(pipeline)
        conf |= {"spark.driver.memory": size.memory, "spark.master": f"local[{size.cores}]"}
    return DriverEnvironment(
        storage_root=deployment.root,
        pipelines=str(deployment.project / "pipelines"),
        spark_conf=(dict(local.conf) if local else {}) | conf,
        spark_ui_port=local.ui_port if local else DriverEnvironment.spark_ui_port,
    )


def environment(deployment: Deployment, pipeline: str) -> dict[str, str]:
    """Return all environment variables of a batch run. They contain no secret: the admin's bindings are files."""
    launcher = deployment.launcher()
    started_with = environment_of(deployment, pipeline)
    if isinstance(launcher, LocalLauncher):
        scratch = launcher.tmp_dir / f"batch-{pipeline}"
        variables = launcher.variables(pipeline, started_with, scratch)
    else:
        scratch = Path("/tmp")  # noqa: S108 - the pod's own volume
        variables = spark_conf.local_environment() | started_with.to_env()
    return variables | {
        ROOT_VARIABLE: str(deployment.bindings),
        "SPARK_LOCAL_DIRS": str(scratch),
        "TMPDIR": str(scratch),
    }


def execute_in_pod(
    deployment: Deployment,
    arguments: tuple[str, str, str],
    say: Callable[[str], None],
    report: OnProgress | None = None,
) -> None:
    """Carry out a run on a cluster, in its pod, whose log `say` gets. Raises HeadraceError as `pod_runs.execute` does."""
    _, pipeline, run = arguments
    variables = environment(deployment, pipeline)
    pod_runs.execute(
        deployment, arguments, variables, say, lambda: _show_progress(deployment.root, pipeline, run, report)
    )


def execute(deployment: Deployment, run: BatchRun, kind: type[Record], report: OnProgress | None = None) -> Record:
    """Carry out a run and return its report (`result`). Raises HeadraceError with the run's last error.

    On this machine each pipeline has one run at a time: a second run waits. On a cluster the run is a pod.
    """
    duty, pipeline = run.duty, run.pipeline
    launcher = deployment.launcher()
    if not isinstance(launcher, LocalLauncher):
        execute_in_pod(deployment, run.arguments, lambda _: None, report)
        return result(deployment.root, pipeline, run.run, kind)
    env = environment(deployment, pipeline)
    scratch = Path(env["TMPDIR"])
    log = launcher.log_dir / f"batch-{pipeline}-{duty}.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    entry = deployment.project / "spark_jobs" / "batch.py"
    with _alone(launcher.run_dir / f"batch-{pipeline}.lock"), log.open("wb") as output:
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = [sys.executable, str(entry), *run.arguments]
        child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                time.sleep(0.3)
                _show_progress(deployment.root, pipeline, run.run, report)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(60)
            shutil.rmtree(scratch, ignore_errors=True)
    if child.returncode:
        raise HeadraceError(
            last_error_entry(log.read_text(errors="replace"))
            or f"Run {run.run} of {pipeline} ended with {child.returncode}: see {log}."
        )
    return result(deployment.root, pipeline, run.run, kind)


def _show_progress(root: str, pipeline: str, run: str, report: OnProgress | None) -> None:
    newest = progress(root, pipeline, run) if report else None
    if report and newest:
        report(newest.stage, newest.done / max(newest.of, 1))


def _new_name(duty: str) -> str:
    return f"{duty}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"


def _prune(root: str, pipeline: str) -> None:
    folder = paths.batch_run(root, pipeline, "").rstrip("/")
    names = small_files.list_names(folder)
    if len(names) > KEPT_RUNS:
        specs = {name: small_files.read_json(f"{folder}/{name}/order.json") or {} for name in names}
        oldest = sorted(names, key=lambda name: (specs[name].get("given_ms", 0), name))
        for name in oldest[: len(names) - KEPT_RUNS]:
            trees.remove(f"{folder}/{name}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
