"""A real driver falls in every way, and the supervisor brings it back with no hand; the sinks are exact afterwards.

One pipeline, one supervisor with the limits that are shipped, looked at every 3 s.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from headrace.local.settings import Settings
from headrace.operations.drivers import control
from headrace.store import paths
from tests.support import actual, fragile
from tests.support.drivers import DEADLINE_SECONDS, SAFE_PATH, Stage, make_stage
from tests.support.events import Feeder, stream
from tests.support.expected import Oracle
from tests.support.supervised import Supervised

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

TOPIC = "pos_sup"
QUERIES = ("items", "product_totals", "archive_pos_sup")


@dataclass
class Kept:
    """A pipeline that is supervised, and its feeder."""

    stage: Stage
    keeper: Supervised
    feeder: Feeder
    fall: Path


@pytest.fixture(scope="module")
def kept(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A pipeline that is fed all the time, with a driver in which a query can fall; ended with the module."""
    folder = tmp_path_factory.mktemp("supervised")
    fall = folder / "fall"
    stage = make_stage(
        platform,
        project,
        folder,
        "pos_sales",
        suffix="_sup",
        queries=("items", "product_totals"),
        trigger="1 second",
        main=Path(fragile.__file__),
        environment={"HEADRACE_FALL": str(fall), "PYTHONPATH": str(project)} | SAFE_PATH,
    )
    events = stream(2, {"pos": 60_000}, hours=24, suffix="_sup", products=30)
    with Supervised(stage) as keeper, Feeder(stage.admin, events, burst=8) as feeder:
        keeper.start()
        yield Kept(stage, keeper, feeder, fall)
        feeder.stop()
        stage.await_quiet()
        keeper.stop()
        actual.require_ledgers(stage)


def _await_progress(kept: Kept, what: str) -> float:
    """Wait until every query has committed a record that was sent after this call; return the seconds it took."""
    began, sent = time.monotonic(), kept.feeder.sent
    kept.stage.await_until(lambda: kept.feeder.sent > sent, "events are taken")
    wanted = sum(kept.stage.ends(TOPIC).values())
    for query in QUERIES:

        def goes_on(query: str = query) -> bool:
            return _taken(kept.stage, query) >= wanted

        kept.stage.await_until(goes_on, f"{query} goes on {what}")
    return time.monotonic() - began


def _taken(stage: Stage, query: str) -> int:
    try:
        records = stage.ledger(query)
    except AssertionError:
        return 0
    return sum(end for _, end in records[-1]["offsets"].get(TOPIC, {}).values()) if records else 0


def _require_exact(kept: Kept) -> None:
    """Compare all sinks with what the topic holds, while nothing is sent."""
    stage = kept.stage
    with kept.feeder.paused():
        topics = {TOPIC: stage.read(TOPIC)}
        oracle = Oracle(stage.pipeline.sources, topics)
        rows = oracle.rows[TOPIC]
        stage.await_quiet()
        actual.require_archive(stage, TOPIC, topics[TOPIC], rows)
        items, _ = actual.distinct(stage.read("pos_items_sup"))
        assert items.keys() == {actual.coordinates(TOPIC, place) for place in rows}
        actual.same(
            actual.totals(stage.table("pos_sales_sup", "product_totals")), oracle.totals(TOPIC), "product_totals"
        )


@pytest.mark.long(group="outages")
def test_a_driver_that_is_killed_processes_again_with_no_hand(kept: Kept) -> None:
    _await_progress(kept, "at first")
    since = len(kept.keeper.looks)
    victims = kept.keeper.signal(signal.SIGKILL)
    took = _await_progress(kept, "after the kill")
    print(f"\nprocessing again {took:.0f} s after SIGKILL, {len(victims)} processes")
    assert kept.keeper.actions(since) == ["START"]
    place = next(n for n, look in enumerate(kept.keeper.looks) if n >= since and look["action"]["kind"] == "START")
    spent = 8 - kept.keeper.looks[place - 1]["restarts_left"]  # by whatever test came before
    reason = kept.keeper.looks[place]["action"]["reason"]
    assert reason == f"the driver vanished without an exit record; start {spent + 1} of 8"
    _require_exact(kept)


