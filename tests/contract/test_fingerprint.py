from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contract.fingerprint import added_columns, archive_declared, declared, differences, digest, without
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline, State
from tests.contract.conftest import changed


@pytest.mark.parametrize(
    ("query", "change", "said"),
    [
        ("windows", {"queries.windows.aggregate.keys": ["note"]},
         'aggregate.keys changed from ["shop"] to ["note"]'),
        ("windows", {"queries.windows.aggregate.window.size": "20 minutes"},
         'aggregate.window.size changed from "10 minutes" to "20 minutes"'),
        ("windows", {"queries.windows.aggregate.window": "<gone>"},
         'aggregate.window changed from {"column": "at", "size": "10 minutes", "slide": "5 minutes"} to nothing'),
        ("windows", {"queries.windows.aggregate.window.offset": "2 minutes"},
         'aggregate.window.offset was added as "2 minutes"'),
        ("windows", {"driver": {"state_partitions": 4}}, "state_partitions changed from 2 to 4"),
        ("windows", {"queries.windows.mode": "append"}, 'mode changed from "update" to "append"'),
        ("windows", {"queries.windows.sources": ["visits"]}, "sources.sales was removed (it was "),
        ("windows", {"sources.sales.columns.amount.type": "long"},
         'sources.sales.columns.amount changed from "decimal(12,2)" to "long"'),
        ("windows", {"queries.windows.watermark": {}}, 'watermarked changed from ["sales"] to []'),
        ("bought", {"queries.bought.join.type": "inner"}, 'join.type changed from "left_outer" to "inner"'),
        ("bought", {"queries.bought.join.time_range.upper": "9 minutes"},
         'join.time_range.upper changed from "5 minutes" to "9 minutes"'),
    ],
)  # fmt: skip
def test_what_a_checkpoint_cannot_take_is_reported(
    good: Pipeline, query: str, change: dict[str, Any], said: str
) -> None:
    new = Pipeline.model_validate(changed(change))
    assert any(said in difference for difference in differences(declared(good, query), declared(new, query)))


@pytest.mark.parametrize(
    "change",
    [
        {"queries.windows.watermark": {"sales": "20 minutes"}},
        {"queries.windows.trigger": "9 seconds"},
        {"queries.windows.sinks.0.ttl": "1 day"},
        {"queries.windows.description": "other words"},
        {"driver": {"cores": 4, "memory": "2g", "max_offsets_per_trigger": 5}},
        {"sources.sales.retention": "9 days"},
        {"sources.sales.event_time.accepted_skew": "1 second"},
    ],
)
def test_what_a_checkpoint_can_take_is_no_difference(
    good: Pipeline, broken: Callable[..., Path], change: dict[str, Any]
) -> None:
    new = load_pipeline(broken(change))
    assert differences(declared(good, "windows"), declared(new, "windows")) == []


def test_a_slide_that_is_said_or_left_out_is_the_same_window(good: Pipeline, broken: Callable[..., Path]) -> None:
    new = load_pipeline(broken({"queries.finals.aggregate.window.slide": "10 minutes"}))
    assert digest(declared(good, "finals")) == digest(declared(new, "finals"))


def test_state_partitions_do_not_bind_a_query_without_state(good: Pipeline, broken: Callable[..., Path]) -> None:
    new = load_pipeline(broken({"driver": {"state_partitions": 8}}))
    assert differences(declared(good, "copied"), declared(new, "copied")) == []


def test_a_fingerprint_read_back_from_its_manifest_is_the_same(pipelines: dict[str, Pipeline]) -> None:
    for pipeline in pipelines.values():
        for query in pipeline.queries:
            fingerprint = declared(pipeline, query)
            assert differences(json.loads(json.dumps(fingerprint)), fingerprint) == []


def test_an_archive_of_another_topic_is_another_plan() -> None:
    assert differences(archive_declared("a"), archive_declared("b")) == ['archive changed from "a" to "b"']


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_fingerprints = st.dictionaries(st.text(min_size=1, max_size=4), _json, max_size=4)


@given(_fingerprints, _fingerprints)
def test_the_digest_differs_exactly_when_a_difference_is_reported(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert differences(old, old) == []
    # True equals 1 for Python and not for JSON: compare what is stored.
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    assert (digest(old) == digest(new)) is same
    if differences(old, new):
        assert not same


@given(_fingerprints)
def test_the_order_of_keys_does_not_count(fingerprint: dict[str, Any]) -> None:
    assert digest(dict(reversed(fingerprint.items()))) == digest(fingerprint)


def test_a_mark_that_an_earlier_headrace_did_not_keep_refuses_nothing() -> None:
    assert differences({"plan": []}, {"plan": [], "state_inputs": {"k": "upper(k)"}}) == []
    assert differences({"plan": [], "state_inputs": {}}, {"plan": [], "state_inputs": {"k": "upper(k)"}}) != []


def test_rocksdb_is_marked_and_the_memory_store_leaves_the_fingerprint_as_it_was(good: Pipeline) -> None:
    def marks(state: State | None) -> dict[str, Any]:
        query = good.queries["totals"].model_copy(update={"state": state})
        return declared(good.model_copy(update={"queries": good.queries | {"totals": query}}), "totals")

    memory, rocksdb = marks(None), marks(State(store="rocksdb"))
    assert "state_store" not in memory
    assert differences(memory, marks(State(store="memory", keys=5_000_000))) == []
    assert differences(rocksdb, marks(State(keys=1_000_000))) == []
    assert differences(memory, rocksdb) == ['state_store was added as "rocksdb"']
    assert differences(rocksdb, memory) == ['state_store was removed (it was "rocksdb")']


def test_a_column_that_a_source_gets_is_no_difference_where_it_is_not_read(good: Pipeline) -> None:
    old = declared(good, "windows")
    new = declared(Pipeline.model_validate(changed({"sources.sales.columns.till": {"type": "string"}})), "windows")
    assert added_columns(old, new) == {"sales": {"till"}}
    assert differences(old, new) == ['sources.sales.columns.till was added as "string"']
    assert differences(old, without(new, {"sales": {"till"}})) == []
    assert digest(without(new, {"sales": {"till"}})) == digest(old)
    assert added_columns(old, old) == added_columns({}, new) == added_columns(new, old) == {}
