"""docs/howto/change-a-pipeline.md says what each change of a pipeline file does to checkpoints and stores: each row is tried."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headrace.contract import cassandra, kafka
from headrace.contract.fingerprint import added_columns, declared, differences, without
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from tests.contract.conftest import GONE, ROOT, changed

ROWS = re.findall(
    r"^\| ((?:a|an|another|more|fewer) [^|]+?) \| ([^|]+?) \| ([^|]+?) \|$",
    (ROOT / "docs/howto/change-a-pipeline.md").read_text(),
    re.MULTILINE,
)
TIP = {"type": "string"}
# The rows of both tables, in order: changes of tests/contract/good.yaml, each of which must have the effect of its row.
CHANGES: list[tuple[str, list[dict[str, Any]]]] = [
    ("a new optional column", [{"sources.sales.columns.tip": TIP}]),
    ("a new required column", [{"sources.sales.columns.tip": TIP | {"required": True}}]),
    ("an optional column becomes required", [{"sources.sales.columns.note.required": True}]),
    ("a required column becomes optional", [{"sources.sales.columns.amount.required": False}]),
    ("a column gets another type, also a wider one", [
        {"sources.sales.columns.amount.type": "decimal(14,2)"}, {"sources.sales.columns.amount.type": "string"},
    ]),
    ("a column is read from another field", [{"sources.sales.columns.note.field": "comment"}]),
    ("a column is removed", [{"sources.sales.columns.note": GONE}]),
    ("a column gets another name", [
        {"sources.sales.columns.note": GONE, "sources.sales.columns.remark": {"type": "string", "field": "note"}},
    ]),
    ("another `max_distinct`, `accepted_skew` or watermark", [
        {"sources.sales.columns.shop.max_distinct": 5},
        {"sources.sales.event_time.accepted_skew": "1 second"},
        {"queries.windows.watermark": {"sales": "20 minutes"}},
    ]),
    ("a longer `retention`", [{"sources.sales.retention": "30 days"}]),
    ("a shorter `retention`", [{"sources.sales.retention": "1 day"}]),
    ("more partitions of a keyed topic", [{"sources.sales.partitions": 4}]),
    ("fewer partitions", [{"sources.sales.partitions": 1}]),
    ("another trigger, freshness or description", [
        {"queries.windows.trigger": "9 seconds"}, {"queries.windows.freshness": "50 seconds"},
        {"queries.windows.description": "other words"},
    ]),
    ("a new column", [{"queries.windows.columns.tip": TIP}]),
    ("a column gets a wider decimal", [{"queries.windows.columns.total.type": "decimal(30,2)"}]),
    ("a column gets another type", [{"queries.windows.columns.total.type": "string"}]),
    ("a column becomes required", [{"queries.windows.columns.note.required": True}]),
    ("a column is removed", [{"queries.windows.columns.note": GONE}]),
    ("a column gets another name", [{"queries.windows.columns.note": GONE, "queries.windows.columns.remark": TIP}]),
    ("another key of the table", [
        {"queries.windows.sinks.0.partition_key": ["shop"], "queries.windows.sinks.0.clustering_key": ["window_start"]},
    ]),
    ("another `ttl`", [{"queries.windows.sinks.0.ttl": "10 days"}, {"queries.windows.sinks.0.ttl": GONE}]),
    ("another topic of a Kafka sink", [{"queries.copied.sinks.0.topic": "other_copies"}]),
    ("another window size, key or mode", [
        {"queries.windows.aggregate.window.size": "20 minutes"},
        {"queries.windows.aggregate.keys": ["note"]},
        {"queries.windows.mode": "append"},
    ]),
]  # fmt: skip


def test_every_row_of_the_page_is_tried() -> None:
    assert [row[0] for row in ROWS] == [name for name, _ in CHANGES]


@pytest.mark.parametrize("place", range(len(CHANGES)), ids=lambda place: CHANGES[place][0])
def test_a_change_has_the_effect_that_the_page_states(good: Pipeline, place: int) -> None:
    _, queries, stores = ROWS[place]
    for change in CHANGES[place][1]:
        new = Pipeline.model_validate(changed(change))
        assert _effect_on_queries(good, new) == queries, change
        assert _effect_on_stores(good, new) == stores, change


def _effect_on_queries(old: Pipeline, new: Pipeline) -> str:
    effects = {_effect_on(declared(old, name), declared(new, name)) for name in old.queries}
    (effect,) = effects - {"continue"} or {"continue"}
    return effect


def _effect_on(old: dict[str, Any], new: dict[str, Any]) -> str:
    if not differences(old, new):
        return "continue"
    if differences(old, without(new, added_columns(old, new))):
        return "new generation"
    return "continue if they do not read the column, else new generation"


def _effect_on_stores(old: Pipeline, new: Pipeline) -> str:
    """Return the strongest effect on a table or a topic, as `headrace provision` decides it."""
    effects = {"no change", *_effects_on_tables(old, new), *_effects_on_topics(old, new)}
    return next(
        effect for effect in ("refused", "needs consent", "changed by provision", "no change") if effect in effects
    )


def _effects_on_tables(old: Pipeline, new: Pipeline) -> set[str]:
    before = {(table.keyspace, table.name): table for table in cassandra.tables(old)}
    effects = set()
    for table in cassandra.tables(new):
        existing = before[table.keyspace, table.name]
        try:
            differs = cassandra.alter(existing, table) or cassandra.option_differences(existing, table)
        except HeadraceError:
            effects.add("refused")
        else:
            effects |= {"changed by provision"} if differs else set()
    return effects


def _effects_on_topics(old: Pipeline, new: Pipeline) -> set[str]:
    before = {topic.name: topic for topic in kafka.topics(old)}
    effects = set()
    for topic in kafka.topics(new):
        if topic.name not in before:
            effects.add("changed by provision")
            continue
        existing = before[topic.name]
        for difference in kafka.differences(topic, existing.config, existing.partitions, 1):
            effects.add(
                "refused" if difference.refusal else "needs consent" if difference.risk else "changed by provision"
            )
    return effects
