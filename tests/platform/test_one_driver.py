"""Two drivers of one pipeline at once: one runs, the other leaves before it has written anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace.contract.exit_codes import Exit
from headrace.local.settings import Settings
from tests.support import actual, racer
from tests.support.drivers import DEADLINE_SECONDS, SAFE_PATH, Stage, jvm_of, make_stage
from tests.support.expected import accepted

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200), pytest.mark.long(group="checkpoints")]

RACES = 20


@pytest.fixture(scope="module")
def stage(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A small pipeline; its driver is ended with the module."""
    folder = tmp_path_factory.mktemp("one")
    made = make_stage(
        platform, project, folder, "pos_sales", suffix="_one", queries=["items"], trigger="200 milliseconds"
    )
    yield made
    made.kill()


def _environment(stage: Stage) -> dict[str, str]:
    return stage.launcher.driver_environment(stage.name)


def _sales(stage: Stage, count: int) -> None:
    value = b'{"product_id": "p", "amount": 1.00, "create_date": "2026-03-01 10:00:00"}'
    stage.send([("pos_one", b"p", value)] * count)


def _listing(root: str) -> set[str]:
    return {str(path) for path in Path(root).rglob("*")}


def test_of_two_drivers_that_start_at_one_instant_one_refuses_twenty_times(stage: Stage, tmp_path: Path) -> None:
    before = _listing(stage.root)
    command = [sys.executable, racer.__file__, stage.name, str(tmp_path / "race.lock"), str(RACES)]
    done = subprocess.run(
        command,
        env=_environment(stage) | SAFE_PATH,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert results == [[racer.HELD, int(Exit.LOCKED)]] * RACES
    refusals = [line for line in done.stdout.splitlines() if "ERROR" in line]
    assert len(refusals) == RACES
    assert all(f"A driver of {stage.name} already runs (process " in line for line in refusals)
    assert _listing(stage.root) == before


def test_full_drivers_race_and_the_next_waits_for_a_jvm_that_outlived_its_python(stage: Stage) -> None:
    """Two races with Spark; the second against a JVM that is frozen and has lost its Python."""
    _sales(stage, 50)
    winner = _race(stage)
    stage.await_quiet()
    jvm = jvm_of(winner.pid)
    jvm.suspend()
    os.kill(winner.pid, signal.SIGKILL)
    winner.wait(DEADLINE_SECONDS)
    _sales(stage, 50)
    before = _listing(stage.root)
    second = _race(stage)
    try:
        stage.await_until(lambda: "waits for the JVM of a previous driver" in stage.log, "the second driver waits")
        assert _listing(stage.root) == before, "a driver wrote while the JVM of an earlier one lived"
    finally:
        jvm.resume()
    stage.await_quiet()
    psutil.wait_procs([jvm], DEADLINE_SECONDS)
    assert not jvm.is_running()
    adopted, started = stage.launcher.submit(stage.name)
    assert (adopted.where, started) == (f"process {second.pid}", False), "submit starts a second one"
    assert stage.stop() == 0
    messages = stage.read("pos_one")
    items, repeats = actual.distinct(stage.read("pos_items_one"))
    assert len(items) == len(messages) == 100
    assert repeats == 0
    actual.require_ledgers(stage)
    actual.require_archive(stage, "pos_one", messages, accepted(stage.pipeline.sources["pos_one"], messages))


def _race(stage: Stage) -> subprocess.Popen[bytes]:
    """Start two drivers at one instant; return the one that stays."""
    command = [
        sys.executable,
        str(stage.launcher.project / "spark_jobs" / "main.py"),
        stage.name,
        str(stage.launcher.lock_file(stage.name)),
    ]
    stage.launcher.log_dir.mkdir(parents=True, exist_ok=True)
    (stage.launcher.tmp_dir / stage.launcher.name(stage.name)).mkdir(parents=True, exist_ok=True)
    with stage.launcher.log_file(stage.name).open("ab") as log:
        pair = [
            subprocess.Popen(command, env=_environment(stage), stdout=log, stderr=log, start_new_session=True)
            for _ in range(2)
        ]
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (ended := [racer_process for racer_process in pair if racer_process.poll() is not None]):
        assert time.monotonic() < deadline, stage.log
        time.sleep(0.1)
    (loser,) = ended
    assert loser.returncode == Exit.LOCKED
    (stage.child,) = [racer_process for racer_process in pair if racer_process is not loser]
    return stage.child
