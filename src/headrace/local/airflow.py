"""Airflow as four child processes: api-server, scheduler, dag-processor, triggerer.

SQLite is sound here: since Airflow 3 tasks and workers reach the database only through the API server, so the four are
its only users, WAL lets them read while one writes, and there is one scheduler. More than one machine needs PostgreSQL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from datetime import datetime
from functools import partial
from importlib import metadata
from typing import Any

import psutil

from headrace.contract.bindings import write_private
from headrace.errors import HeadraceError
from headrace.local import airflow_config as config
from headrace.local import airflow_upkeep
from headrace.local.java import Java
from headrace.local.settings import Settings
from headrace.operations import processes
from headrace.operations.pools import BATCH_POOL, BATCH_POOL_TEXT

API_SERVER = "airflow-api-server"
# Name of the part, the words that start it, and its key in /api/v2/monitor/health.
COMPONENTS = {
    API_SERVER: (("api-server",), "metadatabase"),
    "airflow-scheduler": (("scheduler", "--skip-serve-logs"), "scheduler"),
    "airflow-dag-processor": (("dag-processor",), "dag_processor"),
    "airflow-triggerer": (("triggerer", "--skip-serve-logs"), "triggerer"),
}
_migrating = threading.Lock()


def mark(settings: Settings, name: str) -> str:
    """Return the argument that makes a component's process ours beyond doubt."""
    return str(config.home(settings) / name)


def ports(settings: Settings) -> dict[str, int]:
    """Return the settings that are ports, with their values. Only the API server listens."""
    return {"airflow_port": settings.airflow_port}


def command(settings: Settings, java: Java, name: str) -> list[str]:
    """Write the configuration, migrate the database if that was not done yet, and return what starts a component."""
    end_leftovers(settings, name)
    with _migrating:
        config.write(settings)
        _migrate(settings, java)
        airflow_upkeep.clean(
            config.home(settings), partial(run_command, settings, java), settings.log_dir / "airflow-db-clean.log"
        )
    words, _ = COMPONENTS[name]
    return [sys.executable, "-P", "-m", "headrace.local.airflow_child", mark(settings, name), *words]


def health(settings: Settings, timeout: float = 5) -> dict[str, Any] | None:
    """Return what the API server says of all components, or None if it does not answer."""
    try:
        address = f"http://{settings.host}:{settings.airflow_port}/api/v2/monitor/health"
        with urllib.request.urlopen(address, timeout=timeout) as answer:
            told: dict[str, Any] = json.load(answer)
            return told
    except (OSError, ValueError):
        return None


def answers(settings: Settings, name: str) -> bool:
    """Return whether a component works: its heartbeat is fresh, and of the process that runs now."""
    told = health(settings)
    record = processes.read_record(name, settings.run_dir)
    if told is None or record is None:
        return False
    _, key = COMPONENTS[name]
    part = told.get(key) or {}
    if part.get("status") != "healthy":
        return False
    beat = part.get(f"latest_{key}_heartbeat")
    return beat is None or datetime.fromisoformat(beat).timestamp() >= record.created


def end_leftovers(settings: Settings, name: str) -> None:
    """End what a component that is gone has left: its workers, in its session. Drivers have sessions of their own."""
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


def run_command(settings: Settings, java: Java, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `airflow WORDS` with this platform's configuration and return what it printed."""
    argv = [sys.executable, "-P", "-m", "airflow", *words]
    environment = config.environment(settings, java)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=600)


def _migrate(settings: Settings, java: Java) -> None:
    """Bring the database to this Airflow's schema and make the pool; a mark spares the next start the 15 s of looking.

    A task of a pool that does not exist is never scheduled.
    """
    done = config.home(settings) / "migrated.json"
    version, database = metadata.version("apache-airflow"), config.database_id(settings)
    slots = settings.airflow_batch_slots
    wanted = json.dumps({"airflow": version, "database": database, "pools": {BATCH_POOL: slots}})
    if done.exists() and done.read_text() == wanted:
        return
    pool = ("pools", "set", BATCH_POOL, str(slots), BATCH_POOL_TEXT)
    for words in (("db", "migrate"), pool):
        ended = run_command(settings, java, *words)
        if ended.returncode:
            log = settings.log_dir / "airflow-db-migrate.log"
            write_private(log, ended.stdout + ended.stderr)
            last = (ended.stderr or ended.stdout).strip().splitlines()[-1:]
            raise HeadraceError(f"Airflow's database could not be migrated; {log} says: {' '.join(last)}")
    write_private(done, wanted)
