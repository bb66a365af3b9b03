"""Every DAG once through the real scheduler, by the REST API: happy, failing and rejected, on a real pipeline.

One pipeline with state, two topics and batch views (`ad_attribution`); the tests follow an operator's day in order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import TopicPartition

from headrace.access.bindings import read_kafka
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.local import platform
from headrace.local.settings import Settings
from headrace.operations import deployment as deployments
from headrace.operations.batch import reconcile
from headrace.operations.clients import cassandra_session, kafka_admin
from headrace.operations.dead_letters import reader as dead_letters
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import send
from headrace.operations.supervisor import memory
from headrace.store import driver_files, generation
from headrace.store.driver_files import Heartbeat
from tests.support.acts import approvals
from tests.support.airflow_client import Airflow
from tests.support.drivers import end_offsets
from tests.support.servers import is_running, kill

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200), pytest.mark.long(group="airflow")]

NAME = "ad_attribution"
STATELESS = "archive_clicks"
CHOOSING = (  # the DAGs whose form has a choice of pipelines
    "stream_start", "stream_stop", "stream_pause", "stream_resume", "stream_restart", "checkpoint_snapshot",
    "checkpoint_drill", "checkpoint_compact", "quality", "batch_views", "reconcile",
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded(airflow_settings: Settings) -> Deployment:
    return deployments.load(airflow_settings.home / "deployment.json")


@pytest.fixture(scope="module")
def described(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / f"{NAME}.yaml")


@pytest.fixture(scope="module")
def running(airflow: Airflow, airflow_settings: Settings, loaded: Deployment) -> Iterator[Airflow]:
    """The pipeline, started by its DAG, with two days of records in its sinks; the driver is ended with the module."""
    airflow.wait_for_dag("stream_start")
    began = datetime.now(UTC) - timedelta(days=2)
    send_records(airflow_settings, [record(began, number) for number in range(200)])
    ended(airflow, "stream_start", "success", pipelines=[NAME], reason="a test")
    lately = datetime.now(UTC) - timedelta(hours=1)  # nothing in the future, which would be a dead letter
    send_records(airflow_settings, [record(lately, 1000 + number) for number in range(50)])
    await_quiet(loaded)
    # A driver that is killed before the batch which applies the watermark leaves it to the next record (README, limits).
    await_until(lambda: watermark(loaded) > lately - timedelta(hours=1), "the watermark is applied")
    yield airflow
    loaded.launcher().stop(NAME, 0)
    desired_state.write(loaded.root, NAME, "STOPPED", "a test", "over")


def record(at: datetime, number: int) -> Record:
    """Return an impression or its click, `number` seconds after `at`."""
    body = {"uuid": f"u{number // 2}", "create_date": (at + timedelta(seconds=number)).isoformat()}
    topic = "clicks" if number % 2 else "impressions"
    if topic == "impressions":
        body["ad_id"] = "a"
    return Record(topic, body["uuid"].encode(), json.dumps(body).encode(), 0.0)


def send_records(settings: Settings, records: list[Record]) -> None:
    send(records, read_kafka(settings.bindings()), {sent.topic for sent in records}, paced=False)


def ended(airflow: Airflow, dag_id: str, state: str, seconds: float = 600, **conf: Any) -> str:
    """Run a DAG and require the state; what its tasks did is told if it is another."""
    run_id = airflow.trigger(dag_id, conf)
    require(airflow, dag_id, run_id, state, seconds)
    return run_id


def require(airflow: Airflow, dag_id: str, run_id: str, state: str, seconds: float = 600) -> None:
    ended_as = airflow.wait(dag_id, run_id, seconds)
    assert ended_as == state, json.dumps({
        instance.name: [
            instance.state,
            airflow.task_log(dag_id, run_id, instance.task_id, max(1, instance.try_number), instance.map_index)[-1500:]
            if instance.state == "failed"
            else "",
        ]
        for instance in airflow.task_instances(dag_id, run_id)
    }, indent=1)  # fmt: skip


def answered(airflow: Airflow, dag_id: str, answer: str, **conf: Any) -> dict[str, str | None]:
    """Run a DAG that asks, answer it, and return how its tasks ended."""
    run_id = airflow.trigger(dag_id, conf)
    question = airflow.wait_for_question(dag_id, run_id, 300)
    assert question.body, "a person must see what is to be approved"
    airflow.wait(dag_id, run_id, answer=answer)
    require(airflow, dag_id, run_id, "success")
    return airflow.task_states(dag_id, run_id)


def await_until(fact: Any, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def await_quiet(loaded: Deployment) -> None:
    ends = {topic: end_offsets(loaded.bindings, topic) for topic in ("clicks", "impressions")}

    def quiet() -> bool:
        """A heartbeat's lag may be from before the records; its offsets are those of the newest batch."""
        taken = [entry.offsets for entry in (driver_files.heartbeat(loaded.root, NAME) or Heartbeat()).queries]
        return bool(taken) and all(offsets and offsets.items() <= ends.items() for offsets in taken)

    await_until(quiet, f"{NAME} has taken all records")


