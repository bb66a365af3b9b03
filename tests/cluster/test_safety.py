"""What the platform refuses and hides, on a real cluster ($HEADRACE_KUBECONFIG); skipped without one.

Slow: every question is a pod.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.cluster import (
    CLIENT_LABELS,
    KUBECONFIG,
    SYSTEMS,
    airflow_image,
    asking_kafka,
    get,
    kubectl,
    namespace,
    probe_pod,
    run_probes,
    secret,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster")]

CONNECT = """
import socket, sys
try:
    socket.create_connection(({host!r}, {port}), timeout=8).close()
    print("open")
except OSError as error:
    print("closed:", type(error).__name__)
"""


@pytest.fixture(scope="module")
def image() -> str:
    return airflow_image()


@pytest.mark.parametrize("system", ["base", *SYSTEMS])
def test_a_privileged_pod_is_refused_in_each_namespace(system: str, image: str) -> None:
    pod = probe_pod(system, "bad", {}, "print()", image)
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    done = kubectl("apply", "--dry-run=server", "-f", "-", text=json.dumps(pod), check=False)
    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr
    pod = probe_pod(system, "good", {}, "print()", image)
    kubectl("apply", "--dry-run=server", "-f", "-", text=json.dumps(pod))


AIRFLOWS = {"app.kubernetes.io/name": "airflow"}
BROKER = f"kafka-0.kafka.{namespace('kafka')}.svc.cluster.local"
NODE = f"cassandra-0.cassandra.{namespace('cassandra')}.svc.cluster.local"


def _connecting(name: str, system: str, labels: dict[str, str], host: str, port: int, image: str) -> dict[str, Any]:
    return probe_pod(system, f"probe-{name}", labels, CONNECT.format(host=host, port=port), image)


@pytest.mark.parametrize(("server", "port"), [(BROKER, 9092), (NODE, 9042)])
def test_a_listed_flow_is_open_and_a_pod_outside_of_the_list_is_shut_out(server: str, port: int, image: str) -> None:
    listed, other, elsewhere = run_probes(
        _connecting("listed", "airflow", AIRFLOWS, server, port, image),
        _connecting("other", "airflow", {"app.kubernetes.io/name": "other"}, server, port, image),
        _connecting("elsewhere", "base", {}, server, port, image),
    )
    assert listed == "open"
    assert other.startswith("closed")
    assert elsewhere.startswith("closed")


def test_clients_do_not_reach_the_ports_between_nodes(image: str) -> None:
    answers = run_probes(
        _connecting("broker", "airflow", AIRFLOWS, BROKER, 9094, image),
        _connecting("node", "airflow", AIRFLOWS, NODE, 7000, image),
    )
    assert all(answer.startswith("closed") for answer in answers), answers


def test_kafka_lets_in_the_admin_and_no_wrong_password_wrong_authority_or_plain_text(image: str) -> None:
    admin, *strangers = run_probes(
        asking_kafka("admin", image, {}),
        asking_kafka("password", image, {"sasl.password": "wrong"}),
        asking_kafka("authority", image, {"ssl.ca.location": "/etc/ssl/certs/ca-certificates.crt"}),
        asking_kafka("unencrypted", image, {"security.protocol": "SASL_PLAINTEXT"}),
        asking_kafka("plain", image, {"security.protocol": "PLAINTEXT"}),
    )
    assert admin.startswith("in: ")
    assert all(answer.startswith("out: ") for answer in strangers), strangers


def test_a_pipelines_user_sees_its_own_topics_alone(image: str) -> None:
    (seen,) = run_probes(asking_kafka("pipeline", image, {}, "kafka-pos-sales", "spark"))
    assert "'pos'" in seen
    assert "quickstart" not in seen


def test_a_producers_pods_reach_kafka_by_their_label_and_see_the_topics_that_they_write(image: str) -> None:
    reached, shut_out, seen = run_probes(
        _connecting("labelled", "shop", CLIENT_LABELS["shop"], BROKER, 9092, image),
        _connecting("unlabelled", "shop", {}, BROKER, 9092, image),
        asking_kafka("producer", image, {}, "kafka-producer-webshop", "shop"),
    )
    assert reached == "open"
    assert shut_out.startswith("closed")
    assert seen == "in: ['pos', 'quickstart']"


def test_no_secret_shows_in_manifests_settings_events_or_logs(image: str) -> None:
    canaries = {
        value
        for system, name in (
            ("airflow", "kafka-admin"), ("airflow", "cassandra-admin"), ("airflow", "airflow"), ("airflow", "airflow-postgres"),
            ("spark", "kafka-pos-sales"), ("spark", "cassandra-pos-sales"), ("shop", "kafka-producer-webshop"),
        )
        for key, value in secret(system, name).items()
        if "password" in key and key != "passwords.json"
    }  # fmt: skip
    canaries |= {
        line.split("= ")[1] for line in secret("airflow", "airflow")["airflow.cfg"].splitlines() if "= " in line
    }
    canaries |= {secret("base", "headrace-ca")["ca.key"].splitlines()[1]}
    assert len(canaries) > 8
    seen = kubectl("get", "pods,configmaps,jobs,statefulsets,deployments,events,services", "-A", "-o", "json").stdout
    for system in ("base", *SYSTEMS):
        for pod in get("pods", "-n", namespace(system))["items"]:
            name = pod["metadata"]["name"]
            seen += kubectl("logs", name, "-n", namespace(system), "--all-containers", check=False).stdout
        releases = get("secrets", "-n", namespace(system), "-l", "owner=helm")["items"]
        seen += json.dumps(releases)
    assert not [canary[:6] + "..." for canary in canaries if canary in seen]


@pytest.mark.parametrize(
    ("system", "account", "rights"),
    [
        (
            "spark",
            "spark-driver",
            {"pods": "create delete deletecollection get list watch", "configmaps": "create deletecollection"},
        ),
        ("spark", "spark-executor", {}),
        ("airflow", "airflow-none", {}),
        ("kafka", "default", {}),
        ("cassandra", "default", {}),
    ],
)
def test_an_account_may_do_what_is_listed_and_no_more(system: str, account: str, rights: dict[str, str]) -> None:
    assert _rights(system, account, namespace(system)) == rights


def test_airflows_accounts_have_rights_in_the_spark_namespace_alone() -> None:
    assert _rights("airflow", "airflow-tasks", namespace("spark")) == {
        "pods": "create delete get list watch", "pods/log": "get", "services": "create patch", "configmaps": "create patch",
    }  # fmt: skip
    assert _rights("airflow", "airflow-web", namespace("spark")) == {"pods": "get list", "pods/log": "get"}
    for account in ("airflow-tasks", "airflow-web"):
        assert _rights("airflow", account, namespace("airflow")) == {}


def _rights(system: str, account: str, where: str) -> dict[str, str]:
    """Return resource -> verbs of an account in a namespace, without what everybody has."""
    who = f"system:serviceaccount:{namespace(system)}:{account}"
    lines = kubectl("auth", "can-i", "--list", "--as", who, "-n", where).stdout.splitlines()[1:]
    found: dict[str, str] = {}
    for line in lines:
        resource, verbs = line.split()[0], re.search(r"\[([a-z ]*)\]$", line)
        if verbs and "." not in resource and not resource.startswith("["):
            found[resource] = " ".join(sorted({*verbs[1].split(), *found.get(resource, "").split()}))
    return found
