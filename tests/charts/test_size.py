"""Another size than the one that runs, or whose volumes were kept, is refused by the charts: `lookup` against an API server."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.charts import NAMESPACES, ROOT, tool

KINDS = {
    "v1": ("ConfigMap", "PersistentVolumeClaim", "Pod", "Service"),
    "apps/v1": ("StatefulSet",),
    "batch/v1": ("Job",),
    "policy/v1": ("PodDisruptionBudget",),
}


def _discovery() -> dict[str, Any]:
    """Return what an API server says of itself, by path."""
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    groups = []
    for version, kinds in KINDS.items():
        resources = [
            {"name": f"{kind.lower()}s", "namespaced": True, "kind": kind, "verbs": ["get", "list"]} for kind in kinds
        ]
        place = f"/apis/{version}" if "/" in version else f"/api/{version}"
        answers[place] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if "/" in version:
            group_version = {"groupVersion": version, "version": "v1"}
            groups.append(
                {"name": version.partition("/")[0], "versions": [group_version], "preferredVersion": group_version}
            )
    return answers | {"/apis": {"kind": "APIGroupList", "groups": groups}}


@contextmanager
def _cluster(folder: Path, chart: str, replicas: int | None, claims: int) -> Iterator[Path]:
    """Give the kubeconfig of an API server that knows one StatefulSet (None: none) and some claims."""
    base = f"namespaces/{NAMESPACES[chart]}"
    answers = _discovery()
    if replicas is not None:
        answers[f"/apis/apps/v1/{base}/statefulsets/{chart}"] = {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"replicas": replicas},
            "metadata": {
                "name": chart,
                "namespace": NAMESPACES[chart],
                "labels": {"app.kubernetes.io/managed-by": "Helm"},
                "annotations": {
                    "meta.helm.sh/release-name": chart, "meta.helm.sh/release-namespace": NAMESPACES[chart],
                },
            },
        }  # fmt: skip
    answers[f"/api/v1/{base}/persistentvolumeclaims"] = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaimList",
        "metadata": {},
        "items": [
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": f"data-{chart}-{number}"}}
            for number in range(claims)
        ],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            body = json.dumps(
                answer or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            ).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kubeconfig = folder / "kubeconfig"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    kubeconfig.write_text(json.dumps(config))
    try:
        yield kubeconfig
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _rendered(chart: str, size: int, kubeconfig: Path) -> subprocess.CompletedProcess[str]:
    command = [
        tool("helm"), "template", chart, str(ROOT / "helm" / chart), "-n", NAMESPACES[chart],
        "--dry-run=server", "--disable-openapi-validation",
        "--kubeconfig", str(kubeconfig), "--set", f"size={size}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("chart", ["kafka", "cassandra"])
@pytest.mark.parametrize(
    ("replicas", "claims", "size"),
    [(1, 1, 3), (3, 3, 1), (None, 1, 3), (None, 3, 1)],
    ids=["1 runs", "3 run", "1 volume was kept", "3 volumes were kept"],
)
def test_another_size_is_refused_with_the_way_to_it(
    tmp_path: Path, chart: str, replicas: int | None, claims: int, size: int
) -> None:
    with _cluster(tmp_path, chart, replicas, claims) as kubeconfig:
        done = _rendered(chart, size, kubeconfig)
    assert done.returncode != 0
    assert f"size is {size} and this installation has {claims}" in done.stderr
    assert "docs/howto/deploy.md, Another size" in done.stderr
    assert "## Another size" in (ROOT / "docs" / "howto" / "deploy.md").read_text()


@pytest.mark.parametrize("chart", ["kafka", "cassandra"])
@pytest.mark.parametrize(
    ("replicas", "claims", "size"),
    [(None, 0, 3), (3, 3, 3), (None, 1, 1), (0, 3, 3)],
    ids=["nothing is there", "the same runs", "the same was kept", "it was scaled down for a while"],
)
def test_the_same_size_and_a_first_install_are_taken(
    tmp_path: Path, chart: str, replicas: int | None, claims: int, size: int
) -> None:
    with _cluster(tmp_path, chart, replicas, claims) as kubeconfig:
        done = _rendered(chart, size, kubeconfig)
    assert done.returncode == 0, done.stderr