def watermark(loaded: Deployment) -> datetime:
    state = (driver_files.heartbeat(loaded.root, NAME) or Heartbeat()).query(f"{NAME}.attributed")
    return datetime.fromtimestamp(((state and state.watermark_ms) or 0) / 1000, UTC)


def heartbeat_pid(loaded: Deployment) -> int:
    return (driver_files.heartbeat(loaded.root, NAME) or Heartbeat()).pid


def driver_pid(loaded: Deployment) -> int:
    (living,) = living_pids(loaded)
    return living


def test_a_run_for_which_no_pipeline_was_chosen_is_refused_in_a_sentence(airflow: Airflow) -> None:
    for dag_id in CHOOSING:
        airflow.wait_for_dag(dag_id)
    runs = {dag_id: airflow.trigger(dag_id, {"pipelines": [], "reason": "a test"}) for dag_id in CHOOSING}
    for dag_id, run_id in runs.items():
        require(airflow, dag_id, run_id, "failed")
        failed = [name for name, state in airflow.task_states(dag_id, run_id).items() if state == "failed"]
        assert failed, dag_id
        for task in failed:
            assert "No pipeline was chosen" in airflow.task_log(dag_id, run_id, task), f"{dag_id}.{task}"


def test_a_killed_driver_is_started_again_by_the_scheduled_supervisor(running: Airflow, loaded: Deployment) -> None:
    running.http.patch("/api/v2/dags/streams_supervisor", json={"is_paused": False})
    killed = driver_pid(loaded)
    os.killpg(killed, signal.SIGKILL)
    await_until(
        lambda: [d for d in loaded.launcher().find(NAME) if not d.identity.startswith(f"{killed}@")], "a new driver"
    )
    await_until(lambda: [heartbeat_pid(loaded)] == living_pids(loaded), "the new driver's queries run")
    action = (memory.read(loaded.root, NAME) or memory.Supervision()).last_action
    assert (action and action.kind) == "START"


def test_a_frozen_driver_is_replaced_by_the_scheduled_supervisor_and_ended(
    running: Airflow, loaded: Deployment
) -> None:
    frozen = psutil.Process(driver_pid(loaded))
    os.killpg(frozen.pid, signal.SIGSTOP)
    await_until(lambda: not is_running(frozen), "the frozen driver is ended")

    def replaced() -> bool:
        living = living_pids(loaded)  # the frozen one is among them until its last thread is gone
        return frozen.pid not in living and heartbeat_pid(loaded) in living

    await_until(replaced, "another driver's queries run")


def test_a_scheduler_killed_in_the_middle_of_a_submit_leaves_one_driver(
    running: Airflow, loaded: Deployment, airflow_settings: Settings, seed: int
) -> None:
    ended(running, "stream_stop", "success", pipelines=[NAME], reason="a test")
    run_id = running.trigger("stream_start", {"pipelines": [NAME], "reason": "a test"})
    await_until(lambda: "running" in running.task_states("stream_start", run_id).values(), "a task of the start runs")
    time.sleep(random.Random(seed).uniform(0, 8))  # before, in or after the submit
    kill(airflow_settings, "airflow-scheduler")
    platform.up(airflow_settings)
    most = 0

    def processing() -> bool:
        nonlocal most
        most = max(most, len(living_pids(loaded)))
        return heartbeat_pid(loaded) in living_pids(loaded)

    await_until(processing, "a driver's queries run")
    running.wait("stream_start", run_id, 600)
    await_until(processing, "a driver's queries still run")
    assert most == 1


