"""Three nodes roll under load without a failed write ($HEADRACE_KUBECONFIG and HEADRACE_HA=1: `pytest tests/cluster/test_ha.py`).

Slow: every node of Kafka, then of Cassandra, stops and starts while a client writes.
"""

from __future__ import annotations

import json
import os
import threading

import pytest

from tests.support.cluster import KUBECONFIG, airflow_image, kubectl, namespace, probe_pod, run_probe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not (KUBECONFIG and os.environ.get("HEADRACE_HA")), reason="needs a platform of size 3: HEADRACE_HA=1"
    ),
]
SECONDS = 1500  # of load at most: it ends when the nodes have rolled

KAFKA = """
import pathlib, time
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from headrace.access.bindings import read_kafka
config = read_kafka(pathlib.Path("/bindings")).client_config() | {"log_level": 0}
topic = f"ha-{int(time.time())}"
admin = AdminClient(config)  # kept: one that is collected takes its answers with it
made = admin.create_topics([NewTopic(topic, 3, 3, config={"min.insync.replicas": "2"})], operation_timeout=30)
made[topic].result(60)
failed, acked = [], 0
def delivered(error, message):
    global acked
    if error:
        failed.append(str(error))
    else:
        acked += 1
producer = Producer(config | {"acks": "all", "enable.idempotence": True, "delivery.timeout.ms": 120000})
sent, end, over = 0, time.time() + SECONDS, pathlib.Path("/tmp/over")
while time.time() < end and not over.exists():
    producer.produce(topic, value=str(sent), on_delivery=delivered)
    sent += 1
    producer.poll(0.02)
left = producer.flush(120)
reader = Consumer(config | {"group.id": "ha", "auto.offset.reset": "earliest", "enable.auto.commit": False})
reader.assign([TopicPartition(topic, n, 0) for n in range(3)])
seen, quiet = [], 0
while quiet < 15 and len(seen) < sent:
    batch = reader.consume(1000, 1)
    quiet = 0 if batch else quiet + 1
    seen += [int(message.value()) for message in batch if not message.error()]
print("RESULT", sent, acked, len(failed), left, len(set(seen)), len(seen), failed[:1])
"""
CASSANDRA = """
import pathlib, time
from cassandra import ConsistencyLevel
from cassandra.query import SimpleStatement
from headrace.operations.clients import cassandra_session
failed = retried = sent = 0
with cassandra_session(pathlib.Path("/bindings")) as session:
    session.execute("CREATE KEYSPACE IF NOT EXISTS ha WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3}")
    table = f"ha.t{int(time.time())}"  # of this run
    session.execute(f"CREATE TABLE {table} (k int PRIMARY KEY, v int)")
    write = SimpleStatement(f"INSERT INTO {table} (k, v) VALUES (%s, %s)", consistency_level=ConsistencyLevel.LOCAL_QUORUM)
    end, over = time.time() + SECONDS, pathlib.Path("/tmp/over")
    while time.time() < end and not over.exists():
        for attempt in range(5):
            try:
                session.execute(write, (sent, sent), timeout=10)
                break
            except Exception as error:
                retried += 1
                time.sleep(1)
        else:
            failed += 1
        sent += 1
        time.sleep(0.02)
    read = SimpleStatement(f"SELECT k FROM {table}", consistency_level=ConsistencyLevel.LOCAL_QUORUM, fetch_size=1000)
    seen = len(list(session.execute(read, timeout=60)))
print("RESULT", sent, retried, failed, seen)
"""


def _under_load(system: str, code: str, rolled: tuple[str, ...]) -> list[str]:
    """Write while the sets roll; return the words of the client's result."""
    labels = {"app.kubernetes.io/name": "airflow"}
    code = f"SECONDS = {SECONDS}\n{code}"
    pod = probe_pod("airflow", f"ha-{system}", labels, code, airflow_image(), {system: f"{system}-admin"})
    ended: list[tuple[str, str]] = []
    client = threading.Thread(target=lambda: ended.append(run_probe(pod, SECONDS + 400)))
    client.start()
    kubectl("wait", "--for=create", f"pod/ha-{system}", "-n", namespace("airflow"), "--timeout=300s")
    kubectl("wait", "--for=condition=Ready", f"pod/ha-{system}", "-n", namespace("airflow"), "--timeout=300s")
    for name in rolled:
        kubectl("rollout", "restart", f"statefulset/{name}", "-n", namespace(system))
        kubectl("rollout", "status", f"statefulset/{name}", "-n", namespace(system), "--timeout=900s")
    assert client.is_alive(), f"the roll took longer than the load of {SECONDS} s: {json.dumps(ended)}"
    kubectl("exec", f"ha-{system}", "-n", namespace("airflow"), "--", "touch", "/tmp/over")
    client.join()
    ((phase, log),) = ended
    print(f"\n{system}: {phase} {log}")
    (line,) = [line for line in log.splitlines() if line.startswith("RESULT")]
    return line.split()[1:]


def test_kafka_rolls_under_load_and_every_acknowledged_record_is_there() -> None:
    sent, acked, failed, left, different, _ = _under_load("kafka", KAFKA, ("kafka-controller", "kafka"))[:6]
    assert (failed, left) == ("0", "0")
    assert sent == acked == different


def test_cassandra_rolls_under_load_and_every_write_is_there() -> None:
    sent, _retried, failed, seen = _under_load("cassandra", CASSANDRA, ("cassandra",))
    assert failed == "0"
    assert sent == seen
