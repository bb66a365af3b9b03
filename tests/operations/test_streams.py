"""What `stream status` says of a driver, from its process and its heartbeat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.operations import streams, tables
from headrace.operations.drivers import desired_state, interface
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.supervisor import cycle, memory
from headrace.store import generation, paths, small_files
from headrace.store.records import to_json


@pytest.fixture
def launcher(tmp_path: Path, project: Path) -> LocalLauncher:
    """A launcher whose drivers are a Python that only sleeps."""
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time\ntime.sleep(600)\n")
    return LocalLauncher(
        project=project,
        root=str(tmp_path / "storage"),
        environment={},
        main=sleeper,
        grace_seconds=1,
        run_dir=tmp_path / "run_dir",
        log_dir=tmp_path / "log_dir",
        tmp_dir=tmp_path / "tmp_dir",
        bindings=tmp_path / "bindings",
    )


@pytest.fixture
def pipeline(project: Path) -> Pipeline:
    """The pipeline with one query and one archive query."""
    return load_pipeline(project / "pipelines" / "user_logins.yaml")


@pytest.fixture
def driver(launcher: LocalLauncher, pipeline: Pipeline) -> Iterator[int]:
    """A living driver process; ended with the test."""
    driver, started = launcher.submit(pipeline.name)
    assert started
    yield int(driver.identity.partition("@")[0])
    launcher.stop(pipeline.name)


def beat(launcher: LocalLauncher, pipeline: str, age: float, end: str | None = None, life: str = "") -> None:
    """Write a heartbeat of `age` seconds ago, of the driver that lives or of another `life`."""
    living = launcher.find(pipeline)
    entry = {
        "query": f"{pipeline}.last_login", "generation": 2, "active": True, "trigger_ms": 5000, "batch": 7,
        "batch_written_ms": int((time.time() - 4) * 1000), "batch_duration_ms": 312, "running_batch": None, "rows_in": 70,
        "rows_out": 60, "batches": 7, "lag": 0, "watermark_ms": None, "state_rows": 0, "late_groups": 0, "offsets": {},
        "error": None,
    }  # fmt: skip
    value: dict[str, object] = {
        "pipeline": pipeline,
        "pid": 1,
        "at_ms": int((time.time() - age) * 1000),
        "life": life or (living[0].instance if living else "gone"),
        "queries": [entry],
        "exit": end,
    }
    small_files.write_json(paths.heartbeat(launcher.root, pipeline), value)


def state(launcher: LocalLauncher, pipeline: Pipeline) -> str:
    """The driver's state as the first row says it."""
    return streams.rows(launcher, [pipeline])[0].driver


def test_a_pipeline_that_never_ran_has_a_row_for_each_query(launcher: LocalLauncher, pipeline: Pipeline) -> None:
    rows = streams.rows(launcher, [pipeline])
    assert [row.query for row in rows] == ["user_logins.last_login", "user_logins.archive_logins"]
    assert {row.driver for row in rows} == {"NEVER RAN"}


def test_a_driver_without_a_heartbeat_of_its_own_starts(
    launcher: LocalLauncher, pipeline: Pipeline, driver: int
) -> None:
    assert state(launcher, pipeline) == "STARTING"
    beat(launcher, pipeline.name, age=0, life="that of the driver before")  # killed in this very second
    assert state(launcher, pipeline) == "STARTING"


def test_a_living_driver_with_a_fresh_heartbeat_runs(launcher: LocalLauncher, pipeline: Pipeline, driver: int) -> None:
    beat(launcher, pipeline.name, age=0.1)
    row = streams.rows(launcher, [pipeline])[0]
    assert (row.driver, row.generation, row.batch, row.rows_in, row.lag) == ("RUNNING", 2, 7, 70, 0)
    assert row.batch_age is not None
    assert row.batch_age >= 4


