"""Stop what an uninstall of the Airflow chart would leave behind: its pre-delete hook, `python3 -m headrace.cluster.drain`.

Drivers belong to no release: without this hook they would go on in kept namespaces, without supervision and without a broker,
and hold the claim of the shared volume. In this order:

1. The scheduler is scaled to 0, so that no task starts a driver again.
2. Every pod of a batch run is deleted: its run is done again from the start.
3. Every driver is deleted with its grace period: it finishes its batch. Its desired state stays, so the supervisor of the next
   installation over the same storage starts it again.
4. The finished Jobs of the release are deleted: their pods hold claims, and a claim that a pod names is not deleted.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from headrace.errors import HeadraceError, exit_with
from headrace.operations import deployment
from headrace.operations.batch.pod_runs import COMPONENT
from headrace.operations.deployment import KubernetesDrivers
from headrace.operations.drivers.pods import KILL_SECONDS, MARGIN_SECONDS, Pods

SCHEDULER = "airflow-scheduler"
_GONE_SECONDS = 120.0  # what a node may take beyond the grace period
_SCHEDULER_SECONDS = 60.0  # terminationGracePeriodSeconds of the chart


def drain(
    namespace: str,
    drivers_in: str,
    grace_seconds: float,
    release: str,
    own_job: str = "",
    kubeconfig: Path | None = None,
) -> list[str]:
    """Stop scheduler, batch runs, drivers and finished Jobs and return what was done, one line for each step.

    `own_job` is the Job that runs this and stays. Safe to repeat. Raises LauncherSilentError if the API does not answer, or if
    a pod is not gone in time: it may still write.
    """
    airflow, spark = Pods(namespace, kubeconfig), Pods(drivers_in, kubeconfig)
    airflow.scale_to_zero(SCHEDULER)
    for pod in airflow.listed("app.kubernetes.io/component=scheduler"):
        airflow.await_gone(pod, _SCHEDULER_SECONDS + _GONE_SECONDS)
    done = ["the scheduler is stopped"]
    batch = airflow.listed(COMPONENT)
    for pod in batch:
        airflow.delete(pod, KILL_SECONDS)
    for pod in batch:
        airflow.await_gone(pod, KILL_SECONDS + _GONE_SECONDS)
        done.append(f"batch pod {pod.metadata.name} is stopped")
    drivers = spark.listed("spark-role=driver")
    grace = math.ceil(grace_seconds) + MARGIN_SECONDS
    for pod in drivers:
        spark.delete(pod, grace)
    for pod in drivers:
        spark.await_gone(pod, grace + _GONE_SECONDS)
        done.append(f"driver pod {pod.metadata.name} is stopped")
    for pod in spark.listed("spark-role=executor"):
        spark.await_gone(pod, _GONE_SECONDS)
    jobs = airflow.delete_jobs(f"app.kubernetes.io/instance={release}", but=own_job)
    return [*done, f"{jobs} Job(s) of {release} are deleted"]


def main() -> int:
    """Drain the release of this pod. HEADRACE_NAMESPACE, HEADRACE_HELM_RELEASE and HEADRACE_JOB name it and its Job."""
    drivers = deployment.load().drivers
    if not isinstance(drivers, KubernetesDrivers):
        raise HeadraceError("The deployment file names no namespace of drivers: it is not the file of chart airflow.")
    release, job = os.environ["HEADRACE_HELM_RELEASE"], os.environ.get("HEADRACE_JOB", "")
    for line in drain(os.environ["HEADRACE_NAMESPACE"], drivers.namespace, drivers.grace_seconds, release, job):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
