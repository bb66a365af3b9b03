"""The pods of one namespace, as the Kubernetes API reports them, and what a driver's pod says about its state.

An API that fails, is slow or refuses is LauncherSilentError: unknown, never dead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from headrace.contract import names
from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.operations.drivers.interface import Driver, LauncherSilentError
from headrace.store.driver_files import ExitRecord

POLL_SECONDS = 0.3
# The API's grace period 0 takes the name away at once, without the kubelet's word that the process ended: then two
# drivers could write. 1 kills as fast and waits for that word (Kubernetes, "Forced Pod termination").
KILL_SECONDS = 1
# Beyond the driver's own grace: its last batch is written, JVM and kubelet end.
MARGIN_SECONDS = 15

# ErrImagePull is not among them: it is the first failed try, and the registry may answer the second.
_NO_IMAGE = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_JVM_OUT_OF_MEMORY = 3  # by -XX:+ExitOnOutOfMemoryError
_IN_CLUSTER = "https://kubernetes.default.svc"
_TRIES = 3
_REQUEST_SECONDS = (3.05, 10)  # to connect, to read


@dataclass(frozen=True)
class Pods:
    """The pods of a namespace; `kubeconfig` None is the pod's own account. All methods raise LauncherSilentError."""

    namespace: str
    kubeconfig: Path | None = None

    def listed(self, selector: str) -> list[Any]:
        """Return the pods with these labels, in whatever phase, oldest first."""
        pods = self._ask(
            lambda api: api.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=_REQUEST_SECONDS
            ),
            absent=(),
        )
        return sorted(pods.items if pods else [], key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))

    def read(self, name: str) -> Any | None:  # noqa: ANN401 - the client has no types
        """Return the pod of this name, or None if there is none."""
        return self._ask(
            lambda api: api.read_namespaced_pod(name, self.namespace, _request_timeout=_REQUEST_SECONDS), absent=(404,)
        )

    def log_tail(self, name: str, lines: int) -> str:
        """Return the end of the log of a driver's pod; empty where it is gone or has not started."""
        return self._log(name, tail_lines=lines)

    def log_with_times(self, name: str, since_seconds: int | None) -> str:
        """Return the log of a driver's pod, each line after its time: all of it, or of the last seconds. Empty as `log_tail`."""
        return self._log(name, timestamps=True, **({} if since_seconds is None else {"since_seconds": since_seconds}))

    def _log(self, name: str, **part: Any) -> str:  # noqa: ANN401 - options of the client
        answer = self._ask(
            lambda api: api.read_namespaced_pod_log(
                name,
                self.namespace,
                container="driver",
                **part,
                _preload_content=False,  # the client would give the repr of the bytes (seen with 36.0.3)
                _request_timeout=_REQUEST_SECONDS,
            ),
            absent=(400, 404),  # 400: the container has not started
        )
        return answer.data.decode(errors="replace") if answer else ""

    def create(self, manifest: Mapping[str, Any]) -> Any | None:  # noqa: ANN401
        """Create a pod and return it. None if its name is taken, maybe by an earlier request whose answer was lost."""
        return self._ask(
            lambda api: api.create_namespaced_pod(self.namespace, manifest, _request_timeout=_REQUEST_SECONDS),
            absent=(409,),
        )

    def delete(self, pod: Any, grace: int) -> None:  # noqa: ANN401
        """Delete this very pod: one that has taken its name in between has another UID and stays."""
        from kubernetes import client  # type: ignore[import-untyped]

        options = client.V1DeleteOptions(
            grace_period_seconds=grace, preconditions=client.V1Preconditions(uid=pod.metadata.uid)
        )
        self._ask(
            lambda api: api.delete_namespaced_pod(
                pod.metadata.name, self.namespace, body=options, _request_timeout=_REQUEST_SECONDS
            ),
            absent=(404, 409),
        )

    def await_gone(self, pod: Any, seconds: float) -> bool:  # noqa: ANN401
        """Wait until this very pod is gone. Returns whether its driver was seen to be killed (exit code 137)."""
        deadline = time.monotonic() + seconds
        killed = False
        while True:
            now = self.read(pod.metadata.name)
            if now is None or now.metadata.uid != pod.metadata.uid:
                return killed
            killed |= exit_code(now) == 137
            if time.monotonic() > deadline:
                raise LauncherSilentError(
                    f"Pod {self.namespace}/{pod.metadata.name} was deleted and is not gone after {seconds:.0f} s, so it may "
                    "still write: see that its node is up; if the node is lost for good, delete the pod with --force."
                )
            time.sleep(POLL_SECONDS)

    def scale_to_zero(self, deployment: str) -> None:
        """Scale a Deployment to no pods. Does nothing where it does not exist."""
        from kubernetes import client

        self._ask(
            lambda api: client.AppsV1Api(api.api_client).patch_namespaced_deployment_scale(
                deployment, self.namespace, {"spec": {"replicas": 0}}, _request_timeout=_REQUEST_SECONDS
            ),
            absent=(404,),
        )

    def delete_jobs(self, selector: str, but: str = "") -> int:
        """Delete the Jobs with these labels and their pods, except the one named `but`, and return their number."""
        from kubernetes import client

        listed = self._ask(
            lambda api: client.BatchV1Api(api.api_client).list_namespaced_job(
                self.namespace, label_selector=selector, _request_timeout=_REQUEST_SECONDS
            ),
            absent=(),
        )
        names_of = [job.metadata.name for job in (listed.items if listed else []) if job.metadata.name != but]
        for name in names_of:
            self._ask(partial(_delete_job, name=name, namespace=self.namespace), absent=(404,))
        return len(names_of)

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - the client has no types
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            if self.kubeconfig:
                config.load_kube_config(str(self.kubeconfig), client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise HeadraceError(
                f"No Kubernetes API can be reached ({error}): run inside the cluster or name a kubeconfig."
            ) from error
        settings.retries = False  # `_ask` repeats, and knows after which errors
        return client.CoreV1Api(client.ApiClient(settings))

    @property
    def server(self) -> str:
        """Return the address that spark-submit reaches the API at."""
        return str(self._client.api_client.configuration.host) if self.kubeconfig else _IN_CLUSTER

    def _ask(self, request: Callable[[Any], Any], absent: tuple[int, ...]) -> Any | None:  # noqa: ANN401
        """Return the API's answer, None for a status in `absent`; repeats what may pass by itself.

        Raises LauncherSilentError where it stays without an answer, or the account has no right.
        """
        from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
        from urllib3.exceptions import HTTPError

        answer = ""
        for attempt in range(_TRIES):
            try:
                return request(self._client)
            except ApiException as error:
                if error.status in absent:
                    return None
                answer = f"{error.status} {error.reason}"
                if "exceeded quota" in str(error.body):
                    answer = f"{error.status} {json.loads(error.body)['message']}"
                if error.status in (401, 403):
                    break
            except HTTPError as error:
                answer = f"{type(error).__name__}: {error}"[:200]
            if attempt < _TRIES - 1:
                time.sleep(0.2 * 2**attempt)
        hint = "see that the API server answers"
        if "exceeded quota" in answer:
            hint = "wait until other pods have ended, or raise the quota of chart base"
        elif answer.startswith(("401", "403")):
            hint = f"give the account its role there, or correct the namespace {self.namespace}"
        raise LauncherSilentError(f"The Kubernetes API does not say what runs in {self.namespace} ({answer}): {hint}.")


def _delete_job(api: Any, name: str, namespace: str) -> Any:  # noqa: ANN401
    from kubernetes import client

    return client.BatchV1Api(api.api_client).delete_namespaced_job(
        name, namespace, propagation_policy="Background", _request_timeout=_REQUEST_SECONDS
    )


def runs(pod: Any) -> bool:  # noqa: ANN401 - the client has no types
    """Return whether a pod may still write: Pending, Running or Unknown."""
    return pod.status.phase not in ("Succeeded", "Failed")


def exit_code(pod: Any) -> int | None:  # noqa: ANN401
    """Return the exit code of the driver's container, or None while it runs."""
    for status in pod.status.container_statuses or []:
        if status.name == "driver" and status.state.terminated:
            return int(status.state.terminated.exit_code)
    return None


def out_of_memory(pod: Any) -> bool:  # noqa: ANN401
    """Return whether the kernel killed the driver's container for want of memory (OOMKilled)."""
    statuses = pod.status.container_statuses or []
    ends = [status.state.terminated for status in statuses if status.name == "driver" and status.state.terminated]
    return any(end.reason == "OOMKilled" for end in ends)


def ended_for_want(pod: Any) -> ExitRecord | None:  # noqa: ANN401
    """Return the exit record of a pod that had too little memory or disk; None for any other end.

    OOMKilled is the kernel's, exit code 3 the JVM's by -XX:+ExitOnOutOfMemoryError, Evicted the kubelet's with what lacked.
    """
    ended = next((s for s in pod.status.container_statuses or [] if s.name == "driver" and s.state.terminated), None)
    terminated = ended.state.terminated if ended else None
    if pod.status.reason == "Evicted":
        said = str(pod.status.message or "")
        end = Exit.DISK_FULL if "ephemeral" in said or "disk" in said else Exit.OUT_OF_MEMORY
        error = f"its pod was evicted: {said}"
    elif out_of_memory(pod):
        end, error = Exit.OUT_OF_MEMORY, "its container was killed for want of memory (OOMKilled, exit code 137)"
    elif terminated and terminated.exit_code == _JVM_OUT_OF_MEMORY:
        end, error = (
            Exit.OUT_OF_MEMORY,
            'the JVM ran out of memory and ended ("Terminating due to java.lang.OutOfMemoryError")',
        )
    else:
        return None
    at = (terminated and terminated.finished_at) or pod.metadata.creation_timestamp
    return ExitRecord(
        exit=end.name,
        error=error,
        at_ms=int(at.timestamp() * 1000),
        instance=(pod.metadata.labels or {}).get(names.LIFE_LABEL, ""),
    )


def driver_of(pipeline: str, pod: Any, settings: str) -> Driver:  # noqa: ANN401
    """Return the driver that a pod is. `settings` is the label that the deployment would give it now."""
    meta = pod.metadata
    pending = pod.status.phase == "Pending"
    leaving = " (being deleted)" if meta.deletion_timestamp else ""
    labels = meta.labels or {}
    return Driver(
        pipeline=pipeline,
        identity=meta.uid,
        started=meta.creation_timestamp.timestamp(),
        where=f"pod {meta.namespace}/{meta.name}{f' ({waits_for(pod)})' if pending else leaving}",
        pending=pending,
        release=(meta.annotations or {}).get(names.RELEASE_LABEL, ""),
        instance=labels.get(names.LIFE_LABEL, ""),
        outdated=labels.get(names.SETTINGS_LABEL, settings) != settings,
    )


def lacks_image(pod: Any) -> bool:  # noqa: ANN401
    """Return whether the kubelet has tried to get the pod's image and could not: waiting longer is for a person to choose."""
    return any(
        status.state.waiting and status.state.waiting.reason in _NO_IMAGE
        for status in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    )


def waits_for(pod: Any) -> str:  # noqa: ANN401
    """Return in words why a pod is not running yet: no node has room, its image cannot be pulled, ..."""
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    for status in statuses:
        if status.state.waiting and status.state.waiting.reason:
            return f"{status.state.waiting.reason}: {status.state.waiting.message or status.name}"
    return "Pending"
