"""Whether the servers of a deployment answer, for the exporter: Kafka's brokers, Cassandra's nodes, Airflow and its database."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import datetime
from itertools import chain

import httpx
from cassandra.cluster import NoHostAvailable
from confluent_kafka import KafkaException

from headrace.access.bindings import read_cassandra, read_kafka
from headrace.operations.clients import kafka_admin, log_in
from headrace.operations.deployment import Deployment

ANSWER_SECONDS = 10
AIRFLOW = "HEADRACE_AIRFLOW_URL"
UP, HEARTBEAT = "headrace_server_up", "headrace_airflow_heartbeat_seconds"
Sample = tuple[str, tuple[str, ...], float]
"""Name of a metric, values of its labels, value."""


def stores(deployment: Deployment) -> Iterator[Sample]:
    """Yield whether each broker of Kafka and each node of Cassandra is up; one server `any` if none answers.

    Raises HeadraceError if there is no binding.
    """
    read_kafka(deployment.bindings)
    for system, read in (("kafka", _brokers), ("cassandra", _nodes)):
        servers = read(deployment) or {"any": False}
        for server, up in servers.items():
            yield UP, (system, server), float(up)


def _brokers(deployment: Deployment) -> dict[str, bool]:
    """Return broker id -> whether it is up. A broker that is down is known by the replicas that it has."""
    try:
        cluster = kafka_admin(deployment.bindings).list_topics(timeout=ANSWER_SECONDS)
    except KafkaException:
        return {}
    partitions = chain.from_iterable(topic.partitions.values() for topic in cluster.topics.values())
    known = {*cluster.brokers, *chain.from_iterable(partition.replicas for partition in partitions)}
    return {str(broker): broker in cluster.brokers for broker in sorted(known)}


def _nodes(deployment: Deployment) -> dict[str, bool]:
    """Return address -> whether it is up. A node that is down is known by the one that answers.

    The driver's own `is_up` is of no use here: a new session counts every node as up until a connection has failed.
    """
    try:
        with log_in(read_cassandra(deployment.bindings), connect_seconds=ANSWER_SECONDS) as session:
            endpoints = [host.endpoint for host in session.cluster.metadata.all_hosts()]
    except NoHostAvailable:
        return {}
    return {str(endpoint.address): _accepts(*endpoint.resolve()) for endpoint in endpoints}


def _accepts(address: str, port: int) -> bool:
    """Return whether a server accepts a connection."""
    try:
        socket.create_connection((address, port), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def airflow(_deployment: object) -> Iterator[Sample]:
    """Yield whether Airflow's API and its database answer, and the newest heartbeat of each part.

    The source is `/api/v2/monitor/health`, which asks for no login. Yields nothing where no address is given.
    """
    address = os.environ.get(AIRFLOW, "")
    if not address:
        return
    try:
        answer = httpx.get(f"{address}/api/v2/monitor/health", timeout=ANSWER_SECONDS)
        health = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        yield UP, ("airflow", "api-server"), 0.0
        return
    yield UP, ("airflow", "api-server"), 1.0
    yield UP, ("postgresql", "any"), float(health["metadatabase"]["status"] == "healthy")
    for part in ("scheduler", "triggerer", "dag_processor"):
        if at := (health.get(part) or {}).get(f"latest_{part}_heartbeat"):
            yield HEARTBEAT, (part,), datetime.fromisoformat(at).timestamp()
