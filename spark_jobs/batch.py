"""The entry point of finite Spark jobs: `batch.py DUTY PIPELINE RUN`, run by spark-submit or, on one machine, by Python.

DUTY is `views`, `reconcile`, `drill`, `rebuild` or `upkeep`; the run's order.json, written by its planner, is the job spec.
The environment is that of `main.py`: HEADRACE_STORAGE_ROOT, SERVICE_BINDING_ROOT, HEADRACE_PIPELINES,
HEADRACE_SPARK_CONF. Exit code 0: report.json exists; 1: it does not, and the last line of the log says why.
"""

import json
import logging
import os
import sys
from pathlib import Path

from headrace.contract import submit
from headrace.contract.bindings import binding_root
from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.streaming import batch_job, drill, logs, queries, rebuild, reconcile, upkeep, views
from headrace.streaming.reasons import reason_of

log = logging.getLogger("headrace")

DUTIES = {
    "views": views.run,
    "reconcile": reconcile.run,
    "rebuild": rebuild.run,
    "drill": drill.run,
    "upkeep": upkeep.run,
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
    env = os.environ
    if duty not in DUTIES:
        raise HeadraceError(f"Unknown duty {duty!r}. Known duties: {', '.join(DUTIES)}.")
    root = env.get("HEADRACE_STORAGE_ROOT")
    if not root:
        raise HeadraceError(
            "HEADRACE_STORAGE_ROOT is not set. Start batch runs with `headrace batch`, or with the DAG."
        )
    jobs = Path(__file__).resolve().parent
    pipelines = Path(env.get("HEADRACE_PIPELINES", jobs.parent / "pipelines"))
    pipeline = load_pipeline(pipelines / f"{name}.yaml")
    spec = batch_job.job_spec(root, name, run)
    conf = json.loads(env.get("HEADRACE_SPARK_CONF", "{}"))
    if "PYSPARK_GATEWAY_PORT" not in env:
        conf = submit.local_conf(pipeline, int(env.get("HEADRACE_SPARK_UI_PORT", "4040"))) | conf
    module = queries.load_module(pipelines.parent / "spark_jobs" / f"{name}.py")
    job = batch_job.start(pipeline, module, root, binding_root(), run, conf)
    try:
        batch_job.report(root, name, run, DUTIES[duty](job, spec))
    finally:
        job.spark.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
