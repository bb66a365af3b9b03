"""One pipeline or sink fails, the others go on: each DAG run by Airflow's own rules in one process, its work told (`one_run`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.long(group="airflow"), pytest.mark.timeout(900)]


def run(case: str, project: Path, home: Path) -> dict[str, Any]:
    """Run a case and return state, tasks and events."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_SPARK_BATCH": json.dumps({"conn_type": "spark", "host": "local"}),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("one_run.py")), str(project / "dags"), case],
        env=environment, cwd=home, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_plan_a_check_and_a_sink_that_fail_keep_no_other_gate_from_its_answer(project: Path, tmp_path: Path) -> None:
    """B1: every gate was upstream_failed and `on_critical: pause` never ran. Only what was looked at and holds has an event."""
    result = run("quality", project, tmp_path)
    tasks = result["tasks"]
    assert [tasks[f"plan_checks[{index}]"] for index in range(3)] == ["failed", "success", "success"]
    assert [tasks[f"run_checks[{index}]"] for index in range(2)] == ["failed", "success"]
    gates = [tasks[f"gate[{index}]"] for index in range(7)]
    # good, bad, lost, old, quiet of web_events; one sink each of the pipelines whose plan and whose check died
    assert gates == ["success", "failed", "failed", "failed", "skipped", "failed", "failed"]
    assert tasks["pause[-1]"] == tasks["data_docs[-1]"] == "success"
    assert result["events"] == ["sink_good"]
    assert result["state"] == "failed"


def test_views_that_fail_for_one_pipeline_are_reported_and_the_others_and_reconciliation_follow(
    project: Path, tmp_path: Path
) -> None:
    result = run("batch_views", project, tmp_path)
    tasks = result["tasks"]
    assert [tasks[f"spark_run[{index}]"] for index in range(2)] == ["failed", "success"]
    assert tasks["computed[-1]"] == tasks["emit_lineage[-1]"] == "success"
    assert result["events"] == ["batch_views"]
    assert (tasks["complete[-1]"], result["state"]) == ("failed", "failed")


def test_a_reconciliation_that_fails_for_one_pipeline_tells_the_differences_of_the_others(
    project: Path, tmp_path: Path
) -> None:
    result = run("reconcile", project, tmp_path)
    assert [result["tasks"][f"spark_run[{index}]"] for index in range(2)] == ["failed", "success"]
    assert (result["tasks"]["judge[-1]"], result["state"]) == ("failed", "failed"), "it ran, and found one that differs"
