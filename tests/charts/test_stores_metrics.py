"""The metrics agent in the pods of Kafka and Cassandra: in the JVM of the server alone, and never why a pod does not start."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.charts import MONITORED, OPERATOR, Object, containers, kind, named, pods, render

STORES = ("kafka", "cassandra")
FLAG = "-javaagent:{agent}=9404:/etc/headrace/metrics.yaml"


def _set(chart: str, *settings: str) -> Object:
    return named(render(chart, *settings), "StatefulSet", chart)


def _server(chart: str, *settings: str) -> Mapping[str, Any]:
    (container,) = _set(chart, *settings)["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("chart", STORES)
def test_the_agent_is_copied_into_the_pod_and_its_port_is_found_by_prometheus_and_admitted(chart: str) -> None:
    template = _set(chart, *MONITORED)["spec"]["template"]
    (copies,) = template["spec"]["initContainers"]
    assert copies["image"].startswith("headrace-airflow:")
    assert {"name": "metrics", "containerPort": 9404} in _server(chart, *MONITORED)["ports"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9404"
    (monitor,) = kind(render(chart, *MONITORED, *OPERATOR, "monitoring.labels.release=p"), "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "p"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    base = render("base", "network.monitoringNamespace=monitoring")
    policy = named(base, "NetworkPolicy", "allow-monitoring", f"headrace-{chart}")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["ingress"][0]["ports"] == [{"port": 9404, "protocol": "TCP"}]


def test_controllers_of_kafka_are_scraped_too() -> None:
    template = named(render("kafka", "size=3", *MONITORED), "StatefulSet", "kafka-controller")["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
    (monitor,) = kind(render("kafka", "size=3", *MONITORED, *OPERATOR), "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("chart", STORES)
def test_without_monitoring_there_is_no_agent_and_no_port(chart: str) -> None:
    for who, spec, _ in pods(render(chart)):
        assert "agent" not in str(spec), who
        assert "9404" not in str(spec), who
    assert kind(render(chart, *OPERATOR), "PodMonitor") == []
    external = render("base", "network.monitoringNamespace=monitoring", f"{chart}.mode=external", f"{chart}.binding=b",
                      "network.externalEgress[0].cidr=10.0.0.0/8", "network.externalEgress[0].port=1")  # fmt: skip
    spaces = {policy["metadata"]["namespace"] for policy in kind(external, "NetworkPolicy")
              if policy["metadata"]["name"] == "allow-monitoring"}  # fmt: skip
    assert f"headrace-{chart}" not in spaces
    assert len(spaces) == 3


@pytest.mark.parametrize("chart", STORES)
def test_tools_in_the_container_do_not_inherit_the_agent_and_no_probe_asks_it(chart: str) -> None:
    """Commands of probes, hooks and `kubectl exec` get the container's variables, not those that the script exports."""
    for _, spec, _ in pods(render(chart, *MONITORED)):
        for container in containers(spec):
            assert "javaagent" not in str(container.get("env", [])), container["name"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert "metrics" not in str(container.get(probe, {}))
                assert "9404" not in str(container.get(probe, {}))
            assert "agent" not in str(container.get("lifecycle", {}))


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A folder in place of the root of a container; each program in it says with which options it runs."""
    for path, variable in (
        ("opt/kafka/bin/kafka-storage.sh", "KAFKA_OPTS"),
        ("opt/kafka/bin/kafka-server-start.sh", "KAFKA_OPTS"),
        ("bin/cassandra", "JVM_EXTRA_OPTS"),
    ):
        program = tmp_path / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/bash\necho "$(basename "$0"): ${{{variable}:-nothing}}: $*"\n')
        program.chmod(0o755)
    for path in ("etc/headrace/server.properties", "etc/kafka/admin/admin-scram", "etc/kafka/admin/cluster-id"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x\n")
    for name in ("agent", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


def _started(chart: str, container: Path, *settings: str) -> list[str]:
    """Run the chart's start script in place of the container, and return what the programs said."""
    text = named(render(chart, *settings), "ConfigMap", chart)["data"]["start.sh"]
    script = container / "start.sh"
    script.write_text(re.sub(r"(?<![\w/])/(opt|etc/kafka|etc/headrace/server|tmp|agent)\b", rf"{container}/\1", text))
    server = _server(chart, *settings)
    values = {variable["name"]: variable["value"] for variable in server["env"]}
    environment = {**values, "PATH": f"{container}/bin:{os.environ['PATH']}", "HOSTNAME": f"{chart}-0"}
    command = ["bash", str(script), *server.get("args", [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_only_the_server_of_kafka_gets_the_agent(container: Path) -> None:
    agent = container / "agent" / "jmx_prometheus_javaagent.jar"
    agent.touch()
    formats, starts = _started("kafka", container, *MONITORED)
    assert formats.startswith("kafka-storage.sh: nothing: format")
    assert starts.split(": ")[:2] == ["kafka-server-start.sh", f" {FLAG.format(agent=agent)}"]
    agent.unlink()
    assert _started("kafka", container, *MONITORED)[1].startswith("kafka-server-start.sh: nothing: ")
    agent.touch()
    assert _started("kafka", container)[1].startswith("kafka-server-start.sh: nothing: ")


def test_the_server_of_cassandra_gets_the_agent_beside_its_other_options(container: Path) -> None:
    agent = container / "agent" / "jmx_prometheus_javaagent.jar"
    arguments = _server("cassandra")["args"]
    plain = f"cassandra: -XX:MaxDirectMemorySize=256M: -f {' '.join(arguments)}"
    assert _started("cassandra", container, *MONITORED) == [plain], "an image without the agent"
    agent.touch()
    (started,) = _started("cassandra", container, *MONITORED)
    assert started == plain.replace("256M:", f"256M {FLAG.format(agent=agent)}:")
    assert _server("cassandra")["command"] == ["cassandra", "-f"]


@pytest.mark.parametrize("chart", STORES)
def test_an_image_without_the_agent_does_not_stop_the_pod(chart: str) -> None:
    (copies,) = _set(chart, *MONITORED)["spec"]["template"]["spec"]["initContainers"]
    done = subprocess.run(copies["command"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "no metrics" in done.stdout
