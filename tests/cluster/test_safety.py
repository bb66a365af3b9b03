"""What the platform refuses and hides, on a real cluster ($HEADRACE_KUBECONFIG); skipped without one.

Slow: every question is a pod.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.charts.test_rights import SNAPSHOT
from tests.support.cluster import (
    CLIENT_LABELS,
    KUBECONFIG,
    PREFIX,
    SYSTEMS,
    UpgradeError,
    airflow_image,
    asking_cassandra,
    asking_kafka,
    get,
    helm_upgrade,
    kubectl,
    namespace,
    probe_pod,
    restored,
    run_probes,
    secret,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster")]

RIGHTS: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(SNAPSHOT.read_text().replace("headrace", PREFIX))
EVERYBODYS = (".authentication.k8s.io", ".authorization.k8s.io")  # groups of what each account may ask about itself
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


SCRAPE = """
import urllib.request
try:
    text = urllib.request.urlopen("http://{host}/metrics", timeout=20).read().decode()
    print([metric for metric in {metrics!r} if metric not in text] or "all")
except OSError as error:
    print("closed:", type(error).__name__)
"""


def test_prometheus_reads_kafka_cassandra_and_the_exporter_from_its_namespace_alone(image: str) -> None:
    (exporter,) = get("pods", "-n", namespace("airflow"), "-l", "app.kubernetes.io/component=exporter")["items"] or [
        None
    ]
    if exporter is None:
        pytest.skip("monitoring is off")
    asked = {
        f"{BROKER}:9404": ["headrace_kafka_partitions ", "headrace_kafka_messages_in_total ", "jvm_memory_used_bytes"],
        f"{NODE}:9404": ["headrace_cassandra_load_bytes ", "headrace_cassandra_pending_compactions "],
        f"{exporter['status']['podIP']}:9109": [
            'headrace_server_up{server="0",system="kafka"} 1.0', 'system="cassandra"} 1.0',
            'headrace_server_up{server="any",system="postgresql"} 1.0', 'headrace_airflow_heartbeat_seconds{part="scheduler"}',
        ],
    }  # fmt: skip
    inside = [
        probe_pod("shop", f"scrape-{number}", {}, SCRAPE.format(host=host, metrics=metrics), image)
        for number, (host, metrics) in enumerate(asked.items())
    ]
    outside = _connecting("scrape-outside", "airflow", CLIENT_LABELS["airflow"], BROKER, 9404, image)
    *read, refused = run_probes(*inside, outside)
    assert read == ["all"] * len(asked)
    assert refused.startswith("closed")


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


def test_cassandra_lets_in_the_admin_and_no_wrong_password_default_login_wrong_authority_or_plain_text(
    image: str,
) -> None:
    ask = "SELECT role FROM system_auth.roles"
    admin, *strangers = run_probes(
        asking_cassandra("admin", image, {}, ask),
        asking_cassandra("password", image, {"password": "wrong"}, ask),
        asking_cassandra("default", image, {"username": "cassandra", "password": "cassandra"}, ask),
        asking_cassandra("authority", image, {"ca_file": "/etc/ssl/certs/ca-certificates.crt"}, ask),
        asking_cassandra("plain", image, {"ca_file": None}, ask),
    )
    assert admin.startswith("in: ")
    assert all(answer.startswith("out: NoHostAvailable") for answer in strangers), strangers


def test_a_pipelines_role_reads_its_own_tables_alone(image: str) -> None:
    allowed, others, roles = run_probes(
        *(
            asking_cassandra(name, image, {}, f"SELECT * FROM {table} LIMIT 1", "cassandra-pos-sales", "spark")
            for name, table in (
                ("own", "pos_sales.product_totals"),
                ("others", "ad_attribution.attributed"),
                ("roles", "system_auth.roles"),
            )
        )
    )
    assert allowed.startswith("in: ")
    assert all(answer.startswith("out: Unauthorized") for answer in (others, roles)), (others, roles)


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


def test_an_upgrade_fails_where_the_bootstrap_refuses_what_it_asks_for() -> None:
    strange = {"webshop": {"namespace": namespace("shop"), "topics": ["no-pipeline-reads-this"]}}
    with restored("base") as values:
        with pytest.raises(UpgradeError, match="post-upgrade hooks failed"):
            helm_upgrade("base", "base", values=values["base"] | {"producers": strange})
        said = kubectl("logs", "job/bootstrap", "-n", namespace("base")).stdout
        assert said.startswith("Producer webshop would write no-pipeline-reads-this, which no pipeline reads")


def test_a_producer_whose_entry_is_dropped_is_shut_out_with_the_login_that_it_kept(image: str) -> None:
    # From where Kafka can be reached: the producer's own way in goes as well.
    kept = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kept", "namespace": namespace("airflow")}}
    kubectl("apply", "-f", "-", text=json.dumps(kept | {"stringData": secret("shop", "kafka-producer-webshop")}))
    topics = "in: ['pos', 'quickstart']"
    try:
        assert run_probes(asking_kafka("kept", image, {}, "kept")) == [topics]
        with restored("base", "airflow") as before:
            for chart, values in before.items():
                helm_upgrade(chart, chart, values=values | {"producers": {}})
            assert run_probes(asking_kafka("kept", image, {}, "kept"))[0].startswith("out")
            assert get("secrets,roles,rolebindings", "-n", namespace("shop"))["items"] == []
            known = {key for key in secret("airflow", "pipeline-logins") if key.startswith("producer")}
            assert known == {"producer-webshop.kafka.username"}
    finally:
        kubectl("delete", "secret", "kept", "-n", namespace("airflow"))
    assert run_probes(asking_kafka("anew", image, {}, "kafka-producer-webshop", "shop")) == [topics]


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


@pytest.mark.parametrize("account", [account for account in RIGHTS if " " not in account])
def test_an_account_may_do_what_is_listed_and_no_more(account: str) -> None:
    for space in map(namespace, ("base", *SYSTEMS)):
        assert _rights(account, space) == RIGHTS[account].get(space, {}), space


@pytest.mark.parametrize("system", ["base", *SYSTEMS])
def test_a_pod_without_an_account_of_its_own_may_do_nothing(system: str) -> None:
    assert _rights(f"{namespace(system)}/default", namespace(system)) == {}


def _rights(account: str, where: str) -> dict[str, str]:
    """Return resource, or resource and name -> verbs of an account in a namespace, without what everybody has."""
    who = f"system:serviceaccount:{account.replace('/', ':')}"
    lines = kubectl("auth", "can-i", "--list", "--as", who, "-n", where).stdout.splitlines()[1:]
    verbs_of: dict[str, str] = {}
    for line in lines:  # RESOURCE [URLS] [NAMES] [VERBS]
        resource, (_, names, verbs) = line.split()[0], re.findall(r"\[([^]]*)\]", line)[-3:]
        if not resource.endswith(EVERYBODYS) and not resource.startswith("["):
            what = f"{resource} {names}".rstrip()
            verbs_of[what] = " ".join(sorted({*verbs.split(), *verbs_of.get(what, "").split()}))
    return verbs_of
