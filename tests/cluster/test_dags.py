"""All four pipelines on generated events, and the DAGs that keep their data, on a real cluster ($HEADRACE_KUBECONFIG).

Spark batch over the archive is the oracle of every sink (`reconcile`). Slow: four drivers, and a Spark run a pipeline.
For a platform on which `pos_sales` has not run: the events are of two days, late for whoever has read newer ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.airflow_client import Airflow
from tests.support.cluster import KUBECONFIG, get, kubectl, namespace
from tests.support.cluster_airflow import airflow
from tests.support.cluster_streams import ALL, BOTH, HEAD, inside, start, supervision

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
]
SMALL = "ad_attribution"  # two topics, a join with state and views
OTHERS = sorted({*ALL} - {*BOTH})  # which no other file needs

_MIX = (
    HEAD
    + """
import datetime
from headrace.access.bindings import read_kafka
from headrace.operations.produce.accounts import user_directory
from headrace.operations.produce.mix import make_mix
from headrace.operations.produce.run import produce_generated
old = make_mix(events=3000, seed=6, users=200, since=datetime.timedelta(days=2))
def send(mix, rate):
    summary = produce_generated(read_kafka(loaded.bindings), loaded.pipelines(), mix, rate)
    return {"sent": summary.sent, "acknowledged": summary.acknowledged, "failed": summary.failed}
"""
)
_DROP = (
    _MIX
    + """
now = datetime.datetime.now(datetime.UTC)
path = f"{paths.refresh_drop(loaded.root, 'user_logins', 'users')}/users-{now:%Y%m%dT%H%M%SZ}.csv"
lines = ["login_id,user_name", *(f"{u['login_id']},{u['user_name']}" for u in user_directory(old))]
small_files.write_text(path, "\\n".join(lines) + "\\n")
small_files.write_text(path + ".done", "")
answer = len(lines) - 1
"""
)
_QUIET = (
    HEAD
    + """
from headrace.operations import streams
def behind():  # as Kafka's ends are now: a driver's heartbeat knows those of its last batch
    return [row.query for row in streams.rows(launcher, loaded.pipelines().values(), loaded.bindings) if row.lag != 0]
deadline = time.time() + 600
while (answer := behind()) and time.time() < deadline:
    time.sleep(2)
