"""The client of Airflow's API against an answer that a test gives: what it says when Airflow refuses or keeps quiet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from headrace.errors import HeadraceError
from headrace.local import airflow_client
from tests.support.airflow_client import Airflow


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_client, "POLL_SECONDS", 0.0)


def airflow(answers: Mapping[str, Any]) -> Airflow:
    """A client of an Airflow that gives `answers[path]`: a JSON value, a status code, or a list of them in turn."""

    def answer(request: httpx.Request) -> httpx.Response:
        given = answers[request.url.path.removeprefix("/api/v2")]
        if isinstance(given, list):
            given = given.pop(0) if len(given) > 1 else given[0]
        return httpx.Response(given, text="no") if isinstance(given, int) else httpx.Response(200, json=given)

    return Airflow(httpx.Client(base_url="http://airflow.test", transport=httpx.MockTransport(answer)))


RUN = "/dags/d/dagRuns/r"
TASKS = {
    "task_instances": [
        {"task_id": "a", "map_index": -1, "state": "success"},
        {"task_id": "b", "map_index": 1, "state": None},
    ]
}


def test_a_run_is_waited_for_until_it_has_ended() -> None:
    with airflow({RUN: [{"state": "queued"}, {"state": "running"}, {"state": "failed"}]}) as client:
        assert client.wait("d", "r") == "failed"


def test_a_run_that_does_not_end_in_time_is_reported_with_the_states_of_its_tasks() -> None:
    with (
        airflow({RUN: {"state": "running"}, f"{RUN}/taskInstances": TASKS}) as client,
        pytest.raises(HeadraceError, match=r"Run r of d is running after 0 s: a success, b\[1\] None\."),
    ):
        client.wait("d", "r", seconds=0)


def test_a_run_that_ends_without_a_question_is_reported_at_once() -> None:
    answers = {RUN: {"state": "success"}, f"{RUN}/hitlDetails": {"hitl_details": []}, f"{RUN}/taskInstances": TASKS}
    with (
        airflow(answers) as client,
        pytest.raises(HeadraceError, match="Run r of d is success and has not asked a question"),
    ):
        client.wait_for_question("d", "r")


def test_a_question_that_was_answered_is_no_question() -> None:
    asked = [{"subject": "old", "response_received": True}, {"subject": "new", "response_received": False}]
    with airflow({f"{RUN}/hitlDetails": {"hitl_details": asked}}) as client:
        assert client.wait_for_question("d", "r").subject == "new"


def test_a_dag_that_does_not_appear_is_reported_with_the_import_errors() -> None:
    fault = {"filename": "streams.py", "stack_trace": "Traceback\nImportError: no such thing"}
    with (
        airflow({"/dags/d": 404, "/importErrors": {"import_errors": [fault]}}) as client,
        pytest.raises(HeadraceError, match=r"streams.py: ImportError: no such thing"),
    ):
        client.wait_for_dag("d", seconds=0)


def test_a_refusal_is_reported_with_the_request_and_the_answer() -> None:
    with (
        airflow({"/dags/d/dagRuns": 400}) as client,
        pytest.raises(HeadraceError, match="Airflow answered 400 to POST /api/v2/dags/d/dagRuns: no"),
    ):
        client.trigger("d", {"pipelines": ["x"]})


def test_the_params_of_a_run_are_sent_as_its_configuration() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"dag_run_id": "r"})

    client = Airflow(httpx.Client(base_url="http://airflow.test", transport=httpx.MockTransport(answer)))
    with client:
        run_id = client.trigger("d", {"pipelines": ["x"]})
    assert sent == [{"dag_run_id": run_id, "logical_date": None, "conf": {"pipelines": ["x"]}}]


def test_a_trigger_that_got_no_answer_is_repeated_under_its_name_and_makes_one_run() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["dag_run_id"])
        if len(sent) == 1:
            raise httpx.ReadTimeout("the database is locked", request=request)
        return httpx.Response(409 if len(sent) == 3 else 500, text="it is there")

    client = Airflow(httpx.Client(base_url="http://airflow.test", transport=httpx.MockTransport(answer)))
    with client:
        assert sent == [client.trigger("d")] * 3


def test_an_airflow_that_keeps_failing_is_reported_after_a_few_tries() -> None:
    answers = {RUN: [500, 503, {"state": "success"}], f"{RUN}/taskInstances": 500}
    with airflow(answers) as client:
        assert client.state("d", "r") == "success"
        with pytest.raises(HeadraceError, match="Airflow answered 500 to GET"):
            client.task_states("d", "r")


def test_an_exception_in_a_tasks_log_is_shown_with_its_message() -> None:
    events = ["plain", {"event": "Task failed", "error_detail": [{"exc_type": "ValueError", "exc_value": "as asked"}]}]
    with airflow({f"{RUN}/taskInstances/a/logs/1": {"content": events}}) as client:
        assert client.task_log("d", "r", "a") == "plain\nTask failed ValueError: as asked"