def living_pids(loaded: Deployment) -> list[int]:
    return [int(living.identity.partition("@")[0]) for living in loaded.launcher().find(NAME)]


def test_pause_resume_restart_and_stop_do_what_they_say(running: Airflow, loaded: Deployment) -> None:
    ended(running, "stream_pause", "success", pipelines=[NAME], reason="a pause")
    assert loaded.launcher().find(NAME) == []
    desired = desired_state.read(loaded.root, NAME)
    assert (desired.want, desired.reason) == ("PAUSED", "a pause")
    ended(running, "stream_resume", "success", pipelines=[NAME])
    before = driver_pid(loaded)
    ended(running, "stream_restart", "success", pipelines=[NAME], reason="a restart")
    assert driver_pid(loaded) != before


def test_a_release_that_is_not_there_is_refused_and_nothing_is_stopped(running: Airflow, loaded: Deployment) -> None:
    before = driver_pid(loaded)
    run_id = ended(running, "stream_upgrade", "failed", pipeline=NAME, release="/no/such/release", batches=1, minutes=1)
    states = running.task_states("stream_upgrade", run_id)
    assert states["check"] == "failed"
    assert states["roll_back"] in {"skipped", "upstream_failed"}
    assert driver_pid(loaded) == before


def test_an_upgrade_is_kept(running: Airflow, loaded: Deployment) -> None:
    before = driver_pid(loaded)
    run_id = ended(running, "stream_upgrade", "success", pipeline=NAME, release="", batches=1, minutes=5)
    states = running.task_states("stream_upgrade", run_id)
    assert states["keep"] == "success"
    assert states["roll_back"] == "skipped"
    assert driver_pid(loaded) != before


def test_snapshots_are_taken_and_a_drill_restores_them(running: Airflow) -> None:
    run_id = ended(running, "checkpoint_snapshot", "success", pipelines=[NAME])
    assert running.returned("checkpoint_snapshot", run_id, "kept") == 3
    run_id = ended(running, "checkpoint_drill", "success", seconds=900, pipelines=[NAME])
    assert [result["ok"] for result in running.returned("checkpoint_drill", run_id, "judge")] == [True] * 3


def test_a_restore_is_refused_while_the_stream_runs_rejected_and_carried_out(
    running: Airflow, loaded: Deployment
) -> None:
    form: dict[str, Any] = {"pipeline": NAME, "query": STATELESS, "snapshot": "", "reason": "a test"}
    refused = ended(running, "checkpoint_restore", "failed", **form)
    assert f"The restore of {NAME}.{STATELESS} is blocked" in running.task_log(
        "checkpoint_restore", refused, "plan_restore"
    )
    ended(running, "stream_stop", "success", pipelines=[NAME], reason="a restore")
    unpaused = ended(running, "stream_resume", "failed", pipelines=[NAME])
    assert "is not paused (desired state STOPPED)" in running.task_log("stream_resume", unpaused, "resume", 1, 0)
    assert answered(running, "checkpoint_restore", "Reject", **form)["restore_act"] == "skipped"
    states = answered(running, "checkpoint_restore", "Approve", **form)
    assert approvals(loaded.root)[-1] == ("restore", f"{NAME}.{STATELESS}", "admin (Airflow)")
    assert (states["restore_act"], states["verify_restored"]) == ("success", "success")
    ended(running, "stream_start", "success", pipelines=[NAME], reason="restored")
    state = (driver_files.heartbeat(loaded.root, NAME) or Heartbeat()).query(f"{NAME}.{STATELESS}")
    assert (state and state.generation) == 2


