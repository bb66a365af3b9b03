"""What each chart promises of its own system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.access.bindings import OBJECT_STORE
from headrace.cluster import drain
from headrace.cluster.bootstrap import REFUSED, Config
from headrace.cluster.provision import REFUSED as JOB_REFUSED
from headrace.contract import names
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment, KubernetesDrivers
from headrace.operations.drivers.kubernetes import KubernetesLauncher
from tests.support.charts import EXTERNAL_KAFKA, kind, named, pods, refusal, render


def _flow(name: str, *settings: str) -> tuple[dict[str, Any], dict[str, Any]]:
    objects = render("base", *settings)
    return named(objects, "NetworkPolicy", f"{name}-egress"), named(objects, "NetworkPolicy", f"{name}-ingress")


def test_every_namespace_enforces_restricted_at_a_fixed_version() -> None:
    namespaces = kind(render("base"), "Namespace")
    assert len(namespaces) == 4
    for namespace in namespaces:
        for mode in ("enforce", "warn", "audit"):
            assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
            assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}-version"].startswith("v1.")


def test_every_namespace_denies_both_directions_but_names() -> None:
    denied = [
        policy for policy in kind(render("base"), "NetworkPolicy") if policy["metadata"]["name"] == "default-deny"
    ]
    assert {policy["metadata"]["namespace"] for policy in denied} == {
        "headrace", "headrace-kafka", "headrace-cassandra", "headrace-spark", "headrace-airflow",
    }  # fmt: skip
    for policy in denied:
        assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_flow_is_named_at_both_ends_by_namespace_labels_and_port() -> None:
    leaves, enters = _flow("spark-to-kafka")
    assert leaves["metadata"]["namespace"] == "headrace-spark"
    assert enters["metadata"]["namespace"] == "headrace-kafka"
    (out,) = leaves["spec"]["egress"]
    assert out["ports"] == [{"port": 9092, "protocol": "TCP"}]
    (peer,) = out["to"]
    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kafka"}
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "headrace-kafka"}


def test_flows_select_the_pods_that_the_charts_make() -> None:
    made = {
        f"headrace-{chart}": [labels for _, _, labels in pods(render(chart))]
        for chart in ("kafka", "cassandra", "airflow")
    }
    made["headrace-spark"] = [labels for who, _, labels in pods(render("spark")) if "pod-templates" in who]
    for policy in kind(render("base"), "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        namespace = policy["metadata"]["namespace"]
        if wanted and namespace in made:
            assert any(wanted.items() <= labels.items() for labels in made[namespace]), policy["metadata"]["name"]


def test_an_external_system_has_no_flow_of_its_own_and_the_listed_egress() -> None:
    objects = render("base", *EXTERNAL_KAFKA)
    assert not [rendered for rendered in objects if "to-kafka" in rendered["metadata"]["name"]]
    outside = named(objects, "NetworkPolicy", "allow-external", "headrace-spark")
    assert outside["spec"]["egress"] == [
        {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"port": 9093, "protocol": "TCP"}]}
    ]
    assert "binding" in refusal("base", "kafka.mode=external")


def test_the_bootstrap_reads_its_configuration_and_overwrites_nothing_unless_asked() -> None:
    objects = render("base")
    text = named(objects, "ConfigMap", "bootstrap")["data"]["bootstrap.json"]
    assert Config.model_validate_json(text).kafka.namespace == "headrace-kafka"
    verbs = {tuple(role["rules"][0]["verbs"]) for role in kind(objects, "Role")}
    assert verbs == {("get", "create")}
    renewing = render("base", "job.action=renew-certificates")
    assert {tuple(role["rules"][0]["verbs"]) for role in kind(renewing, "Role")} == {("get", "create", "patch")}


def test_the_namespaces_in_which_drivers_and_tasks_make_pods_have_quotas() -> None:
    quotas = kind(render("base", "quota.sparkPods=7", "quota.airflowPods=19"), "ResourceQuota")
    hard = {quota["metadata"]["namespace"]: quota["spec"]["hard"] for quota in quotas}
    assert hard == {"headrace-spark": {"pods": "7"}, "headrace-airflow": {"pods": "19"}}


def test_a_folder_as_root_needs_a_volume_that_both_sides_mount() -> None:
    volumes = kind(render("base"), "PersistentVolume")
    assert {volume["spec"]["claimRef"]["namespace"] for volume in volumes} == {"headrace-spark", "headrace-airflow"}
    assert {volume["spec"]["persistentVolumeReclaimPolicy"] for volume in volumes} == {"Retain"}
    assert "storage.source must say" in refusal("base", "storage.source=null")
    assert kind(render("base", "storage.source=null", "storage.root=s3a://bucket/headrace"), "PersistentVolume") == []


def test_an_object_stores_binding_is_mounted_where_its_root_is_used_and_is_no_setting_of_a_volume() -> None:
    bound = ("storage.root=s3a://bucket/headrace", "storage.sharedVolume=false", "storage.binding=object-store")
    objects = render("airflow", *bound)
    deployment = json.loads(named(objects, "ConfigMap", "airflow-headrace")["data"]["deployment.json"])
    assert (
        deployment["drivers"]["conf"]["spark.kubernetes.driver.secrets.object-store"]
        == f"{names.BINDING_MOUNT}/{OBJECT_STORE}"
    )
    mounted = 0
    for who, spec, _ in pods(objects):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert "data" not in volumes, who
        if "bindings" in volumes:
            mounted += 1
            sources = {
                source["secret"]["name"]: source["secret"]["items"]
                for source in volumes["bindings"]["projected"]["sources"]
            }
            keys = {item["key"]: item["path"] for item in sources[OBJECT_STORE]}
            assert keys == {
                key: f"{OBJECT_STORE}/{key}" for key in ("type", "endpoint", "region", "accessKey", "secretKey")
            }, who
    assert mounted >= 3
    store = ("storage.source=null", "storage.root=s3a://bucket/headrace", "storage.binding=my-store")
    text = named(render("base", *store), "ConfigMap", "bootstrap")["data"]["bootstrap.json"]
    assert Config.model_validate_json(text).object_store == "my-store"
    for chart in ("airflow", "base"):
        assert "object store" in refusal(chart, "storage.binding=my-store")
    assert "storage" in refusal("airflow", "storage.root=gs://bucket/headrace", "storage.sharedVolume=false")


@pytest.mark.parametrize("chart", ["kafka", "cassandra"])
def test_two_nodes_are_refused(chart: str) -> None:
    assert "size" in refusal(chart, "size=2")


def test_one_kafka_is_both_and_three_have_controllers_apart() -> None:
    (alone,) = kind(render("kafka"), "StatefulSet")
    assert alone["spec"]["replicas"] == 1
    sets = {stateful["metadata"]["name"]: stateful for stateful in kind(render("kafka", "size=3"), "StatefulSet")}
    assert {name: stateful["spec"]["replicas"] for name, stateful in sets.items()} == {
        "kafka": 3,
        "kafka-controller": 3,
    }
    hooks = {
        name: stateful["spec"]["template"]["spec"]["containers"][0].get("lifecycle") for name, stateful in sets.items()
    }
    assert hooks["kafka"]
    assert not hooks["kafka-controller"]
    grace = sets["kafka"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > yaml.safe_load(_file("kafka/values.yaml"))["stopWaitSeconds"]


@pytest.mark.parametrize(("size", "copies", "in_sync"), [(1, "1", "1"), (3, "3", "2")])
def test_kafka_keeps_as_many_copies_as_it_has_nodes(size: int, copies: str, in_sync: str) -> None:
    text = named(render("kafka", f"size={size}"), "ConfigMap", "kafka")["data"]["server.properties"]
    config = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert config["default.replication.factor"] == config["offsets.topic.replication.factor"] == copies
    assert config["min.insync.replicas"] == config["transaction.state.log.min.isr"] == in_sync
    assert config["unclean.leader.election.enable"] == config["auto.create.topics.enable"] == "false"
    assert config["allow.everyone.if.no.acl.found"] == "false"
    assert config["listener.security.protocol.map"] == "CLIENT:SASL_SSL,CONTROLLER:SSL,INTERNAL:SSL"
    assert (
        config["listener.name.controller.ssl.client.auth"]
        == config["listener.name.internal.ssl.client.auth"]
        == "required"
    )
    assert len(config["controller.quorum.voters"].split(",")) == size


def test_cassandra_takes_no_plain_connection_and_its_heap_is_half_of_its_memory() -> None:
    for size in (1, 3):
        objects = render("cassandra", f"size={size}")
        config = yaml.safe_load(named(objects, "ConfigMap", "cassandra")["data"]["cassandra.yaml"])
        assert config["client_encryption_options"]["optional"] is False
        assert config["server_encryption_options"]["internode_encryption"] == "all"
        assert config["server_encryption_options"]["require_client_auth"] is True
        assert config["authenticator"] == "PasswordAuthenticator"
        (node,) = kind(objects, "StatefulSet")
        container = node["spec"]["template"]["spec"]["containers"][0]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert int(environment["MAX_HEAP_SIZE"].rstrip("M")) * 2 <= int(
            container["resources"]["limits"]["memory"].rstrip("Mi")
        )
        assert environment["LOCAL_JMX"] == "yes"
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["nodetool", "drain"]


def test_a_driver_gets_the_signal_to_stop_before_its_jvm_and_executors_have_no_token() -> None:
    templates = {who.rpartition("/")[2]: spec for who, spec, _ in pods(render("spark")) if "pod-templates" in who}
    driver, executor = templates["driver.yaml"], templates["executor.yaml"]
    assert "pkill -TERM -x python3" in driver["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
    assert executor["automountServiceAccountToken"] is False
    assert "restartPolicy" not in driver
    assert [container["name"] for container in driver["containers"]] == ["driver"]
    assert [container["name"] for container in executor["containers"]] == ["executor"]


def test_accounts_are_those_that_the_launcher_names_and_have_the_verbs_that_it_uses() -> None:
    objects = render("spark")
    accounts = {account["metadata"]["name"] for account in kind(objects, "ServiceAccount")}
    assert accounts == {names.DRIVER_ACCOUNT, names.EXECUTOR_ACCOUNT}
    rules = {role["metadata"]["name"]: role["rules"] for role in kind(objects, "Role")}
    assert rules["airflow-submit"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["services", "configmaps"], "verbs": ["create", "patch"]},
    ]
    assert rules["airflow-read"][0]["verbs"] == ["get", "list"]
    bound = {binding["metadata"]["name"]: binding["subjects"] for binding in kind(objects, "RoleBinding")}
    made = {account["metadata"]["name"] for account in kind(render("airflow"), "ServiceAccount")}
    assert {bound[role][0]["name"] for role in ("airflow-submit", "airflow-read", "airflow-drain")} <= made
    assert {subject["name"] for subjects in bound.values() for subject in subjects} == {
        "spark-driver", "airflow-tasks", "airflow-web", "airflow-drain",
    }  # fmt: skip


def test_airflows_tasks_find_the_kubernetes_launcher_in_the_deployment_file() -> None:
    text = named(render("airflow"), "ConfigMap", "airflow-headrace")["data"]["deployment.json"]
    deployment = Deployment.model_validate(json.loads(text))
    assert isinstance(deployment.drivers, KubernetesDrivers)
    assert deployment.drivers.namespace == "headrace-spark"
    assert deployment.drivers.image == "headrace-spark:0.1.0"
    assert "secret" in refusal("airflow", "driver.conf.spark\\.hadoop\\.fs\\.s3a\\.secret\\.key=x").lower()


def test_the_size_of_one_pipelines_driver_is_a_value_and_an_unknown_pipeline_is_refused(project: Path) -> None:
    def deployment(pipeline: str) -> Deployment:
        objects = render("airflow", f"driver.pipelineConf.{pipeline}.spark\\.executor\\.memory=2g")
        text = named(objects, "ConfigMap", "airflow-headrace")["data"]["deployment.json"]
        return Deployment.model_validate(json.loads(text)).model_copy(update={"project": project})

    launcher = deployment("pos_sales").launcher()
    assert isinstance(launcher, KubernetesLauncher)
    assert launcher.pipeline_conf == {"pos_sales": {"spark.executor.memory": "2g"}}
    with pytest.raises(
        HeadraceError, match=r"Unknown pipeline 'pos_sale' .* correct driver.pipelineConf of chart airflow"
    ):
        deployment("pos_sale").launcher()
    assert "secret" in refusal("airflow", "driver.pipelineConf.pos_sales.spark\\.s3a\\.secret\\.key=x").lower()


def test_a_driver_of_another_size_restarts_no_part_of_airflow() -> None:
    def deployments(*settings: str) -> list[Any]:
        return [rendered["spec"] for rendered in render("airflow", *settings) if rendered["kind"] == "Deployment"]

    assert len(deployments()) == 4
    assert deployments("driver.pipelineConf.pos_sales.spark\\.driver\\.memory=2g") == deployments()
    assert deployments("baseUrl=https://a.example.org/airflow") != deployments()


def test_only_tasks_the_web_server_and_the_hook_of_an_uninstall_have_an_account_with_rights() -> None:
    accounts = {
        who: (spec["serviceAccountName"], spec["automountServiceAccountToken"])
        for who, spec, _ in pods(render("airflow"))
    }
    assert {who for who, (_, token) in accounts.items() if token} == {
        "Deployment/airflow-api-server", "Deployment/airflow-scheduler", "Job/drain",
    }  # fmt: skip
    assert accounts["Job/drain"][0] == "airflow-drain"
    assert accounts["Deployment/airflow-api-server"][0] == "airflow-web"
    assert accounts["Deployment/airflow-scheduler"][0] == "airflow-tasks"


def test_an_uninstall_stops_the_drivers_first_by_a_hook_that_holds_no_claim() -> None:
    job = named(render("airflow"), "Job", "drain")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    assert "hook-succeeded" in job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    spec = job["spec"]["template"]["spec"]
    assert not [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    deployed = named(render("airflow"), "Deployment", drain.SCHEDULER)["spec"]["template"]
    assert deployed["metadata"]["labels"]["app.kubernetes.io/component"] == "scheduler", "the pods that it waits for"
    (container,) = spec["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert {"HEADRACE_NAMESPACE", "HEADRACE_HELM_RELEASE", "HEADRACE_JOB"} <= set(environment)
    assert environment["HEADRACE_JOB"] == job["metadata"]["name"]
    assert job["metadata"]["labels"]["app.kubernetes.io/instance"] == environment["HEADRACE_HELM_RELEASE"]


def test_migrations_are_no_hook_and_have_a_name_of_each_revision() -> None:
    migrate = named(render("airflow"), "Job", "airflow-migrate-1")
    assert "helm.sh/hook" not in migrate["metadata"].get("annotations", {})
    for workload in kind(render("airflow"), "Deployment"):
        (first,) = workload["spec"]["template"]["spec"]["initContainers"]
        assert first["args"][:3] == ["airflow", "db", "check-migrations"]


def test_no_install_ends_before_provisioning_has_and_it_can_make_the_folder_of_the_event_logs() -> None:
    job = named(render("airflow", "driver.eventLogDir=/data/spark-events"), "Job", "provision-1")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]


def test_provisioning_has_the_consent_that_was_given_and_what_it_refuses_is_not_tried_again() -> None:
    for values, consent in (((), []), (("provision.consent={sales,pos.eu}",), ["sales", "pos.eu"])):
        job = named(render("airflow", *values), "Job", "provision-1")
        (container,) = job["spec"]["template"]["spec"]["containers"]
        (given,) = [variable["value"] for variable in container["env"] if variable["name"] == "HEADRACE_CONSENT"]
        assert json.loads(given) == consent
        (rule,) = job["spec"]["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [JOB_REFUSED]}


def test_no_install_ends_before_the_bootstrap_has_and_what_it_refuses_is_not_tried_again() -> None:
    job = named(render("base"), "Job", "bootstrap")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [REFUSED]}


def test_behind_a_path_the_probes_and_the_execution_api_have_it_too() -> None:
    objects = render("airflow", "baseUrl=https://a.example.org/airflow")
    environment = named(objects, "ConfigMap", "airflow")["data"]
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://airflow-api:8080/airflow/execution/"
    web = named(objects, "Deployment", "airflow-api-server")["spec"]["template"]["spec"]["containers"][0]
    assert web["readinessProbe"]["httpGet"]["path"] == "/airflow/api/v2/version"


def test_an_ingress_needs_a_host_and_a_certificate() -> None:
    assert "ingress" in refusal("airflow", "ingress.enabled=true")
    assert kind(render("airflow"), "Ingress") == []


def _file(path: str) -> str:
    from tests.support.charts import ROOT

    return (ROOT / "helm" / path).read_text()
