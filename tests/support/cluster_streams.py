"""Streams on a real cluster: a load that counts acknowledged records, the content of the sinks, and when a driver is back.

Python runs in the pods of the platform, with their service accounts and mounts. Each record carries the tag of its load,
so a test does not depend on what ran before it.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.cluster import CLIENT_LABELS, get, kubectl, namespace, probe_pod
from tests.support.cluster_airflow import airflow

ALL = ("ad_attribution", "pos_sales", "user_logins", "web_events")
BOTH = ("web_events", "pos_sales")  # the pipelines that read a load
QUERIES = ("files", "product_totals")  # one query of each that works whenever a record arrives
PRODUCTS = 7
PATIENCE = 420.0  # seconds until the sinks hold all acknowledged records, after any fault
RATE = 20  # records per second and topic

HEAD = """
import json, threading, time
from headrace.operations import deployment
from headrace.operations.drivers import control, interface
from headrace.operations.drivers.interface import StartSpec
from headrace.store import driver_files, paths, small_files, trees
loaded = deployment.load()
launcher = loaded.launcher()
"""

# `rows(tag)`: the numbers of a tag's events in the file sink, in order. Spark marks a complete directory, which never changes.
ROWS = (
    HEAD
    + """
texts = {}
def rows(tag):
    folder = f"{launcher.root}/files/web_events/files"
    names = list(trees.files(folder))
    complete = {name.removesuffix("_SUCCESS") for name in names if name.endswith("/_SUCCESS") and "/." not in name}
    valid = [name for name in names if name.endswith(".json") and name.rpartition("/")[0] + "/" in complete]
    for name in valid:
        if name not in texts:
            texts[name] = small_files.read_text(f"{folder}/{name}") or ""
    cities = [json.loads(line)["lower_city"] for name in valid for line in texts[name].splitlines()]
    return sorted(int(city.rpartition("-")[2]) for city in cities if city.startswith(tag + "-"))
"""
)

_LOAD = """
import datetime, json, pathlib, signal, threading, time
from confluent_kafka import Producer
from headrace.access.bindings import read_kafka
root = pathlib.Path("/bindings")
over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
failed, acked = [], {"quickstart": 0, "pos": 0}
def delivered(error, message):
    if error:
        failed.append(str(error))
    else:
        acked[message.topic()] += 1
login = read_kafka(root)
config = login.client_config() | {"log_level": 0}
producer = Producer(config | {"acks": "all", "enable.idempotence": True, "delivery.timeout.ms": 300000})
sent = 0
print("began", flush=True)
while not over.is_set():
    now = datetime.datetime.now(datetime.UTC).isoformat()
    event = {"city": f"{TAG}-{sent}", "domain": f"d{sent % 5}.example", "event": "click"}
    sale = {"product_id": f"{TAG}-{sent % PRODUCTS}", "amount": f"{sent % 100}.25", "create_date": now}
    producer.produce("quickstart", key=event["domain"], value=json.dumps(event), on_delivery=delivered)
    producer.produce("pos", key=sale["product_id"], value=json.dumps(sale), on_delivery=delivered)
    sent += 1
    if sent % RATE == 0 and (mounted := read_kafka(root)) != login:  # the password was rotated
        login = mounted
        producer.set_sasl_credentials(login.username, login.password)
    producer.poll(0)
    over.wait(1 / RATE)
left = producer.flush(300)
print("RESULT " + json.dumps({"sent": sent, "acked": acked, "failed": failed[:3], "left": left}), flush=True)
"""

# The content of the sinks for a load, as soon as it is as expected, or after `seconds`.
_SINKS = (
    ROWS
    + """
from headrace.operations.clients import cassandra_session
def totals(table):
    result = session.execute(f"SELECT product_id, total_amount, sales FROM pos_sales.{table}", timeout=60)
    return {r.product_id: [str(r.total_amount), r.sales] for r in result if r.product_id.startswith(tag + "-")}
