"""Drivers on Kubernetes: a driver is a pod with a fixed name, made by spark-submit, found by label, ended by UID.

What counts, and why:

- living: phase Pending, Running or Unknown, also while it is being deleted. A pod on a node that does not answer
  (Unknown, or deleted and not gone) may still write; only the kubelet's word that its process ended frees the name.
- ended: phase Succeeded or Failed; an evicted pod is Failed. Spark's driver pods are never restarted in place.
- "not found" says that a pod is gone, never that it did well (apache/airflow#68134 took it for success).
- an API that errs, is slow or refuses is LauncherSilentError: unknown, never dead.
- the fence is the fixed name: a second submit gets AlreadyExists, and reads what is there.

Nothing here deletes a driver because its caller is killed: an Airflow task that is cleared leaves the stream running.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from headrace.contract import names, paths, submit
from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.operations.drivers import PLAIN, Driver, LauncherSilentError, Order

METRICS_PORT = 9108
IN_CLUSTER = "https://kubernetes.default.svc"

# Beyond the driver's own grace: its last batch is written, JVM and kubelet end.
_MARGIN_SECONDS = 15
# The API's grace period 0 takes the name away at once, without the kubelet's word that the process ended: then two
# drivers could write. 1 kills as fast and waits for that word (Kubernetes, "Forced Pod termination").
_KILL_SECONDS = 1
_GONE_SECONDS = 60.0  # an ended pod's removal, garbage collection of executors, or a lost node
_SUBMIT_SECONDS = 180.0  # a JVM start and three requests: 6 s calm, 40 s on a busy node
_SUBMITS = 5  # each repeat means that another submit came between
_POLL_SECONDS = 0.3
_TRIES = 3
_REQUEST_SECONDS = (3.05, 10)  # to connect, to read


@dataclass(frozen=True)
class KubernetesLauncher:
    """Where drivers run and what they get. The templates are pod template files; `kubeconfig` None is the pod's own account.

    `image` runs where an order names no release. `project` has the pipeline files that sizes and names follow from.
    """

    project: Path
    root: str
    namespace: str
    image: str
    driver_template: Path
    executor_template: Path
    kubeconfig: Path | None = None
    application: str = "local:///opt/headrace/spark_jobs/main.py"
    conf: Mapping[str, str] = field(default_factory=dict)
    grace_seconds: float = 30
    spark_submit: str = "spark-submit"
    gone_seconds: float = _GONE_SECONDS

    def find(self, pipeline: str) -> list[Driver]:
        """Return every living driver of a pipeline, oldest first: none, one, or (a fault) more."""
        return [_driver(pipeline, pod) for pod in self._pods(pipeline, "driver") if _lives(pod)]

    def submit(self, pipeline: str, order: Order = PLAIN) -> tuple[Driver, bool]:
        """Return the pipeline's driver and whether it was started now; one that lives is adopted, never doubled.

        Raises HeadraceError with spark-submit's reason; a pod that such a submit left half made is removed first.
        """
        request = order.request or uuid.uuid4().hex
        said = ""
        for _ in range(_SUBMITS):
            adopted = self._clear(pipeline)
            if adopted:
                return _driver(pipeline, adopted), False
            code, said = self._run_submit(pipeline, order, request)
            if code == 0:
                return self._started(pipeline, request), True
            if f'pods "{names.driver_pod(pipeline)}" already exists' not in said:
                self._remove_half_made(pipeline, request)
                raise HeadraceError(self._why(pipeline, code, said))
        raise HeadraceError(f"The driver of {pipeline} comes and goes while it is submitted: see who else starts it.")

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        """End every driver and wait until it and its executors are gone. None: none ran; False: had to be killed.

        Raises LauncherSilentError where a pod does not go: its node does not answer, so it may still write.
        """
        living = [pod for pod in self._pods(pipeline, "driver") if _lives(pod)]
        if not living:
            return None
        asked = self.grace_seconds if grace_seconds is None else grace_seconds
        grace = math.ceil(asked) + _MARGIN_SECONDS if asked > 0 else _KILL_SECONDS
        begun = time.monotonic()
        killed = asked == 0
        for pod in living:
            self._delete(pod, grace)
        for pod in living:
            killed |= self._await_gone(pod, grace + self.gone_seconds)
        took = time.monotonic() - begun
        self._await_no_executor(pipeline)
        return not killed and took < grace

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        """Return the end of the log of the pipeline's newest driver, also one that ended, or an empty string."""
        pods = self._pods(pipeline, "driver")
        if not pods:
            return ""
        name = pods[-1].metadata.name
        text = self._ask(
            lambda api: api.read_namespaced_pod_log(
                name, self.namespace, container="driver", tail_lines=lines, **_timeout()
            ),
            absent=(400, 404),  # 400: the container has not started
        )
        return text or ""

    # What is there

    def _pods(self, pipeline: str, role: str) -> list[Any]:
        """Return the pipeline's pods of one role (`driver`, `executor`), in whatever phase, oldest first."""
        selector = f"{names.PIPELINE_LABEL}={pipeline},spark-role={role}"
        found = self._ask(
            lambda api: api.list_namespaced_pod(self.namespace, label_selector=selector, **_timeout()), absent=()
        )
        return sorted(
            found.items if found else [], key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name)
        )

    def _read(self, name: str) -> Any | None:  # noqa: ANN401 - the client has no types
        return self._ask(lambda api: api.read_namespaced_pod(name, self.namespace, **_timeout()), absent=(404,))

    def _clear(self, pipeline: str) -> Any | None:  # noqa: ANN401
        """Return a living driver to adopt, or make way for a new one: ended pods, and those that end, are waited away."""
        pods = self._pods(pipeline, "driver")
        staying = [pod for pod in pods if _lives(pod) and not pod.metadata.deletion_timestamp]
        if staying:
            return staying[0]
        for pod in pods:
            if not _lives(pod):
                self._delete(pod, _KILL_SECONDS)
            self._await_gone(pod, (pod.metadata.deletion_grace_period_seconds or 0) + self.gone_seconds)
        self._await_no_executor(pipeline)
        return None

    # What is done

    def _delete(self, pod: Any, grace: int) -> None:  # noqa: ANN401
        """Delete this very pod: one that has taken its name in between has another UID and stays."""
        from kubernetes import client  # type: ignore[import-untyped]

        options = client.V1DeleteOptions(
            grace_period_seconds=grace, preconditions=client.V1Preconditions(uid=pod.metadata.uid)
        )
        self._ask(
            lambda api: api.delete_namespaced_pod(pod.metadata.name, self.namespace, body=options, **_timeout()),
            absent=(404, 409),
        )

    def _await_gone(self, pod: Any, seconds: float) -> bool:  # noqa: ANN401
        """Wait until this very pod is gone. Returns whether its driver was seen to be killed (exit code 137)."""
        deadline = time.monotonic() + seconds
        killed = False
        while True:
            now = self._read(pod.metadata.name)
            if now is None or now.metadata.uid != pod.metadata.uid:
                return killed
            killed |= _exit_code(now) == 137
            if time.monotonic() > deadline:
                raise LauncherSilentError(
                    f"Pod {self.namespace}/{pod.metadata.name} was deleted and is not gone after {seconds:.0f} s, so it may "
                    "still write: see that its node is up; if the node is lost for good, delete the pod with --force."
                )
            time.sleep(_POLL_SECONDS)

    def _await_no_executor(self, pipeline: str) -> None:
        """Wait until no executor of the pipeline can write: they end by themselves, and go with their driver's pod."""
        deadline = time.monotonic() + self.gone_seconds
        while living := [pod.metadata.name for pod in self._pods(pipeline, "executor") if _lives(pod)]:
            if time.monotonic() > deadline:
                raise LauncherSilentError(
                    f"Executors of {pipeline} outlive their driver ({', '.join(living)}), so they may still write: see "
                    "that their nodes are up, or delete the pods."
                )
            time.sleep(_POLL_SECONDS)

    def _started(self, pipeline: str, request: str) -> Driver:
        """Return the driver that spark-submit says it has started. Gone already is a failure, never a success."""
        pod = self._read(names.driver_pod(pipeline))
        if pod is None or (pod.metadata.labels or {}).get(names.REQUEST_LABEL) != request:
            raise HeadraceError(
                f"spark-submit made pod {self.namespace}/{names.driver_pod(pipeline)} and it is gone: something deletes it; "
                f"see the events of namespace {self.namespace}."
            )
        if pod.spec.restart_policy != "Never":
            self._delete(pod, _KILL_SECONDS)
            raise HeadraceError(
                f"Pod {self.namespace}/{pod.metadata.name} has restartPolicy {pod.spec.restart_policy}: take it out of the pod "
                "template, the supervisor decides about restarts."
            )
        return _driver(pipeline, pod)

    def _remove_half_made(self, pipeline: str, request: str) -> None:
        """Remove the pod of a submit that failed after making it (no right on services or config maps): it never starts."""
        for pod in self._pods(pipeline, "driver"):
            if (pod.metadata.labels or {}).get(names.REQUEST_LABEL) == request:
                self._delete(pod, _KILL_SECONDS)

    def _run_submit(self, pipeline: str, order: Order, request: str) -> tuple[int, str]:
        """Run spark-submit until the pod is made. Returns its exit code and what it said."""
        with tempfile.TemporaryDirectory(prefix="headrace-submit-") as scratch:
            environment = dict(os.environ) | {"TMPDIR": scratch}
            if self.kubeconfig:
                environment["KUBECONFIG"] = str(self.kubeconfig)  # fabric8's client in spark-submit reads it
            try:
                done = subprocess.run(
                    self.command(pipeline, order, request),
                    env=environment, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True, timeout=_SUBMIT_SECONDS, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                self._remove_half_made(pipeline, request)
                raise LauncherSilentError(
                    f"spark-submit of {pipeline} did not end within {_SUBMIT_SECONDS:.0f} s and was ended: see the API server."
                ) from error
            except OSError as error:
                raise HeadraceError(
                    f"{self.spark_submit} cannot be run ({error.strerror}): submit from the Airflow image, which has it."
                ) from error
        return done.returncode, done.stdout

    def command(self, pipeline: str, order: Order, request: str) -> list[str]:
        """Return the spark-submit command of one start, built by the Spark provider's hook. It holds no secret.

        The hook's connection is made here, not looked up: a missing one would silently mean master `yarn`.
        """
        from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
        from airflow.sdk import Connection

        master, namespace = f"k8s://{self._server}", self.namespace

        class Hook(SparkSubmitHook):
            @classmethod
            def get_connection(cls, conn_id: str) -> Connection:
                extra = f'{{"deploy-mode": "cluster", "namespace": "{namespace}"}}'
                return Connection(conn_id=conn_id, conn_type="spark", host=master, extra=extra)

        described = load_pipeline(self.project / "pipelines" / f"{pipeline}.yaml")
        start = submit.ClusterStart(
            namespace=namespace,
            image=order.release or self.image,
            warehouse=paths.lake(self.root),
            driver_template=str(self.driver_template),
            executor_template=str(self.executor_template),
            request=request,
            release=order.release,
        )
        hook = Hook(
            conf=submit.cluster_conf(described, start) | dict(self.conf),
            name=names.kubernetes_name(pipeline),
            application_args=[pipeline],
            env_vars=self.driver_environment(order, request),
            spark_binary=self.spark_submit,
        )
        command: list[str] = hook._build_spark_submit_command(self.application)
        return command

    def driver_environment(self, order: Order, request: str) -> dict[str, str]:
        """Return what the entry point reads; it has no secret, only where the bindings are mounted."""
        return {
            "HEADRACE_STORAGE_ROOT": self.root,
            "SERVICE_BINDING_ROOT": names.BINDING_MOUNT,
            "HEADRACE_NEW_GENERATIONS": " ".join(order.new_generations),
            "HEADRACE_REQUEST": request,
            "HEADRACE_RELEASE": order.release,
            "HEADRACE_GRACE_SECONDS": f"{self.grace_seconds:g}",
            "HEADRACE_METRICS_HOST": "0.0.0.0",  # noqa: S104 - the pod's own address, behind its network policy
            "HEADRACE_METRICS_PORT": str(METRICS_PORT),
        }

    def _why(self, pipeline: str, code: int, said: str) -> str:
        lines = [line.strip() for line in said.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
        told = [line for line in lines if "Message:" in line or "Exception" in line or " ERROR " in line]
        cause = (told or lines or ["it said nothing"])[-1][:500].rstrip(".")
        if f'namespaces "{self.namespace}" not found' in said:
            return f"There is no namespace {self.namespace}, so {pipeline} cannot start: correct it in the deployment's file."
        return f"spark-submit of {pipeline} into namespace {self.namespace} failed with exit code {code}: {cause}."

    # The API

    @cached_property
    def _api(self) -> Any:  # noqa: ANN401 - the client has no types
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            if self.kubeconfig:
                config.load_kube_config(str(self.kubeconfig), client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise HeadraceError(
                f"There is no way to a Kubernetes API ({error}): run inside the cluster or name a kubeconfig."
            ) from error
        settings.retries = False  # `_ask` repeats, and knows after which errors
        return client.CoreV1Api(client.ApiClient(settings))

    @property
    def _server(self) -> str:
        return str(self._api.api_client.configuration.host) if self.kubeconfig else IN_CLUSTER

    def _ask(self, request: Callable[[Any], Any], absent: tuple[int, ...]) -> Any | None:  # noqa: ANN401
        """Return the API's answer, None for a status in `absent`; repeats what may pass by itself.

        Raises LauncherSilentError where it stays without an answer, or the account has no right.
        """
        from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
        from urllib3.exceptions import HTTPError

        told = ""
        for attempt in range(_TRIES):
            try:
                return request(self._api)
            except ApiException as error:
                if error.status in absent:
                    return None
                told = f"{error.status} {error.reason}"
                if error.status in (401, 403):
                    break
            except HTTPError as error:
                told = f"{type(error).__name__}: {error}"[:200]
            if attempt < _TRIES - 1:
                time.sleep(0.2 * 2**attempt)
        hint = "see that the API server answers"
        if told.startswith(("401", "403")):
            hint = f"give the account its role there, or correct the namespace {self.namespace}"
        raise LauncherSilentError(f"The Kubernetes API does not say what runs in {self.namespace} ({told}): {hint}.")


def _timeout() -> dict[str, Any]:
    return {"_request_timeout": _REQUEST_SECONDS}


def _lives(pod: Any) -> bool:  # noqa: ANN401
    return pod.status.phase not in ("Succeeded", "Failed")


def _exit_code(pod: Any) -> int | None:  # noqa: ANN401
    for status in pod.status.container_statuses or []:
        if status.name == "driver" and status.state.terminated:
            return int(status.state.terminated.exit_code)
    return None


def _driver(pipeline: str, pod: Any) -> Driver:  # noqa: ANN401
    meta = pod.metadata
    pending = pod.status.phase == "Pending"
    leaving = " (being deleted)" if meta.deletion_timestamp else ""
    return Driver(
        pipeline=pipeline,
        identity=meta.uid,
        started=meta.creation_timestamp.timestamp(),
        where=f"pod {meta.namespace}/{meta.name}{f' ({_waits_for(pod)})' if pending else leaving}",
        pending=pending,
        release=(meta.annotations or {}).get(names.RELEASE_LABEL, ""),
    )


def _waits_for(pod: Any) -> str:  # noqa: ANN401
    """Return in words why a pod is not running yet: no node has room, its image cannot be pulled, ..."""
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    for status in statuses:
        if status.state.waiting and status.state.waiting.reason:
            return f"{status.state.waiting.reason}: {status.state.waiting.message or status.name}"
    return "Pending"
