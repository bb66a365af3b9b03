"""An upgrade knows whom it watches, holds the supervisor off while it lives, and never works against an operator."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.errors import HeadraceError
from headrace.operations.checkpoints import snapshots
from headrace.operations.drivers import control, desired_state, upgrade
from headrace.operations.drivers.interface import Driver
from headrace.store import paths, records, small_files
from headrace.store.driver_files import CheckResult
from tests.operations.supervising import Imagined
from tests.operations.supervisor.test_verdict import PIPELINE

NAME = PIPELINE.name
NEW = "/the/new/release"


class Releases(Imagined):
    """A launcher whose drivers beat at once; those of `NEW` write `batches` batches a look, or do what `beats` says."""

    batches = 5
    beats: dict[str, Any] = {}  # noqa: RUF012 - replaced by a test, never changed
    asked = 0

    def find(self, pipeline: str) -> list[Driver]:
        drivers = super().find(pipeline)
        if drivers:
            self._beat(drivers[0])
        return drivers

    def check(self, pipeline: str, spec: Any) -> CheckResult:
        return CheckResult(exit="FINISHED")

    def _beat(self, driver: Driver) -> None:
        self.asked += 1
        entry = {
            "query": f"{NAME}.last_login", "generation": 1, "active": True, "running_batch": None, "error": None, "lag": 7,
            "batches": self.asked * self.batches,
        } | self.beats  # fmt: skip
        beat = {"at_ms": time.time_ns() // 1_000_000, "exit": None, "life": driver.instance, "queries": [entry]}
        small_files.write_json(paths.heartbeat(self.root, NAME), beat)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """A pipeline that ann wants to run, and that runs; nothing is waited for."""
    monkeypatch.setattr(upgrade, "time", _clock(sleep=lambda _seconds: None))
    monkeypatch.setattr(snapshots, "take_all", lambda *_args, **_more: {})
    made = Releases(str(tmp_path))
    control.start(made, NAME, by="ann")
    return made


def _clock(**ours: Any) -> SimpleNamespace:
    """Return a module `time` for the upgrade alone: another test's threads keep theirs."""
    return SimpleNamespace(**{"time": time.time, "monotonic": time.monotonic} | ours)


def _run(launcher: Releases, report: Any = lambda _text: None, **more: Any) -> upgrade.Upgraded:
    return upgrade.run(
        launcher, PIPELINE, by="ann", release=NEW, old=PIPELINE, batches=3, seconds=more.pop("seconds", 60),
        report=report, **more,
    )  # fmt: skip


def _at(step: str, do: Any) -> Any:
    """Call `do` once, when the upgrade reports this step or, for "watch", its first look."""
    done = threading.Event()

    def report(text: str) -> None:
        if not done.is_set() and (text == step or (step == "watch" and " of " in text)):
            done.set()
            do()

    return report


def test_a_good_release_is_kept_and_the_supervisor_is_let_go(launcher: Releases) -> None:
    done = _run(launcher)
    assert (done.new, done.batches) == (NEW, {f"{NAME}.last_login": 5})
    desired = desired_state.read(launcher.root, NAME)
    assert (desired.want, desired.release, desired.held_until_ms <= desired.at_ms) == ("RUNNING", NEW, True)


def test_a_batch_without_offsets_does_not_show_that_a_release_is_good(launcher: Releases) -> None:
    """The old driver left a planned batch that only moves the watermark; the new one runs it, and stalls at the first record."""
    launcher.beats = {"reading_batches": 0}
    with pytest.raises(HeadraceError, match=r"stalls: after 1 s .*last_login 0 of 3"):
        _run(launcher, seconds=1)
    assert desired_state.read(launcher.root, NAME).release == ""


def test_the_batches_of_another_driver_are_not_taken_for_those_of_the_release(launcher: Releases) -> None:
    """The hold of a dead clock ran out, and a supervisor started the old release again."""
    launcher.batches = 0

    def replaced() -> None:
        old = launcher.alive[0]
        launcher.alive[:] = [replace(old, identity="another", release="", instance="another")]
        launcher.batches = 9

    with pytest.raises(HeadraceError, match=r"another one runs .*the deployment"):
        _run(launcher, _at("watch", replaced))
    assert desired_state.read(launcher.root, NAME).release == ""
    assert launcher.alive[0].release == ""


