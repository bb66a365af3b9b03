"""Suites are derived from the pipeline file: what follows, what is declared, and the committed rendering."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.contract.checked_sinks import added_columns, find, sinks_of, stages_of
from headrace.contract.load import load_pipeline, load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.quality import suites as rendering
from headrace.operations.quality.suites import Suite, suite_of, suites, text

PROJECT = Path(__file__).resolve().parents[3]
PIPELINES = load_pipelines(PROJECT / "pipelines")
SINKS = {sink.name: (pipeline, sink) for pipeline in PIPELINES.values() for sink in sinks_of(pipeline)}
STAGES = {name for pipeline in PIPELINES.values() for name in stages_of(pipeline)}
SUITES = {name: suite for pipeline in PIPELINES.values() for name, suite in suites(pipeline).items()}
# What the parts of the code give: look._parameters and users.stage.
GIVEN = {"rows_out", "rows_in", "rows_least", "rows_min", "freshness_seconds", "behind_seconds"}
GIVEN_TO_STAGES = {"rows_min"}

Changed = Callable[[str, Callable[[dict[str, Any]], None]], Pipeline]


def _columns(kwargs: dict[str, Any]) -> set[str]:
    named = {kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs}
    return named | set(kwargs.get("column_list", ()))


def _expectations(suite: Suite) -> list[tuple[str, dict[str, Any], str]]:
    return [
        (expectation.type.removeprefix("expect_"), expectation.kwargs, expectation.severity)
        for expectation in suite.expectations
    ]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """Return a function that loads a pipeline of the project with a change of its content."""

    def load(name: str, edit: Callable[[dict[str, Any]], None]) -> Pipeline:
        content = yaml.safe_load((PROJECT / "pipelines" / f"{name}.yaml").read_text())
        edit(content)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_pipeline(path)

    return load


def test_the_rendered_suites_are_those_of_the_pipeline_files() -> None:
    """`make schema` writes them; a pipeline without its own files is complete, for nothing reads them."""
    rendered = {path.stem: path.read_text() for path in (PROJECT / "expectations").glob("*.json")}
    assert rendered == {name: text(suite) for name, suite in SUITES.items()}


def test_rendering_writes_every_suite_and_removes_those_that_are_gone(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "pipelines", tmp_path / "pipelines")
    (tmp_path / "pipelines" / "web_events.yaml").unlink()
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations" / "kafka.transformed.json").write_text("{}")
    rendering.render(tmp_path)
    written = {path.stem for path in (tmp_path / "expectations").iterdir()}
    assert written == {name for name in SUITES if name not in suites(PIPELINES["web_events"])}


def test_every_sink_and_every_stage_has_a_suite_and_no_suite_is_without_sink() -> None:
    assert set(SUITES) == set(SINKS) | STAGES


def test_a_suite_of_another_pipeline_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        HeadraceError, match=r"Pipeline web_events has no sink or stage 'kafka.nope'. It has: files\.web"
    ):
        suite_of(PIPELINES["web_events"], "kafka.nope")


def test_every_id_is_given_once_and_the_same_each_time() -> None:
    ids = [suite.id for suite in SUITES.values()]
    ids += [expectation.id for suite in SUITES.values() for expectation in suite.expectations]
    again = [suite for pipeline in PIPELINES.values() for suite in suites(pipeline).values()]
    assert again == list(SUITES.values())
    assert {str(uuid.UUID(expectation_id)) for expectation_id in ids} == set(ids)
    assert [expectation_id for expectation_id, count in Counter(ids).items() if count > 1] == []


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_says_its_name_why_and_how_severe(name: str) -> None:
    suite = SUITES[name]
    for expectation in suite.expectations:
        assert expectation.meta["why"].endswith("."), expectation
        assert expectation.severity in {"critical", "warning"}, expectation
    assert any(expectation.severity == "critical" for expectation in suite.expectations)


@pytest.mark.parametrize("name", SINKS)
def test_a_suite_speaks_of_columns_that_its_sink_has(name: str) -> None:
    pipeline, sink = SINKS[name]
    there = {*sink.columns, *added_columns(pipeline, sink)}
    for expectation in SUITES[name].expectations:
        assert _columns(expectation.kwargs) <= there, expectation


@pytest.mark.parametrize("name", SINKS)
def test_a_suite_names_exactly_the_columns_that_a_check_reads(name: str) -> None:
    pipeline, sink = SINKS[name]
    archived = {"key", "value", "headers"} if sink.kind == "iceberg" else set()
    (schema,) = [
        expectation
        for expectation in SUITES[name].expectations
        if expectation.type == "expect_table_columns_to_match_set"
    ]
    assert set(schema.kwargs["column_set"]) == {*sink.columns, *added_columns(pipeline, sink)} | archived
    assert schema.kwargs["exact_match"] is True


@pytest.mark.parametrize("name", SINKS)
def test_a_suite_asks_for_types_required_columns_volume_freshness_and_one_row_a_key(name: str) -> None:
    _, sink = SINKS[name]
    expectations = [
        (expectation.type.removeprefix("expect_"), expectation.kwargs) for expectation in SUITES[name].expectations
    ]
    not_null = {kwargs["column"] for kind, kwargs in expectations if kind == "column_values_to_not_be_null"}
    assert {column for column, spec in sink.columns.items() if spec.required} <= not_null
    assert ("column_values_to_be_null", {"column": "_schema_error"}) in expectations
    assert any(kwargs.get("column") == "_behind_seconds" for _, kwargs in expectations)
    assert any("row_count" in kind or kwargs.get("column") == "_copies" for kind, kwargs in expectations)
    unique = [_columns(kwargs) for kind, kwargs in expectations if "unique" in kind]
    assert sink.kind == "files" or set(sink.key) in unique or {"_id"} in unique


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_only_parameters_that_a_check_gives(name: str) -> None:
    given = GIVEN_TO_STAGES if name in STAGES else GIVEN
    for expectation in SUITES[name].expectations:
        for value in expectation.kwargs.values():
            assert not isinstance(value, dict) or (set(value) == {"$PARAMETER"} and value["$PARAMETER"] in given), (
                expectation
            )


@pytest.mark.parametrize("name", SINKS)
def test_windows_bounds_and_skews_are_those_of_the_pipeline_file(name: str) -> None:
    pipeline, sink = SINKS[name]
    query = pipeline.queries.get(sink.query)
    kwargs = {
        (expectation.kwargs.get("column"), expectation.type): expectation.kwargs
        for expectation in SUITES[name].expectations
    }
    if query and query.aggregate and query.aggregate.window:
        size = query.aggregate.window.size.total_seconds()
    if query and query.aggregate and query.aggregate.window and "window_end" in sink.columns:
        lengths = kwargs["_window_start_to_window_end_seconds", "expect_column_values_to_be_in_set"]
        assert lengths["value_set"] == [size]
    if query and query.join and query.join.time_range and query.join.time_range.upper:
        delay = kwargs["_impr_date_to_click_date_seconds", "expect_column_values_to_be_between"]
        bounds = query.join.time_range
        assert bounds.upper is not None
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
    with pytest.raises(HeadraceError, match=r"Unknown sink 'kafka.nope'. Known sinks: cassandra\.ad_attribution"):
        find(PIPELINES.values(), "kafka.nope")


def test_a_declared_expectation_replaces_the_derived_one_of_its_type_and_columns() -> None:
    users = [
        expectation
        for expectation in _expectations(SUITES["cassandra.test_db.users"])
        if expectation[1].get("column") == "user_name"
    ]
    assert [(kind, kwargs.get("mostly"), severity) for kind, kwargs, severity in users] == [
        ("column_values_to_not_be_null", 0.99, "warning"),
        ("column_value_lengths_to_be_between", None, "warning"),
    ]
    bounds = [
        expectation
        for expectation in _expectations(SUITES["cassandra.pos_sales.leaderboard"])
        if "row_count" in expectation[0]
    ]
    assert len(bounds) == 2, "an expectation on the table as one replaces none"


def test_what_a_sink_declares_replaces_what_its_query_declares(changed: Changed) -> None:
    def edit(content: dict[str, Any]) -> None:
        declared = [{"expect_column_value_lengths_to_be_between": {"column": "domain", "max_value": 63}}]
        content["queries"]["topic"]["sinks"][0]["quality"] = declared

    pipeline = changed("web_events", edit)
    (lengths,) = [
        expectation
        for expectation in _expectations(suite_of(pipeline, "kafka.transformed"))
        if "lengths" in expectation[0]
    ]
    assert lengths[1:] == ({"column": "domain", "max_value": 63}, "critical")


def test_a_declared_expectation_without_severity_is_critical_and_says_where_it_comes_from(changed: Changed) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["queries"]["files"]["quality"] = [{"expect_column_values_to_be_unique": {"column": "domain"}}]

    suite = suite_of(changed("web_events", edit), "files.web_events.files")
    (unique,) = [expectation for expectation in suite.expectations if expectation.type.endswith("unique")]
    assert (unique.severity, unique.meta["why"]) == ("critical", "The pipeline file declares it.")


def test_a_table_whose_rows_expire_may_be_empty_and_judges_no_other_query(changed: Changed) -> None:
    def edit(content: dict[str, Any]) -> None:
        for query in ("product_totals", "tumbling"):
            content["queries"][query]["sinks"][0]["ttl"] = "1 days"

    pipeline = changed("pos_sales", edit)
    lowest = [
        kwargs
        for kind, kwargs, _ in _expectations(suite_of(pipeline, "cassandra.pos_sales.tumbling"))
        if "count" in kind
    ]
    assert lowest == []
    sliding = _expectations(suite_of(pipeline, "cassandra.pos_sales.sliding"))
    assert not [
        kwargs for _, kwargs, _ in sliding if _columns(kwargs) & {"_known_in_product_totals", "_tumbling_sales"}
    ]


def test_a_time_that_is_no_event_time_may_lie_in_the_future(changed: Changed) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["sources"]["logins"]["columns"]["valid_until"] = {"type": "timestamp"}

    ahead = {"column": "_ahead_seconds", "max_value": 300}
    assert ("column_values_to_be_between", ahead, "critical") in _expectations(SUITES["cassandra.test_db.users"])
    pipeline = changed("user_logins", edit)
    assert not any(
        "_ahead_seconds" in _columns(expectation[1])
        for expectation in _expectations(suite_of(pipeline, "cassandra.test_db.users"))
    )
    assert any(
        "_ahead_seconds" in _columns(expectation[1])
        for expectation in _expectations(suite_of(pipeline, "iceberg.user_logins.archive_logins"))
    )


def test_a_table_with_open_windows_has_ends_as_far_ahead_as_a_window_is_long(changed: Changed) -> None:
    def edit(content: dict[str, Any]) -> None:
        sink = content["queries"]["tumbling"]["sinks"][0]
        sink |= {"partition_key": ["product_id"], "clustering_key": ["window_start"]}

    expectations = _expectations(suite_of(changed("pos_sales", edit), "cassandra.pos_sales.tumbling"))
    assert ("column_values_to_be_between", {"column": "_ahead_seconds", "max_value": 600}, "critical") in expectations


def test_rows_of_one_identity_are_counted_one_by_one_only_where_each_is_one_row() -> None:
    counted = {
        name
        for name in SUITES
        if name.startswith("kafka.")
        and any("row_count" in expectation[0] for expectation in _expectations(SUITES[name]))
    }
    joins = {
        sink.name for pipeline, sink in SINKS.values() if sink.kind == "kafka" and pipeline.queries[sink.query].join
    }
    assert counted == {name for name in SUITES if name.startswith("kafka.")} - joins


def test_sums_of_smaller_windows_are_exact_where_no_late_row_is_dropped() -> None:
    pipeline = PIPELINES["pos_sales"]
    query = pipeline.queries["sliding"].model_copy(update={"late": "include"})
    exact = pipeline.model_copy(update={"queries": pipeline.queries | {"sliding": query}})
    for given, share in ((exact, None), (pipeline, 0.9)):
        pairs = [
            expectation
            for expectation in _expectations(suite_of(given, "cassandra.pos_sales.sliding"))
            if "pair" in expectation[0]
        ]
        assert [kwargs.get("mostly") for _, kwargs, _ in pairs] == [share, share]
