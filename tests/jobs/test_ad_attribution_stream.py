"""The outer join: one timeline with every border and the known regressions, random orders against the oracle, restarts."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.contract.model import Pipeline
from spark_jobs import ad_attribution
from tests.jobs.conftest import ROCKSDB, STORE, Played, oracle_of
from tests.jobs.events import MICRO, quiet
from tests.support.replay import Event, Input, Job, Replayed, micros, replay

pytestmark = pytest.mark.spark

FIVE = timedelta(minutes=5)
NOON = datetime(2026, 6, 30, 12)


def at(minutes: float, micro: int = 0) -> datetime:
    return NOON + timedelta(minutes=minutes) + micro * MICRO


def shown(uuid: str, minutes: float, micro: int = 0) -> Event:
    return {"uuid": uuid, "create_date": at(minutes, micro), "ad_id": "a"}


def click(uuid: str, minutes: float, micro: int = 0) -> Event:
    return {"uuid": uuid, "create_date": at(minutes, micro)}


TIMELINE = [
    # 0: the watermark is 0 and nothing is late
    {
        "impressions": [
            *(shown(name, 0) for name in ("matched", "alone", "low", "high", "below", "above", "late_click")),
            *(shown("double", 0), shown("double", 0)),
        ],
        "clicks": [
            *(click("matched", 2), click("low", 0), click("below", 0, -1)),
            *(click("early", 3), click("before", 3), click("nobody", 3), click("double", 1)),
        ],
    },
    # 1: the watermark is still before noon
    {
        "impressions": [shown("early", 2), shown("before", 3, 1), shown("tick", 4)],
        "clicks": [click("high", 5), click("above", 5, 1), click("double", 2)],
    },
    # 2, 3: clicks are silent
    {"impressions": [shown("tick", 20)]},
    {},
    # 4: W(3) = W(4) = noon: an impression at noon is late, one microsecond later is not
    {
        "impressions": [shown("on_mark", 0), shown("after_mark", 0, 1)],
        "clicks": [click("tick", 20), click("on_mark", 1)],
    },
    # 5: W(4) = noon, W(5) = 12:15: rows that are not late and already expired
    {
        "impressions": [shown("expired", 3), shown("expired_matched", 4), shown("clicked_late", 12)],
        "clicks": [click("expired_matched", 4.5), click("late_click", 3)],
    },
    # 6: W(5) = 12:15
    {"impressions": [shown("late", 10), shown("tick", 50)], "clicks": [click("clicked_late", 14), click("tick", 50)]},
    # 7, 8: W = 12:45
    *quiet(2),
]


@pytest.fixture(scope="module")
def timeline(spark: SparkSession, ad_attribution_file: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Played:
    given = Input(tmp_path_factory.mktemp("timeline"), ad_attribution_file)
    given.lay(TIMELINE)
    jobs = {
        "in_memory": Job("attributed", ad_attribution.attributed),
        "rocksdb": Job("attributed", ad_attribution.attributed, conf={STORE: ROCKSDB}),
    }
    return Played(0, given, replay(spark, given, jobs, given.folder / "out"))


@pytest.fixture(params=["in_memory", "rocksdb"])
def played(timeline: Played, request: pytest.FixtureRequest) -> Replayed:
    """Every fact below holds with both state stores (SPARK-38684 was RocksDB's alone)."""
    return timeline.replayed[request.param]


def rows(played: Replayed, uuid: str) -> list[tuple[int, float | None]]:
    """Return (batch, minutes from noon to the click) of each row of a uuid."""
    return [
        (batch.number, None if row[4] is None else (row[4] - micros(NOON)) / 60_000_000)
        for batch in played.batches
        for row in batch.rows
        if row[0] == uuid
    ]


def test_the_complete_timeline_equals_the_oracle(timeline: Played) -> None:
    for name, replayed in timeline.replayed.items():
        marks = [(batch.watermark_ms, batch.late_watermark_ms) for batch in replayed.batches]
        assert marks == timeline.oracle(name).watermarks()
        timeline.check(name, keyed(timeline.oracle(name).attributed(FIVE)))


def test_the_watermark_follows_the_slower_topic(played: Replayed) -> None:
    marks = [(batch.watermark_ms - micros(NOON) // 1000) / 60_000 for batch in played.batches]
    assert marks[1:] == [-5 + 0 + 0, -1, 0, 0, 15, 15, 45, 45][: len(marks) - 1]


def test_an_impression_and_its_click_come_out_at_once(played: Replayed) -> None:
    assert rows(played, "matched") == [(0, 2)]


def test_a_matched_impression_is_never_emitted_again_without_its_click(played: Replayed) -> None:
    """SPARK-26154."""
    for uuid in ("matched", "low", "high", "early", "double", "expired_matched"):
        assert None not in [minutes for _, minutes in rows(played, uuid)], uuid


def test_an_impression_without_a_click_comes_out_once_the_watermark_has_passed(played: Replayed) -> None:
    assert rows(played, "alone") == [(5, None)]


def test_a_click_at_either_border_belongs_to_the_impression(played: Replayed) -> None:
    assert rows(played, "low") == [(0, 0)]
    assert rows(played, "high") == [(1, 5)]


def test_a_click_one_microsecond_outside_does_not(played: Replayed) -> None:
    assert rows(played, "below") == [(5, None)]
    assert rows(played, "above") == [(5, None)]


def test_a_click_may_arrive_before_its_impression_but_not_happen_before_it(played: Replayed) -> None:
    assert rows(played, "early") == [(1, 3)]
    assert rows(played, "before") == [(5, None)]


def test_a_click_without_an_impression_gives_no_row(played: Replayed) -> None:
    assert rows(played, "nobody") == []


def test_every_repeated_record_gives_its_own_row(played: Replayed) -> None:
    """The Cassandra sink folds them by key; the Kafka sink's readers by id."""
    assert sorted(rows(played, "double")) == [(0, 1), (0, 1), (1, 2), (1, 2)]


def test_a_silent_topic_holds_the_output_back(played: Replayed) -> None:
    assert [batch.rows for batch in played.batches[2:4]] == [[], []]


def test_a_row_at_the_watermark_is_late_and_one_microsecond_later_is_not(played: Replayed) -> None:
    assert rows(played, "on_mark") == []
    assert rows(played, "after_mark") == [(5, None)]


def test_a_row_that_is_not_late_and_already_expired_is_not_lost(played: Replayed) -> None:
    """SPARK-49829."""
    assert rows(played, "expired") == [(5, None)]
    assert rows(played, "expired_matched") == [(5, 4.5)]


def test_a_late_impression_gives_no_row_at_all(played: Replayed) -> None:
    assert rows(played, "late") == []


def test_a_late_click_leaves_its_impression_without_one(played: Replayed) -> None:
    assert rows(played, "clicked_late") == [(7, None)]
    assert rows(played, "late_click") == [(5, 3)], "a click that is not late still meets an impression that expires now"


def test_the_state_shrinks_when_the_watermark_passes(played: Replayed) -> None:
    assert max(played.state_rows) > 15
    assert played.state_rows[-1] < 6


def test_random_orders_equal_the_oracle_in_every_batch(ads_played: Played) -> None:
    for name, replayed in ads_played.replayed.items():
        marks = [(batch.watermark_ms, batch.late_watermark_ms) for batch in replayed.batches]
        assert marks == ads_played.oracle(name).watermarks(), f"HEADRACE_TEST_SEED={ads_played.seed}"
        ads_played.check(name, keyed(ads_played.oracle(name).attributed(FIVE)))
        assert Counter(row[4] is None for row in replayed.rows()).keys() == {True, False}


def test_after_a_restart_the_watermark_waits_until_both_topics_have_spoken_again(
    spark: SparkSession, ad_attribution_file: Pipeline, tmp_path: Path
) -> None:
    """Spark keeps the watermark and forgets what each topic had reached: why it is read from the ledger, never computed."""
    given = Input(tmp_path / "input", ad_attribution_file)
    jobs = {"attributed": Job("attributed", ad_attribution.attributed)}
    given.lay([{"impressions": [shown("first", 0)], "clicks": [click("tick", 60)]}])
    replay(spark, given, jobs, tmp_path)
    given.lay([{"impressions": [shown("second", 30)]}, {}])
    replayed = replay(spark, given, jobs, tmp_path)["attributed"]
    computed = [mark for mark, _ in oracle_of(given, replayed).watermarks()]
    assert replayed.batches[-1].watermark_ms == micros(at(-5)) // 1000
    assert computed[-1] == micros(at(25)) // 1000, "what a driver without restart would have reached"
    given.lay([{"clicks": [click("tick", 61)]}, {"impressions": [shown("tick", 62)]}, {}])
    replayed = replay(spark, given, jobs, tmp_path)["attributed"]
    assert rows(replayed, "first") == [(replayed.batches[-1].number, None)]


def keyed(expected: dict[int, list[tuple[object, ...]]]) -> dict[int, list[tuple[object, ...]]]:
    """Add click_key, which makes the click part of the row's key: its time in ISO form, or 'none'."""

    def key(row: tuple[Any, ...]) -> str:
        return "none" if row[3] is None else (datetime(1970, 1, 1) + row[3] * MICRO).isoformat(timespec="microseconds")

    return {batch: [(*row[:3], key(row), row[3]) for row in given] for batch, given in expected.items()}
