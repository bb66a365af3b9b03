"""Finite Spark runs for operators: give the order, start the run on this machine, read its report.

An order is a file in the run's folder; `spark_jobs/batch.py DUTY PIPELINE RUN` carries it out. A DAG starts that with
SparkSubmitOperator and `arguments` and `environment` of here; the command line starts it as a child process.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from headrace.contract import paths, storage, submit, trees
from headrace.contract.bindings import ROOT_VARIABLE
from headrace.contract.driver_environment import DriverEnvironment
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import last_error_entry
from headrace.operations.drivers_local import LocalLauncher

Duty = Literal["views", "reconcile", "rebuild", "drill", "upkeep"]
Report = Callable[[str, float | None], None]

KEPT_RUNS = 500  # folders of old runs a pipeline; results stay in the report tables
DRIVER_MEMORY = "1536m"


def give(root: str, duty: Duty, pipeline: str, order: Mapping[str, Any], run: str | None = None) -> dict[str, Any]:
    """Write the order of a run and return {duty, pipeline, run, arguments, order}, JSON-safe.

    `run` names it (an Airflow run id will do); the same name again is the same run, which replaces its own results.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", run) if run else _new_name(duty)
    folder = paths.batch_run(root, pipeline, name)
    trees.remove_file(f"{folder}/report.json")
    storage.write_json(f"{folder}/order.json", dict(order) | {"given_ms": time.time_ns() // 1_000_000})
    _prune(root, pipeline)
    return {
        "duty": duty,
        "pipeline": pipeline,
        "run": name,
        "arguments": [duty, pipeline, name],
        "order": dict(order),
    }


def result(root: str, pipeline: str, run: str) -> dict[str, Any]:
    """Return the report of a run. Raises HeadraceError if it did not end well."""
    found: dict[str, Any] | None = storage.read_json(f"{paths.batch_run(root, pipeline, run)}/report.json")
    if found is None:
        raise HeadraceError(f"Run {run} of {pipeline} left no report: the last line of its log says why.")
    return found


def progress(root: str, pipeline: str, run: str) -> dict[str, Any] | None:
    """Return how far a run is: done, of, stage, at_ms; None before its first word."""
    found: dict[str, Any] | None = storage.read_json(f"{paths.batch_run(root, pipeline, run)}/progress.json")
    return found


def environment_of(deployment: Deployment) -> DriverEnvironment:
    """Return what a batch run is started with, on this machine or on a cluster in Airflow's own pod."""
    launcher = deployment.launcher()
    # What a driver's pod gets on a cluster (executors, event logs) is not for a batch run.
    local = launcher if isinstance(launcher, LocalLauncher) else None
    # Minutes of heavy work: here the second compiler is worth its cost.
    conf = {
        "spark.driver.memory": DRIVER_MEMORY,
        "spark.driver.extraJavaOptions": submit.JAVA_OPTIONS,
        "spark.ui.enabled": "false",
    }
    return DriverEnvironment(
        storage_root=deployment.root,
        pipelines=str(deployment.project / "pipelines"),
        spark_conf=(dict(local.conf) if local else {}) | conf,
        spark_ui_port=local.ui_port if local else DriverEnvironment.spark_ui_port,
    )


def environment(deployment: Deployment, pipeline: str) -> dict[str, str]:
    """Return all variables of a batch run. None is secret: the admin's bindings are files."""
    launcher = deployment.launcher()
    started_with = environment_of(deployment)
    if isinstance(launcher, LocalLauncher):
        scratch = launcher.tmp_dir / f"batch-{pipeline}"
        variables = launcher.variables(pipeline, started_with, scratch)
    else:
        scratch = Path(tempfile.gettempdir()) / f"batch-{pipeline}"
        variables = submit.local_environment() | started_with.to_env()
    return variables | {
        ROOT_VARIABLE: str(deployment.bindings),
        "SPARK_LOCAL_DIRS": str(scratch),
        "TMPDIR": str(scratch),
    }


def execute(deployment: Deployment, given: Mapping[str, Any], report: Report | None = None) -> dict[str, Any]:
    """Carry out an order on this machine and return its report. Raises HeadraceError with the run's own last word.

    One run a pipeline at a time: a second one waits.
    """
    duty, pipeline, run = given["arguments"]
    launcher = deployment.launcher()
    if not isinstance(launcher, LocalLauncher):
        raise HeadraceError(f"Batch runs of a cluster are started by Airflow: trigger the DAG for {duty} there.")
    env = environment(deployment, pipeline)
    scratch = Path(env["TMPDIR"])
    log = launcher.log_dir / f"batch-{pipeline}-{duty}.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    entry = deployment.project / "spark_jobs" / "batch.py"
    with _alone(launcher.run_dir / f"batch-{pipeline}.lock"), log.open("wb") as output:
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = [sys.executable, str(entry), duty, pipeline, run]
        child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                time.sleep(0.3)
                _tell(deployment.root, pipeline, run, report)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(60)
            shutil.rmtree(scratch, ignore_errors=True)
    if child.returncode:
        raise HeadraceError(
            last_error_entry(log.read_text(errors="replace"))
            or f"Run {run} of {pipeline} ended with {child.returncode}: see {log}."
        )
    return result(deployment.root, pipeline, run)


def _tell(root: str, pipeline: str, run: str, report: Report | None) -> None:
    word = progress(root, pipeline, run) if report else None
    if report and word:
        report(word["stage"], word["done"] / max(word["of"], 1))


def _new_name(duty: str) -> str:
    return f"{duty}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"


def _prune(root: str, pipeline: str) -> None:
    folder = paths.batch_run(root, pipeline, "").rstrip("/")
    names = storage.list_names(folder)
    if len(names) > KEPT_RUNS:
        orders = {name: storage.read_json(f"{folder}/{name}/order.json") or {} for name in names}
        oldest = sorted(names, key=lambda name: (orders[name].get("given_ms", 0), name))
        for name in oldest[: len(names) - KEPT_RUNS]:
            trees.remove(f"{folder}/{name}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