deadline = time.time() + seconds
with cassandra_session(loaded.bindings) as session:
    while True:
        answer = {"files": rows(tag)} | {table: totals(table) for table in ("product_totals", "leaderboard")}
        if answer == wanted or time.time() > deadline:
            break
        time.sleep(1)
"""
)

# The time, in milliseconds since 1970, at which every query of the drivers has written a batch that a driver started after
# the fault has begun, or (with the same driver) that was written after the fault.
_BACK = (
    HEAD
    + """
answer, deadline = {{}}, time.time() + {seconds}
while len(answer) < len({pipelines!r}) and time.time() < deadline:
    for name in {pipelines!r}:
        try:
            beat, living = driver_files.heartbeat(launcher.root, name), launcher.find(name)
        except Exception:
            continue
        if not beat or beat.exit or not living or name in answer:
            continue
        wanted = [query for query in beat.queries if query.query.endswith(tuple({queries!r}))]
        written = [query.batch_written_ms or 0 for query in wanted]
        new = living[0].identity != {before!r}.get(name)
        if wanted and min(written) > {since} and (new or not {replaced}):
            answer[name] = {{"first_ms": min(written), "all_ms": max(written), "new": new}}
    time.sleep(0.5)
"""
)


def inside(code: str, part: str = "scheduler") -> Any:
    """Run Python in a pod of Airflow, with its service account and mounts; return the value of `answer`."""
    code += "\nprint('ANSWER ' + json.dumps(answer))\n"
    where = ["-n", namespace("airflow"), f"deploy/airflow-{part}", "-c", part]
    done = kubectl("exec", "-i", *where, "--", "python3", "-", text=code, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")] or [""]
    assert line, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(line.removeprefix("ANSWER "))


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Load:
    """A producer with its own namespace and Kafka user; it sends to `quickstart` and `pos` until it is ended.

    Afterwards `sent` is the number of records, all acknowledged.
    """

    def __init__(self, image: str) -> None:
        """Create the pod and wait until it sends."""
        self.tag = f"t{uuid.uuid4().hex[:8]}"
        self._name, self.sent = f"load-{self.tag}", 0
        code = f"TAG, PRODUCTS, RATE = {self.tag!r}, {PRODUCTS}, {RATE}\n{_LOAD}"
        binding = {"kafka": "kafka-producer-webshop"}
        pod = probe_pod("shop", self._name, CLIENT_LABELS["shop"], code, image, binding)
        pod["spec"]["terminationGracePeriodSeconds"] = 330
        kubectl("apply", "-f", "-", text=json.dumps(pod))
        self._await(lambda: "began" in self._log())

    def _log(self) -> str:
        return kubectl("logs", self._name, "-n", namespace("shop"), check=False).stdout

    @staticmethod
    def _await(true: Any, seconds: float = 360) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "the load's pod did not reach the expected state"
            time.sleep(0.5)

    def end(self) -> int:
        """Stop sending; return the number of records per topic. Every record must have been acknowledged."""
        kubectl("exec", "-n", namespace("shop"), self._name, "--", "kill", "-TERM", "1")
        self._await(lambda: "RESULT" in self._log())
        (line,) = [line for line in self._log().splitlines() if line.startswith("RESULT")]
        result = json.loads(line.removeprefix("RESULT "))
        self.sent = int(result["sent"])
        assert result == {
            "sent": self.sent, "acked": {"quickstart": self.sent, "pos": self.sent}, "failed": [], "left": 0,
        }  # fmt: skip
        return self.sent

    def remove(self) -> None:
        """Remove the pod."""
        kubectl("delete", "pod", self._name, "-n", namespace("shop"), "--ignore-not-found", "--grace-period=1")


def totals(tag: str, sent: int) -> dict[str, list[Any]]:
    """Return what a table of totals must contain of a load: product -> [sum of amounts, number of records]."""
    cents: dict[str, list[int]] = {}
    for n in range(sent):
        total = cents.setdefault(f"{tag}-{n % PRODUCTS}", [0, 0])
        total[0] += (n % 100) * 100 + 25
        total[1] += 1
    return {product: [f"{amount // 100}.{amount % 100:02}", count] for product, (amount, count) in cents.items()}


def assert_exact(tag: str, sent: int) -> None:
    """Wait until the sinks have a load: each event in the files once, each sale summed once in Cassandra."""
    sums = totals(tag, sent)
    wanted = {"files": list(range(sent)), "product_totals": sums, "leaderboard": sums}
    result = inside(f"tag, wanted, seconds = {tag!r}, {wanted!r}, {PATIENCE}\n{_SINKS}")
    rows = result["files"]
    assert rows == wanted["files"], f"{len(rows)} rows, {len(set(rows))} different, of {sent}"
    assert result == wanted


@contextmanager
def load(image: str, seconds_before: float = 5) -> Iterator[Load]:
    """Yield a running load; afterwards it stops, and the sinks must be exact."""
    running = Load(image)
    try:
        time.sleep(seconds_before)
        yield running
        sent = running.end()
        began = time.monotonic()
        assert_exact(running.tag, sent)
        print(f"  {sent} records a topic, each once in the sinks {time.monotonic() - began:.0f} s after the last")
    finally:
        running.remove()


def start(*pipelines: str) -> None:
    """Let Airflow start these pipelines, or adopt running drivers; its supervisor keeps them running."""
    with airflow() as api:
        run, state = api.run("stream_start", {"pipelines": list(pipelines)}, 900)
        assert state == "success", api.task_states("stream_start", run)


def stop_all() -> None:
    """Let Airflow stop every pipeline."""
    with airflow() as api:
        api.run("stream_stop", {"pipelines": list(ALL)}, 400)


def supervision(*pipelines: str) -> dict[str, dict[str, Any]]:
    """Return the supervisor's state file of each pipeline."""
    read = "small_files.read_json(paths.supervision(launcher.root, name))"
    files: dict[str, dict[str, Any]] = inside(
        HEAD + f"answer = {{name: {read} for name in {pipelines!r}}}", "api-server"
    )
    return files


