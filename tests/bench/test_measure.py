"""The bench's accounting: a load's CPU is that of the process and of its children, reaped ones too, and only of that load."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from bench import measure

BURN = """
import json, os, subprocess, sys, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

"""


def peer(folder: Path, code: str) -> measure.Peer:
    return measure.Peer([sys.executable, "-c", BURN + code], os.environ, folder / "log")


def test_a_load_costs_what_the_process_and_its_reaped_children_took_during_it(tmp_path: Path) -> None:
    code = """
burn(0.8)
print(json.dumps({"load": sys.stdin.readline()}), flush=True)
name = sys.stdin.readline()
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.4: pass"])
print("no report", flush=True)
print(json.dumps({"load": name}), flush=True)
sys.stdin.readline()
"""
    with peer(tmp_path, code) as child:
        first, cost = child.load("large", 1)
        second, other = child.load("small", 2)
    assert (first, second) == ({"load": "large 1\n"}, {"load": "small 2\n"})
    assert cost.cpu_s >= 0.8
    assert 0.35 <= other.cpu_s < 0.75  # not the 0.8 of the load before
    assert other.peak_rss_mb > 1


def test_a_child_that_runs_counts_and_ends_with_the_measurement(tmp_path: Path) -> None:
    code = """
child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.4: pass\\n"
    "print('burnt', flush=True)\\ntime.sleep(600)"], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
sys.stdin.readline()
print(json.dumps({"pid": child.pid}), flush=True)
sys.stdin.readline()
"""
    with peer(tmp_path, code) as child:
        report, cost = child.load("large")
        assert cost.cpu_s >= 0.4
        grandchild = psutil.Process(report["pid"])
    grandchild.wait(300)


def test_a_process_that_ends_without_a_report_is_an_error_with_its_log(tmp_path: Path) -> None:
    with (
        peer(tmp_path, "sys.exit('the broker is away')") as child,
        pytest.raises(measure.PeerError, match=r"ended with 1[\s\S]*the broker is away"),
    ):
        child.load("large")


def test_a_silent_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "TIMEOUT_SECONDS", 0.5)
    with peer(tmp_path, "time.sleep(600)") as child, pytest.raises(measure.PeerError, match="no report"):
        child.load("large")