def test_a_prune_asks_and_does_nothing_when_it_is_rejected(running: Airflow, loaded: Deployment) -> None:
    form: dict[str, Any] = {"generation_days": 0, "snapshot_days": 0, "snapshots": 1, "trash_days": 0}
    ended(running, "checkpoint_snapshot", "success", pipelines=[NAME])
    assert answered(running, "checkpoint_prune", "Reject", **form)["prune_act"] == "skipped"
    assert answered(running, "checkpoint_prune", "Approve", **form)["prune_act"] == "success"
    assert approvals(loaded.root)[-1][::2] == ("prune", "admin (Airflow)")


def test_upkeep_runs_beside_the_stream(running: Airflow) -> None:
    ended(running, "checkpoint_compact", "success", pipelines=[NAME])


def test_batch_views_are_computed_and_reconciliation_follows_by_their_asset(running: Airflow) -> None:
    run_id = ended(running, "batch_views", "success", pipelines=[NAME], first="", last="")
    assert running.returned("batch_views", run_id, "computed")
    (emitted,) = running.returned("batch_views", run_id, "emit_lineage")
    assert (emitted["pipeline"], emitted["http"]) == (NAME, "")
    assert emitted["events"] >= 1
    await_until(lambda: runs_by_asset(running), "the asset starts a reconciliation")
    run_id = runs_by_asset(running)[0]
    require(running, "reconcile", run_id, "success", 900)
    (summary,) = running.returned("reconcile", run_id, "judge")
    assert summary["differing"] == 0
    assert all(account["compared"] for account in summary["accounts"] if account["query"] == "attributed")
    repair = ended(running, "batch_repair", "failed", pipeline=NAME, run=summary["run"])
    assert "There is nothing to do for the repair" in running.task_log("batch_repair", repair, "plan_repair")


def test_a_row_that_was_deleted_in_the_table_is_found_named_and_repaired_once_it_is_approved(
    running: Airflow, loaded: Deployment
) -> None:
    with cassandra_session(loaded.bindings) as session:
        rows = session.execute("SELECT impr_uuid, impr_date, ad_id, click_key FROM ad_attribution.attributed").all()
        gone = min(rows, key=lambda row: row.impr_date)
        key = "impr_uuid = %s AND impr_date = %s AND ad_id = %s AND click_key = %s"
        session.execute(f"DELETE FROM ad_attribution.attributed WHERE {key}", gone)

        def is_back() -> bool:
            return session.execute(f"SELECT ad_id FROM ad_attribution.attributed WHERE {key}", gone).one() is not None

        run_id = ended(running, "reconcile", "failed", 900, pipelines=[NAME])
        log = running.task_log("reconcile", run_id, "judge")
        assert "attributed: 1 (missing in the sink" in log
        assert f"impr_uuid={gone.impr_uuid}" in log
        form: dict[str, Any] = {"pipeline": NAME, "run": reconcile.trend(loaded.root, NAME)[0].run}
        assert form["run"] in log, "the operator is told what to put into the form"
        assert answered(running, "batch_repair", "Reject", **form)["repair_act"] == "skipped"
        assert not is_back()
        assert answered(running, "batch_repair", "Approve", **form)["repair_act"] == "success"
        assert approvals(loaded.root)[-1][::2] == ("repair", "admin (Airflow)")
        assert is_back()


def test_a_query_is_rebuilt_from_the_archive_once_its_stream_is_stopped_and_it_is_approved(
    running: Airflow, airflow_settings: Settings, loaded: Deployment
) -> None:
    form: dict[str, Any] = {"pipeline": NAME, "query": "attributed", "reason": "a test"}
    refused = ended(running, "batch_rebuild", "failed", **form)
    assert f"The rebuild of {NAME}.attributed is blocked" in running.task_log("batch_rebuild", refused, "plan_rebuild")
    ended(running, "stream_stop", "success", pipelines=[NAME], reason="a rebuild")
    assert answered(running, "batch_rebuild", "Reject", **form)["rebuild_act"] == "skipped"
    before = generation.current(loaded.root, NAME, "attributed")
    assert answered(running, "batch_rebuild", "Approve", **form)["rebuild_act"] == "success"
    assert approvals(loaded.root)[-1] == ("rebuild", f"{NAME}.attributed", "admin (Airflow)")
    now = generation.current(loaded.root, NAME, "attributed")
    assert before is not None
    assert now is not None
    assert (now.number, now.reason) == (before.number + 1, "a test")
    ended(running, "stream_start", "success", pipelines=[NAME], reason="rebuilt")
    lately = datetime.now(UTC) - timedelta(hours=1)
    send_records(airflow_settings, [record(lately, 3000 + number) for number in range(20)])
    await_quiet(loaded)
    ended(running, "reconcile", "success", 900, pipelines=[NAME])


