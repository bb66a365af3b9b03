"""The verdict on a query whose state outgrows what its file allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.contract.load import load_pipeline
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.operations.supervisor.memory import FAULTS, Memory
from headrace.operations.supervisor.verdict import judge, remember
from tests.conftest import PROJECT
from tests.operations.supervising import NOW, beat, positions, seen

KNOWN = Memory(driver="a", started_ms=NOW - 60_000, first_beat_ms=NOW - 50_000)


@pytest.mark.parametrize(("groups", "expected"), [(20_000, "HEALTHY"), (20_001, "TOO_MANY_KEYS")])
def test_more_groups_than_the_file_allows_are_a_state_of_their_own_and_no_fault(groups: int, expected: str) -> None:
    pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
    observation = seen(pipeline, heartbeat=beat(pipeline, groups=groups), positions=positions(pipeline))
    judged = judge(pipeline, observation, remember(observation, KNOWN))
    assert (
        judged.queries["product_totals"].verdict
        == judged.queries["leaderboard"].verdict
        == judged.pipeline.verdict
        == expected
    )
    assert judged.queries["tumbling"].verdict == "HEALTHY"
    assert expected not in FAULTS
    if expected != "HEALTHY":
        assert judged.queries["product_totals"].reason == (
            "its state holds 20,001 groups, and max_distinct of product_id declares at most 20,000; it goes on, and the state "
            "grows for ever: raise max_distinct if so many are right, or find who sends such values"
        )


def test_a_query_that_stalls_stays_stalled_whatever_its_state_holds() -> None:
    pipeline = load_pipeline(PROJECT / "pipelines" / "pos_sales.yaml")
    silent = replace(beat(pipeline, groups=10**9), at_ms=NOW - 1000 * int(LIMITS.silent + 5))
    observation = seen(pipeline, heartbeat=silent, positions=positions(pipeline))
    assert judge(pipeline, observation, remember(observation, KNOWN)).pipeline.verdict == "STALLED"
