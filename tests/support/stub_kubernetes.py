"""A stub of the Kubernetes API: a real HTTP server on loopback that stores pods and lets a test inject faults.

It implements the part of core/v1 pods that the launcher and spark-submit use: list by label, get, create (AlreadyExists),
delete with a UID precondition and a grace period, log. Executors disappear after their driver, as by garbage collection.
"""

from __future__ import annotations

import contextlib
import json
import stat
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from headrace.operations.drivers.kubernetes import KubernetesLauncher

NAMESPACE = "spark"
NAME, POD = "pos_sales", "pos-sales-driver"

# Replaces spark-submit: creates the pod that its --conf arguments describe. Its output on a refusal is that of Spark
# 3.5.7 on a real cluster.
SUBMIT = r"""#!{python} -IS
import http.client, json, sys
args = sys.argv[1:]
conf = dict(args[i + 1].split("=", 1) for i, a in enumerate(args) if a == "--conf")
host = args[args.index("--master") + 1].removeprefix("k8s://http://")
prefix = "spark.kubernetes.driver."
def part(kind):
    return {{k[len(prefix + kind):]: v for k, v in conf.items() if k.startswith(prefix + kind)}}
env = {{k[len("spark.kubernetes.driverEnv."):]: v for k, v in conf.items() if k.startswith("spark.kubernetes.driverEnv.")}}
pod = {{
    "metadata": {{"name": conf[prefix + "pod.name"], "labels": part("label.") | {{"spark-role": "driver"}},
                 "annotations": part("annotation.")}},
    "spec": {{"restartPolicy": "Never", "containers": [{{
        "name": "driver", "image": conf["spark.kubernetes.container.image"],
        "env": [{{"name": k, "value": v}} for k, v in env.items()]}}]}},
}}
link = http.client.HTTPConnection(host, timeout=120)
link.request("POST", "/api/v1/namespaces/" + conf["spark.kubernetes.namespace"] + "/pods", json.dumps(pod))
answer = link.getresponse()
said = json.loads(answer.read())
if answer.status >= 300:
    print("Exception in thread \"main\" io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST. "
          "Message: %s. Received status: Status(code=%d, reason=%s)." % (said["message"], answer.status, said["reason"]))
    sys.exit(1)
print("INFO LoggingPodStatusWatcherImpl: Deployed Spark application with submission ID")
sys.exit(int(open({flag!r}).read() or 0))
"""


