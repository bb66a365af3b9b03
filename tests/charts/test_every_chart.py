"""What holds for every chart: valid for the API, legal under Pod Security restricted, least rights, no secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from headrace.operations.batch import job_runs, pod_runs
from headrace.operations.deployment import Deployment, KubernetesDrivers
from tests.support.charts import (
    CHARTS,
    DUMPER,
    LOADER,
    PULL_SECRET,
    ROOT,
    VARIANTS,
    Object,
    containers,
    helm_template,
    kind,
    named,
    pods,
    refusal,
    render,
    tool,
)

IDS = [f"{chart} {' '.join(settings)}".strip() for chart, settings in VARIANTS]
ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_pods_are_legal_under_restricted_with_a_read_only_root(chart: str, settings: tuple[str, ...]) -> None:
    rendered = list(pods(render(chart, *settings)))
    assert rendered
    for who, spec, _ in rendered:
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, who
        assert security["runAsUser"] >= 100, who
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, who
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), who
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= ALLOWED_VOLUMES, f"{who}: {volume}"
        for container in containers(spec):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, who
            assert context["readOnlyRootFilesystem"] is True, who
            assert context["capabilities"] == {"drop": ["ALL"]}, who
            assert not context.get("privileged"), who


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_a_pod_has_a_token_only_where_it_may_call_the_api(chart: str, settings: tuple[str, ...]) -> None:
    for who, spec, labels in pods(render(chart, *settings)):
        calls = labels.get("headrace/api-server") == "allowed"
        assert spec["automountServiceAccountToken"] is calls, who
        assert spec["enableServiceLinks"] is False, who


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_images_are_fixed_and_memory_is_bounded(chart: str, settings: tuple[str, ...]) -> None:
    for who, spec, _ in pods(render(chart, *settings)):
        if "spark-pod-templates" in who:
            continue  # Spark says image and sizes
        for container in containers(spec):
            assert re.search(r":[^/:]+$|@sha256:", container["image"]), who
            assert not container["image"].endswith(":latest"), who
            assert container["imagePullPolicy"] == "IfNotPresent", who
            memory = set() if "batch-pod" in who else {"memory"}  # each run adds it: operations/batch/test_pod_runs.py
            assert memory | {"ephemeral-storage"} <= set(container["resources"]["limits"]), who
            assert memory | {"cpu"} <= set(container["resources"]["requests"]), who


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_long_running_pods_have_probes_of_which_liveness_is_not_readiness(
    chart: str, settings: tuple[str, ...]
) -> None:
    for workload in kind(render(chart, *settings), "Deployment", "StatefulSet"):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            assert "livenessProbe" in container, workload["metadata"]["name"]
            if "readinessProbe" in container:
                assert container["livenessProbe"] != container["readinessProbe"], workload["metadata"]["name"]
                assert "startupProbe" in container, workload["metadata"]["name"]


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_every_stateful_set_has_a_disruption_budget_and_says_what_becomes_of_its_volumes(
    chart: str, settings: tuple[str, ...]
) -> None:
    objects = render(chart, *settings)
    budgets = [budget["spec"]["selector"]["matchLabels"] for budget in kind(objects, "PodDisruptionBudget")]
    for stateful in kind(objects, "StatefulSet"):
        labels = stateful["spec"]["template"]["metadata"]["labels"]
        assert any(budget.items() <= labels.items() for budget in budgets), stateful["metadata"]["name"]
        assert "persistentVolumeClaimRetentionPolicy" in stateful["spec"], stateful["metadata"]["name"]
        for claim in stateful["spec"]["volumeClaimTemplates"]:
            assert "labels" not in claim["metadata"], "claim templates are immutable: no labels there"


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_selectors_do_not_change_with_a_release(chart: str, settings: tuple[str, ...]) -> None:
    for selecting in kind(render(chart, *settings), "Deployment", "StatefulSet", "Service"):
        selector = selecting["spec"]["selector"]
        keys = set(selector.get("matchLabels", selector))
        assert keys <= {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_rights_are_roles_without_wildcards_and_only_the_bootstrap_reads_secrets(
    chart: str, settings: tuple[str, ...]
) -> None:
    objects = render(chart, *settings)
    assert kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    for role in kind(objects, "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], role["metadata"]["name"]
            assert not set(rule["verbs"]) & {"escalate", "bind", "impersonate"}
            assert not set(rule["resources"]) & {"pods/exec", "pods/attach"}
            if "secrets" in rule["resources"]:
                assert role["metadata"]["name"] == "bootstrap"


@pytest.mark.parametrize(("chart", "settings"), VARIANTS, ids=IDS)
def test_no_secret_passes_through_the_chart(chart: str, settings: tuple[str, ...]) -> None:
    objects = render(chart, *settings)
    assert kind(objects, "Secret") == []
    for who, spec, _ in pods(objects):
        for container in containers(spec):
            for variable in container.get("env", []):
                assert "secretKeyRef" not in variable.get("valueFrom", {}), f"{who}: secrets are mounted as files"
            assert not any("secretRef" in source for source in container.get("envFrom", [])), who
    values = (ROOT / "helm" / chart / "values.yaml").read_text()
    keys = [line.split(":")[0].strip().lower() for line in values.splitlines() if ":" in line and "#" not in line]
    assert not [key for key in keys if re.search("password|token|credential", key)]


def _batch_pod(folder: Path) -> Object:
    """Return the pod of a batch run that is made from what the chart renders."""
    data = named(render("airflow", *PULL_SECRET), "ConfigMap", "airflow-headrace")["data"]
    deployment = Deployment.model_validate_json(data["deployment.json"])
    deployment = deployment.model_copy(update={"project": ROOT, "root": str(folder)})
    assert isinstance(deployment.drivers, KubernetesDrivers)
    assert deployment.drivers.batch
    template = folder / Path(deployment.drivers.batch.template).name
    template.write_text(data[template.name])
    batch = deployment.drivers.batch.model_copy(update={"template": template})
    return pod_runs.manifest(
        deployment, batch, ("views", "pos_sales", "night"), job_runs.environment(deployment, "pos_sales")
    )


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.34.0", "1.37.0"])
def test_the_api_takes_every_object(version: str, tmp_path: Path) -> None:
    """Slow: kubeconform compiles the schema of every kind, 10 s of CPU."""
    kubeconform = tool("kubeconform")
    schemas = os.environ.get("KUBERNETES_SCHEMAS", str(ROOT / ".tools" / "kubernetes-schemas"))
    place = schemas + "/{{.NormalizedKubernetesVersion}}-local{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json"
    files = []
    private = [(chart, PULL_SECRET) for chart in CHARTS]
    for number, (chart, settings) in enumerate([*VARIANTS, *private]):
        files.append(tmp_path / f"{chart}-{number}.yaml")
        files[-1].write_text(yaml.dump_all(render(chart, *settings), Dumper=DUMPER))
    files.append(tmp_path / "batch-pod.yaml")
    files[-1].write_text(yaml.dump(_batch_pod(tmp_path), Dumper=DUMPER))
    command = [kubeconform, "-strict", "-kubernetes-version", version, "-schema-location", place, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_three_renders_the_same(chart: str) -> None:
    three = helm_template(chart, helm="helm3").stdout
    assert tuple(document for document in yaml.load_all(three, LOADER) if document) == render(chart)


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_refuses_what_the_chart_does_not_know(chart: str) -> None:
    assert "additional properties 'typo' not allowed" in refusal(chart, "typo=1")
    schema = json.loads((ROOT / "helm" / chart / "values.schema.json").read_text())
    values = yaml.safe_load((ROOT / "helm" / chart / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_stays_small(chart: str) -> None:
    def leaves(value: object) -> int:
        return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1

    assert leaves(yaml.safe_load((ROOT / "helm" / chart / "values.yaml").read_text())) < 60


@pytest.mark.parametrize("chart", CHARTS)
def test_the_readme_is_that_of_the_values(chart: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "helm" / chart, tmp_path / chart)
    (tmp_path / chart / "README.md").unlink()
    subprocess.run([tool("helm-docs"), "-c", str(tmp_path / chart)], capture_output=True, check=True)
    assert (tmp_path / chart / "README.md").read_text() == (ROOT / "helm" / chart / "README.md").read_text(), (
        "run helm-docs"
    )


def test_the_helpers_that_all_charts_share_are_one_file_in_five_copies() -> None:
    """Charts are installed one by one, so a library chart would be a sixth package to publish and to pin."""
    copies = {(ROOT / "helm" / chart / "templates" / "_common.tpl").read_text() for chart in CHARTS}
    assert len(copies) == 1


@pytest.mark.parametrize("chart", CHARTS)
def test_a_moving_tag_is_refused(chart: str) -> None:
    key = {"cassandra": "image", "spark": "toolImage"}.get(chart, "image")
    assert "image" in refusal(chart, f"{key}.tag=latest").lower()


@pytest.mark.parametrize("chart", CHARTS)
def test_one_question_is_asked_as_test_and_the_next_command_is_printed(chart: str) -> None:
    tests = [pod for pod in kind(render(chart), "Pod") if "helm.sh/hook" in pod["metadata"]["annotations"]]
    assert len(tests) == 1
    assert "kubectl" in (ROOT / "helm" / chart / "templates" / "NOTES.txt").read_text()


# A pod that no chart may make, to see that the checks above see it.
BAD = {
    "kind": "Pod",
    "metadata": {"name": "bad", "labels": {}},
    "spec": {
        "securityContext": {"runAsNonRoot": False, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "x:latest", "securityContext": {"privileged": True}}],
    },
}


def test_the_checks_see_a_bad_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.charts.test_every_chart.render", lambda *_: (BAD,))
    with pytest.raises(AssertionError):
        test_pods_are_legal_under_restricted_with_a_read_only_root("kafka", ())
    with pytest.raises((AssertionError, KeyError)):
        test_a_pod_has_a_token_only_where_it_may_call_the_api("kafka", ())
    with pytest.raises((AssertionError, KeyError)):
        test_images_are_fixed_and_memory_is_bounded("kafka", ())
