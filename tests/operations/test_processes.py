"""Processes that are ours, and those that only look so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from headrace.operations import processes

MARK = "mark-of-this-test"


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"
    for record in processes.records(tmp_path / "run"):
        if process := processes.living(record):
            processes.stop(process, 5)


def start(run_dir: Path, script: str = "import time; time.sleep(600)", mark: str = MARK) -> processes.ProcessRecord:
    argv = [sys.executable, "-c", script, mark]
    return processes.spawn(
        "thing", run_dir, argv, mark, {"PATH": os.environ["PATH"]}, run_dir.parent / "logs" / "thing.out"
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(run_dir: Path, mark: str = MARK) -> psutil.Process:
    process = processes.find("thing", run_dir, mark)
    assert process is not None
    return process


def test_a_started_process_is_found_by_its_record(run_dir: Path) -> None:
    record = start(run_dir)
    assert running(run_dir).pid == record.pid
    assert os.getsid(record.pid) == record.pid


def test_a_start_waits_until_the_machine_shows_the_command_line(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A race of two submits saw no driver where both had been told of one: on a busy machine its exec was not over.
    shown = psutil.Process.cmdline
    blank: list[list[str]] = [[]] * 5
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: blank.pop() if blank else shown(process))
    record = start(run_dir)
    assert MARK in psutil.Process(record.pid).cmdline()


def test_a_start_of_what_ends_at_once_does_not_wait(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    looked = tmp_path / "looked"

    def command_line(process: psutil.Process) -> list[str]:
        asked.append(process.pid)
        looked.touch()  # the process ends after the first look
        return []

    monkeypatch.setattr(psutil.Process, "cmdline", command_line)
    record = start(run_dir, f"import os, time\nwhile not os.path.exists({str(looked)!r}): time.sleep(0.01)")
    assert set(asked) == {record.pid}, "it looked, and went on when the process had ended"
    assert processes.living(record) is None


def test_a_process_that_ended_is_not_found_even_while_it_is_a_zombie(run_dir: Path) -> None:
    record = start(run_dir)
    child = psutil.Process(record.pid)
    os.kill(record.pid, 9)
    wait_for(lambda: child.status() == psutil.STATUS_ZOMBIE)  # its parent is this process, which has not reaped it
    assert processes.living(record) is None
    assert processes.find("thing", run_dir, MARK) is None


def test_a_pager_that_has_the_marked_file_open_is_not_ours(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / MARK
    file.touch()
    pager = subprocess.Popen(["tail", "-f", str(file)], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: str(file) in psutil.Process(pager.pid).cmdline())
        assert processes.find("thing", run_dir, str(file)) is None
        assert processes.read_record("thing", run_dir) is None
    finally:
        pager.kill()
        pager.wait()


def test_who_holds_a_lock_is_found_without_a_record(tmp_path: Path) -> None:
    path = tmp_path / "driver-p.lock.jvm"
    assert processes.holder(path) is None
    path.touch()
    assert processes.holder(path) is None
    holds = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", holds, str(path)])
    try:
        wait_for(lambda: processes.holder(path) is not None)
        holder = processes.holder(path)
        assert holder is not None
        assert holder.pid == child.pid
    finally:
        child.kill()
        child.wait()
    assert processes.holder(path) is None


def test_a_recycled_pid_is_never_taken_for_ours(run_dir: Path) -> None:
    record = start(run_dir)
    os.kill(record.pid, 9)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", MARK])
    try:
        # exec has not put the command line in place yet for a moment, and none is taken for a killed process's
        wait_for(lambda: bool(psutil.Process(stranger.pid).cmdline()))
        assert processes.living(processes.ProcessRecord("thing", stranger.pid, record.created - 5, MARK)) is None
        created = psutil.Process(stranger.pid).create_time()
        assert processes.living(processes.ProcessRecord("thing", stranger.pid, created, "another-mark")) is None
        assert processes.living(processes.ProcessRecord("thing", stranger.pid, created, MARK)) is not None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_whose_starter_died_before_it_wrote_the_record_is_found_by_its_mark(
    run_dir: Path, tmp_path: Path
) -> None:
    mark = f"@{tmp_path}/java.args"
    record = start(run_dir, mark=mark)
    processes.forget("thing", run_dir)
    assert running(run_dir, mark).pid == record.pid
    written = processes.read_record("thing", run_dir)
    assert written is not None
    assert written.pid == record.pid


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "thing"}'])
def test_a_damaged_record_counts_as_none(run_dir: Path, text: str) -> None:
    run_dir.mkdir()
    (run_dir / "thing.json").write_text(text)
    assert processes.read_record("thing", run_dir) is None
    assert list(processes.records(run_dir)) == []


def test_stop_asks_first(run_dir: Path) -> None:
    start(run_dir)
    process = running(run_dir)
    assert processes.stop(process, 30) is True
    assert not process.is_running()


def test_stop_ends_what_does_not_listen(run_dir: Path) -> None:
    start(
        run_dir, "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    )
    wait_for(lambda: "ready" in processes.tail(run_dir.parent / "logs" / "thing.out"))
    process = running(run_dir)
    assert processes.stop(process, 0.5) is False
    wait_for(lambda: processes.find("thing", run_dir, MARK) is None)


def test_a_process_survives_the_shell_that_started_it(run_dir: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from headrace.operations import processes; "
        f"argv = [sys.executable, '-c', 'import time; time.sleep(600)', {MARK!r}]; "
        f"processes.spawn('thing', Path({str(run_dir)!r}), argv, "
        f"{MARK!r}, dict(os.environ), Path({str(run_dir.parent / 'thing.out')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert processes.find("thing", run_dir, MARK)


def test_tail_of_a_missing_log_is_empty_and_of_a_long_one_its_end(tmp_path: Path) -> None:
    assert processes.tail(tmp_path / "none.log") == ""
    (tmp_path / "long.log").write_text("\n".join(map(str, range(100_000))))
    assert processes.tail(tmp_path / "long.log", 2) == "99998\n99999"