@dataclass
class StubApi:
    """The server and its pods. Times in seconds: drivers take `ending` to exit after a request, executors `collect`."""

    folder: Path
    ending: float = 0.0
    collect: float = 0.0
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    created: list[str] = field(default_factory=list)  # UIDs of all drivers ever created
    most_living: int = 0
    quota: str = ""  # the message of the quota that refuses every new pod
    stuck: bool = False  # deleted pods stay, because their node is lost
    new_phase: str = "Running"
    replicas: dict[str, int] = field(default_factory=dict)  # of Deployments
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)  # the labels of Jobs
    _faults: list[int | float] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> StubApi:
        stub = self

        class Handler(_Handler):
            api = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.kubeconfig = self._write_kubeconfig()
        (self.folder / "exit").write_text("0")
        self.spark_submit = self.folder / "spark-submit"
        self.spark_submit.write_text(SUBMIT.format(python=sys.executable, flag=str(self.folder / "exit")))
        self.spark_submit.chmod(stat.S_IRWXU)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # Faults injected by a test

    def fault(self, *statuses: int | float) -> None:
        """Answer the next requests with these HTTP statuses; a float below 100 sleeps that long and then continues."""
        with self._lock:
            self._faults += statuses

    def submit_exits(self, code: int) -> None:
        """Let spark-submit exit with `code` after it has created the pod."""
        (self.folder / "exit").write_text(str(code))

    def plant(
        self,
        name: str,
        phase: str = "Running",
        *,
        labels: Mapping[str, str] | None = None,
        role: str = "driver",
        pipeline: str = "pos_sales",
        owner: str = "",
        status: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add a pod, as if another client had created it."""
        body = {
            "metadata": {
                "name": name,
                "labels": {"headrace/pipeline": pipeline, "spark-role": role} | dict(labels or {}),
                "ownerReferences": [{"uid": owner, "kind": "Pod", "name": "o", "apiVersion": "v1"}] if owner else [],
            },
            "spec": {"restartPolicy": "Never", "containers": [{"name": role}]},
        }
        pod = self.create(body)
        pod["status"] |= {"phase": phase} | dict(status or {})
        return pod

    def end(
        self,
        name: str,
        phase: str = "Failed",
        exit_code: int = 1,
        reason: str = "",
        *,
        killed_for: str = "",
        message: str = "",
    ) -> None:
        """Let a pod's process end; `reason` and `message` are of the pod, `killed_for` is the reason of its container."""
        with self._lock:
            self.pods[name]["status"] = {
                "phase": phase,
                "reason": reason,
                "message": message,
                "containerStatuses": [_terminated(exit_code, killed_for)],
            }

    # Operations of the API

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create a pod; KeyError if its name is taken."""
        with self._lock:
            self._sweep()
            if body["metadata"]["name"] in self.pods:
                raise KeyError(body["metadata"]["name"])
            uid = str(uuid.uuid4())
            body["metadata"] |= {"uid": uid, "namespace": NAMESPACE, "creationTimestamp": _now()}
            body["status"] = {"phase": self.new_phase}
            self.pods[body["metadata"]["name"]] = body
            if _is_driver(body):
                self.created.append(uid)
            living = [p for p in self.pods.values() if _is_driver(p) and p["status"]["phase"] in ("Running", "Pending")]
            self.most_living = max(self.most_living, len(living))
            return body

    def delete(self, name: str, options: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Delete a pod as the API server and kubelet do together."""
        with self._lock:
            pod = self.pods.get(name)
            if pod is None:
                return 404, _status(404, "NotFound", f'pods "{name}" not found')
            wanted = (options.get("preconditions") or {}).get("uid")
            if wanted and wanted != pod["metadata"]["uid"]:
                return 409, _status(409, "Conflict", "Precondition failed: UID in precondition does not match")
            grace = options.get("gracePeriodSeconds", 30)
            ended = pod["status"]["phase"] in ("Succeeded", "Failed")
            wait = 0.0 if ended else min(self.ending, grace)
            pod["metadata"] |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": grace}
            pod["gone_at"] = time.monotonic() + wait
            if self.ending > grace and not ended:
                pod["killed"] = True
            self._sweep()
            return 200, pod

    def _sweep(self) -> None:
        """Remove pods that have ended by now."""
        now = time.monotonic()
        for name, pod in list(self.pods.items()):
            if pod.get("gone_at", now + 1) <= now and not self.stuck:
                if pod.pop("killed", False):  # shown once as ended by SIGKILL, then removed
                    pod["status"] = {"phase": "Failed", "containerStatuses": [_terminated(137)]}
                    pod["gone_at"] = now + 0.5
                    continue
                del self.pods[name]
                for other in self.pods.values():
                    owners = [owner["uid"] for owner in other["metadata"].get("ownerReferences", [])]
                    if pod["metadata"]["uid"] in owners:
                        other.setdefault("gone_at", now + self.collect)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        """Answer one request."""
        with self._lock:
            self.requests.append((method, path))
            self._sweep()
            planted = self._faults.pop(0) if self._faults else None
        if planted is not None and planted < 100:
            time.sleep(planted)
        elif planted is not None:
            return int(planted), _status(int(planted), "Planted", "planted by the test")
        parts = path.strip("/").split("/")
        if parts[0] == "apis":
            return self._scale_or_jobs(method, parts, query, body)
        if parts[:3] != ["api", "v1", "namespaces"] or parts[4] != "pods":
            return 404, _status(404, "NotFound", f"no such path: {path}")
        if parts[3] != NAMESPACE:  # a role applies to one namespace only: nothing may be read elsewhere
            if method == "POST":
                return 404, _status(404, "NotFound", f'namespaces "{parts[3]}" not found')
            return 403, _status(403, "Forbidden", "pods is forbidden")
        name = parts[5] if len(parts) > 5 else ""
        with self._lock:
            if method == "POST":
                return self._post(body)
            if method == "DELETE":
                return self.delete(name, body)
            return self._get(name, parts[6:], query)

    def _scale_or_jobs(
        self, method: str, parts: list[str], query: dict[str, list[str]], body: dict[str, Any]
    ) -> tuple[int, Any]:
        """Answer for Deployments and Jobs; a Deployment without replicas loses its pods."""
        kind, name = parts[5], parts[6] if len(parts) > 6 else ""
        with self._lock:
            if kind == "deployments" and method == "PATCH" and name in self.replicas:
                self.replicas[name] = body["spec"]["replicas"]
                for pod in list(self.pods):
                    if pod.startswith(f"{name}-") and not self.replicas[name]:
                        self.delete(pod, {})
                return 200, {"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": body["spec"]}
            if kind == "jobs" and method == "GET":
                wanted = dict(part.split("=") for part in query["labelSelector"][0].split(","))
                items = [
                    {"metadata": {"name": job}} for job, labels in self.jobs.items() if wanted.items() <= labels.items()
                ]
                return 200, {"kind": "JobList", "apiVersion": "batch/v1", "items": items}
            if kind == "jobs" and method == "DELETE" and self.jobs.pop(name, None) is not None:
                return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return 404, _status(404, "NotFound", f"{kind} {name} not found")

    def _get(self, name: str, rest: list[str], query: dict[str, list[str]]) -> tuple[int, Any]:
        if not name:
            selector = query.get("labelSelector", [""])[0].split(",")
            wanted = dict(part.split("=") for part in selector if part)
            items = [pod for pod in self.pods.values() if wanted.items() <= pod["metadata"]["labels"].items()]
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": items}
        pod = self.pods.get(name)
        if pod is None:
            return 404, _status(404, "NotFound", f'pods "{name}" not found')
        if rest != ["log"]:
            return 200, pod
        if pod["status"]["phase"] == "Pending":
            return 400, _status(400, "BadRequest", "container is waiting to start: ContainerCreating")
        if "timestamps" in query:  # one line a millisecond; `sinceSeconds` may tell lines again, and so does this
            times = [f"2026-01-01T00:00:00.{n:03}".rstrip("0").rstrip(".") for n in range(len(pod.get("log", [])))]
            return 200, "".join(f"{at}Z {line}\n" for at, line in zip(times, pod.get("log", []), strict=True))
        return 200, "\n".join(pod.get("log", [])[-int(query.get("tailLines", ["10"])[0]) :])

    def _post(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.quota:
            return 403, _status(403, "Forbidden", self.quota)
        try:
            return 201, self.create(body)
        except KeyError:
            return 409, _status(409, "AlreadyExists", f'pods "{body["metadata"]["name"]}" already exists')

    def _write_kubeconfig(self) -> Path:
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        path = self.folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "stub", "cluster": {"server": server}}],
            "users": [{"name": "stub", "user": {}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
            "current-context": "stub",
        }
        path.write_text(json.dumps(content))
        Path(path).chmod(0o600)
        return path


def launcher_on(api: StubApi, project: Path) -> KubernetesLauncher:
    """Return a launcher that uses the stub's API and spark-submit."""
    return KubernetesLauncher(
        project=project,
        root="file:///data",
        namespace=NAMESPACE,
        image="localhost/headrace:1",
        driver_template=Path("/etc/headrace/driver.yaml"),
        executor_template=Path("/etc/headrace/executor.yaml"),
        kubeconfig=api.kubeconfig,
        spark_submit=str(api.spark_submit),
        gone_seconds=60,
    )


class _Handler(BaseHTTPRequestHandler):
    api: StubApi
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Serve one client until it disconnects; tests of a slow API inject clients that leave before the answer."""
        # Otherwise the server reports it on stderr, seconds later, during another test.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}") if length else {}
        code, content = self.api.answer(self.command, url.path, parse_qs(url.query), body)
        with self.api._lock:
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Stay silent."""


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}


def _terminated(exit_code: int, reason: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": exit_code, "reason": reason or "Error"}}
    return {
        "name": "driver", "state": state, "ready": False, "restartCount": 0, "image": "i", "imageID": "i",
    }  # fmt: skip


def _is_driver(pod: Mapping[str, Any]) -> bool:
    return bool(pod["metadata"]["labels"].get("spark-role") == "driver")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
