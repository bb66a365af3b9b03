"""The operator's commands on a real driver, as typed: start, look, kill, supervise, pause, resume, restart, stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace.local.settings import Settings
from tests.support.drivers import DEADLINE_SECONDS, group_of
from tests.support.typed import Typed

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900), pytest.mark.long(group="platform")]

NAME = "web_events"


@pytest.fixture
def typed(platform: Settings, project: Path) -> Iterator[Typed]:
    """The command line; the driver is stopped with the test."""
    made = Typed(platform, project)
    yield made
    made("stop", NAME)


def test_the_operators_commands_agree_on_what_runs_and_why(typed: Typed) -> None:
    assert "A pause of web_events needs a reason" in typed("pause", NAME, code=1)
    assert "web_events is not paused (desired state STOPPED)" in typed("resume", NAME, code=1)
    started = typed.json("start", NAME)[NAME]
    assert started["started"]
    rows = typed.json("status", NAME)
    assert {row["verdict"] for row in rows} <= {"HEALTHY", "IDLE", "LAGGING"}, rows
    assert {(row["wanted"], row["restarts_left"], row["driver"]) for row in rows} == {("RUNNING", 8, "RUNNING")}
    assert not typed.json("start", NAME)[NAME]["started"]
    assert "so files cannot begin new generations: stop it first, or use restart" in typed(
        "start", NAME, "--new-generation", "files", code=1
    )

    leader = int(started["driver"].partition("@")[0])
    members = group_of(leader)
    os.killpg(leader, signal.SIGKILL)  # all at once: a Python that sees its JVM die leaves a word
    psutil.wait_procs(members, DEADLINE_SECONDS)
    rows = typed.json("status", NAME, code=3)
    assert {row["verdict"] for row in rows} == {"MISSING"}, rows
    assert {row["reason"].partition(";")[0] for row in rows} == {"the driver vanished without an exit record"}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (report := typed.json("supervise", NAME, "--once", code=3)[0])["action"]["kind"] != "START":
        assert time.monotonic() < deadline, report  # the desired state is too new in the first passes
        time.sleep(1)
    assert typed.json("supervise", NAME, "--once")[0]["restarts_left"] == 7

    assert typed.json("pause", NAME, "--reason", "we move house")[NAME] in {"stopped", "killed after the grace time"}
    rows = typed.json("status", NAME, code=3)
    assert {row["verdict"] for row in rows} == {"IDLE"}
    assert rows[0]["reason"].endswith(": we move house")
    assert "we move house" in typed("status", NAME, code=3)
    (report,) = typed.json("supervise", NAME, "--once")
    assert (report["verdict"], report["wanted"], report["action"]["kind"]) == ("IDLE", "PAUSED", "NOTHING")
    assert typed.json("resume", NAME, "--no-wait")[NAME]["started"]
    again = typed.json("restart", NAME, "--reason", "to see it", "--new-generation", "files")[NAME]
    assert again["started"]
    rows = typed.json("status", NAME)
    generations = {row["query"]: row["generation"] for row in rows}
    assert generations["web_events.files"] == generations["web_events.topic"] + 1
