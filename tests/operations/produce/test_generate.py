from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contract.load import load_pipelines
from headrace.contract.model import Source
from headrace.driver.decode import judged
from headrace.operations.produce.accidents import DELAYED_BY, EVENT_TIMES, KEYS, LATE_BY, spoilers_of
from headrace.operations.produce.accounts import user_directory
from headrace.operations.produce.generate import generate, timeline
from headrace.operations.produce.mix import TOPICS, Mix, make_mix
from headrace.operations.produce.record import Record

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)

mixes = st.builds(
    make_mix,
    topics=st.lists(st.sampled_from(TOPICS), min_size=1, unique=True).filter(
        lambda topics: "clicks" not in topics or "impressions" in topics
    ),
    events=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    duration=st.floats(0.5, 5_000),
    since=st.integers(0, 200_000).map(lambda seconds: timedelta(seconds=seconds)),
    catch_up=st.none() | st.floats(0.1, 10_000),
    late=st.floats(0, 0.25),
    delayed=st.floats(0, 0.25),
    duplicates=st.floats(0, 0.25),
    malformed=st.floats(0, 0.25),
    orphan_clicks=st.floats(0, 0.9),
    click_through=st.floats(0, 1),
    skew=st.floats(0, 3),
    products=st.integers(1, 50),
    users=st.integers(1, 50),
    ads=st.integers(1, 50),
)


@pytest.fixture(scope="module")
def sources(project: Path) -> dict[str, Source]:
    pipelines = load_pipelines(project / "pipelines").values()
    return {topic: source for pipeline in pipelines for topic, source in pipeline.sources.items()}


def event_time(record: Record) -> datetime:
    return datetime.fromisoformat(json.loads(record.value or b"")[EVENT_TIMES[record.topic]]).replace(tzinfo=UTC)


def readable(records: list[Record]) -> list[Record]:
    return [record for record in records if not record.kind.startswith("malformed")]


def timed(records: list[Record]) -> list[Record]:
    return [record for record in readable(records) if record.topic in EVENT_TIMES]


@given(mix=mixes)
@settings(max_examples=30, deadline=None)
def test_the_same_mix_and_start_give_the_same_bytes(mix: Mix) -> None:
    assert list(generate(mix, START)) == list(generate(mix, START))


def test_another_seed_gives_other_bytes() -> None:
    first, second = (list(generate(make_mix(events=500, seed=seed), START)) for seed in (1, 2))
    assert {record.value for record in first} != {record.value for record in second}


def test_a_topic_left_out_does_not_change_the_others() -> None:
    together = [record for record in generate(Mix(duration=20), START) if record.topic == "logins"]
    alone = list(generate(Mix(duration=20, rates={"logins": 10.0}), START))
    assert together == alone


@given(mix=mixes)
@settings(max_examples=40, deadline=None)
def test_records_are_as_many_as_planned_in_planned_order_and_within_the_plan(mix: Mix) -> None:
    records = list(generate(mix, START))
    planned = [record.planned_at for record in records]
    assert planned == sorted(planned)
    assert all(0 <= moment <= mix.duration for moment in planned)
    counted = Counter(record.topic for record in records if record.topic != "clicks")
    assert counted == mix.counts


@given(mix=mixes)
@settings(max_examples=40, deadline=None)
def test_no_event_time_is_ahead_of_the_planned_time(mix: Mix) -> None:
    for record in timed(list(generate(mix, START))):
        # Two microseconds for the float: planned times have about 16 digits together with the date.
        assert event_time(record) <= START + timedelta(seconds=record.planned_at, microseconds=2)


@given(mix=mixes)
@settings(max_examples=40, deadline=None)
def test_punctual_records_are_in_time_order(mix: Mix) -> None:
    last: dict[str, datetime] = {}
    for record in timed(list(generate(mix, START))):
        if record.kind not in {"late", "delayed", "duplicate"}:
            at = event_time(record)
            assert at >= last.get(record.topic, at)
            last[record.topic] = at


