"""Finite Spark runs on Kubernetes: each is a pod with the name of its run, which the task starts, follows and removes (ADR 52).

- The name follows from the run, so a second task for the same run finds the pod and follows it, and starts no other beside it.
- A task that is ended deletes its pod. A task that dies with its scheduler does not; its next try follows the pod that runs.
- An API or a node that does not answer is LauncherSilentError: unknown, never dead. Nothing is deleted then.
- The log goes to the task's log while the pod runs, so it stays readable when the pod is gone.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from headrace.contract import names
from headrace.errors import HeadraceError
from headrace.operations.deployment import BatchPods, Deployment, KubernetesDrivers
from headrace.operations.drivers.interface import LauncherSilentError, RunEndedError, last_error_entry
from headrace.operations.drivers.pods import (
    KILL_SECONDS,
    Pods,
    ended_for_want,
    exit_code,
    lacks_image,
    out_of_memory,
    runs,
    waits_for,
)
from headrace.store import paths, small_files

Say = Callable[[str], None]
COMPONENT = "app.kubernetes.io/component=batch"
"""The label of every batch pod; the template of chart airflow sets it."""

POLL_SECONDS = 2.0
_SILENT_SECONDS = 300.0  # an API server that restarts; the pod goes on meanwhile
_GONE_SECONDS = 60.0
_OLD = timedelta(hours=2)  # longer than any task: nobody waits for a pod that ended and is older
_STARTS = 5  # each repeat means that another task came between
_TAIL_LINES = 500
# Time (the kubelet omits zeros at the end of the fraction) and text.
_LINE = re.compile(r"(\d{4}-\S{14})(?:\.(\d+))?\S* (.*)", re.DOTALL)


def execute(
    deployment: Deployment,
    arguments: tuple[str, str, str],
    environment: Mapping[str, str],
    say: Say,
    waiting: Callable[[], None],
    gone_seconds: float = _GONE_SECONDS,
) -> None:
    """Carry out the run of these arguments (duty, pipeline, run) in its pod. `say` gets its log, `waiting` is called meanwhile.

    Raises HeadraceError with the remedy if it ran out of memory, RunEndedError for any other end without success, and
    LauncherSilentError if it is unknown whether the pod runs. However else it ends, the pod is deleted.
    """
    drivers = deployment.drivers
    if not isinstance(drivers, KubernetesDrivers) or drivers.batch is None:
        raise HeadraceError("The deployment file names no pods for batch runs: upgrade chart airflow.")
    pods = Pods(drivers.batch.namespace, drivers.kubeconfig)
    _remove_old(pods)
    wanted = manifest(deployment, drivers.batch, arguments, environment)
    pod = None
    try:
        pod = _started_or_found(pods, wanted, say, gone_seconds)
        following = _Following(pods, pod, arguments, say, waiting, gone_seconds)
        _judge(following.to_the_end(), following, drivers.batch)
    except LauncherSilentError:
        raise
    except BaseException:
        if made := pod or pods.read(wanted["metadata"]["name"]):  # ended between the request and its answer
            pods.delete(made, KILL_SECONDS)
        raise
    pods.delete(pod, KILL_SECONDS)


def manifest(
    deployment: Deployment, batch: BatchPods, arguments: tuple[str, str, str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the pod of a run: the template of chart airflow with name, labels, arguments, environment and memory."""
    duty, pipeline, run = arguments
    pod: dict[str, Any] = yaml.safe_load(batch.template.read_text())
    meta, container = pod["metadata"], pod["spec"]["containers"][0]
    spec = small_files.read_json(f"{paths.batch_run(deployment.root, pipeline, run)}/order.json") or {}
    meta["name"] = pod_name(*arguments)
    # Of one plan: a run that is planned again replaces the pod of its earlier plan.
    meta["labels"] |= {names.PIPELINE_LABEL: pipeline, names.LIFE_LABEL: str(spec.get("given_ms", 0))}
    meta["annotations"] = meta.get("annotations", {}) | {"headrace/run": f"{duty} {pipeline} {run}"}
    container["args"] = ["python3", str(deployment.project / "spark_jobs" / "batch.py"), *arguments]
    container["env"] = [{"name": key, "value": value} for key, value in sorted(environment.items())]
    for bound in ("requests", "limits"):
        container["resources"][bound]["memory"] = f"{batch.pod_mebibytes(pipeline)}Mi"
    return pod


def pod_name(duty: str, pipeline: str, run: str) -> str:
    """Return the fixed name of a run's pod; the API refuses a second one (AlreadyExists), which is the fence."""
    digest = hashlib.sha256(f"{duty}/{pipeline}/{run}".encode()).hexdigest()[:12]
    return f"{duty}-{names.kubernetes_name(pipeline)[:40]}-{digest}"


