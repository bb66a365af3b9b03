"""The Kubernetes launcher against a stub API: what it finds, what it starts, what it never does."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment
from headrace.operations.drivers.interface import Driver, LauncherSilentError, StartSpec
from headrace.operations.drivers.kubernetes import KubernetesLauncher
from headrace.store import paths, small_files
from tests.support.stub_kubernetes import NAME, NAMESPACE, POD, StubApi


def _environment(api: StubApi) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in api.pods[POD]["spec"]["containers"][0]["env"]}


def test_a_start_makes_one_pod_that_has_what_the_entry_point_reads(api: StubApi, launcher: KubernetesLauncher) -> None:
    driver, new = launcher.submit(NAME, StartSpec(("items", "sliding"), "localhost/headrace:2", "r1"))
    assert new
    pod = api.pods[POD]
    assert driver.identity == pod["metadata"]["uid"]
    assert driver.where == f"pod {NAMESPACE}/{POD}"
    assert driver.release == "localhost/headrace:2"
    assert pod["spec"]["containers"][0]["image"] == "localhost/headrace:2"
    assert pod["metadata"]["labels"] == {
        "app.kubernetes.io/part-of": "headrace",
        "headrace/life": driver.instance,
        "headrace/pipeline": NAME,
        "headrace/release": "localhost_headrace_2",
        "headrace/settings": pod["metadata"]["labels"]["headrace/settings"],
        "headrace/version": "1",
        "spark-role": "driver",
    }
    environment = _environment(api)
    assert environment["HEADRACE_NEW_GENERATIONS"] == "items sliding"
    assert environment["HEADRACE_REQUEST"] == "r1"
    assert environment["HEADRACE_LIFE"] == driver.instance != ""
    assert environment["HEADRACE_RELEASE"] == "localhost/headrace:2"
    assert environment["HEADRACE_STORAGE_ROOT"] == "file:///data"
    assert environment["SERVICE_BINDING_ROOT"] == "/bindings"
    assert launcher.find(NAME) == [driver]


def test_a_driver_is_outdated_once_the_settings_of_all_or_of_its_own_pipeline_are_others(
    launcher: KubernetesLauncher,
) -> None:
    driver, _ = launcher.submit(NAME)
    assert not driver.outdated
    size = {"spark.executor.memory": "2g"}
    of_another = replace(launcher, pipeline_conf={"web_events": size})
    assert [listed.outdated for listed in of_another.find(NAME)] == [False]
    for other in (replace(launcher, conf=dict(launcher.conf) | size), replace(launcher, pipeline_conf={NAME: size})):
        assert [listed.outdated for listed in other.find(NAME)] == [True]
        assert other.submit(NAME)[0].outdated, "it is adopted as it is"
    other.stop(NAME, 0)
    assert not other.submit(NAME)[0].outdated
    command = other.command(NAME, StartSpec(), "life")
    assert command.index("spark.executor.memory=2g")


def test_the_command_is_the_hooks_with_a_declared_master_and_no_secret(launcher: KubernetesLauncher) -> None:
    command = launcher.command(NAME, StartSpec(), "r1")
    assert command[0].endswith("spark-submit")
    assert command[command.index("--master") + 1].startswith("k8s://http://127.0.0.1:")
    assert command[command.index("--deploy-mode") + 1] == "cluster"
    assert command[-2:] == ["local:///opt/headrace/spark_jobs/main.py", NAME]
    conf = dict(command[i + 1].split("=", 1) for i, part in enumerate(command) if part == "--conf")
    assert conf["spark.kubernetes.submission.waitAppCompletion"] == "false"
    assert conf["spark.kubernetes.namespace"] == NAMESPACE
    assert conf["spark.kubernetes.driver.podTemplateFile"] == "/etc/headrace/driver.yaml"
    assert not any(word in part.lower() for part in command for word in ("password=", "jaas.config", "username="))


def test_the_deployments_settings_win_inside_the_driver_too(api: StubApi, launcher: KubernetesLauncher) -> None:
    """The driver sets the pipeline's fixed ones on its session, which would hide what spark-submit was told."""
    configured = replace(launcher, conf={"spark.eventLog.enabled": "true"})
    configured.submit(NAME)
    assert json.loads(_environment(api)["HEADRACE_SPARK_CONF"]) == {"spark.eventLog.enabled": "true"}
    assert "spark.eventLog.enabled=true" in configured.command(NAME, StartSpec(), "r1")
    (check,) = [
        argument
        for argument in configured.command(NAME, StartSpec(), "r1", check=True)
        if "HEADRACE_SPARK_CONF" in argument
    ]
    assert check.endswith('={"spark.master": "local[1]"}'), "a check writes no event log"


