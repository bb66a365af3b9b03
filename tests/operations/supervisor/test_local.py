"""The supervisor and the real local launcher, with drivers that are small real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.errors import HeadraceError
from headrace.local import platform
from headrace.local.settings import Settings
from headrace.operations.drivers import control, desired_state
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.supervisor.cycle import Context, run_pass
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.orchestration import tasks
from headrace.store import paths, small_files
from headrace.store.paths import jvm_lock
from tests.operations import light_driver
from tests.operations.supervisor.test_verdict import PIPELINE

NAME = PIPELINE.name
QUICK = replace(LIMITS, head_start=0, confirm=0.2, silent=2, first_wait=0.01, longest_wait=0.02)
RACES = 100

DEADLINE_SECONDS = 300.0
# Started twice: waits for each instant that it is told, submits, and says whether it has started the driver.
SUBMITTER = """
import sys, time
from pathlib import Path
from headrace.operations.drivers.local import LocalLauncher
folder = Path(sys.argv[1])
launcher = LocalLauncher(
    project=folder, root=str(folder / "storage"), run_dir=folder / "run", log_dir=folder / "log", tmp_dir=folder / "tmp",
    bindings=folder, environment={}, main=Path(sys.argv[2]), grace_seconds=1,
)
print("ready", flush=True)
for line in sys.stdin:
    while time.time() < float(line):
        pass
    driver, new = launcher.submit(sys.argv[3])
    print(int(new), driver.where, flush=True)
"""


@pytest.fixture
def launcher(tmp_path: Path, project: Path) -> Iterator[LocalLauncher]:
    """A launcher of light drivers; what it started is ended with the test."""
    made = LocalLauncher(
        project=project,
        root=str(tmp_path / "storage"),
        run_dir=tmp_path / "run",
        log_dir=tmp_path / "log",
        tmp_dir=tmp_path / "tmp",
        bindings=tmp_path,
        environment={},
        main=Path(light_driver.__file__),
        grace_seconds=1,
    )
    yield made
    made.stop(NAME, 0)


def context(launcher: LocalLauncher) -> Context:
    return Context(launcher, PIPELINE, lambda topics: {t: {0: 0} for t in topics}, QUICK, random.Random(1))


def living(launcher: LocalLauncher) -> list[psutil.Process]:
    """All processes that have the driver's lock in their command line, as the machine sees them."""
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        if str(launcher.lock_file(NAME)) in (process.info["cmdline"] or []):
            processes.append(process)
    return processes


@pytest.mark.slow
def test_a_start_is_not_judged_by_the_heartbeat_of_a_driver_that_was_killed_in_the_same_second(
    launcher: LocalLauncher,
) -> None:
    # Found on a busy machine: a rollback took the last word of the release that it had just killed for the old one's.
    fallen = {"query": f"{NAME}.last_login", "active": False, "error": "bad release", "generation": 1}
    last: dict[str, Any] = {
        "at_ms": time.time_ns() // 1_000_000 + 5000,
        "exit": None,
        "life": "of the bad one",
        "queries": [fallen],
    }
    small_files.write_json(paths.heartbeat(launcher.root, NAME), last)
    started = tasks.start(launcher, NAME, by="ann", reason="test")
    assert (started["started"], started["generations"]) == (True, {})
    (driver,) = launcher.find(NAME)
    launcher.stop(NAME, 0)
    small_files.write_json(paths.heartbeat(launcher.root, NAME), last)
    with pytest.raises(HeadraceError, match="ended at its start"):
        control.await_queries(launcher, driver, new=False)


def test_a_hundred_races_of_two_submits_start_one_driver_each(
    launcher: LocalLauncher, tmp_path: Path, seed: int
) -> None:
    """Two processes, as a task of Airflow and a command line would be; they begin within 20 ms of each other.

    Slow: two hundred small processes, one after the other (8 s).
    """
    rng = random.Random(seed)
    command = [sys.executable, "-c", SUBMITTER, str(tmp_path), light_driver.__file__, NAME]
    submitters = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for submitter in submitters:
            assert submitter.stdout is not None
            assert submitter.stdout.readline() == "ready\n"
        for number in range(RACES):
            at = time.time() + 0.02
            for submitter in submitters:
                assert submitter.stdin is not None
                submitter.stdin.write(f"{at + rng.uniform(0, 0.02)}\n")
                submitter.stdin.flush()
            answers = [submitter.stdout.readline().split() for submitter in submitters if submitter.stdout]
            assert sorted(new for new, *_ in answers) == ["0", "1"], f"race {number}: {answers}"
            assert answers[0][1:] == answers[1][1:], f"race {number}: {answers}"
            seen = living(launcher)
            assert [str(one.pid) for one in seen] == [answers[0][-1]], (
                f"race {number}: {answers}, {launcher.log_tail(NAME)}"
            )
            seen[0].kill()
            while launcher.find(NAME):
                time.sleep(0.005)
    finally:
        for submitter in submitters:
            assert submitter.stdin is not None
            assert submitter.stdout is not None
            submitter.stdin.close()
            submitter.wait(300)
            submitter.stdout.close()