def runs_by_asset(airflow: Airflow) -> list[str]:
    return [run["dag_run_id"] for run in airflow.get("/dags/reconcile/dagRuns", run_type="asset_triggered")["dag_runs"]]


def test_dead_letters_are_replayed_once_they_are_approved(
    running: Airflow, airflow_settings: Settings, loaded: Deployment
) -> None:
    send_records(airflow_settings, [Record("clicks", b"k", b"not JSON", 0.0)])
    form: dict[str, Any] = {"topic": "clicks", "reason": "", "again": False}
    await_until(lambda: len(dead_letters.read(loaded.bindings, "clicks")) == 1, "the refused record is a dead letter")
    assert answered(running, "dead_letters_replay", "Reject", **form)["replay_act"] == "skipped"
    assert answered(running, "dead_letters_replay", "Approve", **form)["replay_act"] == "success"
    refused = ended(running, "dead_letters_replay", "failed", **form)
    assert approvals(loaded.root)[-1] == ("replay", "clicks", "admin (Airflow)")
    log = running.task_log("dead_letters_replay", refused, "plan_replay")
    assert "There is nothing to do for the replay of clicks" in log


def test_every_sink_is_checked_its_gate_opens_and_the_streams_page_leads_to_its_data_docs(running: Airflow) -> None:
    run_id = ended(running, "quality", "success", pipelines=[NAME], seconds=900)
    gates = [name for name, state in running.task_states("quality", run_id).items() if name.startswith("gate[")]
    assert len(gates) >= 3
    links = running.get(f"/dags/quality/dagRuns/{run_id}/taskInstances/data_docs/links")["extra_links"]
    assert links["Data Docs"].endswith("/headrace/docs/index.html")
    (shown,) = [card for card in running.http.get("/headrace/streams.json").json() if card["name"] == NAME]
    pages = [sink["newest"]["page"] for sink in shown["quality"] if sink["newest"] and sink["newest"]["page"]]
    assert len(pages) >= 3
    for page in ("index.html", *pages):
        assert running.http.get(f"/headrace/docs/{page}").status_code == 200, page


def test_records_that_retention_takes_unread_fail_the_guard_and_block_a_rebuild(
    running: Airflow, airflow_settings: Settings, loaded: Deployment
) -> None:
    ended(running, "batch_retention", "success")
    ended(running, "stream_stop", "success", pipelines=[NAME], reason="a test")
    send_records(airflow_settings, [record(datetime.now(UTC) - timedelta(hours=1), 2001) for _ in range(5)])
    admin = kafka_admin(loaded.bindings)
    everything = [
        TopicPartition("clicks", partition, -1) for partition in admin.list_topics("clicks").topics["clicks"].partitions
    ]
    for answer in admin.delete_records(everything).values():
        answer.result(120)
    lost = ended(running, "batch_retention", "failed")
    guards = [instance for instance in running.task_instances("batch_retention", lost) if instance.task_id == "guard"]
    (failed,) = [guard.map_index for guard in guards if guard.state == "failed"]
    assert "records to retention: see docs/runbooks/RetentionLost.md" in running.task_log(
        "batch_retention", lost, "guard", 1, failed
    )
    blocked = ended(running, "batch_rebuild", "failed", pipeline=NAME, query="attributed", reason="a test")
    assert "what lies between is lost" in running.task_log("batch_rebuild", blocked, "plan_rebuild")