def test_a_driver_that_is_frozen_is_stalled_fenced_and_replaced_and_none_of_it_survives(kept: Kept) -> None:
    _await_progress(kept, "before it is frozen")
    since, began = len(kept.keeper.looks), time.monotonic()
    zombies = kept.keeper.signal(signal.SIGSTOP)
    stalled = kept.keeper.await_look(lambda look: look["verdict"] == "STALLED", "it is STALLED", since)
    noticed = time.monotonic() - began
    assert "runs, but its last heartbeat is" in stalled["reason"]
    assert stalled["runbook"] == "docs/runbooks/STALLED.md"
    kept.keeper.await_look(lambda look: look["action"]["kind"] == "FENCE_AND_START", "it is fenced", since)
    assert psutil.wait_procs(zombies, DEADLINE_SECONDS)[1] == [], "there is a process that could thaw"
    _await_progress(kept, "after the freeze")
    print(f"\nSTALLED {noticed:.0f} s after SIGSTOP, processing again after {time.monotonic() - began:.0f} s")
    assert kept.keeper.actions(since) == ["FENCE_AND_START"]
    _require_exact(kept)


@pytest.mark.long(group="platform")
def test_one_query_that_falls_inside_a_driver_is_noticed_by_the_driver_and_it_is_started_again(kept: Kept) -> None:
    _await_progress(kept, "before a query falls")
    since = len(kept.keeper.looks)
    kept.fall.write_text("items")
    fallen = kept.fall.with_suffix(".fallen")
    kept.stage.await_until(fallen.exists, "the query falls")
    began = time.time()
    kept.stage.await_until(lambda: "pos_sales_sup.items ended: " in kept.stage.log, "the driver notices")
    print(f"\nnoticed {time.time() - began:.1f} s after the query fell; its trigger is 1 s")
    _await_progress(kept, "after the fall")
    assert kept.keeper.actions(since) == ["START"]
    action = kept.keeper.await_look(lambda look: look["action"]["kind"] == "START", "it was started", since)["action"]
    assert action["reason"].startswith("the driver ended with TRANSIENT: ")
    assert "the test let this query fall" in kept.stage.log
    _require_exact(kept)


@pytest.mark.long(group="platform")
def test_a_supervised_pipeline_that_works_is_healthy_and_observing_it_is_cheap(kept: Kept) -> None:
    _await_progress(kept, "before the looks")
    since = len(kept.keeper.looks)
    look = kept.keeper.await_look(lambda look: look["verdict"] == "HEALTHY", "it is HEALTHY", since)
    assert {query["query"] for query in look["queries"]} == {f"pos_sales_sup.{query}" for query in QUERIES}
    assert all(query["lag"] is not None and query["generation"] == 1 for query in look["queries"])
    assert look["restarts_left"] == 8 - len(look["restarts"])


@pytest.mark.long(group="platform")
def test_an_operators_pause_is_left_alone_and_a_resume_goes_on_exactly(kept: Kept) -> None:
    _await_progress(kept, "before the pause")
    since = len(kept.keeper.looks)
    control.pause(kept.stage.launcher, kept.stage.name, by="the test", reason="the test wants to see it stand still")
    kept.stage.await_until(lambda: len(kept.keeper.looks) > since + 5, "five looks")
    kept.keeper.await_look(lambda look: look["driver"] is None, "no driver runs", since)
    assert kept.keeper.actions(since) == []
    assert kept.keeper.looks[-1]["reason"] == "wanted PAUSED by the test: the test wants to see it stand still"
    assert not kept.stage.launcher.find(kept.stage.name)
    control.resume(kept.stage.launcher, kept.stage.name, by="the test")
    _await_progress(kept, "after the resume")
    _require_exact(kept)
    assert Path(paths.supervision(kept.stage.root, kept.stage.name)).exists()
