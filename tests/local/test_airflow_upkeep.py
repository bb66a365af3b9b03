"""Airflow's history: what is old goes, what is young stays, and a fault keeps nobody from starting."""

from __future__ import annotations

import datetime
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.local import airflow_upkeep

DAY = 86_400


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def aged(path: Path, days: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def ran(calls: list[tuple[str, ...]], code: int = 0) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        calls.append(words)
        return subprocess.CompletedProcess(words, code, "said\n", "")

    return run


def test_a_new_airflow_has_nothing_to_lose(home: Path) -> None:
    calls: list[tuple[str, ...]] = []
    assert not airflow_upkeep.clean(home, ran(calls), home / "log")
    assert calls == []


def test_once_a_week_old_logs_and_runs_go_and_young_ones_stay(home: Path) -> None:
    old, young = aged(home / "logs" / "dag_id=a" / "1.log", 15), aged(home / "logs" / "dag_id=b" / "1.log", 13)
    aged(home / "cleaned", 8)
    calls: list[tuple[str, ...]] = []
    assert airflow_upkeep.clean(home, ran(calls), home / "log")
    assert (old.exists(), young.exists()) == (False, True)
    assert [words[:3] for words in calls] == [("db", "clean", "--clean-before-timestamp")]
    assert not airflow_upkeep.clean(home, ran(calls), home / "log")


def test_a_cleaning_that_failed_is_logged_and_tried_again(home: Path) -> None:
    aged(home / "cleaned", 8)
    calls: list[tuple[str, ...]] = []
    for _ in range(2):
        assert airflow_upkeep.clean(home, ran(calls, code=1), home / "log")
    assert len(calls) == 2
    assert (home / "log").read_text() == "said\n"


def test_a_link_to_the_newest_logs_is_removed_itself_and_not_what_it_leads_to(home: Path) -> None:
    kept = aged(home / "elsewhere" / "1.log", 30)
    (home / "logs" / "latest").symlink_to(kept.parent)
    os.utime(home / "logs" / "latest", (time.time() - 30 * DAY,) * 2, follow_symlinks=False)
    assert airflow_upkeep.remove_older(home / "logs", time.time() - 14 * DAY) == 1
    assert kept.exists()


@pytest.mark.long(group="airflow")
def test_a_year_of_runs_is_cleaned_down_to_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day's run of the supervisor for each day of a year, in a database of Airflow's own schema, by the CronJob's command."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path / 'airflow.db'}")
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    airflow = [sys.executable, "-P", "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "airflow.db") as database:
        for day in range(365):
            add_run(database, day)
        assert counted(database) == {"dag_run": 365, "task_instance": 365, "xcom": 365, "log": 365}
    old, young = (
        aged(tmp_path / "logs" / "run_id=old" / "1.log", 300),
        aged(tmp_path / "logs" / "run_id=new" / "1.log", 1),
    )
    command = [sys.executable, "-m", "headrace.local.airflow_upkeep", str(tmp_path / "logs"), "14"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with sqlite3.connect(tmp_path / "airflow.db") as database:
        left = counted(database)
        archives = database.execute("SELECT name FROM sqlite_master WHERE name LIKE '%airflow_deleted%'").fetchall()
    assert {table for table, rows in left.items() if not 13 <= rows <= 15} == set(), left
    assert archives == []
    assert (old.exists(), young.exists()) == (False, True)


def add_run(database: sqlite3.Connection, day: int) -> None:
    """Add what one run of one task leaves, so many days ago: the columns that must have a value, and times."""
    at = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=day)).strftime("%Y-%m-%d %H:%M:%S.%f")
    common = {"dag_id": "streams_supervisor", "run_id": f"scheduled__{day}", "task_id": "supervise"}
    for table in ("dag_run", "task_instance", "xcom", "log"):
        columns = database.execute(f"PRAGMA table_info({table})").fetchall()
        row = {
            name: common.get(name, value_of(kind, at, day))
            for _, name, kind, required, default, _ in columns
            if name in common or "DATE" in kind or "TIME" in kind or (required and default is None)
        }
        if table == "task_instance":
            row["id"] = f"{day:032x}"
        names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
        database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))


def value_of(kind: str, at: str, day: int) -> str | int:
    if "DATE" in kind or "TIME" in kind:
        return at
    return day if "INT" in kind or "BOOL" in kind or "FLOAT" in kind else str(day)


def counted(database: sqlite3.Connection) -> dict[str, int]:
    tables = ("dag_run", "task_instance", "xcom", "log")
    return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
