"""A stream on a real cluster ($HEADRACE_KUBECONFIG): submitted by Airflow's account, killed, stopped, raced; rows exact.

Slow: JVMs start in pods. The driver is submitted from the scheduler's pod, as a task would.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from tests.support import cluster_streams
from tests.support.cluster import KUBECONFIG, get, kubectl, namespace
from tests.support.cluster_streams import inside

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
]
NAME, POD = "web_events", "web-events-driver"
SECONDS = 400
TAG = f"t{uuid.uuid4().hex[:8]}"  # of this run's records: the sink may hold those of others

HEAD = f"{cluster_streams.HEAD}\nname = {NAME!r}\n"
START = (
    HEAD
    + """
driver, new = control.start(launcher, name, by="e2e")
beat = interface.await_first_heartbeat(launcher, driver, 300)
answer = {"new": new, "identity": driver.identity, "queries": len(beat.queries)}
"""
)
STOP = (
    HEAD
    + """
answer = {"gentle": control.stop(launcher, name, by="e2e"), "outcome": driver_files.exit_record(launcher.root, name).exit}
"""
)
PRODUCE = (
    HEAD
    + """
from confluent_kafka import Producer
from headrace.access.bindings import read_kafka
producer = Producer(read_kafka(loaded.bindings).client_config() | {{"acks": "all", "enable.idempotence": True}})
for n in range({first}, {last}):
    row = {{"city": f"{tag}-{{n}}", "domain": "d.example", "event": "click"}}
    producer.produce("quickstart", key="d.example", value=json.dumps(row))
answer = {{"left": producer.flush(60)}}
"""
)
RACES = 20
RACE = (
    HEAD
    + """
answer = []
def one(submitted):
    driver, new = launcher.submit(name)
    submitted.append([driver.identity, new])
for _ in range({races}):
    submitted = []
    threads = [threading.Thread(target=one, args=(submitted,)) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    answer.append({{"submitted": submitted, "living": [driver.identity for driver in launcher.find(name)]}})
    launcher.stop(name, 0)
"""
).format(races=RACES)


def rows() -> list[int]:
    """Return the numbers of this run's events in the file sink, in order."""
    numbers: list[int] = inside(cluster_streams.ROWS + f"answer = rows({TAG!r})")
    return numbers


def rows_until(wanted: int) -> list[int]:
    """Poll the file sink until it has as many rows as wanted, and a little longer: more would be doubled ones."""
    deadline = time.monotonic() + SECONDS
    while len(numbers := rows()) < wanted and time.monotonic() < deadline:
        time.sleep(3)
    return numbers


@pytest.fixture(scope="module", autouse=True)
def stopped() -> Iterator[None]:
    """The supervisor is paused, for it would start and stop drivers between these steps; no driver is there before or after."""
    where = ["-n", namespace("airflow"), "deploy/airflow-scheduler", "-c", "scheduler", "--", "airflow", "dags"]
    stop = HEAD + 'answer = control.stop(launcher, name, by="e2e")'
    kubectl("exec", *where, "pause", "streams_supervisor")
    inside(stop)
    yield
    kubectl("exec", *where, "unpause", "streams_supervisor")
    inside(stop)


def test_a_stream_runs_is_killed_goes_on_and_stops_with_every_row_once() -> None:
    began = time.monotonic()
    first = inside(START)
    assert first["new"]
    print(f"\nsubmit to first heartbeat: {time.monotonic() - began:.0f} s")
    inside(PRODUCE.format(tag=TAG, first=0, last=500))
    assert rows_until(500) == list(range(500))
    assert inside(START) | {"queries": 0} == {"new": False, "identity": first["identity"], "queries": 0}

    kubectl("exec", "-n", namespace("spark"), POD, "--", "pkill", "-9", "-x", "java", check=False)
    inside(PRODUCE.format(tag=TAG, first=500, last=700))
    deadline = time.monotonic() + SECONDS
    while inside(HEAD + "answer = [driver.identity for driver in launcher.find(name)]") and time.monotonic() < deadline:
        time.sleep(1)
    killed = time.monotonic()
    second = inside(START)
    assert second["new"]
    assert second["identity"] != first["identity"]
    print(f"killed to first heartbeat: {time.monotonic() - killed:.0f} s")
    assert rows_until(700) == list(range(700))

    assert inside(STOP) == {"gentle": True, "outcome": "FINISHED"}
    assert get("pods", "-n", namespace("spark"), "-l", f"headrace/pipeline={NAME}")["items"] == []


def test_two_submits_at_once_make_one_driver_each_time() -> None:
    began = time.monotonic()
    races = inside(RACE)
    print(f"\n{RACES} races of two submits: {time.monotonic() - began:.0f} s")
    assert len(races) == RACES
    for race in races:
        assert race["living"] == list({identity for identity, _ in race["submitted"]})
        assert sorted(new for _, new in race["submitted"]) == [False, True]


def test_an_executor_that_is_killed_is_replaced_and_no_row_is_lost() -> None:
    inside(START)
    before = len(rows())
    executors = get("pods", "-n", namespace("spark"), "-l", f"headrace/pipeline={NAME},spark-role=executor")["items"]
    assert executors
    kubectl("delete", "pod", executors[0]["metadata"]["name"], "-n", namespace("spark"), "--grace-period=1")
    inside(PRODUCE.format(tag=TAG, first=before, last=before + 100))
    assert rows_until(before + 100) == list(range(before + 100))


def test_drivers_and_executors_map_their_classes_from_the_archive_of_the_image() -> None:
    inside(START)
    pods = get("pods", "-n", namespace("spark"), "-l", f"headrace/pipeline={NAME}")["items"]
    assert {pod["metadata"]["labels"]["spark-role"] for pod in pods} == {"driver", "executor"}
    for pod in pods:
        name = pod["metadata"]["name"]
        maps = kubectl("exec", "-n", namespace("spark"), name, "--", "sh", "-c", "cat /proc/[0-9]*/maps").stdout
        assert "/opt/classes/spark.jsa" in maps, name


def test_no_process_compiles_the_python_it_imports() -> None:
    inside(START)
    code = """
import importlib.util, pathlib, sys
for name in {modules!r}:
    importlib.import_module(name)
files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
sources = [file for file in files if file.endswith(".py")]
print(len(sources), [file for file in sources if not pathlib.Path(importlib.util.cache_from_source(file)).exists()])
"""
    driver = ["-n", namespace("spark"), POD]
    scheduler = ["-n", namespace("airflow"), "deploy/airflow-scheduler", "-c", "scheduler"]
    for where, modules in (
        (driver, ["headrace.driver.runtime"]),
        (scheduler, ["airflow.sdk", "kubernetes.client", "headrace.operations.drivers.control"]),
    ):
        said = kubectl("exec", *where, "--", "python3", "-c", code.format(modules=modules)).stdout
        count, _, lacking = said.splitlines()[-1].partition(" ")
        assert int(count) > 100
        assert lacking == "[]"
