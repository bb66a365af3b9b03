"""Rendering of the charts with the real helm, and what tests ask of the result."""

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
# What a chart cannot guess, and needs.
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
    """Return whether a missing tool is a fault: in CI, unless `.ci/run` could not get the tools and has said so."""
    return bool(os.environ.get("CI")) and not os.environ.get("HEADRACE_WITHOUT_TOOLS")


def tool(name: str) -> str:
    """Return the path of a tool: on PATH, or in .tools/bin. Without it the test is skipped, in CI only if CI says so."""
    found = shutil.which(name, path=os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", "")]))
    if found is None:
        assert not must_have_tools(), f"{name} is missing: CI must have it"
        pytest.skip(f"{name} is not on PATH nor in .tools/bin")
    return found


def helm_template(chart: str, *settings: str, helm: str = "helm") -> subprocess.CompletedProcess[str]:
    """Run `helm template` of a chart with --set values (`key=[...]` is JSON) and return how it ended.

    `api:GROUP/VERSION/KIND` is a kind that the cluster has.
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
    """Return the objects that a chart renders to. Fails with helm's words."""
    done = helm_template(chart, *settings)
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.load_all(done.stdout, LOADER) if each)


def refusal(chart: str, *settings: str) -> str:
    """Return what helm says of values that must be refused."""
    done = helm_template(chart, *settings)
    assert done.returncode != 0, f"{chart} took {settings}"
    return done.stderr


def kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: tuple[Object, ...], of_kind: str, name: str, namespace: str | None = None) -> Object:
    """Return the one object of a kind and name."""
    (found,) = [
        each
        for each in kind(objects, of_kind)
        if each["metadata"]["name"] == name and namespace in (None, each["metadata"].get("namespace"))
    ]
    return found


def pods(objects: tuple[Object, ...]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, str]]]:
    """Yield (who, pod spec, pod labels) of everything that makes pods, the pod templates of Spark too."""
    for each in objects:
        who = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield who, each["spec"], each["metadata"]["labels"]
        elif each["kind"] == "CronJob":
            template = each["spec"]["jobTemplate"]["spec"]["template"]
            yield who, template["spec"], template["metadata"]["labels"]
        elif each["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = each["spec"]["template"]
            yield who, template["spec"], template["metadata"]["labels"]
        elif each["metadata"]["name"] == "spark-pod-templates":
            for file, text in each["data"].items():
                pod = yaml.safe_load(text)
                yield f"{who}/{file}", pod["spec"], pod["metadata"]["labels"]


def containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all containers of a pod, those that run first too."""
    return [*spec.get("initContainers", []), *spec["containers"]]