@pytest.mark.parametrize(("age", "state", "verdict"), [(25, "RUNNING", "HEALTHY"), (31, "SILENT", "STALLED")])
def test_a_row_says_silent_exactly_if_its_verdict_counts_the_driver_as_silent(
    age: float, state: str, verdict: str, launcher: LocalLauncher, pipeline: Pipeline, driver: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two rules, 20 s and 30 s, once put SILENT and HEALTHY into one row."""
    desired_state.write(launcher.root, pipeline.name, "RUNNING", "ann", "start")
    generation.begin(launcher.root, pipeline.name, "last_login", {})
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)  # five seconds later the younger heartbeat would be too old
    monkeypatch.setattr(time, "time", lambda: now_ns / 1e9)
    started = replace(launcher.find(pipeline.name)[0], started=time.time() - 3600)
    monkeypatch.setattr(LocalLauncher, "find", lambda *_: [started])
    beat(launcher, pipeline.name, age=age)
    cycle.run_pass(cycle.Context(launcher, pipeline, lambda topics: {topic: {} for topic in topics}))
    row = streams.rows(launcher, [pipeline])[0]
    assert (row.driver, row.verdict) == (state, verdict)


def test_a_driver_whose_batches_move_is_not_silent_without_heartbeats(
    launcher: LocalLauncher, pipeline: Pipeline, driver: int
) -> None:
    beat(launcher, pipeline.name, age=60)
    assert state(launcher, pipeline) == "SILENT"
    moved = memory.Memory(moved_ms=time.time_ns() // 1_000_000 - 5000)
    memory.write(launcher.root, pipeline.name, memory.Supervision(memory=moved))
    assert state(launcher, pipeline) == "RUNNING"


def test_a_running_batch_is_shown_with_its_tasks_and_when_the_lag_is_gone() -> None:
    row = streams.QueryRow("p", "p.q", "RUNNING", lag=9_000, taken_rate=500.0, arrival_rate=200.0)
    row = replace(row, running_batch=8, running_seconds=40.2, tasks=32, tasks_done=14)
    assert (row.running, row.catch_up_rate, row.caught_up_seconds) == ("14 of 32 tasks, 40 s", 300.0, 30.0)
    assert replace(row, waits="Cassandra is away").running == "Cassandra is away"
    assert replace(row, lag=0).caught_up_seconds == 0
    for behind in (replace(row, arrival_rate=600.0), replace(row, taken_rate=None), replace(row, lag=None)):
        assert behind.caught_up_seconds is None, "it grows, or is not known"
    assert to_json(row)["caught_up_seconds"] == 30.0


def test_a_driver_that_ended_in_order_is_stopped_and_one_that_vanished_is_dead(
    launcher: LocalLauncher, pipeline: Pipeline
) -> None:
    beat(launcher, pipeline.name, age=1, end="FINISHED")
    assert state(launcher, pipeline) == "STOPPED"
    beat(launcher, pipeline.name, age=1, end="TRANSIENT")
    assert state(launcher, pipeline) == "DEAD"
    beat(launcher, pipeline.name, age=1)
    assert state(launcher, pipeline) == "DEAD"


def test_a_second_submit_adopts_the_driver_that_runs(launcher: LocalLauncher, pipeline: Pipeline, driver: int) -> None:
    adopted, started = launcher.submit(pipeline.name)
    assert (adopted, started) == (launcher.find(pipeline.name)[0], False)
    assert adopted.where == f"process {driver}"


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_ends_the_complete_process_group(launcher: LocalLauncher, pipeline: Pipeline, tmp_path: Path) -> None:
    note = tmp_path / "child"
    assert launcher.main is not None
    launcher.main.write_text(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\ntime.sleep(600)\n"
    )
    launcher.submit(pipeline.name)
    deadline = time.monotonic() + 300
    while not note.exists() or not note.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert launcher.stop(pipeline.name) is True
    assert launcher.stop(pipeline.name) is None
    child = int(note.read_text())
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_last_error_of_a_log_is_reported(launcher: LocalLauncher, pipeline: Pipeline) -> None:
    launcher.log_dir.mkdir()
    launcher.log_file(pipeline.name).write_text(
        "2026-01-01 INFO headrace: x\n2026-01-01 00:00:00,000 ERROR headrace: Kafka is gone: start it.\nnoise\n"
    )
    assert interface.last_error(launcher, pipeline.name) == "Kafka is gone: start it."


def test_a_row_has_the_verdict_that_the_supervisor_wrote_last(launcher: LocalLauncher, pipeline: Pipeline) -> None:
    assert {row.verdict for row in streams.rows(launcher, [pipeline])} == {""}
    desired_state.write(launcher.root, pipeline.name, "PAUSED", "ann", "lunch")
    report = cycle.run_pass(cycle.Context(launcher, pipeline, lambda topics: {}))
    assert memory.read(launcher.root, pipeline.name) == report
    rows = streams.rows(launcher, [pipeline])
    assert {(row.verdict, row.reason, row.wanted, row.restarts_left) for row in rows} == {
        ("IDLE", "wanted PAUSED by ann: lunch", "PAUSED", 8)
    }
    (line,) = tables.verdicts(rows).columns[0].cells
    assert line == "user_logins (2)", "one reason is said once"


def test_a_launcher_that_is_silent_makes_a_driver_unknown_not_dead(
    launcher: LocalLauncher, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> list[interface.Driver]:
        raise interface.LauncherSilentError("The API answered 500.")

    monkeypatch.setattr(LocalLauncher, "find", silent)
    assert {(row.driver, row.detail) for row in streams.rows(launcher, [pipeline])} == {
        ("UNKNOWN", "The API answered 500.")
    }


def test_a_driver_whose_pipeline_file_is_gone_is_found_and_named(
    launcher: LocalLauncher, pipeline: Pipeline, driver: int
) -> None:
    assert launcher.running() == [pipeline.name]
    (stray,) = streams.strays(launcher, {"other": pipeline}, {}).items()
    assert stray == (
        pipeline.name,
        "its pipeline file is gone and its driver still runs: end it with `headrace stream stop user_logins`",
    )
    beat(launcher, pipeline.name, age=1)
    (row,) = streams.stray_rows(launcher, *stray)
    assert (row.query, row.driver, row.verdict, row.generation) == ("user_logins.last_login", "RUNNING", "UNKNOWN", 2)


def test_a_driver_is_found_by_its_lock_where_its_record_is_lost(
    launcher: LocalLauncher, pipeline: Pipeline, driver: int
) -> None:
    (launcher.run_dir / f"driver-{pipeline.name}.json").unlink()
    launcher.lock_file(pipeline.name).touch()
    assert launcher.running() == [pipeline.name]


def test_a_pipeline_whose_file_is_broken_is_named_with_the_reason(launcher: LocalLauncher) -> None:
    strays = streams.strays(launcher, {}, {"bad": "pipelines/bad.yaml: colour: unknown key."})
    (row,) = streams.stray_rows(launcher, "bad", strays["bad"])
    assert (row.pipeline, row.driver, row.verdict) == ("bad", "NEVER RAN", "UNKNOWN")
    assert row.reason == "its pipeline file does not load: pipelines/bad.yaml: colour: unknown key."
