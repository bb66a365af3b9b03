"""The history server: off unless asked for, walled off, and drivers write where it reads."""

from __future__ import annotations

import json
from typing import Any

from headrace.operations.deployment import Deployment
from tests.support.charts import HISTORY, containers, kind, named, refusal, render

LOGS = "/data/spark-events"


def _conf(*settings: str) -> dict[str, str]:
    text = named(render("airflow", *settings), "ConfigMap", "airflow-headrace")["data"]["deployment.json"]
    return dict(Deployment.model_validate(json.loads(text)).drivers.conf)


def _server(*settings: str) -> dict[str, Any]:
    deployment = named(render("spark", *HISTORY, *settings), "Deployment", "spark-history")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def test_it_is_off_unless_asked_for_and_then_no_event_log_is_written() -> None:
    assert kind(render("spark"), "Deployment", "Service", "NetworkPolicy") == []
    assert _conf() == {}


def test_drivers_write_rolling_logs_into_the_folder_that_it_reads_and_clears() -> None:
    conf = _conf(f"driver.eventLogDir={LOGS}")
    assert conf["spark.eventLog.enabled"] == conf["spark.eventLog.rolling.enabled"] == "true"
    assert conf["spark.eventLog.dir"] == f"file:{LOGS}"
    (server,) = _server("historyServer.keepDays=3")["containers"]
    options = {variable["name"]: variable["value"] for variable in server["env"]}["SPARK_HISTORY_OPTS"].split()
    assert f"-Dspark.history.fs.logDirectory={conf['spark.eventLog.dir']}" in options
    assert "-Dspark.history.fs.cleaner.enabled=true" in options
    assert "-Dspark.history.fs.cleaner.maxAge=3d" in options
    assert "-Dspark.history.fs.eventLog.rolling.maxFilesToRetain=2" in options


def test_a_users_own_setting_wins_and_both_are_refused_without_a_shared_volume() -> None:
    conf = _conf(f"driver.eventLogDir={LOGS}", "driver.conf.spark\\.eventLog\\.rolling\\.maxFileSize=64m")
    assert conf["spark.eventLog.rolling.maxFileSize"] == "64m"
    assert conf["spark.eventLog.enabled"] == "true"
    assert "shared volume" in refusal("airflow", f"driver.eventLogDir={LOGS}", "storage.sharedVolume=false")
    assert "shared volume" in refusal("spark", *HISTORY, "sharedVolume=false")
    assert "eventLogDir" in refusal("airflow", "driver.eventLogDir=/tmp/events")
    assert "logDir" in refusal("spark", *HISTORY, "historyServer.logDir=/data/../etc")


def test_the_server_sees_its_folder_alone_and_has_no_token() -> None:
    spec = _server("historyServer.logDir=/data/a/events")
    assert spec["automountServiceAccountToken"] is False
    folder, server = containers(spec)
    assert folder["command"] == ["mkdir", "-p", "/data/a/events"]
    (mount,) = [candidate for candidate in server["volumeMounts"] if candidate["name"] == "data"]
    assert mount == {"name": "data", "mountPath": "/data/a/events", "subPath": "a/events"}


def test_nobody_reaches_it_but_the_named_namespace_and_it_carries_no_label_of_a_flow() -> None:
    objects = render("spark", *HISTORY)
    policy = named(objects, "NetworkPolicy", "spark-history")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    assert "egress" not in policy
    labels = named(objects, "Deployment", "spark-history")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    for flow in kind(render("base"), "NetworkPolicy"):
        wanted = flow["spec"]["podSelector"].get("matchLabels", {})
        assert not wanted or not wanted.items() <= labels.items(), flow["metadata"]["name"]
    opened = named(render("spark", *HISTORY, "historyServer.fromNamespace=ingress"), "NetworkPolicy", "spark-history")
    (rule,) = opened["spec"]["ingress"]
    assert rule["ports"] == [{"port": 18080, "protocol": "TCP"}]
    (peer,) = rule["from"]
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
