"""Drivers on Kubernetes: a driver is a pod with a fixed name, made by spark-submit, found by label, ended by UID.

What counts, and why:

- running: phase Pending, Running or Unknown, also while it is being deleted. A pod on a node that does not answer
  (Unknown, or deleted and not gone) may still write; only the kubelet's report that its process ended frees the name.
- ended: phase Succeeded or Failed; an evicted pod is Failed. Spark's driver pods are never restarted in place.
- "not found" says that a pod is gone, never that it succeeded (apache/airflow#68134 took it for success).
- an API that fails, is slow or refuses is LauncherSilentError: unknown, never dead.
- the fence is the fixed name: a second submit gets AlreadyExists, and reads what is there.

Nothing here deletes a driver because its caller is killed: an Airflow task that is cleared leaves the stream running.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from headrace.access.bindings import ROOT_VARIABLE
from headrace.contract import names
from headrace.contract.driver_environment import DriverEnvironment
from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.operations.drivers.interface import DEFAULT_START, Driver, LauncherSilentError, StartSpec
from headrace.operations.drivers.pods import (
    KILL_SECONDS,
    MARGIN_SECONDS,
    POLL_SECONDS,
    Pods,
    driver_of,
    ended_for_want,
    lacks_image,
    runs,
    waits_for,
)
from headrace.operations.waiting import poll
from headrace.store import driver_files, paths
from headrace.store import spark_conf as submit
from headrace.store.driver_files import CheckResult, ExitRecord

METRICS_PORT = 9108
KEPT_LINES = 300
"""How many lines of a removed driver's log are in the log of the task that removed it."""

log = logging.getLogger("headrace")

_GONE_SECONDS = 60.0  # an ended pod's removal, garbage collection of executors, or a lost node
_SUBMIT_SECONDS = 180.0  # a JVM start and three requests: 6 s calm, 40 s on a busy node
_CHECK_CONF = {"spark.master": "local[1]"}  # a check plans in its own pod: it requests no executor
# spark-submit runs for three requests: its JVMs need no optimising compiler and no parallel collector.
_SHORT_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_SUBMITS = 5  # each repeat means that another submit came between
_CHECK_SUFFIX = "-check"  # no pipeline has a dash in its name
_CHECK_SECONDS = 300.0  # an image is pulled, a JVM starts, every query is planned


