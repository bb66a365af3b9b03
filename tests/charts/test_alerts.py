"""Alerts: one for each runbook, on metrics that exist; each fires for its cause (`promtool`), with and without the operator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from headrace.cluster import exporter
from headrace.driver.progress import Metrics
from headrace.operations.quality.status import MEANING
from headrace.operations.supervisor import memory
from tests.support.charts import MONITORED, OPERATOR, ROOT, kind, named, render

RULES = ROOT / "helm" / "spark" / "files" / "rules.yaml"
# https://kubernetes.io/docs/reference/instrumentation/metrics/: of the kubelet, for claims whose driver reports them.
FOREIGN = {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
# Of every JVM with the agent (https://prometheus.github.io/client_java/instrumentation/jvm/).
FOREIGN |= {"jvm_memory_used_bytes", "jvm_memory_max_bytes"}
NAME = re.compile(r"\b(?:headrace|kubelet|jvm)_[a-z_]+")
STORES = ("kafka", "cassandra")
LABELS: dict[str, set[str]] = {
    "verdict": set(memory.GRAVITY),
    "runbook": set(exporter.CHECKPOINT_RUNBOOKS),
    "state": set(exporter.RETENTION_STATES),
    "status": set(MEANING),
}


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_every_runbook_has_one_alert_of_its_name_and_every_alert_its_runbook() -> None:
    pages = sorted(path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md") if path.stem != "README")
    assert sorted(rule["alert"] for rule in _alerts()) == pages
    for rule in _alerts():
        assert rule["annotations"]["runbook_url"] == f"RUNBOOKS/{rule['alert']}.md"
        assert rule["labels"]["severity"] in ("page", "ticket")
    index = (ROOT / "docs" / "runbooks" / "README.md").read_text()
    assert [page for page in pages if f"({page}.md)" not in index] == []


@cache
def printed_metrics() -> frozenset[str]:
    """Return the names that a driver, the exporter, Kafka and Cassandra print on `/metrics`.

    Those of Kafka and Cassandra are what the charts' rules name; tests/platform/test_store_metrics.py asks real servers.
    """
    driver, registry = Metrics("127.0.0.1", 0), CollectorRegistry()
    try:
        registry.register(exporter.Exporter(_no_deployment))
        text = generate_latest(registry).decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{driver.port}/metrics", timeout=120) as answer:
            text += answer.read().decode()
    finally:
        driver.close()
    return frozenset(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | stores_metrics()


def stores_metrics() -> frozenset[str]:
    """Return the names that the charts of Kafka and Cassandra give to their servers' metrics."""
    rules = [yaml.safe_load((ROOT / "helm" / name / "files" / "metrics.yaml").read_text()) for name in STORES]
    return frozenset(rule["name"] for file in rules for rule in file["rules"])


def test_every_metric_of_an_expression_is_one_that_a_driver_or_the_exporter_prints() -> None:
    used = {name for rule in _alerts() for name in NAME.findall(rule["expr"])}
    assert used <= printed_metrics() | FOREIGN, sorted(used - printed_metrics() - FOREIGN)
    assert len(used) > 10


def _no_deployment() -> Any:
    raise OSError("there is none")


def test_every_label_value_of_an_expression_is_one_that_there_is() -> None:
    for rule in _alerts():
        for label, values in re.findall(r'(\w+)=~?"([^"]+)"', rule["expr"]):
            if label in LABELS:
                assert set(values.split("|")) <= LABELS[label], rule["alert"]


def promtool() -> str:
    """Return the path of promtool. Without it the test is skipped, in CI only if CI has said so."""
    program = shutil.which("promtool")
    if program is None:
        assert not os.environ.get("CI") or os.environ.get("HEADRACE_WITHOUT_PROMTOOL"), "CI must have promtool"
        pytest.skip("no promtool (Debian package prometheus)")
    return program


def test_the_rules_are_valid_and_each_alert_fires_for_its_cause_alone(tmp_path: Path) -> None:
    cases = ROOT / "tests" / "charts" / "alerts.test.yaml"
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace("PREFIX-.+", "headrace-.+"))
    shutil.copy(cases, tmp_path / "cases.yaml")
    for words in (("check", "rules", "rules.yaml"), ("test", "rules", "cases.yaml")):
        done = subprocess.run([promtool(), *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    untested = [rule["alert"] for rule in _alerts() if not re.search(rf"\b{rule['alert']}\b", cases.read_text())]
    assert untested == []


def test_with_the_prometheus_operator_there_are_a_rule_and_monitors_and_without_a_file_and_annotations() -> None:
    spark = render("spark", *MONITORED, *OPERATOR, "monitoring.labels.release=prometheus")
    (rule,) = kind(spark, "PrometheusRule")
    (drivers,) = kind(spark, "PodMonitor")
    assert rule["metadata"]["labels"]["release"] == drivers["metadata"]["labels"]["release"] == "prometheus"
    (exporting,) = kind(render("airflow", *MONITORED, *OPERATOR), "PodMonitor")
    assert exporting["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    plain = render("spark", *MONITORED)
    assert kind(plain, "PrometheusRule", "PodMonitor") == []
    rules = yaml.safe_load(named(plain, "ConfigMap", "headrace-rules")["data"]["headrace.yaml"])
    assert rules == rule["spec"]
    url = rules["groups"][0]["rules"][0]["annotations"]["runbook_url"]
    assert re.fullmatch(r"https://\S+/MISSING\.md", url)
    pod = named(render("airflow", *MONITORED), "Deployment", "airflow-exporter")["spec"]["template"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "9109"


def test_a_monitor_selects_pods_that_have_its_port_and_prometheus_may_reach_them() -> None:
    pod = named(render("airflow", *MONITORED), "Deployment", "airflow-exporter")["spec"]["template"]
    (exporting,) = kind(render("airflow", *MONITORED, *OPERATOR), "PodMonitor")
    assert exporting["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (port,) = pod["spec"]["containers"][0]["ports"]
    template = yaml.safe_load(named(render("spark"), "ConfigMap", "spark-pod-templates")["data"]["driver.yaml"])
    assert template["spec"]["containers"][0]["ports"][0]["name"] == port["name"] == "metrics"
    base = render("base", "network.monitoringNamespace=monitoring")
    policy = named(base, "NetworkPolicy", "allow-monitoring", "headrace-airflow")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["ingress"][0]["ports"] == [{"port": port["containerPort"], "protocol": "TCP"}]


def test_the_exporter_has_no_keys_of_airflow_and_writes_nowhere() -> None:
    pod = named(render("airflow", *MONITORED), "Deployment", "airflow-exporter")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert "secrets" not in mounted
    assert {name for name, read_only in mounted.items() if not read_only} == {"tmp"}
    assert pod["automountServiceAccountToken"] is False