@given(mix=mixes)
@settings(max_examples=40, deadline=None)
def test_late_and_delayed_records_are_behind_the_moment_by_what_the_kind_says(mix: Mix) -> None:
    line = timeline(mix, START)
    for record in timed(list(generate(mix, START))):
        if record.kind in {"late", "delayed"}:
            low, high = LATE_BY if record.kind == "late" else DELAYED_BY
            behind = float(line.event_at(np.array(record.planned_at))) - event_time(record).timestamp()
            assert low - 0.01 <= behind <= high + 1.01  # pos is written in whole seconds


def test_late_records_are_behind_what_the_topic_has_shown_by_more_than_any_watermark_and_window() -> None:
    newest: dict[str, datetime] = {}
    late = 0
    for record in timed(list(generate(Mix(seed=5, late=0.05, duration=120), START))):
        at = event_time(record)
        if record.kind == "late":
            late += 1
            assert newest[record.topic] - at > timedelta(minutes=15)
        newest[record.topic] = max(at, newest.get(record.topic, at))
    assert late > 500


@given(mix=mixes)
@settings(max_examples=40, deadline=None)
def test_a_duplicate_is_byte_equal_to_an_earlier_record(mix: Mix) -> None:
    seen: set[tuple[str, bytes | None, bytes | None]] = set()
    for record in generate(mix, START):
        if record.kind == "duplicate":
            assert (record.topic, record.key, record.value) in seen
        seen.add((record.topic, record.key, record.value))


def test_shares_are_what_the_mix_says() -> None:
    mix = make_mix(topics=["pos"], events=100_000, seed=11, late=0.03, delayed=0.05, duplicates=0.04, malformed=0.02)
    kinds = Counter(record.kind.partition(":")[0] for record in generate(mix, START))
    # Five standard deviations of a binomial with n = 100,000.
    assert kinds["late"] / 100_000 == pytest.approx(0.03, abs=0.003)
    assert kinds["delayed"] / 100_000 == pytest.approx(0.05, abs=0.0035)
    assert kinds["duplicate"] / 100_000 == pytest.approx(0.04, abs=0.0035)
    assert kinds["malformed"] / 100_000 == pytest.approx(0.02, abs=0.0025)
    assert kinds["refund"] / kinds["normal"] == pytest.approx(mix.refunds, abs=0.004)


def test_a_mix_without_accidents_has_none() -> None:
    mix = make_mix(events=5_000, late=0, delayed=0, duplicates=0, malformed=0, refunds=0, unknown_users=0)
    assert {record.kind for record in generate(mix, START)} == {"normal", "slow_click", "orphan_click"}


def test_refunds_are_negative_and_sales_are_positive() -> None:
    for record in generate(make_mix(topics=["pos"], events=5_000, duplicates=0, malformed=0), START):
        amount = json.loads(record.value or b"")["amount"]
        assert (amount < 0) == (record.kind == "refund") or record.kind in {"late", "delayed"}
        assert amount != 0


def test_keys_are_skewed_as_asked() -> None:
    def share_of_the_hottest(skew: float) -> float:
        mix = make_mix(topics=["pos"], events=20_000, malformed=0, skew=skew, products=100)
        return Counter(record.key for record in generate(mix, START)).most_common(1)[0][1] / 20_000

    assert share_of_the_hottest(0) == pytest.approx(0.01, abs=0.005)
    assert share_of_the_hottest(1.1) > 0.15


def test_known_users_are_in_the_directory_and_unknown_ones_are_not() -> None:
    mix = make_mix(topics=["logins"], events=5_000, malformed=0, unknown_users=0.1)
    directory = {user["login_id"] for user in user_directory(mix)}
    assert len(directory) == mix.users
    kinds: Counter[bool] = Counter()
    for record in generate(mix, START):
        known = json.loads(record.value or b"")["login_id"] in directory
        assert known or record.kind != "normal"
        assert not (known and record.kind == "unknown_user")
        kinds[known] += 1
    assert kinds[False] / 5_000 == pytest.approx(0.1, abs=0.025)