@dataclass(frozen=True)
class KubernetesLauncher:
    """Where drivers run and what they get. The templates are pod template files; `kubeconfig` None: the account of the pod.

    `image` runs where a start names no release. `project` has the pipeline files that sizes and names follow from; `conf`
    is added for every driver, `pipeline_conf` for those of one pipeline. A driver carries the digest of both as a label: the
    supervisor restarts one that was started with others.
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
    pipeline_conf: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    grace_seconds: float = 30
    spark_submit: str = "spark-submit"
    gone_seconds: float = _GONE_SECONDS

    def find(self, pipeline: str) -> list[Driver]:
        """Return every driver of a pipeline that runs, oldest first: none, one, or (a fault) more."""
        return [self._driver(pipeline, pod) for pod in self._pods(pipeline, "driver") if runs(pod)]

    def running(self) -> list[str]:
        """Return the pipelines whose driver runs, sorted, by the labels of the pods."""
        pods = [pod for pod in self._api.listed("spark-role=driver") if runs(pod)]
        pipelines = {str(pod.metadata.labels.get(names.PIPELINE_LABEL, "")) for pod in pods}
        return sorted(name for name in pipelines if name and not name.endswith(_CHECK_SUFFIX))

    def submit(self, pipeline: str, spec: StartSpec = DEFAULT_START) -> tuple[Driver, bool]:
        """Return the pipeline's driver and whether this call started it. A driver that runs is adopted, never doubled.

        Raises HeadraceError with spark-submit's reason; a pod that such a submit left incomplete is removed first.
        """
        said = ""
        for _ in range(_SUBMITS):
            adopted = self._clear(pipeline)
            if adopted:
                return self._driver(pipeline, adopted), False
            instance = uuid.uuid4().hex
            code, said = self._run_submit(pipeline, spec, instance)
            if code == 0:
                return self._started(pipeline, instance), True
            if f'pods "{names.driver_pod(pipeline)}" already exists' not in said:
                self._remove_half_made(pipeline, instance)
                raise HeadraceError(self._why(pipeline, code, said))
        raise HeadraceError(f"The driver of {pipeline} comes and goes while it is submitted: see who else starts it.")

    def stop(self, pipeline: str, grace_seconds: float | None = None) -> bool | None:
        """End every driver and wait until it and its executors are gone. None: none ran; False: had to be killed.

        Raises LauncherSilentError where a pod does not go: its node does not answer, so it may still write.
        """
        running = [pod for pod in self._pods(pipeline, "driver") if runs(pod)]
        if not running:
            return None
        asked = self.grace_seconds if grace_seconds is None else grace_seconds
        grace = math.ceil(asked) + MARGIN_SECONDS if asked > 0 else KILL_SECONDS
        begun = time.monotonic()
        killed = asked == 0
        for pod in running:
            self._keep_log(pod)
            self._api.delete(pod, grace)
        for pod in running:
            killed |= self._api.await_gone(pod, grace + self.gone_seconds)
        took = time.monotonic() - begun
        self._await_no_executor(pipeline)
        return not killed and took < grace

    def check(self, pipeline: str, spec: StartSpec) -> CheckResult:
        """Plan a release in a separate pod beside the driver that runs, and return the result. Nothing is started.

        The pod has another name and another label than a driver, so that it is not adopted or counted; it is removed.
        """
        instance, name = uuid.uuid4().hex, _check_pod(pipeline)
        request = spec.request or instance
        self._remove(name)
        try:
            code, said = self._run_submit(pipeline, spec, instance, check=True)
            if code != 0:
                raise HeadraceError(self._why(pipeline, code, said))
            deadline = time.monotonic() + _CHECK_SECONDS
            while (pod := self._api.read(name)) is not None and runs(pod):
                if lacks_image(pod):
                    raise HeadraceError(
                        f"{spec.release or self.image} cannot run {pipeline}, {waits_for(pod)}. Nothing was stopped."
                    )
                if time.monotonic() > deadline:
                    raise HeadraceError(
                        f"The check of {pipeline} from {spec.release or self.image} is not done after "
                        f"{_CHECK_SECONDS:.0f} s: {self._driver(pipeline, pod).where}."
                    )
                time.sleep(POLL_SECONDS)
            result = driver_files.check_result(self.root, pipeline)
            if result is None or result.request != request:
                raise HeadraceError(
                    f"The check of {pipeline} from {spec.release or self.image} ended without a result: see the log of pod "
                    f"{self.namespace}/{name}."
                )
            self._remove(name)
            return result
        except LauncherSilentError:
            raise
        except HeadraceError:
            if (pod := self._api.read(name)) is not None and runs(pod):
                self._api.delete(pod, KILL_SECONDS)
            raise

    def _remove(self, name: str) -> None:
        pod = self._api.read(name)
        if pod is not None:
            self._api.delete(pod, KILL_SECONDS)
            self._api.await_gone(pod, self.gone_seconds)

    def ended(self, pipeline: str) -> ExitRecord | None:
        """Return how the kubelet says that the newest driver ended for want of memory or disk; else None.

        In a pod the JVM is the parent of Python: a JVM that ends takes Python along before it can write its exit record.
        """
        pods = self._pods(pipeline, "driver")
        return None if not pods or runs(pods[-1]) else ended_for_want(pods[-1])

    def log_tail(self, pipeline: str, lines: int = 50) -> str:
        """Return the end of the log of the pipeline's newest driver, also one that ended, or an empty string."""
        pods = self._pods(pipeline, "driver")
        if not pods:
            return ""
        return self._api.log_tail(pods[-1].metadata.name, lines)

    # What is there

    def _pods(self, pipeline: str, role: str) -> list[Any]:
        """Return the pipeline's pods of one role (`driver`, `executor`), in whatever phase, oldest first."""
        return self._api.listed(f"{names.PIPELINE_LABEL}={pipeline},spark-role={role}")

    def _driver(self, pipeline: str, pod: Any) -> Driver:  # noqa: ANN401
        return driver_of(pipeline, pod, self._settings(pipeline))

    def _conf(self, pipeline: str) -> dict[str, str]:
        return dict(self.conf) | dict(self.pipeline_conf.get(pipeline, {}))

    def _settings(self, pipeline: str) -> str:
        """Return the digest of what this deployment adds to the pipeline's own settings, fit for a label."""
        return hashlib.sha256(json.dumps(self._conf(pipeline), sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def _api(self) -> Pods:
        return Pods(self.namespace, self.kubeconfig)

    def _clear(self, pipeline: str) -> Any | None:  # noqa: ANN401
        """Return a running driver to adopt, or make way for a new one: wait until ended and ending pods are gone."""
        pods = self._pods(pipeline, "driver")
        staying = [pod for pod in pods if runs(pod) and not pod.metadata.deletion_timestamp]
        if staying:
            return staying[0]
        for pod in pods:
            if not runs(pod):
                self._keep_log(pod)
                self._api.delete(pod, KILL_SECONDS)
            self._api.await_gone(pod, (pod.metadata.deletion_grace_period_seconds or 0) + self.gone_seconds)
        self._await_no_executor(pipeline)
        return None

    # What is done

    def _await_no_executor(self, pipeline: str) -> None:
        """Wait until no executor of the pipeline can write: they end by themselves, and go with their driver's pod."""

        def running() -> list[str]:
            return [pod.metadata.name for pod in self._pods(pipeline, "executor") if runs(pod)]

        if left := poll(running, self.gone_seconds, POLL_SECONDS, lambda left: not left):
            raise LauncherSilentError(
                f"Executors of {pipeline} outlive their driver ({', '.join(left)}), so they may still write: see that their "
                "nodes are up, or delete the pods."
            )

    def _keep_log(self, pod: Any) -> None:  # noqa: ANN401
        """Write the end of a driver's log into the log of the task that removes its pod: Kubernetes keeps none without a pod."""
        with suppress(LauncherSilentError):
            text = self._api.log_tail(pod.metadata.name, KEPT_LINES)
            log.info("End of the log of %s (%s), which is removed:\n%s", pod.metadata.name, pod.metadata.uid, text)

    def _started(self, pipeline: str, instance: str) -> Driver:
        """Return the driver that spark-submit says it has started. Gone already is a failure, never a success."""
        pod = self._api.read(names.driver_pod(pipeline))
        if pod is None or (pod.metadata.labels or {}).get(names.LIFE_LABEL) != instance:
            raise HeadraceError(
                f"spark-submit made pod {self.namespace}/{names.driver_pod(pipeline)} and it is gone: something deletes it; "
                f"see the events of namespace {self.namespace}."
            )
        if pod.spec.restart_policy != "Never":
            self._api.delete(pod, KILL_SECONDS)
            raise HeadraceError(
                f"Pod {self.namespace}/{pod.metadata.name} has restartPolicy {pod.spec.restart_policy}: take it out of the pod "
                "template, the supervisor decides about restarts."
            )
        return self._driver(pipeline, pod)

    def _remove_half_made(self, pipeline: str, instance: str) -> None:
        """Remove the pod of a submit that failed after making it (no right on services or config maps): it never starts."""
        for pod in self._pods(pipeline, "driver"):
            if (pod.metadata.labels or {}).get(names.LIFE_LABEL) == instance:
                self._api.delete(pod, KILL_SECONDS)

    def _run_submit(self, pipeline: str, spec: StartSpec, instance: str, *, check: bool = False) -> tuple[int, str]:
        """Run spark-submit until the pod is made. Returns its exit code and what it said."""
        with tempfile.TemporaryDirectory(prefix="headrace-submit-") as scratch:
            given = os.environ.get("SPARK_SUBMIT_OPTS", "")  # the image's class archive
            environment = dict(os.environ) | {
                "TMPDIR": scratch, "SPARK_SUBMIT_OPTS": f"{given} {_SHORT_JVM}", "SPARK_LAUNCHER_OPTS": _SHORT_JVM,
            }  # fmt: skip
            if self.kubeconfig:
                environment["KUBECONFIG"] = str(self.kubeconfig)  # fabric8's client in spark-submit reads it
            try:
                done = subprocess.run(
                    self.command(pipeline, spec, instance, check=check),
                    env=environment, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True, timeout=_SUBMIT_SECONDS, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                self._remove_half_made(pipeline, instance)
                raise LauncherSilentError(
                    f"spark-submit of {pipeline} did not end within {_SUBMIT_SECONDS:.0f} s and was ended: see the API server."
                ) from error
            except OSError as error:
                raise HeadraceError(
                    f"{self.spark_submit} cannot be run ({error.strerror}): submit from the Airflow image, which has it."
                ) from error
        return done.returncode, done.stdout

    def command(self, pipeline: str, spec: StartSpec, instance: str, *, check: bool = False) -> list[str]:
        """Return the spark-submit command of one start, built by the Spark provider's hook. It holds no secret.

        The hook's connection is made here, not looked up: a missing one would silently mean master `yarn`.
        """
        from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
        from airflow.sdk import Connection

        master, namespace = f"k8s://{self._api.server}", self.namespace

        class Hook(SparkSubmitHook):
            @classmethod
            def get_connection(cls, conn_id: str) -> Connection:
                extra = f'{{"deploy-mode": "cluster", "namespace": "{namespace}"}}'
                return Connection(conn_id=conn_id, conn_type="spark", host=master, extra=extra)

        described = load_pipeline(self.project / "pipelines" / f"{pipeline}.yaml")
        start = submit.ClusterStart(
            namespace=namespace,
            image=spec.release or self.image,
            warehouse=paths.lake(self.root),
            driver_template=str(self.driver_template),
            executor_template=str(self.executor_template),
            life=instance,
            settings=self._settings(pipeline),
            release=spec.release,
        )
        hook = Hook(
            conf=submit.cluster_conf(described, start)
            | self._conf(pipeline)
            | (_check_conf(pipeline) if check else {}),
            name=names.kubernetes_name(pipeline),
            application_args=[pipeline],
            env_vars=self.variables(pipeline, spec, instance, check=check),
            spark_binary=self.spark_submit,
        )
        command: list[str] = hook._build_spark_submit_command(self.application)
        return command

    def variables(self, pipeline: str, spec: StartSpec, instance: str, *, check: bool = False) -> dict[str, str]:
        """Return all variables of the driver's container. None is secret: the bindings are mounted files."""
        environment = DriverEnvironment(
            storage_root=self.root,
            new_generations=spec.new_generations,
            request=spec.request or instance,
            instance=instance,
            release=spec.release,
            grace_seconds=self.grace_seconds,
            metrics_host="0.0.0.0",  # noqa: S104 - the pod's own address, behind its network policy
            metrics_port=METRICS_PORT,
            # Inside the driver the pipeline's fixed settings win over spark-submit's, and these over both.
            spark_conf=_CHECK_CONF if check else self._conf(pipeline),
            check_only=check,
        )
        return environment.to_env() | {ROOT_VARIABLE: names.BINDING_MOUNT}

    def _why(self, pipeline: str, code: int, said: str) -> str:
        lines = [line.strip() for line in said.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
        causes = [line for line in lines if "Message:" in line or "Exception" in line or " ERROR " in line]
        cause = (causes or lines or ["it printed nothing"])[-1][:500].rstrip(".")
        if f'namespaces "{self.namespace}" not found' in said:
            return f"Namespace {self.namespace} does not exist, so {pipeline} cannot start: correct it in the deployment's file."
        return f"spark-submit of {pipeline} into namespace {self.namespace} failed with exit code {code}: {cause}."


def _check_pod(pipeline: str) -> str:
    return f"{names.driver_pod(pipeline)}{_CHECK_SUFFIX}"


def _check_conf(pipeline: str) -> dict[str, str]:
    """Return what makes a submit a check: names under which no driver and no executor of the pipeline is looked for."""
    label = f"label.{names.PIPELINE_LABEL}"
    check = f"{pipeline}{_CHECK_SUFFIX}"
    return {
        "spark.kubernetes.driver.pod.name": _check_pod(pipeline),
        f"spark.kubernetes.driver.{label}": check,
        f"spark.kubernetes.executor.{label}": check,
        "spark.kubernetes.executor.podNamePrefix": _check_pod(pipeline),
    }
