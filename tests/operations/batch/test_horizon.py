"""How far batch views may be computed where an archive is behind: never back before what they hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from headrace.batch.archive_reader import Archive, Partition
from headrace.batch.reconcile.view_days import chosen
from headrace.batch.views import behind_of, closed_until
from headrace.contract.job_files import ViewsSpec
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline

ASKED, HORIZON = date(2026, 3, 20), date(2026, 3, 10)


@pytest.fixture(scope="module")
def pos(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def archive(parts: dict[int, int], newest: datetime = datetime(2026, 3, 15, 12, tzinfo=UTC)) -> dict[str, Archive]:
    """Return an archive with records of partitions up to an end each."""
    newest_ms = int(newest.timestamp() * 1000)
    return {"pos": Archive("p", "pos", 1, {p: Partition(0, end, end, end, newest_ms) for p, end in parts.items()})}


def until(
    pos: Pipeline,
    archives: dict[str, Archive],
    ends: dict[str, int],
    horizon: date | None,
    begins: dict[str, int] | None = None,
) -> date | None:
    spec = ViewsSpec(ends={"pos": ends}, begins={"pos": begins or {}})
    return closed_until(pos, archives, behind_of(archives, spec), ASKED, horizon)


def test_an_archive_that_has_all_leaves_the_day_that_was_asked_for(pos: Pipeline) -> None:
    assert until(pos, archive({0: 5, 1: 7}), {"0": 5, "1": 7}, None) == ASKED
    assert until(pos, archive({0: 5}), {"0": 5, "1": 0}, None) == ASKED, "a partition without any record"


def test_an_archive_that_is_behind_holds_the_horizon_at_its_newest_record(pos: Pipeline) -> None:
    assert until(pos, archive({0: 5}), {"0": 6}, HORIZON) == date(2026, 3, 15)


def test_a_record_with_microseconds_for_its_time_breaks_no_view(pos: Pipeline) -> None:
    """In a topic of others a producer may have set any time; this one is in the year 55841, which Python cannot hold."""
    pinned = {"pos": Archive("p", "pos", 1, {0: Partition(0, 5, 5, 5, 1_700_000_000_000_000)})}
    assert until(pos, pinned, {"0": 6}, HORIZON) == ASKED


def test_a_partition_that_was_quiet_for_days_does_not_move_the_horizon_back(pos: Pipeline) -> None:
    quiet = archive({0: 5}, datetime(2026, 3, 1, tzinfo=UTC))
    assert until(pos, quiet, {"0": 6}, HORIZON) == HORIZON


def test_the_first_record_ever_of_a_partition_leaves_the_horizon_where_it_is(pos: Pipeline) -> None:
    """B5: it moved to 1970, and no total could be served until the next run."""
    assert until(pos, archive({0: 5}), {"0": 5, "1": 1}, HORIZON) == HORIZON
    assert until(pos, archive({0: 5}), {"0": 5, "1": 1}, None) is None, "before the first horizon there is none"


def test_a_partition_that_kafka_has_emptied_before_the_archive_began_lacks_nothing(pos: Pipeline) -> None:
    """B5: five records expired before the pipeline ran; only the other partition has any."""
    pinned = archive({1: 4})
    assert until(pos, pinned, {"0": 5, "1": 4}, None, {"0": 5, "1": 0}) == ASKED
    assert behind_of(pinned, ViewsSpec(ends={"pos": {"0": 6}}, begins={"pos": {"0": 5}}))[0].partition == 0


def test_each_run_compares_the_newest_days_and_in_turn_all_older_ones_of_the_views() -> None:
    held = [date(2026, 1, 1) + timedelta(days=n) for n in range(60)]
    nights = [chosen(held, night * 86_400_000, 0) for night in range(20_000, 20_000 + 8)]
    assert {len(days) for days in nights} == {14}
    assert all(days[-7:] == held[-7:] and days == sorted(days) for days in nights)
    assert {day for days in nights for day in days} == set(held)
    assert chosen(held[:3], 0, 0) == held[:3]
    since_ms = int(datetime(2026, 2, 27, 12, tzinfo=UTC).timestamp() * 1000)
    assert chosen(held, 0, since_ms) == held[-3:]
