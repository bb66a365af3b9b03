"""Parses the DAG folder in a process of its own, with every way out shut, and prints what it saw as JSON.

`python probe.py DAGS_FOLDER`: database, network, connections and variables raise while files are parsed.
"""

from __future__ import annotations

import json
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

HEAVY = (
    "pyspark",
    "py4j",
    "pandas",
    "numpy",
    "great_expectations",
    "cassandra",
    "confluent_kafka",
    "pyarrow",
    "duckdb",
    "kubernetes",
)

_used: list[str] = []


def _shut(what: str) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        _used.append(what)
        raise RuntimeError(f"{what} was used while DAG files were parsed")

    return refuse


def main(folder: str) -> dict[str, Any]:
    """Return import errors, warnings, seconds of CPU a file, modules, and all DAGs serialised."""
    import airflow.sdk
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import BaseHook, Connection, Variable
    from airflow.serialization.serialized_objects import DagSerialization
    from sqlalchemy.engine import Engine

    assert airflow.sdk.__version__
    before = set(sys.modules)
    for owner, method, what in (
        (Engine, "connect", "the database"),
        (socket.socket, "connect", "the network"),
        (BaseHook, "get_connection", "a connection"),
        (Connection, "get", "a connection"),
        (Variable, "get", "a variable"),
    ):
        setattr(owner, method, _shut(what))
    result: dict[str, Any] = {"errors": {}, "warnings": [], "cpu": {}, "dags": {}, "files": {}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in sorted(Path(folder).glob("*.py")):
            began = time.process_time()
            bag = DagBag(path)
            result["cpu"][path.name] = time.process_time() - began
            result["errors"] |= bag.import_errors
            result["warnings"] += [str(warning) for warning in bag.captured_warnings.values()]
            for name, dag in bag.dags.items():
                assert name not in result["dags"], f"{name} is in two files"
                result["files"][name] = path.name
                serialised = DagSerialization.to_dict(dag)
                read = DagSerialization.from_dict(json.loads(json.dumps(serialised)))
                result["dags"][name] = {
                    "serialised": _stable(serialised),
                    "read": {
                        "id": read.dag_id,
                        "tasks": {task.task_id: sorted(task.downstream_task_ids) for task in read.tasks},
                        "params": {key: read.params[key] for key in read.params},
                        "timetable": type(read.timetable).__name__,
                    },
                    "timetable": type(dag.timetable).__name__,
                    "tasks": {task.task_id: _task(task) for task in dag.tasks},
                    "doc": dag.doc_md,
                    "tags": sorted(dag.tags),
                    "owner": dag.owner,
                    "owner_links": dag.owner_links,
                    "start_date": dag.start_date is not None,
                    "catchup": dag.catchup,
                    "max_active_runs": dag.max_active_runs,
                    "dagrun_timeout": dag.dagrun_timeout and dag.dagrun_timeout.total_seconds(),
                    "params": _params(dag),
                }
    result["warnings"] += [str(warning.message) for warning in caught if folder in (warning.filename or "")]
    result["heavy"] = sorted({name.split(".")[0] for name in set(sys.modules) - before} & set(HEAVY))
    result["used"] = _used
    return result


def _params(dag: Any) -> dict[str, Any]:
    """Return what each form field resolves to by default; one that does not validate raises here."""
    return dict(dag.params.validate())


def _task(task: Any) -> dict[str, Any]:
    mapped = getattr(task, "partial_kwargs", {})

    def field(name: str) -> Any:
        return mapped.get(name, getattr(task, name, None))

    timeout, wait = field("execution_timeout"), field("response_timeout")
    return {
        "type": task.task_type,
        "downstream": sorted(task.downstream_task_ids),
        "upstream": sorted(task.upstream_task_ids),
        "retries": field("retries"),
        "timeout": timeout.total_seconds() if timeout else None,
        "response_timeout": wait.total_seconds() if wait else None,
        "defaults": field("defaults"),
        "fail_on_reject": field("fail_on_reject"),
        "trigger_rule": str(field("trigger_rule")),
        "pool": field("pool"),
        "executor": field("executor"),
        "owner": field("owner"),
        "conn_id": field("_conn_id") or field("conn_id"),
        "outlets": sorted(str(getattr(outlet, "uri", outlet)) for outlet in field("outlets") or []),
        "doc": bool(
            getattr(getattr(task, "python_callable", None) or mapped.get("python_callable"), "__doc__", None)
            or task.doc_md
        ),
    }


def _stable(serialised: dict[str, Any]) -> dict[str, Any]:
    """Return a serialised DAG without what names this machine or this moment."""
    dag = dict(serialised["dag"])
    for key in ("fileloc", "relative_fileloc", "_processor_dags_folder"):
        dag.pop(key, None)
    value: dict[str, Any] = json.loads(json.dumps(dag, sort_keys=True, default=str))
    return value


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(sys.argv[1])))
