from __future__ import annotations

from typing import Any

import pytest

from headrace.errors import HeadraceError
from headrace.operations.produce.mix import DEMO_RATES, Mix, make_mix


def test_the_demo_mix_feeds_all_five_topics() -> None:
    assert set(Mix().topics) == {*DEMO_RATES, "clicks"}


def test_a_number_of_events_is_shared_out_by_the_rates() -> None:
    counts = make_mix(events=1900).counts
    assert counts == {"quickstart": 400, "pos": 1000, "logins": 100, "impressions": 400}


def test_the_number_of_each_topic_can_be_given() -> None:
    mix = make_mix(events={"logins": 7, "impressions": 3})
    assert mix.counts == {"logins": 7, "impressions": 3}
    assert mix.topics == ["logins", "impressions", "clicks"]


def test_topics_limit_the_mix() -> None:
    mix = make_mix(topics=["pos"], events=10)
    assert mix.counts == {"pos": 10}
    assert mix.topics == ["pos"]


def test_impressions_without_clicks_are_never_clicked() -> None:
    assert make_mix(topics=["impressions"]).topics == ["impressions"]
    assert make_mix(topics=["impressions", "clicks"]).topics == ["impressions", "clicks"]


def test_a_rate_scales_all_topics_alike() -> None:
    mix = Mix(rates={"pos": 3.0, "logins": 1.0}, duration=10).at_rate(400)
    assert mix.counts == {"pos": 3000, "logins": 1000}
    assert mix.total_rate == pytest.approx(400)


def test_a_rate_stretches_the_plan_of_an_exact_number() -> None:
    mix = make_mix(topics=["pos"], events=1000).at_rate(50)
    assert mix.counts == {"pos": 1000}
    assert mix.duration == pytest.approx(20)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"topics": ["poss"]}, "unknown topic 'poss', did you mean 'pos'?"),
        ({"topics": ["clicks"]}, "Clicks derive from impressions. Add the topic impressions."),
        ({"rates": {"clicks": 1.0}}, "clicks have no rate or number"),
        ({"late": 0.6, "malformed": 0.6}, "together at most 1"),
        ({"late": 1.5}, "option 'late' of the generator: Input should be less than or equal to 1"),
        ({"lates": 0.5}, "option 'lates' of the generator: Extra inputs are not permitted"),
        ({"events": 0}, "The number of events must be at least 1, not 0."),
        ({"topics": []}, "option 'rates' of the generator"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        make_mix(**options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
