"""Kafka and Cassandra with the charts' agent and rules: every metric of an alert or panel is there, and no panel is empty."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from headrace.cluster import server_health
from headrace.local import cassandra, jars, kafka
from headrace.local.java import find_java
from headrace.local.settings import Settings
from headrace.operations.deployment import Deployment, LocalDrivers
from tests.charts.test_alerts import NAME, RULES, STORES, stores_metrics
from tests.charts.test_dashboards import FOLDER
from tests.support.charts import ROOT
from tests.support.platform import free_ports
from tests.support.servers import admin_session, kill, new_topic
from tests.support.store_metrics import Scraped, scraped_platform

RECORDS, ROWS = 100, 50
OF_STORES = re.compile(r"\b(?:headrace_kafka|headrace_cassandra|jvm)_[a-z_]+")

pytestmark = [
    pytest.mark.platform,
    pytest.mark.long(group="chaos"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """Servers that have received records and rows, and have been asked for rows."""
    with scraped_platform(tmp_path_factory.mktemp("scraped")) as scraped:
        topic = new_topic(scraped.settings, "scraped")
        producer = Producer(kafka.binding(scraped.settings).client_config())
        for _ in range(RECORDS):
            producer.produce(topic, b"x" * 1000)
        assert producer.flush(120) == 0
        with admin_session(scraped.settings) as session:
            session.execute(
                "CREATE KEYSPACE scraped WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
            )
            session.execute("CREATE TABLE scraped.t (k int PRIMARY KEY)")
            for key in range(ROWS):
                session.execute("INSERT INTO scraped.t (k) VALUES (%s)", (key,))
                session.execute("SELECT * FROM scraped.t WHERE k = %s", (key,))
        yield scraped


def _samples(scraped: Scraped) -> dict[tuple[str, ...], float]:
    """Name and values of labels -> value, of both servers."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for name in STORES
        for family in text_string_to_metric_families(scraped.text(name))
        for sample in family.samples
    }


def test_every_metric_of_an_alert_or_a_panel_is_printed_with_a_plausible_value(scraped: Scraped) -> None:
    samples = _samples(scraped)
    panels = "".join(path.read_text() for path in FOLDER.glob("*.json"))
    used = set(OF_STORES.findall(panels + RULES.read_text()))
    printed = {key[0] for key in samples}
    assert stores_metrics() <= used
    assert used <= printed, sorted(used - printed)
    for name in ("offline_partitions", "under_min_isr_partitions", "under_replicated_partitions", "fenced_brokers"):
        assert samples[f"headrace_kafka_{name}",] == 0
    assert samples["headrace_kafka_active_controllers",] == 1
    assert samples["headrace_kafka_partitions",] >= 1
    assert samples["headrace_kafka_messages_in_total",] >= RECORDS
    assert samples["headrace_kafka_bytes_total", "In"] >= RECORDS * 1000
    assert 0 < samples["headrace_kafka_request_seconds", "0.99", "Produce"] < 600
    logs = {key: size for key, size in samples.items() if key[0] == "headrace_kafka_log_bytes"}
    assert RECORDS * 1000 <= max(logs.values()) < 10_000_000
    for request in ("Read", "Write"):
        assert samples["headrace_cassandra_requests_total", request] >= ROWS
        assert (
            0
            < samples["headrace_cassandra_request_seconds", "0.50", request]
            <= samples["headrace_cassandra_request_seconds", "0.99", request]
            < 600
        )
        assert samples["headrace_cassandra_request_errors_total", "Unavailables", request] == 0
    assert samples["headrace_cassandra_pending_compactions",] >= 0
    assert samples["headrace_cassandra_dropped_messages_total", "MUTATION_REQ"] >= 0
    assert samples["headrace_cassandra_load_bytes",] > 10_000
    assert (samples["headrace_cassandra_endpoints", "Up"], samples["headrace_cassandra_endpoints", "Down"]) == (1, 0)


def test_a_scrape_is_small(scraped: Scraped) -> None:
    """A metric for each table or client would make it large; the JVM's own metrics are about a hundred."""
    for name in STORES:
        assert len(scraped.text(name).splitlines()) < 500
        assert "jmx_scrape_error 0" in scraped.text(name)


def test_no_panel_about_the_stores_is_empty_and_every_alert_has_its_metrics(scraped: Scraped) -> None:
    boards = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    panels = [panel["targets"][0]["expr"] for board in boards for panel in board["panels"]]
    of_stores = [expression for expression in panels if OF_STORES.search(expression)]
    assert len(of_stores) > 12
    for expression in of_stores:
        scraped.awaited(expression)
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        names = NAME.findall(rule["expr"])
        of_stores = [name for name in names if OF_STORES.fullmatch(name)]
        for name in of_stores:
            scraped.awaited(name)
        if of_stores == names and rule["alert"] != "CassandraOverloaded":  # a busy machine has timeouts
            assert scraped.query(rule["expr"]) == {}, rule["alert"]


def test_the_exporter_says_which_servers_are_up_and_that_all_of_a_system_are_down(scraped: Scraped) -> None:
    settings = scraped.settings
    local = LocalDrivers(
        run_dir=settings.home,
        log_dir=settings.home,
        tmp_dir=settings.home,
        driver_bindings=settings.home,
        environment={},
    )
    deployed = Deployment(
        project=settings.home, root=str(settings.home / "storage"), bindings=settings.bindings(), drivers=local
    )
    up = list(server_health.stores(deployed))
    assert up == [
        ("headrace_server_up", ("kafka", "1"), 1.0),
        ("headrace_server_up", ("cassandra", settings.host), 1.0),
    ]
    for name in (kafka.NAME, cassandra.NAME):
        kill(settings, name)
    down = list(server_health.stores(deployed))
    assert down == [("headrace_server_up", ("kafka", "any"), 0.0), ("headrace_server_up", ("cassandra", "any"), 0.0)]


def _bare_jvm(port: int) -> subprocess.CompletedProcess[str]:
    """Run a JVM with the agent, but without a main class."""
    settings = Settings.load()
    java = find_java(settings)
    (agent,) = jars.ensure("agent", settings, java)
    rules = ROOT / "helm" / "cassandra" / "files" / "metrics.yaml"
    command = [str(java.binary), "-Xmx64m", "-cp", "none", f"-javaagent:{agent}=127.0.0.1:{port}:{rules}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_a_jvm_with_the_agent_and_without_a_main_class_ends_and_frees_the_port() -> None:
    """The official start script of Cassandra runs one with the server's options before the server (CASSANDRA-7254)."""
    (port,) = free_ports(1)
    done = _bare_jvm(port)
    assert "Usage: java" in done.stdout + done.stderr
    with socket.create_server(("127.0.0.1", port)):
        taken = _bare_jvm(port)
    assert taken.returncode != 0
    assert "Address already in use" in taken.stdout + taken.stderr, "so no tool beside a server may have the agent"