"""
)


@pytest.fixture(scope="module")
def running(stopped_at_the_end: None) -> Iterator[Airflow]:
    """The users are there, the four drivers run, and all topics hold two days of events, taken by every query."""
    with airflow() as api:
        assert inside(_DROP) == 200  # users
        run, state = api.run("users_refresh", {}, 600)
        assert state == "success", api.task_states("users_refresh", run)
        start(*ALL)
        result = inside(_MIX + "answer = send(old, None)")
        assert result["sent"] == result["acknowledged"]
        assert inside(_QUIET) == []
        yield api
        assert api.run("stream_stop", {"pipelines": list(OTHERS)}, 400)[1] == "success"


def test_all_four_pipelines_are_healthy_while_events_flow(running: Airflow) -> None:
    code = _MIX + "send(make_mix(duration=150, seed=7, users=200), 12)\n"
    there = ["exec", "-i", "-n", namespace("airflow"), "deploy/airflow-scheduler", "-c", "scheduler", "--"]
    kubectl(*there, "sh", "-c", "cat > /tmp/flow.py; nohup python3 /tmp/flow.py > /tmp/flow.log 2>&1 &", text=code)
    healthy: dict[str, str] = {}
    last: dict[str, str] = {}
    deadline = time.monotonic() + 420
    while len(healthy) < len(ALL) and time.monotonic() < deadline:
        last = {name: str(seen["verdict"]) for name, seen in supervision(*ALL).items()}
        healthy |= {name: verdict for name, verdict in last.items() if verdict == "HEALTHY"}
        time.sleep(3)
    assert set(healthy) == set(ALL), last
    print(f"\nworking sets of all pods with four drivers: {_working_set() / 2**30:.1f} GiB")
    # What came after a pipeline was stopped would be waited for, a minute each time that its archive is read.
    kubectl(*there, "pkill", "-f", "/tmp/flow.py", check=False)
    assert inside(_QUIET) == []


@pytest.fixture(scope="module")
def room(running: Airflow) -> Airflow:
    """Two cores are few for four drivers and a Spark run beside them: two drivers are stopped, their sinks stay."""
    assert running.run("stream_stop", {"pipelines": ["pos_sales", "user_logins"]}, 400)[1] == "success"
    return running


def test_every_sink_of_all_four_pipelines_is_what_spark_batch_makes_of_the_archive(room: Airflow) -> None:
    def by_asset() -> set[str]:
        asset_runs = room.get("/dags/reconcile/dagRuns", run_type="asset_triggered")["dag_runs"]
        return {str(triggered["dag_run_id"]) for triggered in asset_runs}

    before = by_asset()
    _succeeds(room, "batch_views", {"pipelines": list(ALL), "first": "", "last": ""})
    began, deadline = time.monotonic(), time.monotonic() + 600
    while not (runs := by_asset() - before):
        assert time.monotonic() < deadline, "the views' asset starts no reconciliation"
        time.sleep(2)
    (run,) = runs
    assert room.wait("reconcile", run, 2400) == "success"
    print(f"\nreconcile, by the asset of the views: {time.monotonic() - began:.0f} s")
    reports = room.returned("reconcile", run, "judge")
    assert {report["pipeline"]: report["differing"] for report in reports} == dict.fromkeys(ALL, 0)
    for report in reports:
        statuses = {f"{account['query']} {account['sink']}": account["status"] for account in report["accounts"]}
        assert set(statuses.values()) <= {"PASSED", "EMPTY", "EXEMPT"}, statuses
        assert "PASSED" in statuses.values(), "nothing of it was compared"


def test_a_batch_pod_that_is_killed_in_the_middle_fails_its_task_and_the_next_try_is_right(room: Airflow) -> None:
    run = room.trigger("reconcile", {"pipelines": [SMALL], "days": 0, "queries": []})
    pod, line = _batch_pod(room, run)
    there = ["-n", namespace("airflow"), "deploy/airflow-scheduler", "-c", "scheduler", "--"]
    assert kubectl("exec", *there, "pgrep", "-x", "java", check=False).stdout == "", "Spark runs in the scheduler"
    kubectl("delete", "pod", pod, "-n", namespace("airflow"), "--grace-period=1")
    assert room.wait("reconcile", run, 1200) == "success"
    (report,) = room.returned("reconcile", run, "judge")
    assert (report["pipeline"], report["differing"]) == (SMALL, 0)
    assert "PASSED" in {account["status"] for account in report["accounts"]}
    first, second = (room.task_log("reconcile", run, "spark_run", number, 0) for number in (1, 2))
    assert f"{pod} was deleted before it ended" in first
    assert line in first, "the log stays readable when the pod is gone"
    assert f"Started pod {namespace('airflow')}/{pod}" in second
    assert _batch_pods() == []


def test_a_batch_run_that_a_person_ends_takes_its_pod_along(room: Airflow) -> None:
    run = room.trigger("reconcile", {"pipelines": [SMALL], "days": 0, "queries": []})
    _batch_pod(room, run)
    path = f"/api/v2/dags/reconcile/dagRuns/{run}/taskInstances/spark_run/0"
    assert room.http.patch(path, json={"new_state": "failed"}).status_code == 200
    deadline = time.monotonic() + 120
    while _batch_pods():
        assert time.monotonic() < deadline, "the pod outlives its task"
        time.sleep(1)
    assert room.wait("reconcile", run, 300) == "failed"


def _batch_pods() -> list[str]:
    pods = get("pods", "-n", namespace("airflow"), "-l", "app.kubernetes.io/component=batch")["items"]
    return [pod["metadata"]["name"] for pod in pods]


def _batch_pod(api: Airflow, run: str) -> tuple[str, str]:
    """Wait until the task has a line of the log of its pod, which runs; return the pod's name and the line."""
    deadline = time.monotonic() + 300
    pods: list[str] = []
    while time.monotonic() < deadline:
        pods = _batch_pods()
        printed = kubectl("logs", pods[0], "-n", namespace("airflow"), check=False).stdout if pods else ""
        if printed and (line := printed.splitlines()[0].strip()) in api.task_log("reconcile", run, "spark_run", 1, 0):
            (pod,) = pods
            return pod, line
        time.sleep(0.5)
    raise AssertionError(f"no batch pod whose log reaches its task: {pods}")


@pytest.mark.parametrize(
    ("dag", "form"),
    [
        ("quality", {"pipelines": list(ALL)}),
        ("checkpoint_snapshot", {"pipelines": list(ALL)}),
        ("checkpoint_drill", {"pipelines": [SMALL]}),
        ("checkpoint_compact", {"pipelines": [SMALL]}),
        ("batch_retention", {}),
        ("batch_lineage", {}),
    ],
    ids=lambda parameter: parameter if isinstance(parameter, str) else "",
)
def test_the_dags_that_keep_the_data_do_their_work_beside_the_streams(
    room: Airflow, dag: str, form: dict[str, object]
) -> None:
    _succeeds(room, dag, form)


def _succeeds(api: Airflow, dag: str, form: dict[str, object]) -> str:
    began = time.monotonic()
    run, state = api.run(dag, form, 2400)
    print(f"\n{dag}: {state} after {time.monotonic() - began:.0f} s")
    failed = [task for task in api.task_instances(dag, run) if task.state == "failed"]
    logs = [api.task_log(dag, run, task.task_id, max(1, task.try_number), task.map_index)[-3000:] for task in failed]
    assert state == "success", "\n".join(logs)
    return run


def _working_set() -> int:
    """Return the bytes of all containers of the platform that cannot be taken away, as the kubelet tells."""
    (node,) = get("nodes")["items"]
    stats = kubectl("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary").stdout
    pods = [pod for pod in json.loads(stats)["pods"] if pod["podRef"]["namespace"].startswith("headrace")]
    return sum(
        int(container.get("memory", {}).get("workingSetBytes", 0)) for pod in pods for container in pod["containers"]
    )
