"""The one entry point that starts a driver: `main.py PIPELINE [LOCK FILE]`, by spark-submit or, on one machine, by Python.

Everything else comes from the environment: HEADRACE_STORAGE_ROOT and the other variables of
`contract.driver_environment`, and SERVICE_BINDING_ROOT (bindings). The exit code is an `Exit`.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from pyspark.errors import AnalysisException

from headrace.access.bindings import binding_root
from headrace.contract.driver_environment import STORAGE_ROOT, DriverEnvironment
from headrace.contract.exit_codes import Exit
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.driver import logs, queries
from headrace.driver.runtime import Options, check, end_of, run
from headrace.driver.session import oom_kills
from headrace.errors import HeadraceError
from headrace.store import pace, paths, records, spark_conf
from headrace.store.driver_files import CheckResult, ExitRecord

log = logging.getLogger("headrace")


def main(name: str, lock: str | None = None) -> int:
    """Run one pipeline's driver, write its exit record, and return its exit code."""
    logs.to_stdout()
    environment = DriverEnvironment()
    error, kills = "", oom_kills()
    changes: dict[str, list[str]] = {}
    try:
        environment = DriverEnvironment.from_env(os.environ)
        pipeline, module, options = _prepare(name, lock, environment)
        if environment.check_only:
            changes = check(pipeline, module, options)
            code = int(Exit.REFUSED if changes else Exit.FINISHED)
        else:
            code = int(run(pipeline, module, options))
    except HeadraceError as refusal:
        log.error("%s", refusal)
        code, error = refusal.exit_code, str(refusal)
    except AnalysisException as refusal:
        error = f"Spark refuses the plan of {name}: {str(refusal).splitlines()[0]}"
        log.error("%s", error)
        code = Exit.REFUSED
    except Exception as fault:  # anything that ends a driver: a killed JVM, Kafka that does not answer
        log.exception("the driver of %s failed", name)
        code, error = end_of(fault, kills)
        log.error("the driver of %s ends with %s: %s", name, Exit(code).name, error)
    _record_end(name, environment, code, error, changes)
    return code


def _record_end(
    name: str, environment: DriverEnvironment, code: int, error: str, changes: Mapping[str, Sequence[str]]
) -> None:
    """Write how this driver or check ended, because the exit code of a process is lost with its parent."""
    root = environment.storage_root
    if not root:
        return
    record = ExitRecord(
        exit=Exit(code).name if code in set(Exit) else str(code),
        error=error,
        at_ms=time.time_ns() // 1_000_000,
        request=environment.request,
        instance=environment.instance,
        release=environment.release,
    )
    try:
        if environment.check_only:
            listed = {query: tuple(lines) for query, lines in changes.items()}
            records.write(paths.check(root, name), CheckResult(**vars(record), changes=listed))
        elif (
            code != Exit.LOCKED or environment.instance
        ):  # else it would be taken for the exit record of the running driver
            records.write(paths.outcome(root, name), record)
            _adjust_pace(name, environment, record.exit)
    except OSError as fault:
        log.warning("could not write the exit record of this driver: %s", fault)


def _adjust_pace(name: str, environment: DriverEnvironment, end: str) -> None:
    """Make the next driver read less at once if this one ran out of memory, and the normal amount if it was stopped."""
    try:
        if end in pace.SLOWED_BY:
            pace.slow_down(environment.storage_root, name, environment.instance, end)
        elif end == Exit.FINISHED.name:
            pace.restore(environment.storage_root, name)
    except OSError as fault:
        log.warning("the next driver takes as much at once as this one: %s", fault)


def _prepare(name: str, lock: str | None, environment: DriverEnvironment) -> tuple[Pipeline, ModuleType, Options]:
    pipelines = environment.pipelines_folder(Path(__file__).resolve().parent)
    try:
        pipeline = load_pipeline(pipelines / f"{name}.yaml")
    except HeadraceError as error:
        raise HeadraceError(str(error), exit_code=Exit.REFUSED) from error
    if not environment.storage_root:
        raise HeadraceError(f"{STORAGE_ROOT} is not set. Start drivers with `headrace stream start`.")
    options = Options(
        root=environment.storage_root,
        bindings=binding_root(),
        conf=_local_conf(pipeline, environment) | dict(environment.spark_conf),
        lock_file=Path(lock) if lock else None,
        metrics_host=environment.metrics_host,
        metrics_port=environment.metrics_port,
        grace_seconds=environment.grace_seconds,
        new_generations=frozenset(environment.new_generations),
        request=environment.request,
        instance=environment.instance,
    )
    return pipeline, queries.load_module(pipelines.parent / "spark_jobs" / f"{name}.py"), options


def _local_conf(pipeline: Pipeline, environment: DriverEnvironment) -> dict[str, str]:
    """Return the settings that spark-submit provides on a cluster; here they make this process start Spark locally."""
    return {} if "PYSPARK_GATEWAY_PORT" in os.environ else spark_conf.local_conf(pipeline, environment.spark_ui_port)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