def living(*pipelines: str) -> dict[str, str]:
    """Return pipeline -> identity of its driver: the UID of the one running pod, from Kubernetes."""
    drivers: dict[str, str] = {}
    for name in pipelines:
        pods = get("pods", "-n", namespace("spark"), "-l", f"headrace/pipeline={name},spark-role=driver")["items"]
        (drivers[name],) = [
            pod["metadata"]["uid"] for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")
        ]
    return drivers


def back(
    since_ms: int,
    *pipelines: str,
    before: dict[str, str],
    replaced: bool,
    queries: tuple[str, ...],
    seconds: float = 400,
) -> dict[str, Any]:
    """Wait until queries of these pipelines write batches again; return when, by pipeline.

    `before` are the drivers at the time of the fault; with `replaced` only a batch of another driver counts.
    """
    code = _BACK.format(
        seconds=seconds, pipelines=pipelines, since=since_ms, before=before, replaced=replaced, queries=queries
    )
    moments: dict[str, Any] = inside(code, "api-server")
    assert set(moments) == set(pipelines), f"not back after {seconds:.0f} s: {moments}"
    return moments


class Timeline(threading.Thread):
    """Polls a driver's pod twice a second and records when it was created and its container started, for printed figures."""

    def __init__(self, pod: str, uid: str) -> None:
        """Watch for a pod with this name and another UID."""
        super().__init__(daemon=True)
        self._pod, self._uid, self._over = pod, uid, threading.Event()
        self.made_ms = self.ran_ms = 0

    def run(self) -> None:
        """Poll until told to end."""
        while not self._over.wait(0.5):
            result = kubectl("get", "pod", self._pod, "-n", namespace("spark"), "-o", "json", check=False)
            pod = json.loads(result.stdout) if result.returncode == 0 else None
            if pod is None or pod["metadata"]["uid"] == self._uid:
                continue
            self.made_ms = self.made_ms or now_ms()
            if pod["status"].get("phase") == "Running":
                self.ran_ms = self.ran_ms or now_ms()
                return

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self.join()
