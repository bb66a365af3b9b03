"""What an Airflow needs to run for a year in the chart: cleaning, a bounded pool, connections, and what is yours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.orchestration import dag_support, notify, pools
from tests.support.charts import EXTRAS, PLACED, containers, kind, named, pods, refusal, render

AIRFLOW = {"api-server", "scheduler", "dag-processor", "triggerer", "migrate", "upkeep"}


def _airflow_containers(*settings: str) -> dict[str, dict[str, Any]]:
    return {
        container["name"]: dict(container)
        for _, spec, _ in pods(render("airflow", *settings))
        for container in containers(spec)
    }


def test_a_job_cleans_database_and_logs_every_night_by_the_code_of_the_local_airflow() -> None:
    job = named(render("airflow", "upkeep.keepDays=30"), "CronJob", "airflow-upkeep")["spec"]
    assert job["schedule"] == "23 2 * * *"
    assert job["concurrencyPolicy"] == "Forbid"
    pod = job["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    logs = _environment()["AIRFLOW__LOGGING__BASE_LOG_FOLDER"]
    assert container["args"] == ["python3", "-m", "headrace.local.airflow_upkeep", logs, "30"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[logs].get("readOnly", False) is False
    assert "/opt/airflow/airflow.cfg" in mounts  # the database's address
    assert "upkeep" in refusal("airflow", "upkeep.keepDays=0")


def _environment(*settings: str) -> dict[str, str]:
    data: dict[str, str] = named(render("airflow", *settings), "ConfigMap", "airflow")["data"]
    return data


def test_what_is_yours_reaches_every_part_of_airflow_and_nothing_else() -> None:
    by_name = _airflow_containers(*EXTRAS)
    for name in AIRFLOW:
        assert {"name": "OPENLINEAGE_URL", "value": "http://lineage:5000"} in by_name[name]["env"], name
        assert {"name": "more", "mountPath": "/more"} in by_name[name]["volumeMounts"], name
    for name in ("provision", "postgres"):
        assert "OPENLINEAGE_URL" not in json.dumps(by_name[name]), name
    for who, spec, _ in pods(render("airflow", *EXTRAS)):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        used = {mount["name"] for container in containers(spec) for mount in container.get("volumeMounts", [])}
        assert used <= volumes | {"data"}, who  # the database's is a claim template


def test_connections_come_from_a_secret_and_the_one_of_spark_stays() -> None:
    for settings, path in (((), "/etc/headrace"), (EXTRAS, "/etc/airflow-connections")):
        environment = _environment(*settings)
        (file,) = json.loads(environment["AIRFLOW__SECRETS__BACKEND_KWARGS"]).values()
        assert file == f"{path}/connections.json"
        connections = json.loads(
            named(render("airflow", *settings), "ConfigMap", "airflow-headrace")["data"]["connections.json"]
        )
        assert set(connections) == set(dag_support.CONNECTIONS)
        if settings:
            assert json.loads(environment["AIRFLOW_CONN_SPARK_BATCH"]) == connections[dag_support.SPARK_CONNECTION]
    mounts = {mount["mountPath"] for mount in _airflow_containers(*EXTRAS)["scheduler"]["volumeMounts"]}
    assert "/etc/airflow-connections" in mounts


def test_a_sql_source_of_users_is_mounted_where_its_binding_is_read() -> None:
    scheduler = named(render("airflow", *EXTRAS), "Deployment", "airflow-scheduler")["spec"]["template"]["spec"]
    (bindings,) = [volume for volume in scheduler["volumes"] if volume["name"] == "bindings"]
    (source,) = [s["secret"] for s in bindings["projected"]["sources"] if s["secret"]["name"] == "my-users"]
    assert {item["path"] for item in source["items"]} == {
        f"users-source/{key}" for key in ("driver", "host", "port", "database", "username", "password")
    }


def test_two_values_name_who_is_notified() -> None:
    environment = _environment("notify.connection=alerts", "notify.to=ops@example.org")
    assert environment[notify.CONNECTION] == "alerts"
    assert environment[notify.RECIPIENTS] == "ops@example.org"
    assert _environment()[notify.CONNECTION] == ""


def test_the_pool_of_batch_runs_is_made_before_any_part_starts() -> None:
    environment = _environment("batchSlots=3")
    assert environment["HEADRACE_BATCH_SLOTS"] == "3"
    job = named(render("airflow"), "Job", "airflow-migrate-1")
    (script,) = [word for word in job["spec"]["template"]["spec"]["containers"][0]["args"] if "db migrate" in word]
    assert f'airflow pools set {pools.BATCH_POOL} "$HEADRACE_BATCH_SLOTS"' in script


def test_batch_runs_have_the_size_of_their_pipeline_and_the_rest_of_it_from_all() -> None:
    settings = ("batch.memory=2g", "batch.pipelines.pos_sales.cores=4", "batch.cpuRequest=750m")
    data = named(render("airflow", *settings), "ConfigMap", "airflow-headrace")["data"]
    batch = json.loads(data["deployment.json"])["drivers"]["batch"]
    assert (batch["memory"], batch["cores"], batch["namespace"]) == ("2g", 2, "headrace-airflow")
    assert batch["pipelines"] == {"pos_sales": {"memory": "2g", "cores": 4}}
    assert "cpu: 750m" in data["batch-pod.yaml"]
    assert "memory" in refusal("airflow", "batch.pipelines.pos_sales.memory=lots")


@pytest.mark.parametrize("chart", ["kafka", "cassandra"])
def test_three_nodes_are_on_three_machines_unless_a_value_relaxes_it(chart: str) -> None:
    for value, key in ((), "requiredDuringSchedulingIgnoredDuringExecution"), (
        ("antiAffinity=preferred",), "preferredDuringSchedulingIgnoredDuringExecution",
    ):  # fmt: skip
        for stateful in kind(render(chart, "size=3", *value), "StatefulSet"):
            assert list(stateful["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]) == [key]
    for stateful in kind(render(chart), "StatefulSet"):
        assert "affinity" not in stateful["spec"]["template"]["spec"]


@pytest.mark.parametrize("chart", ["base", "kafka", "cassandra", "spark", "airflow"])
def test_every_pod_goes_where_it_is_placed(chart: str) -> None:
    settings = [*PLACED, "place.annotations.team=data"] if chart != "base" else list(PLACED)
    settings += {"kafka": ["size=3"], "spark": ["historyServer.enabled=true", "monitoring.enabled=true"]}.get(chart, [])
    settings += ["monitoring.enabled=true"] if chart == "airflow" else []
    if chart == "spark":
        roles = [setting.replace("place", role, 1) for role in ("driver", "executor") for setting in settings[:5]]
        settings += roles
    placed = list(pods(render(chart, *settings)))
    assert placed
    for who, spec, _ in placed:
        assert spec["nodeSelector"] == {"pool": "data"}, who
        assert spec["tolerations"] == [{"key": "data", "operator": "Exists"}], who
        assert spec["priorityClassName"] == "high", who
    for workload in kind(render(chart, *settings), "Deployment", "StatefulSet"):
        assert workload["spec"]["template"]["metadata"]["annotations"]["team"] == "data", workload["metadata"]["name"]


def test_the_database_of_airflow_is_kept_where_volumes_are() -> None:
    for settings, kept in (((), "Delete"), (("postgres.keepVolume=true",), "Retain")):
        policy = named(render("airflow", *settings), "StatefulSet", "airflow-postgres")["spec"]
        assert policy["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == kept


def test_a_job_that_has_ended_does_not_keep_the_claim_of_the_logs_from_being_deleted() -> None:
    """Its pod stays for a day, and `terraform destroy` waits for a claim that a pod names (seen with the published provider)."""
    job = named(render("airflow"), "Job", "provision-1")
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in job["spec"]["template"]["spec"]["volumes"]
              if "persistentVolumeClaim" in volume]  # fmt: skip
    assert claims == ["data"]
