"""A batch run on Kubernetes is one pod, against a stub of the API: what starts it, follows it, ends it and says why it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.job_files import JobProgress, ViewsSpec
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs, pod_runs, spark_runs
from headrace.operations.batch.job_runs import BatchRun
from headrace.operations.deployment import BatchPods, BatchSize, Deployment, KubernetesDrivers
from headrace.operations.drivers.interface import LauncherSilentError, RunEndedError
from headrace.orchestration import batch_tasks, dag_support
from headrace.store import paths, records
from headrace.store.job_reports import ViewsReport
from headrace.store.records import to_json
from tests.support.stub_kubernetes import NAMESPACE, StubApi

NAME = "pos_sales"
TEMPLATE = """
metadata:
  labels: {app.kubernetes.io/component: batch}
spec:
  restartPolicy: Never
  containers: [{name: driver, image: headrace-spark:1, resources: {requests: {cpu: 250m}, limits: {}}}]
"""
Says = Callable[[str], None]


def execute(deployment: Deployment, run: BatchRun, say: Says, gone_seconds: float = 60) -> None:
    """Carry out a run; progress is not looked at."""
    variables = job_runs.environment(deployment, run.pipeline)
    pod_runs.execute(deployment, run.arguments, variables, say, lambda: None, gone_seconds)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    monkeypatch.setattr(pod_runs, "POLL_SECONDS", 0.02)
    with StubApi(tmp_path) as running:
        yield running


@pytest.fixture
def deployment(api: StubApi, project: Path, tmp_path: Path) -> Deployment:
    template = tmp_path / "batch-pod.yaml"
    template.write_text(TEMPLATE)
    drivers = KubernetesDrivers(
        kind="kubernetes",
        namespace="drivers",
        image="headrace-spark:1",
        driver_template=Path("driver.yaml"),
        executor_template=Path("executor.yaml"),
        kubeconfig=api.kubeconfig,
        batch=BatchPods(
            namespace=NAMESPACE, template=template, pipelines={"web_events": BatchSize(memory="4g", cores=4)}
        ),
    )
    return Deployment(project=project, root=str(tmp_path / "storage"), bindings=Path("/bindings"), drivers=drivers)


@pytest.fixture
def run(deployment: Deployment) -> BatchRun:
    return job_runs.prepare(deployment.root, "views", NAME, ViewsSpec(), "night")


@pytest.fixture
def pod(run: BatchRun) -> str:
    return pod_runs.pod_name(*run.arguments)


def once(text: str, act: Callable[[], object]) -> Says:
    """Return a `say` that acts as soon as a text is said."""

    def say(line: str) -> None:
        if text in line:
            act()

    return say


def made(api: StubApi) -> int:
    """Return how many pods were requested."""
    return sum(method == "POST" for method, _ in api.requests)


def test_a_run_is_one_pod_with_its_arguments_whose_log_and_progress_the_task_has_and_which_is_then_removed(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    said: list[str] = []
    seen: dict[str, Any] = {}

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("Started"):
            api.pods[pod]["log"] = ["one", "two"]
        elif line == "two":
            records.write(
                f"{paths.batch_run(deployment.root, NAME, run.run)}/progress.json", JobProgress(3, 4, "days", 1)
            )
        elif line == "days: 75%":
            seen.update(api.pods[pod])
            api.pods[pod]["log"].append("three")
            api.end(pod, "Succeeded", 0)

    batch_tasks.run_in_pod(deployment, to_json(spark_runs.submission(deployment, run)), say)
    assert said == [f"Started pod {NAMESPACE}/{pod}.", "one", "two", "days: 75%", "three"]
    assert api.pods == {}
    labels = seen["metadata"]["labels"]
    assert labels["headrace/pipeline"] == NAME
    assert seen["metadata"]["annotations"] == {"headrace/run": f"views {NAME} night"}
    (container,) = seen["spec"]["containers"]
    assert container["args"] == ["python3", str(deployment.project / "spark_jobs" / "batch.py"), "views", NAME, "night"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["SERVICE_BINDING_ROOT"] == "/bindings"
    assert environment["HEADRACE_STORAGE_ROOT"] == deployment.root
    assert '"spark.master": "local[2]"' in environment["HEADRACE_SPARK_CONF"]
    assert container["resources"] == {"requests": {"cpu": "250m", "memory": "2560Mi"}, "limits": {"memory": "2560Mi"}}


def test_the_size_of_a_pod_is_that_of_its_pipeline(deployment: Deployment) -> None:
    assert isinstance(deployment.drivers, KubernetesDrivers)
    assert deployment.drivers.batch
    variables = job_runs.environment(deployment, "web_events")
    manifest = pod_runs.manifest(deployment, deployment.drivers.batch, ("views", "web_events", "night"), variables)
    (container,) = manifest["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "5734Mi", "4 GiB and 40 %"
    (conf,) = [variable["value"] for variable in container["env"] if variable["name"] == "HEADRACE_SPARK_CONF"]
    assert '"spark.driver.memory": "4g"' in conf
    assert '"spark.master": "local[4]"' in conf
    assert len({pod_runs.pod_name("views", NAME, run) for run in ("a", "b")}) == 2
    assert len(pod_runs.pod_name("reconcile", "p" * 60, "r" * 200)) <= 63


@pytest.mark.parametrize(
    ("end", "said", "again"),
    [
        (
            {"exit_code": 137, "killed_for": "OOMKilled"},
            r"OOMKilled; heap 1536m, pod 2560 MiB\): raise batch.pipelines.pos_sales.memory",
            False,
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory."},
            "its pod was evicted: The node was low",
            True,
        ),
        ({"reason": "NodeShutdown", "message": "It was terminated"}, "failed: NodeShutdown It was terminated", True),
        ({"exit_code": 1}, "failed: Kafka is gone: start it", True),
    ],
    ids=["OOMKilled", "evicted", "node", "error"],
)
def test_a_pod_that_ends_names_the_reason_and_is_removed_and_the_next_try_does_the_same_work(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str, end: dict[str, Any], said: str, again: bool
) -> None:
    uids = []

    def fails() -> None:
        uids.append(api.pods[pod]["metadata"]["uid"])
        api.pods[pod]["log"] = ["2026 ERROR headrace: Kafka is gone: start it"]
        api.end(pod, **end)

    for _ in range(2):
        with pytest.raises(HeadraceError, match=said) as ended:
            execute(deployment, run, once("Started", fails))
        assert isinstance(ended.value, RunEndedError) is again
        assert api.pods == {}
    assert len(set(uids)) == 2


def test_each_line_of_a_log_is_written_once_whatever_its_time_and_its_characters(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    """The kubelet writes .1 for .100: as text it is after .101. What only looks like a line end is none."""
    lines = [f"{n} a\u2028b\x85c" for n in range(130)]
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("Started"):
            api.pods[pod]["log"] = lines[:101]
        elif line == lines[100]:
            api.pods[pod]["log"] = lines
        elif line == lines[-1]:
            api.end(pod, "Succeeded", 0)

    execute(deployment, run, say)
    assert said[1:] == lines


def test_a_java_heap_that_is_full_names_the_setting(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    def full() -> None:
        api.pods[pod]["log"] = ["Terminating due to java.lang.OutOfMemoryError: Java heap space"]
        api.end(pod)

    with pytest.raises(HeadraceError, match=r"Java heap; .* raise batch.pipelines.pos_sales.memory"):
        execute(deployment, run, once("Started", full))


def test_a_pod_that_somebody_deletes_is_no_success(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    api.ending = 0.2
    with pytest.raises(RunEndedError, match="was deleted before it ended"):
        execute(deployment, run, once("Started", lambda: api.delete(pod, {"gracePeriodSeconds": 1})))


def test_a_second_task_of_a_run_follows_the_pod_of_the_first_from_its_first_line(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    said: list[str] = []

    def second(line: str) -> None:
        said.append(line)
        if line == "one":
            api.end(pod, "Succeeded", 0)

    def meanwhile() -> None:
        api.pods[pod]["log"] = ["one"]
        execute(deployment, run, second)

    with pytest.raises(RunEndedError, match="was deleted"):  # the second task removed what it saw to its end
        execute(deployment, run, once("Started", meanwhile))
    assert said == [f"Pod {NAMESPACE}/{pod} of this run is there: following it.", "one"]
    assert made(api) == 1


def test_what_an_earlier_task_left_is_taken_if_it_succeeded_and_replaced_if_it_failed_or_is_of_an_earlier_plan(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    def left_behind(phase: str) -> None:
        def leaves() -> None:
            if phase != "Running":
                api.end(pod, phase)
            raise LauncherSilentError("the scheduler is killed")

        with pytest.raises(LauncherSilentError):
            execute(deployment, run, once("Started", leaves))
        assert list(api.pods) == [pod]

    left_behind("Succeeded")
    execute(deployment, run, lambda _: None)
    assert (api.pods, made(api)) == ({}, 1)
    left_behind("Failed")
    execute(deployment, run, once("Started", lambda: api.end(pod, "Succeeded", 0)))
    assert (api.pods, made(api)) == ({}, 3)
    left_behind("Running")
    job_runs.prepare(deployment.root, "views", NAME, ViewsSpec(days=("2026-01-01",)), "night")
    execute(deployment, run, once("Started", lambda: api.end(pod, "Succeeded", 0)))
    assert (api.pods, made(api)) == ({}, 5)
    assert api.most_living == 0


def test_an_api_that_does_not_answer_leaves_the_pod_and_the_next_try_follows_it(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_runs, "_SILENT_SECONDS", 0.0)

    def silent() -> None:
        api.fault(*[503] * 9)

    with pytest.raises(LauncherSilentError, match="does not say what runs"):
        execute(deployment, run, once("Started", silent))
    assert api.pods[pod]["status"]["phase"] == "Running"
    api._faults.clear()
    execute(deployment, run, once("following", lambda: api.end(pod, "Succeeded", 0)))
    assert made(api) == 1


def test_an_api_that_is_silent_for_a_while_costs_nothing(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    def silent() -> None:
        api.fault(*[503] * 4)
        api.end(pod, "Succeeded", 0)

    execute(deployment, run, once("Started", silent))
    assert made(api) == 1


def test_a_pod_on_a_lost_node_is_unknown_and_no_other_starts_beside_it(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    def lost() -> None:
        api.stuck = True
        api.delete(pod, {"gracePeriodSeconds": 0})

    for say in (once("Started", lost), lambda _: None):
        with pytest.raises(LauncherSilentError, match="if the node is lost for good, delete the pod with --force"):
            execute(deployment, run, say, gone_seconds=0.1)
    assert made(api) == 1


def test_a_full_quota_is_named(api: StubApi, deployment: Deployment, run: BatchRun) -> None:
    api.quota = 'pods "x" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=40, limited: pods=40'
    with pytest.raises(LauncherSilentError, match=r"exceeded quota: pods.*raise the quota of chart base"):
        execute(deployment, run, lambda _: None)


def test_a_task_that_airflow_ends_deletes_its_pod(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    submission = to_json(spark_runs.submission(deployment, run))
    with pytest.raises(batch_tasks.TaskEndedError):
        batch_tasks.run_in_pod(deployment, submission, once("Started", lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert (api.pods, made(api)) == ({}, 1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_task_that_times_out_deletes_its_pod(api: StubApi, deployment: Deployment, run: BatchRun, pod: str) -> None:
    from airflow.sdk.exceptions import AirflowTaskTimeout

    def late() -> None:
        raise AirflowTaskTimeout("Timeout")

    with pytest.raises(AirflowTaskTimeout):
        execute(deployment, run, once("Started", late))
    assert api.pods == {}


def test_the_task_of_a_run_uses_a_pod_on_kubernetes_and_airflow_tries_one_that_ended_again(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.operations.deployment.load", lambda: deployment)
    monkeypatch.setattr(dag_support, "say", once("Started", lambda: api.delete(pod, {})))
    submission = to_json(spark_runs.submission(deployment, run))
    with pytest.raises(RunEndedError):
        dag_support.spark_run.function(submission)
    assert made(api) == 1
    decided = dag_support._POLICY.evaluate(RunEndedError("x"), try_number=1, max_tries=2)
    assert decided.action.value == "retry"


def test_the_command_line_on_a_cluster_waits_for_the_pod_and_returns_its_report(
    api: StubApi, deployment: Deployment, run: BatchRun, pod: str
) -> None:
    folder = paths.batch_run(deployment.root, NAME, run.run)
    records.write(f"{folder}/progress.json", JobProgress(3, 4, "days", 1))
    shown: list[tuple[str, float | None]] = []

    def report(stage: str, done: float | None) -> None:
        shown.append((stage, done))
        records.write(f"{folder}/report.json", ViewsReport(rows={"totals": 1}))
        api.end(pod, "Succeeded", 0)

    assert job_runs.execute(deployment, run, ViewsReport, report) == ViewsReport(rows={"totals": 1})
    assert (shown, api.pods) == ([("days", 0.75)], {})


def test_ended_pods_that_no_task_waits_for_are_removed(api: StubApi, deployment: Deployment, run: BatchRun) -> None:
    long_ago = (datetime.now(UTC) - timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, phase, age in (("old", "Failed", long_ago), ("old-runs", "Running", long_ago), ("new", "Failed", "")):
        planted = api.plant(name, phase, role="", labels={"app.kubernetes.io/component": "batch"})
        planted["metadata"]["creationTimestamp"] = age or planted["metadata"]["creationTimestamp"]
    pod = pod_runs.pod_name(*run.arguments)
    execute(deployment, run, once("Started", lambda: api.end(pod, "Succeeded", 0)))
    assert sorted(api.pods) == ["new", "old-runs"]


def test_a_size_for_an_unknown_pipeline_is_refused(deployment: Deployment) -> None:
    drivers = deployment.drivers
    assert isinstance(drivers, KubernetesDrivers)
    assert drivers.batch
    wrong = drivers.model_copy(update={"batch": drivers.batch.model_copy(update={"pipelines": {"nope": BatchSize()}})})
    with pytest.raises(HeadraceError, match=r"Unknown pipeline 'nope'.*correct batch.pipelines"):
        deployment.model_copy(update={"drivers": wrong}).launcher()
