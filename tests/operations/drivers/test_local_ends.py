"""A local driver that ends while it is looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from headrace.operations import processes
from headrace.operations.drivers.local import LocalLauncher


def test_a_driver_that_ends_between_its_finding_and_its_description_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    gone = psutil.Process(child.pid)
    child.kill()
    child.wait()
    answers: list[psutil.Process | None] = [gone, None]
    monkeypatch.setattr(processes, "find", lambda *_: answers.pop(0))
    launcher = LocalLauncher(tmp_path, str(tmp_path), tmp_path, tmp_path, tmp_path, tmp_path, {})
    assert launcher.find("pos_sales") == []
    assert answers == [], "it looked again: the JVM may still run"