def test_a_crash_loop_of_real_processes_ends_when_the_budget_is_spent_and_a_restart_gives_it_back(
    launcher: LocalLauncher,
) -> None:
    failing = replace(launcher, environment={"HEADRACE_LIGHT_END": "TRANSIENT"})
    control.start(failing, NAME, by="ann")
    kinds: list[str] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while "GIVE_UP" not in kinds:
        assert time.monotonic() < deadline, kinds
        report = run_pass(context(failing))
        kinds += [report.action.kind] if report.action.kind != "NOTHING" else []
        time.sleep(0.02)
    assert kinds == ["START"] * LIMITS.restarts + ["GIVE_UP"]
    assert report.verdict == "CRASH_LOOP"
    assert report.reason == (
        "the driver ended with TRANSIENT: as the test wants it after 8 restarts; the budget is spent. If a record is to blame, "
        f"this names it: headrace stream stop {NAME}; headrace dead-letters find {NAME}"
    )
    starts = launcher.run_dir / "starts"
    assert len(starts.read_text()) == 1 + LIMITS.restarts
    for _ in range(5):
        assert run_pass(context(failing)).action.kind == "NOTHING"
    assert len(starts.read_text()) == 1 + LIMITS.restarts
    control.restart(launcher, NAME, by="ann", reason="repaired")
    report = run_pass(context(launcher))
    assert (report.verdict, report.restarts_left) == ("IDLE", LIMITS.restarts)


def test_a_frozen_process_is_stalled_killed_and_replaced(launcher: LocalLauncher) -> None:
    driver, _ = control.start(launcher, NAME, by="ann")
    pid = int(driver.identity.partition("@")[0])
    beats = Path(launcher.root) / "checkpoints" / NAME / "heartbeat.json"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not beats.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(pid, signal.SIGSTOP)
    kinds: list[str] = []
    while "FENCE_AND_START" not in kinds:
        assert time.monotonic() < deadline
        report = run_pass(context(launcher))
        kinds.append(report.action.kind)
        time.sleep(0.1)
    assert report.verdict == "STALLED"
    (one,) = living(launcher)
    assert one.pid != pid
    assert kinds.count("FENCE_AND_START") == 1


HOLDS_THE_LOCK = """
import fcntl, sys, time
held = open(sys.argv[1], "w")
fcntl.lockf(held, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def jvm(launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A frozen process that holds the JVM's lock, as a frozen JVM does whose Python process has ended."""
    monkeypatch.setattr("headrace.operations.drivers.local.ORPHANED_JVM_SECONDS", 0.1)
    launcher.run_dir.mkdir(parents=True)
    launcher.lock_file(NAME).touch()
    command = [sys.executable, "-c", HOLDS_THE_LOCK, str(jvm_lock(launcher.lock_file(NAME)))]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    os.kill(child.pid, signal.SIGSTOP)
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_jvm_without_its_python_is_found_and_ended_by_a_stop(launcher: LocalLauncher, jvm: psutil.Process) -> None:
    """Of `stream stop`, and of `down`, which asks for whatever lives."""
    (driver,) = launcher.find(NAME)
    assert driver.identity.startswith(f"{jvm.pid}@")
    assert launcher.running() == [NAME]
    assert control.stop(launcher, NAME, by="ann") is False
    assert launcher.find(NAME) == []
    assert not jvm.is_running() or jvm.status() == psutil.STATUS_ZOMBIE


def test_what_a_jvm_without_its_python_writes_to_is_not_removed(
    launcher: LocalLauncher, jvm: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(launcher.run_dir.parent))
    with pytest.raises(HeadraceError, match=rf"^driver-{NAME} still runs\. Run `headrace down`"):
        platform.clean(Settings.load())
    assert launcher.run_dir.exists()


def test_a_start_ends_a_jvm_without_its_python_and_never_adopts_it(
    launcher: LocalLauncher, jvm: psutil.Process
) -> None:
    driver, new = control.start(launcher, NAME, by="ann")
    assert new
    assert not driver.identity.startswith(f"{jvm.pid}@")
    assert not jvm.is_running() or jvm.status() == psutil.STATUS_ZOMBIE


def test_a_supervisor_fences_a_jvm_without_its_python_and_spends_one_restart(
    launcher: LocalLauncher, jvm: psutil.Process
) -> None:
    desired_state.write(launcher.root, NAME, "RUNNING", "ann", "start")
    last: dict[str, Any] = {
        "at_ms": time.time_ns() // 1_000_000 - 60_000,
        "exit": None,
        "life": "",
        "queries": [],
        "pipeline": NAME,
    }
    small_files.write_json(paths.heartbeat(launcher.root, NAME), last)
    kinds: list[str] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while "FENCE_AND_START" not in kinds:
        assert time.monotonic() < deadline, kinds
        report = run_pass(context(launcher))
        kinds.append(report.action.kind)
    assert "START" not in kinds
    assert report.restarts_left == LIMITS.restarts - 1
    assert not jvm.is_running() or jvm.status() == psutil.STATUS_ZOMBIE


def test_a_supervisor_that_died_between_note_and_start_is_followed_by_one_that_starts(
    launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    desired_state.write(launcher.root, NAME, "RUNNING", "ann", "start")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalLauncher, "submit", die)
        with pytest.raises(KeyboardInterrupt):
            run_pass(context(launcher))
    assert not living(launcher)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (report := run_pass(context(launcher))).action.kind != "START":
        assert time.monotonic() < deadline, report
    assert len(living(launcher)) == 1
    assert report.restarts_left == LIMITS.restarts - 2, "the start that was not made is counted"
