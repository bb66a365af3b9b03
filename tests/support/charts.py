"""Render the charts with the real helm, and query the result."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ROOT = Path(__file__).resolve().parent.parent.parent
CHARTS = ("base", "kafka", "cassandra", "spark", "airflow")
NAMESPACES = {name: "headrace" if name == "base" else f"headrace-{name}" for name in CHARTS}
# Values that a chart requires.
NEEDED = {"base": ("storage.source.hostPath.path=/srv/headrace",)}
EXTERNAL_KAFKA = (
    "kafka.mode=external",
    "kafka.binding=my-kafka",
    "network.externalEgress[0].cidr=10.1.0.0/16",
    "network.externalEgress[0].port=9093",
)
BEHIND_INGRESS = (
    "postgres.mode=external",
    "ingress.enabled=true",
    "ingress.host=a.example.org",
    "ingress.tlsSecret=tls",
    "baseUrl=https://a.example.org/airflow",
)
HISTORY = ("historyServer.enabled=true",)
OPERATOR = ("api:monitoring.coreos.com/v1/PrometheusRule", "api:monitoring.coreos.com/v1/PodMonitor")
MONITORED = ("monitoring.enabled=true",)
PLACED = (
    "place.nodeSelector.pool=data",
    "place.tolerations[0].key=data",
    "place.tolerations[0].operator=Exists",
    "place.priorityClassName=high",
)
EXTRAS = (
    "connectionsSecret=my-connections",
    "bindings.users-source=my-users",
    'extraEnv=[{"name": "OPENLINEAGE_URL", "value": "http://lineage:5000"}]',
    'extraVolumes=[{"name": "more", "configMap": {"name": "more"}}]',
    'extraVolumeMounts=[{"name": "more", "mountPath": "/more"}]',
)
PULL_SECRET = ("imagePullSecret=regcred",)
# Both sizes, and each system bundled and external.
VARIANTS: list[tuple[str, tuple[str, ...]]] = [
    ("base", ()),
    ("base", EXTERNAL_KAFKA),
    ("base", ("network.ingressNamespace=ingress", "network.monitoringNamespace=monitoring")),
    ("kafka", ()),
    ("kafka", ("size=3",)),
    ("cassandra", ()),
    ("kafka", ("size=3", "antiAffinity=preferred", *PLACED)),
    ("cassandra", ("size=3",)),
    ("cassandra", ("size=3", "antiAffinity=preferred", *PLACED)),
    ("kafka", ("size=3", *MONITORED)),
    ("cassandra", MONITORED),
    ("spark", ()),
    ("spark", ("sharedVolume=false",)),
    ("spark", HISTORY),
    ("spark", MONITORED),
    ("airflow", ()),
    ("airflow", BEHIND_INGRESS),
    ("airflow", ("driver.eventLogDir=/data/spark-events",)),
    ("airflow", (*MONITORED, *EXTRAS)),
]
Object = dict[str, Any]


def must_have_tools() -> bool:
    """Return whether a missing tool is an error: in CI, unless `.ci/run` could not get the tools and has said so."""
    return bool(os.environ.get("CI")) and not os.environ.get("HEADRACE_WITHOUT_TOOLS")


def tool(name: str) -> str:
    """Return the path of a tool: on PATH, or in .tools/bin. Without it the test is skipped, in CI only if CI says so."""
    path = shutil.which(name, path=os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", "")]))
    if path is None:
        assert not must_have_tools(), f"{name} is missing: CI must have it"
        pytest.skip(f"{name} is not on PATH nor in .tools/bin")
    return path


def helm_template(chart: str, *settings: str, helm: str = "helm") -> subprocess.CompletedProcess[str]:
    """Run `helm template` of a chart with --set values (`key=[...]` is JSON) and return the completed process.

    `api:GROUP/VERSION/KIND` declares a kind that the cluster supports.
    """
    given = (*NEEDED.get(chart, ()), *settings)
    sets = [part for setting in given for part in _words(setting)]
    command = [tool(helm), "template", chart, str(ROOT / "helm" / chart), "-n", NAMESPACES[chart], *sets]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _words(setting: str) -> tuple[str, str]:
    if setting.startswith("api:"):
        return "--api-versions", setting.removeprefix("api:")
    return ("--set-json" if "=[" in setting else "--set", setting)


@cache
def render(chart: str, *settings: str) -> tuple[Object, ...]:
    """Return the objects that a chart renders to. Fails with helm's error message."""
    done = helm_template(chart, *settings)
    assert done.returncode == 0, done.stderr
    return tuple(item for item in yaml.load_all(done.stdout, LOADER) if item)


def refusal(chart: str, *settings: str) -> str:
    """Return helm's error message for values that must be refused."""
    done = helm_template(chart, *settings)
    assert done.returncode != 0, f"{chart} took {settings}"
    return done.stderr


def kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects: tuple[Object, ...], of_kind: str, name: str, namespace: str | None = None) -> Object:
    """Return the one object of a kind and name."""
    (matching,) = [
        item
        for item in kind(objects, of_kind)
        if item["metadata"]["name"] == name and namespace in (None, item["metadata"].get("namespace"))
    ]
    return matching


def pods(objects: tuple[Object, ...]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, str]]]:
    """Yield (who, pod spec, pod labels) of every object that creates pods, including the templates of drivers and batch runs."""
    for item in objects:
        who = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            yield who, item["spec"], item["metadata"]["labels"]
        elif item["kind"] == "CronJob":
            template = item["spec"]["jobTemplate"]["spec"]["template"]
            yield who, template["spec"], template["metadata"]["labels"]
        elif item["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = item["spec"]["template"]
            yield who, template["spec"], template["metadata"]["labels"]
        elif item["metadata"]["name"] in ("spark-pod-templates", "airflow-headrace"):
            for file, text in item["data"].items():
                if file.endswith(".yaml"):
                    pod = yaml.safe_load(text)
                    yield f"{who}/{file}", pod["spec"], pod["metadata"]["labels"]


def containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all containers of a pod, including init containers."""
    return [*spec.get("initContainers", []), *spec["containers"]]