def test_a_release_is_kept_only_if_it_is_what_runs(launcher: Releases) -> None:
    with pytest.raises(HeadraceError, match="runs the deployment"):
        upgrade.keep(launcher, NAME, by="ann", release=NEW)
    assert desired_state.read(launcher.root, NAME).release == ""


def test_the_hold_is_renewed_for_as_long_as_the_upgrade_watches(
    launcher: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a minute with each look, for longer than one hold."""
    real, minutes = time.monotonic, iter(range(10_000))
    clock = lambda: real() + 60 * next(minutes)  # noqa: E731
    launcher.batches = 0
    holds: list[float] = []

    def watched(_seconds: float) -> None:
        launcher.batches = 1 if len(holds) > 40 else 0
        desired = desired_state.read(launcher.root, NAME)
        holds.append(desired.held_until_ms)
        assert desired.held_until_ms > time.time() * 1000, f"minute {len(holds)}: the supervisor is not held off"
        records.write(  # the real clock stands still: let a minute of the hold go by
            paths.intent(launcher.root, NAME), replace(desired, held_until_ms=desired.held_until_ms - 60_000)
        )

    monkeypatch.setattr(upgrade, "time", _clock(sleep=watched, monotonic=clock))
    _run(launcher, seconds=10**6)
    assert len(holds) > upgrade.HOLD_SECONDS / 60


@pytest.mark.parametrize("lag", [None, 7])
def test_a_lag_that_is_not_known_is_not_nothing_to_do(
    launcher: Releases, monkeypatch: pytest.MonkeyPatch, lag: int | None
) -> None:
    monkeypatch.setattr(upgrade, "SETTLED_SECONDS", 0)
    launcher.batches, launcher.beats = 0, {"lag": lag}
    with pytest.raises(HeadraceError, match=r"stalls: after 0 s .*last_login 0 of 3"):
        _run(launcher, seconds=0)


def test_a_query_without_a_batch_since_the_start_has_nothing_to_do_where_kafka_says_so(
    launcher: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "SETTLED_SECONDS", 0)
    launcher.batches, launcher.beats = 0, {"lag": None}
    assert _run(launcher, lag=lambda: {"last_login": 0}).idle == [f"{NAME}.last_login"]
    with pytest.raises(HeadraceError, match="stalls"):
        _run(launcher, lag=lambda: {"last_login": 4}, seconds=0)


@pytest.mark.parametrize("want", ["PAUSED", "STOPPED"])
def test_a_pipeline_that_is_not_wanted_to_run_gets_the_release_and_stays_as_it_is(
    launcher: Releases, want: Any
) -> None:
    control.stop(launcher, NAME, by="bob")
    before = desired_state.write(launcher.root, NAME, want, "bob", "lunch")
    started = len(launcher.starts)
    done = _run(launcher)
    assert (done.driver, done.new) == (None, NEW)
    desired = desired_state.read(launcher.root, NAME)
    assert (desired.want, desired.by, desired.reason, desired.release) == (want, "bob", "lunch", NEW)
    assert desired.at_ms == before.at_ms
    assert (len(launcher.starts), launcher.alive) == (started, [])


@pytest.mark.parametrize("step", ["stop", "snapshot", "start", "watch"])
@pytest.mark.parametrize("want", ["PAUSED", "STOPPED"])
def test_an_operator_who_stops_or_pauses_during_an_upgrade_wins(launcher: Releases, step: str, want: Any) -> None:
    launcher.batches = 1

    def stops() -> None:
        desired_state.write(launcher.root, NAME, want, "bob", "stop it")
        launcher.stop(NAME)

    try:
        done = _run(launcher, _at(step, stops))
        assert done.driver is None
    except HeadraceError as error:
        assert step == "watch"
        assert f"and stays {want}" in str(error)  # noqa: PT017 - either end is right, by the moment
    desired = desired_state.read(launcher.root, NAME)
    assert (desired.want, desired.by, desired.reason) == (want, "bob", "stop it")
    assert launcher.alive == []


def test_a_rollback_leaves_the_supervisor_free_and_the_old_release_running(launcher: Releases) -> None:
    launcher.batches = 0
    with pytest.raises(HeadraceError, match="was rolled back to the deployment, which runs again from its checkpoint"):
        _run(launcher, seconds=0)
    desired = desired_state.read(launcher.root, NAME)
    assert (desired.want, desired.release, desired.held_until_ms) == ("RUNNING", "", 0)
    assert [driver.release for driver in launcher.alive] == [""]
