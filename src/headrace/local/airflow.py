"""Airflow as four child processes: api-server, scheduler, dag-processor, triggerer.

SQLite is sufficient: since Airflow 3, tasks and workers reach the database only through the API server, so these four
processes are its only users. WAL allows reads during a write, and there is one scheduler. Several machines need PostgreSQL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from importlib import metadata

import psutil

from headrace.access.bindings import write_private
from headrace.errors import HeadraceError
from headrace.local import airflow_config as config
from headrace.local import airflow_upkeep
from headrace.local.java import Java
from headrace.local.settings import Settings
from headrace.operations import processes
from headrace.orchestration.pools import BATCH_POOL, BATCH_POOL_TEXT

API_SERVER = "airflow-api-server"
# Name of the component, its command-line arguments, and its key in /api/v2/monitor/health.
COMPONENTS = {
    API_SERVER: (("api-server",), "metadatabase"),
    "airflow-scheduler": (("scheduler", "--skip-serve-logs"), "scheduler"),
    "airflow-dag-processor": (("dag-processor",), "dag_processor"),
    "airflow-triggerer": (("triggerer", "--skip-serve-logs"), "triggerer"),
}
_migrating = threading.Lock()


def mark(settings: Settings, name: str) -> str:
    """Return the argument that identifies a component's process as this platform's."""
    return str(config.home(settings) / name)


def ports(settings: Settings) -> dict[str, int]:
    """Return setting -> port. Only the API server listens."""
    return {"airflow_port": settings.airflow_port}


def command(settings: Settings, java: Java, name: str) -> list[str]:
    """Write the configuration, migrate the database if necessary, and return the command that starts a component."""
    end_leftovers(settings, name)
    with _migrating:
        config.write(settings)
        _migrate(settings, java)
        airflow_upkeep.clean(
            config.home(settings), partial(run_command, settings, java), settings.log_dir / "airflow-db-clean.log"
        )
    arguments, _ = COMPONENTS[name]
    return [sys.executable, "-P", "-m", "headrace.local.airflow_child", mark(settings, name), *arguments]


def _health(settings: Settings, component: str) -> Mapping[str, str | None]:
    """Return the status and the newest heartbeat of a component; empty if the API server does not know them or answer."""
    try:
        address = f"http://{settings.host}:{settings.airflow_port}/api/v2/monitor/health"
        with urllib.request.urlopen(address, timeout=5) as answer:
            return json.load(answer).get(component) or {}
    except (OSError, ValueError):
        return {}


def answers(settings: Settings, name: str) -> bool:
    """Return whether a component works: its heartbeat is fresh and from the running process."""
    _, component = COMPONENTS[name]
    health = _health(settings, component)
    record = processes.read_record(name, settings.run_dir)
    if record is None or health.get("status") != "healthy":
        return False
    beat = health.get(f"latest_{component}_heartbeat")
    return beat is None or datetime.fromisoformat(beat).timestamp() >= record.created


def end_leftovers(settings: Settings, name: str) -> None:
    """End the leftovers of a component that has exited: the workers in its session. Drivers have separate sessions."""
    record = processes.read_record(name, settings.run_dir)
    if record is None or processes.living(record):
        return
    ours = str(config.home(settings))
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == record.pid and process.environ().get("AIRFLOW_HOME") == ours:
                process.kill()
        except (psutil.Error, OSError):
            continue


def run_command(settings: Settings, java: Java, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an `airflow` command with this platform's configuration and return the completed process with its output."""
    argv = [sys.executable, "-P", "-m", "airflow", *arguments]
    environment = config.environment(settings, java)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=600)


def _migrate(settings: Settings, java: Java) -> None:
    """Migrate the database to this Airflow's schema and create the pool; a marker file spares later starts the 15 s check.

    A task whose pool does not exist is never scheduled.
    """
    done = config.home(settings) / "migrated.json"
    version, database = metadata.version("apache-airflow"), config.database_id(settings)
    slots = settings.airflow_batch_slots
    wanted = json.dumps({"airflow": version, "database": database, "pools": {BATCH_POOL: slots}})
    if done.exists() and done.read_text() == wanted:
        return
    pool = ("pools", "set", BATCH_POOL, str(slots), BATCH_POOL_TEXT)
    for arguments in (("db", "migrate"), pool):
        ended = run_command(settings, java, *arguments)
        if ended.returncode:
            log = settings.log_dir / "airflow-db-migrate.log"
            write_private(log, ended.stdout + ended.stderr)
            last = (ended.stderr or ended.stdout).strip().splitlines()[-1:]
            raise HeadraceError(f"Airflow's database could not be migrated. {log} says: {' '.join(last)}")
    write_private(done, wanted)