def _started_or_found(pods: Pods, wanted: dict[str, Any], say: Say, gone_seconds: float) -> Any:  # noqa: ANN401
    """Return the pod of a run: a new one, or the one that an earlier task of the same plan has left behind."""
    name, plan = wanted["metadata"]["name"], wanted["metadata"]["labels"][names.LIFE_LABEL]
    for _ in range(_STARTS):
        there = pods.read(name)
        if there is None:
            if (made := pods.create(wanted)) is not None:
                say(f"Started pod {pods.namespace}/{name}.")
                return made
            continue
        same = (there.metadata.labels or {}).get(names.LIFE_LABEL) == plan
        if same and there.status.phase != "Failed" and not there.metadata.deletion_timestamp:
            say(f"Pod {pods.namespace}/{name} of this run is there: following it.")
            return there
        pods.delete(there, KILL_SECONDS)
        pods.await_gone(there, (there.metadata.deletion_grace_period_seconds or 0) + gone_seconds)
    raise RunEndedError(
        f"Pod {pods.namespace}/{name} comes and goes while it is started: see who else starts this run."
    )


@dataclass
class _Following:
    """Follows a pod to its end: its log, and what it waits for."""

    pods: Pods
    pod: Any
    arguments: tuple[str, str, str]
    say: Say
    waiting: Callable[[], None]
    gone_seconds: float
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    _last: str = ""  # the time of the newest line
    _read: float = 0.0
    _pending: str = ""  # what was said of why it does not run yet

    def to_the_end(self) -> Any:  # noqa: ANN401
        """Return the ended pod, with its complete log written. Raises RunEndedError if it was deleted."""
        heard = time.monotonic()
        while True:
            try:
                now = self.pods.read(self.pod.metadata.name)
                heard = time.monotonic()
            except LauncherSilentError:
                if time.monotonic() > heard + _SILENT_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            if now is None or now.metadata.uid != self.pod.metadata.uid:
                raise self._deleted()
            if lacks_image(now):
                raise HeadraceError(f"{self._where} cannot start ({waits_for(now)}): see that the image can be pulled.")
            self._write_log()
            if not runs(now):
                return now
            if now.metadata.deletion_timestamp:
                self.pods.await_gone(now, (now.metadata.deletion_grace_period_seconds or 0) + self.gone_seconds)
                raise self._deleted()
            self._write_pending(now)
            with suppress(OSError, HeadraceError):  # progress that cannot be read ends no run
                self.waiting()
            time.sleep(POLL_SECONDS)

    @property
    def _where(self) -> str:
        return f"Pod {self.pods.namespace}/{self.pod.metadata.name}"

    def _deleted(self) -> RunEndedError:
        return RunEndedError(
            f"{self._where} was deleted before it ended: its node was drained or lost, or a person removed it. The next try "
            "does the same work again."
        )

    def _write_log(self) -> None:
        """Write the lines since the last call. A line that was written already is known by its time."""
        since = int(time.monotonic() - self._read) + 5 if self._read else None
        began = time.monotonic()
        with suppress(LauncherSilentError):  # a node that does not answer: the next call reads from the same line on
            before = self._last
            for line in self.pods.log_with_times(self.pod.metadata.name, since).split("\n"):
                match = _LINE.fullmatch(line)
                at = match[1] + (match[2] or "").ljust(9, "0") if match else ""
                if match and at > before:
                    self._last = at
                    self.tail.append(match[3])
                    self.say(match[3])
            self._read = began

    def _write_pending(self, now: Any) -> None:  # noqa: ANN401
        pending = waits_for(now) if now.status.phase == "Pending" else ""
        if pending and pending != self._pending:
            self.say(pending)
        self._pending = pending


def _judge(pod: Any, following: _Following, batch: BatchPods) -> None:  # noqa: ANN401
    """Return if a pod ended with success, else raise what the next step is."""
    duty, pipeline, run = following.arguments
    what, log = f"{duty} of {pipeline} (run {run})", "\n".join(following.tail)
    if pod.status.phase == "Succeeded":
        return
    if out_of_memory(pod) or "java.lang.OutOfMemoryError" in log:
        raise HeadraceError(
            f"{what} ran out of memory ({'OOMKilled' if out_of_memory(pod) else 'Java heap'}; heap "
            f"{batch.of(pipeline).memory}, pod {batch.pod_mebibytes(pipeline)} MiB): raise batch.pipelines.{pipeline}.memory of "
            "chart airflow and start it again."
        )
    want, code = ended_for_want(pod), exit_code(pod)
    why = want.error if want else " ".join(filter(None, (pod.status.reason, pod.status.message)))
    ending = "" if code is None else f"exit code {code}"
    raise RunEndedError(f"{what} failed: {why or last_error_entry(log) or ending or 'its pod does not say why'}")


def _remove_old(pods: Pods) -> None:
    """Remove ended pods that no task waits for: their tasks died with their scheduler and were not tried again."""
    for pod in pods.listed(COMPONENT):
        if not runs(pod) and pod.metadata.creation_timestamp < datetime.now(UTC) - _OLD:
            pods.delete(pod, KILL_SECONDS)
