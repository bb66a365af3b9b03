"""Kafka and Cassandra go away under load and come back: nothing is lost, the result is exact, and the log says why.

The supervisor starts the driver again if the outage ended it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.local import platform as servers
from headrace.local.settings import Settings
from headrace.operations import processes
from tests.support import actual
from tests.support.drivers import DEADLINE_SECONDS, Stage, make_stage
from tests.support.events import Feeder, stream
from tests.support.expected import FIVE_MINUTES, Oracle, final_watermark
from tests.support.supervised import Supervised

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800), pytest.mark.long(group="outages")]

AWAY_SECONDS = 60


@dataclass
class Loaded:
    """A running pipeline, its supervisor and its feeder."""

    stage: Stage
    keeper: Supervised
    feeder: Feeder


@pytest.fixture(scope="module")
def loaded(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A supervised pipeline, fed all the time; at the end the servers run and the driver does not."""
    stage = make_stage(
        platform,
        project,
        tmp_path_factory.mktemp("outage"),
        "pos_sales",
        suffix="_out",
        queries=("items", "product_totals", "tumbling"),
        trigger="1 second",
    )
    events = stream(1, {"pos": 60_000}, hours=24, suffix="_out", products=30)
    try:
        with Supervised(stage) as keeper:
            with Feeder(stage.admin, events, burst=8) as feeder:
                keeper.start()
                yield Loaded(stage, keeper, feeder)
            stage.await_quiet()
            keeper.stop()
            actual.require_ledgers(stage)
    finally:
        servers.up(platform)


def _process(settings: Settings, name: str) -> psutil.Process:
    (part,) = [part for part in servers.parts(settings) if part.name == name]
    process = processes.find(part.name, settings.run_dir, part.mark)
    assert process is not None
    return process


def _progress(loaded: Loaded, what: str) -> None:
    """Wait until every query has committed records that were sent after this call."""
    sent, began = loaded.feeder.sent, time.monotonic()
    loaded.stage.await_until(lambda: loaded.feeder.sent > sent, f"events are taken again {what}")
    wanted = sum(loaded.stage.ends("pos_out").values())
    for query in ("items", "product_totals", "tumbling", "archive_pos_out"):

        def goes_on(query: str = query) -> bool:
            return _taken(loaded.stage, query) >= wanted

        loaded.stage.await_until(goes_on, f"{query} goes on {what}")
    print(f"\nevery query has committed again {time.monotonic() - began:.1f} s {what}")


def _taken(stage: Stage, query: str) -> int:
    try:
        records = stage.ledger(query)
    except AssertionError:
        return 0
    return sum(end for _, end in records[-1]["offsets"].get("pos_out", {}).values()) if records else 0


def _require_exact(loaded: Loaded) -> None:
    """Stop the feeder's and the driver's hands for a moment, compare everything, and leave the driver running."""
    stage = loaded.stage
    with loaded.feeder.paused():
        topics = {"pos_out": stage.read("pos_out")}
        assert len(topics["pos_out"]) >= loaded.feeder.sent, "Kafka lost acknowledged records"
        oracle = Oracle(stage.pipeline.sources, topics)
        rows = oracle.rows["pos_out"]
        delay = stage.pipeline.queries["tumbling"].watermark["pos_out"]
        stage.await_quiet({"tumbling": final_watermark(stage.pipeline.sources["pos_out"], rows, delay)})
        actual.require_archive(stage, "pos_out", topics["pos_out"], rows)
        items, _ = actual.distinct(stage.read("pos_items_out"))
        assert items.keys() == {actual.coordinates("pos_out", place) for place in rows}
        actual.same(
            actual.totals(stage.table("pos_sales_out", "product_totals")), oracle.totals("pos_out"), "product_totals"
        )
        speed = oracle.windows("pos_out", stage.ledger("tumbling"), FIVE_MINUTES, FIVE_MINUTES)
        actual.same(actual.windows(stage.table("pos_sales_out", "tumbling")), speed, "tumbling")


def _require_reason(loaded: Loaded, before: tuple[int, int], *, system: str) -> None:
    """Assert that, if the driver was started again, its log says why in one line that names the system, and so it was told.

    While Kafka does not answer, the supervisor says UNKNOWN and starts nothing.
    """
    log, looks = loaded.stage.log[before[0] :], loaded.keeper.looks[before[1] :]
    assert all(look["action"]["kind"] == "NOTHING" for look in looks if look["verdict"] == "UNKNOWN")
    actions = _actions(loaded, before)
    print(f"\n{[action['reason'] for action in actions]}, verdicts {sorted({look['verdict'] for look in looks})}")
    if not actions:
        return
    errors = [line for line in log.splitlines() if " ERROR headrace.driver.runtime: " in line]
    assert any(f" ended: {system} " in line or " hangs: batch " in line for line in errors), errors
    assert {action["kind"] for action in actions} == {"START"}
    assert actions[0]["reason"].startswith(("the driver ended with TRANSIENT: ", "the driver ended with STORE_AWAY: "))


def _actions(loaded: Loaded, before: tuple[int, int]) -> list[dict[str, Any]]:
    """Return what the supervisor did since."""
    actions = [look["action"] for look in loaded.keeper.looks[before[1] :]]
    return [action for action in actions if action["kind"] != "NOTHING"]


def test_a_kafka_that_was_killed_and_comes_back_costs_nothing(loaded: Loaded) -> None:
    _progress(loaded, "before Kafka is killed")
    before = (len(loaded.stage.log), len(loaded.keeper.looks))
    _process(loaded.stage.settings, "kafka").kill()
    time.sleep(5)
    servers.up(loaded.stage.settings)
    _progress(loaded, "after Kafka's return")
    _require_exact(loaded)
    _require_reason(loaded, before, system="Kafka")


def test_a_cassandra_that_was_killed_and_comes_back_costs_nothing_and_no_driver(loaded: Loaded) -> None:
    _progress(loaded, "before Cassandra is killed")
    before = (len(loaded.stage.log), len(loaded.keeper.looks))
    _process(loaded.stage.settings, "cassandra").kill()
    servers.up(loaded.stage.settings)
    _progress(loaded, "after Cassandra's return")
    _require_exact(loaded)
    assert _actions(loaded, before) == []
    assert "waits: Cassandra is unavailable" in loaded.stage.log[before[0] :]


def test_a_cassandra_that_is_away_for_a_minute_is_waited_for_and_caught_up_with(loaded: Loaded) -> None:
    _progress(loaded, "before Cassandra stops")
    before = (len(loaded.stage.log), len(loaded.keeper.looks))
    processes.stop(_process(loaded.stage.settings, "cassandra"), 60)
    away_until = time.monotonic() + AWAY_SECONDS
    sent = loaded.feeder.sent
    loaded.stage.await_until(lambda: time.monotonic() > away_until, "the minute is over", DEADLINE_SECONDS)
    assert loaded.feeder.sent > sent, "there was no load while Cassandra was away"
    servers.up(loaded.stage.settings)
    _progress(loaded, "after Cassandra's return")
    _require_exact(loaded)
    _require_reason(loaded, before, system="Cassandra")
