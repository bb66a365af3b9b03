"""kube-score checks the rendered charts of all components. Each finding is corrected, or skipped with a written reason."""

from __future__ import annotations

import copy
import subprocess
from fnmatch import fnmatch
from functools import cache
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.charts import (
    BEHIND_INGRESS,
    DUMPER,
    HISTORY,
    LOADER,
    MONITORED,
    NAMESPACES,
    PULL_SECRET,
    ROOT,
    Object,
    render,
    tool,
)

LARGE = "three nodes, ingress, metrics, history, private registry"
# Charts are scored together, as they are installed: a pod is isolated by a policy of another chart.
PLATFORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "one node of everything": {},
    LARGE: {
        "base": ("network.ingressNamespace=ingress", "network.monitoringNamespace=monitoring", *PULL_SECRET),
        "kafka": ("size=3", *PULL_SECRET),
        "cassandra": ("size=3", *PULL_SECRET),
        "spark": (*HISTORY, *MONITORED, *PULL_SECRET),
        "airflow": (*BEHIND_INGRESS, *MONITORED, *PULL_SECRET),
    },
}
OK = 10  # kube-score's grade of a check that holds; 5 is a warning, 1 critical
OPTIONAL = ("container-seccomp-profile", "container-ports-check")


class Finding(NamedTuple):
    """What a linter says of one object."""

    check: str
    says: str
    on: str


@cache
def _skips() -> list[dict[str, Any]]:
    skips: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "charts" / "skips.yaml").read_text())
    return skips


def _hides(skip: dict[str, Any], pattern: str, finding: Finding) -> bool:
    return (skip["check"], skip["says"]) == (finding.check, finding.says) and fnmatch(finding.on, pattern)


def _unskipped(findings: frozenset[Finding]) -> list[Finding]:
    return sorted(
        finding
        for finding in findings
        if not any(_hides(skip, pattern, finding) for skip in _skips() for pattern in skip["objects"])
    )


def _platform(name: str) -> list[Object]:
    """Return the objects of all charts, in the namespaces that helm would install them into."""
    objects = []
    for chart, namespace in NAMESPACES.items():
        for rendered in copy.deepcopy(render(chart, *PLATFORMS[name].get(chart, ()))):
            rendered["metadata"].setdefault("namespace", namespace)
            objects.append(rendered)
    return objects


def _score(objects: list[Object]) -> frozenset[Finding]:
    enabled = [part for name in OPTIONAL for part in ("--enable-optional-test", name)]
    command = [tool("kube-score"), "score", "--output-format", "json", *enabled, "-"]
    text = yaml.dump_all(objects, Dumper=DUMPER)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("["), done.stderr
    return frozenset(
        Finding(
            check["check"]["id"],
            comment.get("summary", ""),
            f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}",
        )
        for scored in yaml.load(done.stdout, LOADER)
        for check in scored["checks"]
        if not check["skipped"] and check["grade"] < OK
        for comment in check["comments"] or [{}]
    )


@cache
def _findings(name: str) -> frozenset[Finding]:
    return _score(_platform(name))


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_linter_finds_nothing_that_is_not_skipped_in_writing(name: str) -> None:
    assert _unskipped(_findings(name)) == []


def test_every_skip_says_why_and_still_hides_something() -> None:
    findings = frozenset().union(*map(_findings, PLATFORMS))
    for skip in _skips():
        assert set(skip) == {"check", "says", "objects", "why"}
        assert len(skip["why"]) > 10, skip["check"]
        for pattern in skip["objects"]:
            assert any(_hides(skip, pattern, finding) for finding in findings), (
                f"{skip['check']} on {pattern} hides nothing any more: take it out of tests/charts/skips.yaml"
            )


def test_the_linter_sees_planted_faults() -> None:
    bad = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bad", "namespace": "elsewhere", "labels": {"app": "bad"}},
        "spec": {"containers": [{"name": "c", "image": "x:latest", "securityContext": {"privileged": True}}]},
    }
    unprotected = [rendered for rendered in _platform(LARGE) if rendered["kind"] != "PodDisruptionBudget"]
    seen = {finding.check for finding in _unskipped(_score([*unprotected, bad]))}
    assert {
        "container-image-tag",
        "container-resources",
        "container-security-context-privileged",
        "container-security-context-readonlyrootfilesystem",
        "pod-networkpolicy",
        "statefulset-has-poddisruptionbudget",
    } <= seen
