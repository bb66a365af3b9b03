"""The supervisor keeps the last hour of a pipeline: twice a minute a point, with what was really observed and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.drivers.interface import Driver
from headrace.operations.supervisor import history
from headrace.operations.supervisor.history import EVERY_MS, KEPT_MS, Measure
from headrace.operations.supervisor.verdict import CheckpointPosition, Observation
from headrace.store import paths, records, small_files
from headrace.store.driver_files import Heartbeat, QueryState

NOW = 1_800_000_000_000
PIPELINE, QUERY = "pos_sales", "items"


def _observation(now_ms: int = NOW, *, runs: bool = True, written_ms: int | None = None, lag: int = 7) -> Observation:
    """Return what a pass observes of a driver that has just written a batch, or (`runs` false) of none."""
    written = now_ms if written_ms is None else written_ms
    state = QueryState(f"{PIPELINE}.{QUERY}", batch_written_ms=written, batch_duration_ms=812, taken_rate=24.5, lag=999)
    beat = Heartbeat(PIPELINE, at_ms=now_ms, queries=(state,), instance="i")
    driver = Driver(PIPELINE, "1@2", now_ms / 1000 - 60, "process 1", instance="i")
    return Observation(
        now_ms, DesiredState(), (driver,) if runs else (), beat, positions={QUERY: CheckpointPosition(1, 4, lag=lag)}
    )


def _add(root: Path, observation: Observation) -> None:
    history.add(str(root), PIPELINE, observation, [QUERY])


def _newest(root: Path) -> Measure:
    return history.read(str(root), PIPELINE).points[-1].queries[QUERY]


def test_a_point_has_the_lag_that_the_supervisor_measured_and_what_the_driver_reports(tmp_path: Path) -> None:
    _add(tmp_path, _observation())
    assert _newest(tmp_path) == Measure(7, 24.5, 812)


def test_without_a_driver_only_the_lag_is_known(tmp_path: Path) -> None:
    _add(tmp_path, _observation(runs=False))
    assert _newest(tmp_path) == Measure(7)


def test_the_heartbeat_of_an_earlier_driver_and_an_old_one_say_nothing(tmp_path: Path) -> None:
    observed = _observation()
    assert observed.heartbeat is not None
    _add(tmp_path, replace(observed, heartbeat=replace(observed.heartbeat, instance="earlier")))
    assert _newest(tmp_path) == Measure(7)
    old = replace(observed.heartbeat, at_ms=NOW + EVERY_MS - history.RECENT_MS - 1)
    _add(tmp_path, replace(observed, now_ms=NOW + EVERY_MS, heartbeat=old))
    assert _newest(tmp_path) == Measure(7)


def test_an_old_batch_has_no_duration_and_an_idle_query_takes_nothing(tmp_path: Path) -> None:
    _add(tmp_path, _observation(written_ms=NOW - history.RECENT_MS - 1, lag=0))
    assert _newest(tmp_path) == Measure(0, 0.0, None)
    _add(tmp_path, _observation(NOW + EVERY_MS, written_ms=NOW - history.RECENT_MS))
    assert _newest(tmp_path) == Measure(7, None, None), "it is behind and writes nothing: its rate is not known"


def test_passes_every_few_seconds_leave_two_points_a_minute_and_an_hour_is_kept(tmp_path: Path) -> None:
    for seconds in range(0, 2 * 3600, 5):
        _add(tmp_path, _observation(NOW + seconds * 1000))
    points = history.read(str(tmp_path), PIPELINE).points
    assert len(points) == KEPT_MS // EVERY_MS + 1
    assert points[-1].at_ms - points[0].at_ms == KEPT_MS


def test_a_broken_history_and_a_clock_that_was_put_back_begin_again(tmp_path: Path) -> None:
    small_files.write_text(paths.history(str(tmp_path), PIPELINE), "{")
    assert history.read(str(tmp_path), PIPELINE).points == ()
    _add(tmp_path, _observation())
    _add(tmp_path, _observation(NOW - 10 * EVERY_MS))
    assert [point.at_ms for point in history.read(str(tmp_path), PIPELINE).points] == [NOW - 10 * EVERY_MS]


def test_a_history_that_has_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = records.read

    def counted(kind: type[Any], path: str) -> Any:
        asked.append(path)
        return read(kind, path)

    monkeypatch.setattr(records, "read", counted)
    _add(tmp_path, _observation(lag=7))
    assert [_newest(tmp_path).lag for _ in range(3)] == [7] * 3
    before = len(asked)
    _add(tmp_path, _observation(NOW + EVERY_MS, lag=8))
    assert [_newest(tmp_path).lag for _ in range(3)] == [8] * 3
    assert (before, len(asked)) == (1, 2)
