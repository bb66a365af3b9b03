"""A real cluster with the platform installed: $HEADRACE_KUBECONFIG selects it. Without it these tests are skipped."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from tests.support.charts import ROOT, tool

KUBECONFIG = os.environ.get("HEADRACE_KUBECONFIG", "")
PREFIX = os.environ.get("HEADRACE_PREFIX", "headrace")
_NONE: Mapping[str, str] = MappingProxyType({})
# Labels by which the network policies of chart base admit pods to Kafka; `shop` as tests/cluster/run declares it.
CLIENT_LABELS = {
    "airflow": {"app.kubernetes.io/name": "airflow", "app.kubernetes.io/part-of": "headrace"},
    "spark": {"app.kubernetes.io/part-of": "headrace"},
    "shop": {"headrace/producer": "webshop"},
}
SYSTEMS = ("kafka", "cassandra", "spark", "airflow")


def namespace(system: str) -> str:
    """Return the namespace of a system; `base` is the first one, `shop` that of the declared producer, which is external."""
    return {"base": PREFIX, "shop": "e2e-shop"}.get(system, f"{PREFIX}-{system}")


def kubectl(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run kubectl as the cluster's admin."""
    command = [tool("kubectl"), "--kubeconfig", KUBECONFIG, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done


def get(*arguments: str) -> Any:
    """Return the result of `kubectl get ... -o json`."""
    return json.loads(kubectl("get", *arguments, "-o", "json").stdout)


def airflow_image() -> str:
    """Return the installed Airflow image."""
    deployment = get("deployment", "airflow-scheduler", "-n", namespace("airflow"))
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def secret(system: str, name: str) -> dict[str, str]:
    """Return a Secret's content."""
    data = get("secret", name, "-n", namespace(system)).get("data", {})
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def probe_pod(
    system: str, name: str, labels: Mapping[str, str], code: str, image: str, bindings: Mapping[str, str] = _NONE
) -> dict[str, Any]:
    """Return a pod that is allowed everywhere and runs Python code; `bindings` are Secrets in /bindings: kafka -> kafka-admin."""
    mounts = [{"name": kind, "mountPath": f"/bindings/{kind}"} for kind in bindings]
    volumes = [{"name": kind, "secret": {"secretName": made}} for kind, made in bindings.items()]
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", code],
        "securityContext": security,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 185, "runAsGroup": 185, "fsGroup": 185,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes],
    }  # fmt: skip
    meta = {"name": name, "namespace": namespace(system), "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


_ASK_KAFKA = """
import pathlib
from confluent_kafka.admin import AdminClient
from headrace.access.bindings import read_kafka
config = read_kafka(pathlib.Path("/bindings")).client_config()
config.update({change!r})
try:
    topics = AdminClient(config | {{"log_level": 0}}).list_topics(timeout={seconds}).topics
    print("in:", sorted(topics))
except Exception as error:
    print("out:", error)
"""


def asking_kafka(
    name: str, image: str, change: Mapping[str, str], binding: str = "kafka-admin", system: str = "airflow"
) -> dict[str, Any]:
    """Return a pod that logs in to Kafka with changed client settings and prints `in: TOPICS` or `out: ...`."""
    code = _ASK_KAFKA.format(change=dict(change), seconds=8 if change else 60)  # librdkafka asks until it is over
    return probe_pod(system, f"kafka-{name}", CLIENT_LABELS[system], code, image, {"kafka": binding})


_ASK_CASSANDRA = """
import dataclasses, logging, pathlib
from headrace.access.bindings import read_cassandra
from headrace.operations.clients import log_in
logging.disable()
binding = dataclasses.replace(read_cassandra(pathlib.Path("/bindings")), **{change!r})
try:
    with log_in(binding) as session:
        print("in:", len(list(session.execute({ask!r}))))
except Exception as error:
    print("out:", type(error).__name__, error)
"""


def asking_cassandra(
    name: str,
    image: str,
    change: Mapping[str, Any],
    ask: str,
    binding: str = "cassandra-admin",
    system: str = "airflow",
) -> dict[str, Any]:
    """Return a pod that queries Cassandra with changed binding fields and prints `in: ROWS` or `out: ...`."""
    code = _ASK_CASSANDRA.format(change=dict(change), ask=ask)
    return probe_pod(system, f"cassandra-{name}", CLIENT_LABELS[system], code, image, {"cassandra": binding})


def run_probe(pod: Mapping[str, Any], seconds: float = 400) -> tuple[str, str]:
    """Run a pod to its end, remove it, and return its phase and its log."""
    name, space = pod["metadata"]["name"], pod["metadata"]["namespace"]
    kubectl("delete", "pod", name, "-n", space, "--ignore-not-found")
    kubectl("apply", "-f", "-", text=json.dumps(pod))
    try:
        deadline = time.monotonic() + seconds
        phase = ""
        while time.monotonic() < deadline and phase not in ("Succeeded", "Failed"):
            phase = get("pod", name, "-n", space)["status"]["phase"]
            time.sleep(0.5)
        return phase, kubectl("logs", name, "-n", space, check=False).stdout
    finally:
        kubectl("delete", "pod", name, "-n", space, "--ignore-not-found", "--wait=false")


def run_probes(*pods: Mapping[str, Any]) -> list[str]:
    """Run pods with different names in parallel to their ends; return their logs in the same order."""
    with ThreadPoolExecutor(len(pods)) as pool:
        return [log.strip() for _, log in pool.map(run_probe, pods)]


@contextmanager
def restored(*charts: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the values of installed charts, by chart, and restore exactly these values afterwards."""
    before = {
        chart: json.loads(_helm("get", "values", chart, "-n", namespace(chart), "-o", "json")) for chart in charts
    }
    try:
        yield before
    finally:
        for chart, values in before.items():
            helm_upgrade(chart, chart, values=values)


def helm_upgrade(release: str, system: str, *more: str, values: Mapping[str, Any] | None = None) -> None:
    """Run `helm upgrade` of an installed chart, with its current values or `values` instead; wait for its Jobs.

    Current values merge with new ones, so no key of a map is removed, null or not. Raises UpgradeError on failure.
    """
    given = ["--reuse-values"] if values is None else ["--reset-values", "--values", "-"]
    _helm(
        "upgrade", release, str(ROOT / "helm" / release), "-n", namespace(system), *given,
        "--wait", "--wait-for-jobs", "--timeout", "8m", *more, text=None if values is None else json.dumps(values),
    )  # fmt: skip


class UpgradeError(Exception):
    """Helm's error message."""


def _helm(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [tool("helm"), *arguments], input=text, env=os.environ | {"KUBECONFIG": KUBECONFIG},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UpgradeError(done.stderr[-2000:])
    return done.stdout
