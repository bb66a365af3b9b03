"""Airflow with the real scheduler: runs through the REST API, a failure, a question, and its database under load."""

from __future__ import annotations

import pytest

from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from tests.support.airflow_client import Airflow

pytestmark = pytest.mark.platform


def test_a_run_maps_its_tasks_and_reads_the_deployment(airflow: Airflow, airflow_settings: Settings) -> None:
    airflow.wait_for_dag("probe_numbers")
    run_id, state = airflow.run("probe_numbers", {"count": 4})
    assert state == "success", airflow.task_states("probe_numbers", run_id)
    assert airflow.returned("probe_numbers", run_id, "square", 3) == 9
    assert airflow.returned("probe_numbers", run_id, "deployment_root") == str(airflow_settings.home / "storage")


def test_a_task_that_fails_fails_the_run_and_its_log_says_why(airflow: Airflow) -> None:
    airflow.wait_for_dag("probe_failure")
    run_id, state = airflow.run("probe_failure")
    assert state == "failed"
    assert airflow.task_states("probe_failure", run_id) == {"refuse": "failed", "act": "upstream_failed"}
    assert "refused as asked" in airflow.task_log("probe_failure", run_id, "refuse")


@pytest.mark.parametrize(("choice", "acted"), [("Approve", "success"), ("Reject", "skipped")])
def test_a_run_waits_for_a_persons_answer_and_does_what_it_says(airflow: Airflow, choice: str, acted: str) -> None:
    airflow.wait_for_dag("probe_question")
    run_id = airflow.trigger("probe_question")
    question = airflow.wait_for_question("probe_question", run_id)
    assert question.subject == "Go on?"
    assert airflow.wait("probe_question", run_id, answer=choice) == "success", airflow.task_states(
        "probe_question", run_id
    )
    assert airflow.task_states("probe_question", run_id)["act"] == acted
    with pytest.raises(HeadraceError, match="409"):
        airflow.answer("probe_question", run_id, "ask", [choice])


@pytest.mark.long(group="airflow")
def test_twelve_runs_at_once_end_well_and_no_component_met_a_locked_database(
    airflow: Airflow, airflow_settings: Settings
) -> None:
    airflow.wait_for_dag("probe_numbers")
    runs = [airflow.trigger("probe_numbers", {"count": 2}) for _ in range(12)]
    assert [airflow.wait("probe_numbers", run_id, seconds=300) for run_id in runs] == ["success"] * 12
    logs = "".join(path.read_text(errors="replace") for path in airflow_settings.log_dir.glob("airflow-*.log"))
    assert "database is locked" not in logs