def test_a_second_start_adopts_the_driver_that_runs(api: StubApi, launcher: KubernetesLauncher) -> None:
    first, _ = launcher.submit(NAME)
    assert launcher.submit(NAME) == (first, False)
    assert len(api.created) == 1


def test_already_exists_adopts_the_driver_that_another_submit_made(api: StubApi, launcher: KubernetesLauncher) -> None:
    # The look before the submit sees nothing; the other's pod is there when spark-submit asks.
    wait = threading.Event()
    real = launcher._run_submit

    def late(pipeline: str, order: StartSpec, request: str) -> tuple[int, str]:
        if not wait.is_set():
            api.plant(POD)
            wait.set()
        return real(pipeline, order, request)

    object.__setattr__(launcher, "_run_submit", late)
    driver, new = launcher.submit(NAME)
    assert not new
    assert api.created == [driver.identity]
    assert ("POST", f"/api/v1/namespaces/{NAMESPACE}/pods") in api.requests


@pytest.mark.parametrize(("phase", "reason"), [("Succeeded", ""), ("Failed", ""), ("Failed", "Evicted")])
def test_an_ended_pod_is_no_driver_and_makes_way_for_a_new_one(
    api: StubApi, launcher: KubernetesLauncher, phase: str, reason: str
) -> None:
    old = api.plant(POD)["metadata"]["uid"]
    api.end(POD, phase, reason=reason)
    assert launcher.find(NAME) == []
    driver, new = launcher.submit(NAME)
    assert new
    assert driver.identity != old
    assert api.created == [old, driver.identity]


