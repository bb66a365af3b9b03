"""The supervisor makes the next driver take less at once where the driver could not write that down itself."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.operations.drivers import desired_state
from headrace.operations.supervisor import memory
from headrace.operations.supervisor.cycle import Context, run_pass
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.store import pace
from tests.operations.supervising import Imagined, record
from tests.operations.supervisor.test_verdict import PIPELINE

QUICK = replace(LIMITS, head_start=0, confirm=0, first_wait=0, longest_wait=0)


def test_a_driver_that_the_kubelet_killed_for_memory_is_followed_by_one_that_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod the JVM takes Python along, so the supervisor writes down what the launcher saw."""
    root, launcher = str(tmp_path), Imagined(str(tmp_path))
    desired_state.write(root, PIPELINE.name, "RUNNING", "ann", "start")
    ends = {topic: {0: 0, 1: 0} for topic in PIPELINE.sources}
    context = Context(launcher, PIPELINE, lambda _: ends, QUICK, random.Random(1))
    run_pass(context)
    instance = memory.memory(root, PIPELINE.name).instance
    launcher.alive.clear()
    end = record(
        {"exit": "OUT_OF_MEMORY", "error": "OOMKilled", "at_ms": time.time_ns() // 1_000_000 + 60_000, "life": instance}
    )
    monkeypatch.setattr(launcher, "ended", lambda _: end)
    assert pace.level(root, PIPELINE.name) == 0
    run_pass(context)
    run_pass(context)
    assert pace.level(root, PIPELINE.name) == 1
