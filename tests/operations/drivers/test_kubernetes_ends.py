"""What the kubelet says of a driver that could leave no word itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from headrace.contract import names
from headrace.operations.drivers.kubernetes import KubernetesLauncher
from tests.support.stub_kubernetes import NAME, POD, StubApi


@pytest.mark.parametrize(
    ("status", "end", "reason"),
    [
        ({"reason": "OOMKilled", "exitCode": 137}, "OUT_OF_MEMORY", "OOMKilled"),
        ({"reason": "Error", "exitCode": 3}, "OUT_OF_MEMORY", "Terminating due to java.lang.OutOfMemoryError"),
        ({"reason": "Error", "exitCode": 20}, None, ""),
        ({"reason": "Error", "exitCode": 137}, None, ""),  # a SIGKILL of whomever
    ],
)
def test_a_pod_that_ended_for_want_of_memory_is_reported_with_its_instance(
    api: StubApi, launcher: KubernetesLauncher, status: dict[str, Any], end: str | None, reason: str
) -> None:
    assert launcher.ended(NAME) is None
    finished = {"finishedAt": "2026-06-30T12:00:00Z"}
    container = {"name": "driver", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    container |= {"state": {"terminated": status | finished}}
    api.plant(POD, "Failed", labels={names.LIFE_LABEL: "L1"}, status={"containerStatuses": [container]})
    record = launcher.ended(NAME)
    assert (record and record.exit) == end
    if record:
        assert (record.instance, record.at_ms) == ("L1", 1_782_820_800_000)
        assert reason in record.error


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ("The node was low on resource: ephemeral-storage. Threshold quantity: ...", "DISK_FULL"),
        ("The node was low on resource: memory. Threshold quantity: 100Mi", "OUT_OF_MEMORY"),
    ],
)
def test_an_evicted_pod_is_reported_with_what_its_node_lacked(
    api: StubApi, launcher: KubernetesLauncher, message: str, end: str
) -> None:
    api.plant(POD, "Failed", status={"reason": "Evicted", "message": message})
    record = launcher.ended(NAME)
    assert record is not None
    assert (record.exit, message in record.error) == (end, True)


def test_the_log_of_a_driver_stays_in_the_log_of_the_task_that_removes_its_pod(
    api: StubApi, launcher: KubernetesLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes keeps no log without a pod: what a driver wrote before its end would be lost with the next start."""
    caplog.set_level(logging.INFO, "headrace")
    api.plant(POD)["log"] = ["why it ended"]
    api.end(POD)
    launcher.submit(NAME)
    assert "why it ended" in caplog.text
    api.pods[POD]["log"] = ["why it hung"]
    launcher.stop(NAME, 0)
    assert "why it hung" in caplog.text
    assert POD in caplog.text