def test_executors_of_an_ended_driver_are_waited_for_before_a_new_one_starts(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    api.collect = 0.8
    old = api.plant(POD)["metadata"]["uid"]
    api.plant("pos-sales-exec-1", role="executor", owner=old)
    api.end(POD)
    seen: list[list[str]] = []
    real = launcher._run_submit

    def look(pipeline: str, order: StartSpec, request: str) -> tuple[int, str]:
        seen.append(list(api.pods))
        return real(pipeline, order, request)

    object.__setattr__(launcher, "_run_submit", look)
    assert launcher.submit(NAME)[1]
    assert seen == [[]]


def test_a_driver_that_is_being_deleted_is_not_adopted_but_waited_for(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    api.ending = 0.8
    old = api.plant(POD)["metadata"]["uid"]
    api.delete(POD, {"gracePeriodSeconds": 30})
    assert [driver.identity for driver in launcher.find(NAME)] == [old]  # it may still write
    driver, new = launcher.submit(NAME)
    assert new
    assert driver.identity != old
    assert api.most_living == 1


def test_two_living_drivers_are_both_found(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.plant(POD)
    api.plant("somebody-elses")
    assert {driver.where for driver in launcher.find(NAME)} == {
        f"pod {NAMESPACE}/{POD}", f"pod {NAMESPACE}/somebody-elses",
    }  # fmt: skip
    assert launcher.stop(NAME) is True
    assert api.pods == {}


def test_a_pod_of_another_pipeline_is_not_this_ones(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.plant("web-events-driver", pipeline="web_events")
    assert launcher.find(NAME) == []
    assert launcher.stop(NAME) is None
    assert list(api.pods) == ["web-events-driver"]


def test_every_pipeline_with_a_living_driver_is_found_without_its_file_and_a_check_is_none(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    api.plant(POD)
    api.plant("removed-driver", pipeline="removed")
    api.plant("ended-driver", "Succeeded", pipeline="ended")
    api.plant(f"{POD}-check", pipeline=f"{NAME}-check")
    assert launcher.running() == sorted([NAME, "removed"])


def test_a_driver_whose_node_does_not_answer_counts_as_running(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.plant(POD, "Unknown")
    assert len(launcher.find(NAME)) == 1
    assert launcher.submit(NAME)[1] is False


def test_pending_for_ever_is_said_with_its_reason_and_not_doubled(api: StubApi, launcher: KubernetesLauncher) -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes fit"}
    api.plant(POD, "Pending", status={"conditions": [unschedulable]})
    (driver,) = launcher.find(NAME)
    assert driver.pending
    assert driver.where == f"pod {NAMESPACE}/{POD} (Unschedulable: 0/1 nodes fit)"
    assert driver.started <= time.time()
    assert launcher.submit(NAME) == (driver, False)


def test_an_image_that_cannot_be_pulled_is_said(api: StubApi, launcher: KubernetesLauncher) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    status = {"name": "driver", "state": waiting, "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
    api.plant(POD, "Pending", status={"containerStatuses": [status]})
    assert "ImagePullBackOff" in launcher.find(NAME)[0].where


def test_not_found_while_a_start_is_confirmed_is_a_failure_and_never_success(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    real = launcher._run_submit

    def and_gone(pipeline: str, order: StartSpec, request: str) -> tuple[int, str]:
        done = real(pipeline, order, request)
        api.pods.clear()
        return done

    object.__setattr__(launcher, "_run_submit", and_gone)
    with pytest.raises(HeadraceError, match="it is gone"):
        launcher.submit(NAME)
    assert launcher.find(NAME) == []
    assert launcher.stop(NAME) is None


def test_a_wrong_namespace_is_one_clear_sentence(api: StubApi, launcher: KubernetesLauncher) -> None:
    wrong = replace(launcher, namespace="sparc")
    with pytest.raises(LauncherSilentError, match=r"403 Forbidden.*correct the namespace sparc"):
        wrong.find(NAME)
    # An admin may list everywhere, and sees an empty list where there is no namespace.
    object.__setattr__(wrong, "_pods", lambda *_: [])
    with pytest.raises(HeadraceError, match="Namespace sparc does not exist"):
        wrong.submit(NAME)
    assert api.created == []


def test_a_submit_that_fails_after_making_the_pod_leaves_none_behind(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    api.submit_exits(1)
    api.new_phase = "Pending"
    with pytest.raises(HeadraceError, match="exit code 1"):
        launcher.submit(NAME)
    assert api.pods == {}


def test_a_missing_spark_submit_is_said(launcher: KubernetesLauncher) -> None:
    with pytest.raises(HeadraceError, match="cannot be run"):
        replace(launcher, spark_submit="/nowhere/spark-submit").submit(NAME)


def test_a_stop_lets_the_driver_end_and_waits_for_it_and_its_executors(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    api.ending, api.collect = 0.5, 0.5
    uid = api.plant(POD)["metadata"]["uid"]
    api.plant("pos-sales-exec-1", role="executor", owner=uid)
    assert launcher.stop(NAME) is True
    assert api.pods == {}


def test_a_driver_that_does_not_end_in_time_is_killed_and_that_is_reported(
    api: StubApi, launcher: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.operations.drivers.kubernetes.MARGIN_SECONDS", 0)
    api.ending = 60
    api.plant(POD)
    assert launcher.stop(NAME, 1) is False
    assert api.pods == {}


def test_grace_zero_kills_at_once_but_waits_for_the_kubelets_word(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.ending = 60
    pod = api.plant(POD)
    assert launcher.stop(NAME, 0) is False
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 1  # with 0 the name would be free before the process ended
    assert api.pods == {}


def test_a_pod_that_does_not_go_is_unknown_and_keeps_its_name(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.stuck = True
    api.plant(POD)
    with pytest.raises(LauncherSilentError, match="may still write"):
        replace(launcher, gone_seconds=0.3).stop(NAME, 0)
    with pytest.raises(LauncherSilentError, match="may still write"):
        replace(launcher, gone_seconds=0).submit(NAME)
    assert len(api.created) == 1


def test_a_pod_that_took_the_name_in_between_is_not_deleted(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.plant(POD)
    (old,) = launcher._pods(NAME, "driver")
    api.pods.clear()
    api.plant(POD)
    launcher._api.delete(old, 1)
    assert launcher._api.await_gone(old, 1) is False
    assert list(api.pods) == [POD]


def test_the_log_is_the_newest_drivers_also_when_it_ended(api: StubApi, launcher: KubernetesLauncher) -> None:
    assert launcher.log_tail(NAME) == ""
    api.plant(POD)["log"] = [f"line {n}" for n in range(9)]
    api.end(POD)
    assert launcher.log_tail(NAME, 2) == "line 7\nline 8"


def test_a_pod_that_has_not_started_has_an_empty_log(api: StubApi, launcher: KubernetesLauncher) -> None:
    api.plant(POD, "Pending")
    assert launcher.log_tail(NAME) == ""


def test_a_check_runs_beside_the_driver_counts_as_none_and_leaves_no_pod(
    api: StubApi, launcher: KubernetesLauncher, tmp_path: Path
) -> None:
    launcher = replace(launcher, root=str(tmp_path))
    living, _ = launcher.submit(NAME)

    def plan() -> None:
        while f"{POD}-check" not in api.pods:
            time.sleep(0.02)
        (container,) = api.pods[f"{POD}-check"]["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert environment["HEADRACE_CHECK_ONLY"] == "1"
        seen.append(launcher.find(NAME))
        small_files.write_json(
            paths.check(launcher.root, NAME), {"exit": "REFUSED", "request": "c1", "changes": {"q": ["key"]}}
        )
        api.end(f"{POD}-check", "Failed", 3)

    seen: list[list[Driver]] = []
    planner = threading.Thread(target=plan)
    planner.start()
    word = launcher.check(NAME, StartSpec(release="localhost/headrace:2", request="c1"))
    planner.join()
    assert (word.exit, word.changes) == ("REFUSED", {"q": ("key",)})
    assert seen == [[living]]
    assert list(api.pods) == [POD]


def test_a_check_of_an_image_that_cannot_be_pulled_is_refused_at_once_and_leaves_no_pod(
    api: StubApi, launcher: KubernetesLauncher
) -> None:
    living, _ = launcher.submit(NAME)

    def pull() -> None:
        while f"{POD}-check" not in api.pods:
            time.sleep(0.02)
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
        status = {"name": "driver", "state": waiting, "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
        api.pods[f"{POD}-check"]["status"] = {"phase": "Pending", "containerStatuses": [status]}

    puller = threading.Thread(target=pull)
    puller.start()
    with pytest.raises(HeadraceError, match=r"headrace:gone cannot run .*ImagePullBackOff.*Nothing was stopped"):
        launcher.check(NAME, StartSpec(release="localhost/headrace:gone"))
    puller.join()
    assert launcher.find(NAME) == [living]
    assert list(api.pods) == [POD]


def test_a_deployment_file_says_which_launcher_starts_its_drivers(api: StubApi, project: Path, tmp_path: Path) -> None:
    content = {
        "project": str(project),
        "root": "file:///data",
        "bindings": "/bindings/admin",
        "drivers": {
            "kind": "kubernetes",
            "namespace": NAMESPACE,
            "image": "localhost/headrace:1",
            "driver_template": "/etc/headrace/driver.yaml",
            "executor_template": "/etc/headrace/executor.yaml",
            "kubeconfig": str(api.kubeconfig),
        },
    }
    launcher = Deployment.model_validate(content).launcher()
    assert isinstance(launcher, KubernetesLauncher)
    assert launcher.root == "file:///data"
    assert launcher.find(NAME) == []
