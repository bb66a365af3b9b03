"""When the queries of one driver begin their batches."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from headrace.driver.queries import stagger


@given(st.timedeltas(timedelta(milliseconds=100), timedelta(hours=1)))
def test_queries_of_one_trigger_drift_apart_and_none_begins_more_often_than_was_declared(trigger: timedelta) -> None:
    intervals = [stagger(trigger, place) for place in range(11)]
    assert len(set(intervals)) == 11
    assert intervals[0] == trigger
    assert all(trigger <= interval < trigger * 1.21 for interval in intervals)
