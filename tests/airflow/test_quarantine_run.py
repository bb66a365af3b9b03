"""`dead_letters_quarantine` through the real scheduler: a search by spark-submit, offsets of the form, an approval, a letter."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.access.bindings import read_kafka
from headrace.local.settings import Settings
from headrace.operations import deployment as deployments
from headrace.operations.dead_letters import reader
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import send
from headrace.store import checkpoint_log, driver_files, generation, quarantine
from tests.support.acts import approvals
from tests.support.airflow_client import Airflow
from tests.support.drivers import end_offsets

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200), pytest.mark.long(group="airflow")]

DAG, PIPELINE, QUERY, TOPIC = "dead_letters_quarantine", "web_events", "topic", "quickstart"
RECORDS = 20
CHOSEN = {"pipeline": PIPELINE, "query": QUERY, "reason": "a test"}


@pytest.fixture(scope="module")
def stopped(airflow: Airflow, airflow_settings: Settings) -> Iterator[Deployment]:
    """The pipeline after it has taken RECORDS records and was stopped."""
    deployment = deployments.load(airflow_settings.home / "deployment.json")
    airflow.wait_for_dag(DAG)
    _send(airflow_settings, "first")
    _ended(airflow, "stream_start", "success", pipelines=[PIPELINE], reason="a test")
    _await_taken(deployment)
    _ended(airflow, "stream_stop", "success", pipelines=[PIPELINE], reason="a test")
    yield deployment
    deployment.launcher().stop(PIPELINE, 0)
    desired_state.write(deployment.root, PIPELINE, "STOPPED", "a test", "over")


def _send(settings: Settings, city: str, count: int = RECORDS) -> None:
    event = json.dumps({"city": city, "domain": "a.example", "event": "view"}).encode()
    send([Record(TOPIC, b"a.example", event, 0.0)] * count, read_kafka(settings.bindings()), {TOPIC}, paced=False)


def _ended(airflow: Airflow, dag: str, state: str, **form: Any) -> str:
    run = airflow.trigger(dag, form)
    assert airflow.wait(dag, run, 600) == state, airflow.task_states(dag, run)
    return run


def _answered(airflow: Airflow, answer: str, **form: Any) -> dict[str, str | None]:
    run = airflow.trigger(DAG, form)
    assert "pass over" in str(airflow.wait_for_question(DAG, run, 300).body)
    assert airflow.wait(DAG, run, answer=answer) == "success", airflow.task_states(DAG, run)
    return airflow.task_states(DAG, run)


def _await(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def _await_taken(deployment: Deployment) -> None:
    ends = {TOPIC: end_offsets(deployment.bindings, TOPIC)}

    def taken() -> bool:
        """A heartbeat's lag may be from before the records; its offsets are those of the newest batch."""
        beat = driver_files.heartbeat(deployment.root, PIPELINE)
        return beat is not None and all(entry.offsets == ends for entry in beat.queries)

    _await(taken, f"{PIPELINE} has taken all records")


def test_a_stopped_query_without_an_uncommitted_batch_has_nothing_to_search(
    airflow: Airflow, stopped: Deployment
) -> None:
    run = _ended(airflow, DAG, "failed", **CHOSEN, offsets="")
    assert "has no batch that was planned and not committed" in airflow.task_log(DAG, run, "plan_find")
    assert quarantine.read(stopped.root, PIPELINE).entries == ()


def test_a_search_in_a_batch_of_good_records_fails_and_says_that_no_record_is_to_blame(
    airflow: Airflow, stopped: Deployment
) -> None:
    """The newest batch becomes one that was planned and not committed, as a driver that was killed leaves it."""
    now = generation.current(stopped.root, PIPELINE, QUERY)
    assert now is not None
    folder = now.paths(stopped.root).checkpoint
    newest = checkpoint_log.newest_batch(folder)
    assert newest is not None
    commit = Path(checkpoint_log.commits_entry(folder, newest).removeprefix("file://"))
    written = commit.read_bytes()
    commit.unlink()
    try:
        run = _ended(airflow, DAG, "failed", **CHOSEN, offsets="")
    finally:
        commit.write_bytes(written)
    states = airflow.task_states(DAG, run)
    assert (states["spark_run[0]"], states["plan_quarantine"]) == ("success", "failed")
    log = airflow.task_log(DAG, run, "plan_quarantine")
    assert f"The transform succeeds on all records of batch {newest} of {PIPELINE}.{QUERY}" in log


def test_offsets_are_passed_over_once_they_are_approved_and_the_record_becomes_a_letter(
    airflow: Airflow, airflow_settings: Settings, stopped: Deployment
) -> None:
    now = generation.current(stopped.root, PIPELINE, QUERY)
    assert now is not None
    entry = checkpoint_log.read_entry(
        now.paths(stopped.root).checkpoint, checkpoint_log.newest_batch(now.paths(stopped.root).checkpoint) or 0
    )
    assert entry is not None
    ends = entry[1][TOPIC]
    _send(airflow_settings, "second")  # one key: all are in one partition
    partition = max(ends, key=lambda number: ends[number])
    offsets = f"{TOPIC}:{partition}:{ends[partition]}-{ends[partition]}"
    form = CHOSEN | {"offsets": offsets}
    assert _answered(airflow, "Reject", **form)["quarantine_act"] == "skipped"
    assert quarantine.read(stopped.root, PIPELINE).entries == ()
    states = _answered(airflow, "Approve", **form)
    assert (states["quarantine_act"], states.get("spark_run")) == ("success", "skipped")
    assert approvals(stopped.root)[-1] == ("quarantine", f"{PIPELINE}.{QUERY}", "admin (Airflow)")
    assert [str(part) for part in quarantine.read(stopped.root, PIPELINE).entries] == [offsets]

    _ended(airflow, "stream_start", "success", pipelines=[PIPELINE], reason="a test")
    _await_taken(stopped)
    letters = [(letter.partition, letter.offset) for letter in reader.read(stopped.bindings, TOPIC)]
    assert letters == [(partition, ends[partition])]