def test_clicks_follow_their_impressions_as_the_mix_says() -> None:
    mix = make_mix(
        topics=["impressions", "clicks"],
        events=20_000,
        seed=3,
        since=timedelta(days=1),
        click_through=0.3,
        late=0,
        delayed=0,
        duplicates=0,
        malformed=0,
    )
    records = list(generate(mix, START))
    shown = {
        json.loads(record.value or b"")["uuid"]: event_time(record) for record in records if record.topic[0] == "i"
    }
    clicks = [record for record in records if record.topic == "clicks"]
    delays: dict[str, list[float]] = {"normal": [], "slow_click": []}
    for click in clicks:
        uuid = json.loads(click.value or b"")["uuid"]
        if click.kind == "orphan_click":
            assert uuid not in shown
        else:
            delays[click.kind].append((event_time(click) - shown[uuid]).total_seconds())
    matched = len(delays["normal"]) + len(delays["slow_click"])
    assert matched / 20_000 == pytest.approx(0.3, abs=0.02)
    assert len(delays["slow_click"]) / matched == pytest.approx(mix.slow_clicks, abs=0.015)
    assert 1 - matched / len(clicks) == pytest.approx(mix.orphan_clicks, abs=0.015)
    assert all(0 <= delay <= 300 for delay in delays["normal"])
    assert all(delay > 300 for delay in delays["slow_click"])
    assert median(delays["normal"]) == pytest.approx(20, abs=3)


def test_shops_sell_more_by_day_than_by_night() -> None:
    mix = make_mix(topics=["pos"], events=20_000, since=timedelta(days=2), late=0, delayed=0, duplicates=0, malformed=0)
    hours = Counter(event_time(record).hour for record in generate(mix, START))
    assert hours[17] > 20 * hours[3] > 0


def test_event_time_spans_the_past_and_ends_at_the_present() -> None:
    mix = make_mix(topics=["pos"], events=5_000, since=timedelta(minutes=30), duration=60, late=0, malformed=0)
    times = [event_time(record) for record in generate(mix, START) if record.kind == "normal"]
    assert times[0] - (START - timedelta(minutes=30)) < timedelta(seconds=5)
    assert START + timedelta(seconds=60) - times[-1] < timedelta(seconds=5)


def test_after_the_catch_up_event_time_is_the_present() -> None:
    mix = make_mix(
        topics=["logins"], events=2_000, duration=100, catch_up=20, late=0, delayed=0, duplicates=0, malformed=0
    )
    for record in generate(mix, START):
        behind = START + timedelta(seconds=record.planned_at) - event_time(record)
        if record.planned_at >= 20:
            assert behind <= timedelta(milliseconds=2)


def test_keys_and_event_times_are_those_of_the_pipelines(sources: dict[str, Source]) -> None:
    assert {topic: source.key for topic, source in sources.items()} == KEYS
    assert {topic: source.event_time.column for topic, source in sources.items() if source.event_time} == EVENT_TIMES


def test_the_record_key_is_the_key_column() -> None:
    for record in readable(list(generate(make_mix(events=2_000), START))):
        assert json.loads(record.value or b"")[KEYS[record.topic]].encode() == record.key


@pytest.mark.parametrize("topic", TOPICS)
def test_the_contract_refuses_exactly_the_malformed_records(topic: str, sources: dict[str, Source]) -> None:
    mix = make_mix(events=5_000, malformed=0.1)
    records = [record for record in generate(mix, START) if record.topic == topic]
    size = len(records)
    batch = pa.RecordBatch.from_pydict(
        {
            "key": pa.array([record.key for record in records], pa.binary()),
            "value": pa.array([record.value for record in records], pa.binary()),
            "topic": pa.array([topic] * size, pa.string()),
            "partition": pa.array([0] * size, pa.int32()),
            "offset": pa.array(range(size), pa.int64()),
            "timestamp": pa.array(
                [START + timedelta(seconds=record.planned_at) for record in records], pa.timestamp("us", "UTC")
            ),
        }
    )
    reasons = [row["reason"] for table in judged([batch], sources[topic]) for row in table.to_pylist()]
    assert len(reasons) == size
    for record, reason in zip(records, reasons, strict=True):
        assert (reason is not None) == record.kind.startswith("malformed"), (record, reason)
    refused = {record.kind.removeprefix("malformed:") for record in records if record.kind.startswith("malformed")}
    assert refused == set(spoilers_of(topic))
