"""The entry point of a driver: `main.py PIPELINE [LOCK FILE]`, run by spark-submit or, on one machine, by Python.

Everything else comes from the environment: HEADRACE_STORAGE_ROOT (folder or URI), SERVICE_BINDING_ROOT (bindings),
HEADRACE_PIPELINES (folder of pipeline files), HEADRACE_METRICS_HOST, HEADRACE_METRICS_PORT, HEADRACE_GRACE_SECONDS,
HEADRACE_NEW_GENERATIONS (query names), HEADRACE_REQUEST (the start that asks for them), HEADRACE_LIFE (the instance id,
repeated in the heartbeat), HEADRACE_RELEASE (the requested release), HEADRACE_CHECK_ONLY (plan, compare with the
checkpoints, write check.json, start nothing), HEADRACE_SPARK_CONF (JSON), HEADRACE_SPARK_UI_PORT. The exit code is an
`Exit`.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pyspark.errors import AnalysisException

from headrace.contract import pace, paths, storage, submit
from headrace.contract.bindings import binding_root
from headrace.contract.exits import Exit
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.streaming import logs, queries
from headrace.streaming.runtime import Options, check, end_of, run
from headrace.streaming.session import oom_kills

log = logging.getLogger("headrace")


def main(name: str, lock: str | None = None) -> int:
    """Run one pipeline's driver, write its exit record, and return its exit code."""
    logs.to_stdout()
    only_check = bool(os.environ.get("HEADRACE_CHECK_ONLY"))
    error, kills = "", oom_kills()
    changes: dict[str, list[str]] = {}
    try:
        pipeline, module, options = _prepare(name, lock, Path(__file__).resolve().parent)
        if only_check:
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
    except Exception as fault:  # whatever ends a driver: its JVM was killed, Kafka does not answer ...
        log.exception("the driver of %s failed", name)
        code, error = end_of(fault, kills)
        log.error("the driver of %s ends with %s: %s", name, Exit(code).name, error)
    if only_check:
        _write_exit_record(paths.check, name, code, error, changes)
    elif code != Exit.LOCKED or os.environ.get(
        "HEADRACE_LIFE"
    ):  # otherwise it would be taken for the exit record of the running driver
        _write_exit_record(paths.outcome, name, code, error)
        _leave_pace(name, code)
    return code


def _prepare(name: str, lock: str | None, jobs: Path) -> tuple[Pipeline, ModuleType, Options]:
    env = os.environ
    pipelines = Path(env.get("HEADRACE_PIPELINES", jobs.parent / "pipelines"))
    try:
        pipeline = load_pipeline(pipelines / f"{name}.yaml")
    except HeadraceError as error:
        raise HeadraceError(str(error), exit_code=Exit.REFUSED) from error
    options = Options(
        root=_required("HEADRACE_STORAGE_ROOT"),
        bindings=binding_root(),
        conf=_local_conf(pipeline) | json.loads(env.get("HEADRACE_SPARK_CONF", "{}")),
        lock_file=Path(lock) if lock else None,
        metrics_host=env.get("HEADRACE_METRICS_HOST", "127.0.0.1"),
        metrics_port=int(env.get("HEADRACE_METRICS_PORT", "0")),
        grace_seconds=float(env.get("HEADRACE_GRACE_SECONDS", "30")),
        new_generations=frozenset(env.get("HEADRACE_NEW_GENERATIONS", "").split()),
        request=env.get("HEADRACE_REQUEST", ""),
        life=env.get("HEADRACE_LIFE", ""),
    )
    return pipeline, queries.load_module(pipelines.parent / "spark_jobs" / f"{name}.py"), options


def _write_exit_record(
    place: Callable[[str, str], str], name: str, code: int, error: str, changes: dict[str, list[str]] | None = None
) -> None:
    """Write how this driver or check ended, because the exit code of a process is lost with its parent."""
    root = os.environ.get("HEADRACE_STORAGE_ROOT")
    content: dict[str, object] = {
        "exit": Exit(code).name if code in set(Exit) else str(code),
        "error": error,
        "at_ms": time.time_ns() // 1_000_000,
        "request": os.environ.get("HEADRACE_REQUEST", ""),
        "life": os.environ.get("HEADRACE_LIFE", ""),
        "release": os.environ.get("HEADRACE_RELEASE", ""),
    }
    if changes is not None:
        content["changes"] = changes
    try:
        if root:
            storage.write_json(place(root, name), content)
    except OSError as fault:
        log.warning("could not write the exit record of this driver: %s", fault)


def _leave_pace(name: str, code: int) -> None:
    """Make the next driver read less at once if this one ran out of memory, and the normal amount if it was stopped."""
    root, end = os.environ.get("HEADRACE_STORAGE_ROOT"), Exit(code).name if code in set(Exit) else ""
    try:
        if root and end in pace.SLOWED_BY:
            pace.slow_down(root, name, os.environ.get("HEADRACE_LIFE", ""), end)
        elif root and end == Exit.FINISHED.name:
            pace.restore(root, name)
    except OSError as fault:
        log.warning("the next driver reads as much at once as this one: %s", fault)


def _local_conf(pipeline: Pipeline) -> dict[str, str]:
    """Return the settings that spark-submit provides on a cluster; here they make this process start Spark locally."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return {}
    return submit.local_conf(pipeline, int(os.environ.get("HEADRACE_SPARK_UI_PORT", "4040")))


def _required(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise HeadraceError(f"{variable} is not set. Start drivers with `headrace stream start`.")
    return value


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
