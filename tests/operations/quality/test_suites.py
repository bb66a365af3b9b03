"""Every suite against the contract, without running it: names, ids, columns, parameters, what is covered."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.load import load_pipelines
from headrace.contract.names import stage_name
from headrace.errors import HeadraceError
from headrace.operations.quality.sinks import added_columns, find, sinks_of
from headrace.operations.quality.validate import load_suite

PROJECT = Path(__file__).resolve().parents[3]
PIPELINES = load_pipelines(PROJECT / "pipelines")
SINKS = {sink.name: (pipeline, sink) for pipeline in PIPELINES.values() for sink in sinks_of(pipeline)}
STAGES = {
    stage_name(pipeline.name, name)
    for pipeline in PIPELINES.values()
    for name, dimension in pipeline.dimensions.items()
    if dimension.refresh
}
FILES = sorted(path.stem for path in (PROJECT / "expectations").glob("*.json"))
# What the parts of the code give: look._parameters and users.stage.
GIVEN = {"rows_out", "rows_in", "rows_least", "rows_min", "freshness_seconds", "behind_seconds"}
GIVEN_TO_STAGES = {"rows_min"}


def _suites() -> dict[str, dict[str, Any]]:
    return {name: json.loads((PROJECT / "expectations" / f"{name}.json").read_text()) for name in FILES}


def _columns(kwargs: dict[str, Any]) -> set[str]:
    named = {kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs}
    return named | set(kwargs.get("column_list", ()))


def test_every_sink_and_every_stage_has_a_suite_and_no_suite_is_without_sink() -> None:
    assert set(FILES) == set(SINKS) | STAGES


def test_every_id_is_committed_and_given_once() -> None:
    ids = [suite["id"] for suite in _suites().values()]
    ids += [each["id"] for suite in _suites().values() for each in suite["expectations"]]
    assert {str(uuid.UUID(each)) for each in ids} == set(ids)
    assert [each for each, count in Counter(ids).items() if count > 1] == []


@pytest.mark.parametrize("name", FILES)
def test_a_suite_says_its_name_why_and_how_severe(name: str) -> None:
    suite = load_suite(PROJECT, name)
    for each in suite["expectations"]:
        assert each["meta"]["why"].endswith("."), each
        assert each["severity"] in {"critical", "warning"}, each
    assert any(each["severity"] == "critical" for each in suite["expectations"])


@pytest.mark.parametrize("name", SINKS)
def test_a_suite_speaks_of_columns_that_its_sink_has(name: str) -> None:
    pipeline, sink = SINKS[name]
    there = {*sink.columns, *added_columns(pipeline, sink)}
    for each in load_suite(PROJECT, name)["expectations"]:
        assert _columns(each["kwargs"]) <= there, each


@pytest.mark.parametrize("name", SINKS)
def test_a_suite_names_exactly_the_columns_that_a_check_reads(name: str) -> None:
    pipeline, sink = SINKS[name]
    archived = {"key", "value", "headers"} if sink.kind == "iceberg" else set()
    (schema,) = [
        each
        for each in load_suite(PROJECT, name)["expectations"]
        if each["type"] == "expect_table_columns_to_match_set"
    ]
    assert set(schema["kwargs"]["column_set"]) == {*sink.columns, *added_columns(pipeline, sink)} | archived
    assert schema["kwargs"]["exact_match"] is True


@pytest.mark.parametrize("name", SINKS)
def test_a_suite_asks_for_types_required_columns_volume_freshness_and_one_row_a_key(name: str) -> None:
    _, sink = SINKS[name]
    found = [
        (each["type"].removeprefix("expect_"), each["kwargs"]) for each in load_suite(PROJECT, name)["expectations"]
    ]
    not_null = {kwargs["column"] for kind, kwargs in found if kind == "column_values_to_not_be_null"}
    assert {column for column, spec in sink.columns.items() if spec.required} <= not_null
    assert ("column_values_to_be_null", {"column": "_schema_error"}) in found
    assert any(kwargs.get("column") == "_behind_seconds" for _, kwargs in found)
    assert any("row_count" in kind or kwargs.get("column") == "_copies" for kind, kwargs in found)
    unique = [_columns(kwargs) for kind, kwargs in found if "unique" in kind]
    assert sink.kind == "files" or set(sink.key) in unique or {"_id"} in unique


@pytest.mark.parametrize("name", FILES)
def test_a_suite_has_only_parameters_that_a_check_gives(name: str) -> None:
    given = GIVEN_TO_STAGES if name in STAGES else GIVEN
    for each in load_suite(PROJECT, name)["expectations"]:
        for value in each["kwargs"].values():
            assert not isinstance(value, dict) or (set(value) == {"$PARAMETER"} and value["$PARAMETER"] in given), each


@pytest.mark.parametrize("name", SINKS)
def test_windows_bounds_and_skews_are_those_of_the_pipeline_file(name: str) -> None:
    pipeline, sink = SINKS[name]
    query = pipeline.queries.get(sink.query)
    kwargs = {
        (each["kwargs"].get("column"), each["type"]): each["kwargs"]
        for each in load_suite(PROJECT, name)["expectations"]
    }
    if query and query.aggregate and query.aggregate.window:
        size = query.aggregate.window.size.total_seconds()
        lengths = kwargs["_window_start_to_window_end_seconds", "expect_column_values_to_be_in_set"]
        assert lengths["value_set"] == [size]
    if query and query.join and query.join.time_range and query.join.time_range.upper:
        delay = kwargs["_impr_date_to_click_date_seconds", "expect_column_values_to_be_between"]
        bounds = query.join.time_range
        assert (delay["min_value"], delay["max_value"]) == (
            bounds.lower.total_seconds(),
            bounds.upper.total_seconds(),
        )
    ahead = kwargs.get(("_ahead_seconds", "expect_column_values_to_be_between"))
    topics = query.sources if query else [sink.query.partition("_")[2]]
    skews = [event.accepted_skew.total_seconds() for topic in topics if (event := pipeline.sources[topic].event_time)]
    if ahead and skews:
        assert ahead["max_value"] == max(skews)
    bound = kwargs.get((None, "expect_table_row_count_to_be_between"), {}).get("max_value")
    if bound is not None:
        assert bound == next(iter(pipeline.sources.values())).columns["product_id"].max_distinct


def test_what_other_tables_say_of_a_row_follows_from_the_pipeline_file() -> None:
    pipeline = PIPELINES["pos_sales"]
    added = {sink.query: added_columns(pipeline, sink) for sink in sinks_of(pipeline)}
    assert [name for name, columns in added.items() if "_known_in_product_totals" in columns] == [
        "tumbling",
        "sliding",
        "final_windows",
    ]
    assert [name for name, columns in added.items() if "_tumbling_sales" in columns] == ["sliding"]


def test_the_users_table_is_checked_with_all_its_columns() -> None:
    sink = find(PIPELINES.values(), "cassandra.test_db.users")
    assert list(sink.columns) == ["login_id", "user_name", "last_login", "last_device"]
    assert sink.key == ("login_id",)


def test_an_unknown_sink_is_refused_with_those_there_are(project: Path) -> None:
    with pytest.raises(HeadraceError, match=r"There is no sink 'kafka.nope': there is cassandra\.ad_attribution"):
        find(PIPELINES.values(), "kafka.nope")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, "is missing: write the expectations of a.b there", id="no file"),
        pytest.param("{", "is not JSON", id="no JSON"),
        pytest.param('{"name": "c"}', "calls itself 'c': the suite's name is the file's, 'a.b'.", id="another name"),
    ],
)
def test_a_suite_that_cannot_be_loaded_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    (tmp_path / "expectations").mkdir()
    if text is not None:
        (tmp_path / "expectations" / "a.b.json").write_text(text)
    with pytest.raises(HeadraceError, match=says):
        load_suite(tmp_path, "a.b")
