"""Airflow's history: what is old goes, what is young stays, and a fault keeps nobody from starting."""

import os
import subprocess
import time

import pytest

from headrace.local import airflow_upkeep

DAY = 86_400


@pytest.fixture
def home(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path


def aged(path, days):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def ran(calls, code=0):
    def run(*words):
        calls.append(words)
        return subprocess.CompletedProcess(words, code, "said\n", "")

    return run


def test_a_new_airflow_has_nothing_to_lose(home):
    calls = []
    assert not airflow_upkeep.clean(home, ran(calls), home / "log")
    assert calls == []


def test_once_a_week_old_logs_and_runs_go_and_young_ones_stay(home):
    old, young = aged(home / "logs" / "dag_id=a" / "1.log", 15), aged(home / "logs" / "dag_id=b" / "1.log", 13)
    aged(home / "cleaned", 8)
    calls = []
    assert airflow_upkeep.clean(home, ran(calls), home / "log")
    assert (old.exists(), young.exists()) == (False, True)
    assert [words[:3] for words in calls] == [("db", "clean", "--clean-before-timestamp")]
    assert not airflow_upkeep.clean(home, ran(calls), home / "log")


def test_a_cleaning_that_failed_is_told_in_the_log_and_tried_again(home):
    aged(home / "cleaned", 8)
    calls = []
    for _ in range(2):
        assert airflow_upkeep.clean(home, ran(calls, code=1), home / "log")
    assert len(calls) == 2
    assert (home / "log").read_text() == "said\n"


def test_a_link_to_the_newest_logs_is_removed_itself_and_not_what_it_leads_to(home):
    kept = aged(home / "elsewhere" / "1.log", 30)
    (home / "logs" / "latest").symlink_to(kept.parent)
    os.utime(home / "logs" / "latest", (time.time() - 30 * DAY,) * 2, follow_symlinks=False)
    assert airflow_upkeep.remove_older(home / "logs", time.time() - 14 * DAY) == 1
    assert kept.exists()
