"""The entry point of finite Spark jobs: `batch.py DUTY PIPELINE RUN`, run by spark-submit or, on one machine, by Python.

DUTY is `views`, `reconcile`, `drill`, `rebuild`, `find` or `upkeep`; the run's job spec (order.json), written by its
planner, says exactly what to do. The environment is that of `main.py` (`contract.driver_environment`). Exit code 0:
report.json exists; 1: it does not, and the last line of the log says why.
"""

import logging
import os
import sys
from pathlib import Path

from headrace.access.bindings import binding_root
from headrace.batch import find_records, finite_job, orphan_files, rebuild, restore_drill, views
from headrace.batch.reconcile import reconciliation
from headrace.contract.driver_environment import STORAGE_ROOT, DriverEnvironment
from headrace.contract.job_files import SPECS
from headrace.contract.load import load_pipeline
from headrace.driver import logs, queries
from headrace.driver.error_causes import reason_of
from headrace.errors import HeadraceError
from headrace.store import spark_conf

log = logging.getLogger("headrace")

DUTIES = {
    "views": views.run,
    "reconcile": reconciliation.run,
    "rebuild": rebuild.run,
    "drill": restore_drill.run,
    "find": find_records.run,
    "upkeep": orphan_files.run,
}


def main(duty: str, name: str, run: str) -> int:
    """Execute one run and return the exit code."""
    logs.to_stdout()
    try:
        _run(duty, name, run)
    except HeadraceError as refusal:
        log.error("%s", refusal)
        return 1
    except Exception as fault:
        log.exception("%s of %s failed", duty, name)
        log.error("%s of %s failed: %s", duty, name, reason_of(fault))
        return 1
    return 0


def _run(duty: str, name: str, run: str) -> None:
    environment = DriverEnvironment.from_env(os.environ)
    if duty not in DUTIES:
        raise HeadraceError(f"Unknown duty {duty!r}. Known duties: {', '.join(DUTIES)}.")
    root = environment.storage_root
    if not root:
        raise HeadraceError(f"{STORAGE_ROOT} is not set. Start batch runs with `headrace batch`, or with the DAG.")
    pipelines = environment.pipelines_folder(Path(__file__).resolve().parent)
    pipeline = load_pipeline(pipelines / f"{name}.yaml")
    spec = finite_job.job_spec(SPECS[duty], root, name, run)
    conf = dict(environment.spark_conf)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        conf = spark_conf.local_conf(pipeline, environment.spark_ui_port) | conf
    module = queries.load_module(pipelines.parent / "spark_jobs" / f"{name}.py")
    job = finite_job.start(pipeline, module, root, binding_root(), run, conf)
    try:
        finite_job.report(root, name, run, DUTIES[duty](job, spec))
    finally:
        job.spark.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
