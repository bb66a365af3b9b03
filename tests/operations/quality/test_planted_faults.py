"""Every expectation can fail: a fault is planted for each one, found by it, and named by its key.

Slow: Great Expectations takes 7 seconds to import and 0.05 for each of the faults.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headrace.contract.checked_sinks import sinks_of
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.driver.decode import make_decoder
from headrace.errors import HeadraceError
from headrace.operations.quality.suites import Suite, SuiteExpectation, suites
from headrace.operations.quality.summary import Summary, failures, gate, status_of
from headrace.operations.quality.validate import validate
from headrace.operations.quality.windows import Batches
from tests.driver.decode_data import reasons
from tests.operations.quality.frames import PARAMETERS, ROWS, good_frame
from tests.support.expectations import import_great_expectations

pytestmark = [pytest.mark.slow]

PROJECT = Path(__file__).resolve().parents[3]
PIPELINES = load_pipelines(PROJECT / "pipelines").values()
SINKS = {sink.name: (p, sink) for p in PIPELINES for sink in sinks_of(p)}
SUITES = {name: suite for pipeline in PIPELINES for name, suite in suites(pipeline).items()}
STAGE = "stage.user_logins.users"
NO_MATCH = ("", " ", "A A", "a", "none ", "!")

Content = dict[str, Any]
Planted = tuple[pd.DataFrame, Content, list[int]]


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    import_great_expectations()


def _good(name: str, rows: int = ROWS) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a good frame of a sink or of the stage, and its key."""
    if name == STAGE:
        users = {"login_id": [f"u{n}" for n in range(rows)], "user_name": [f"User {n}" for n in range(rows)]}
        return pd.DataFrame(users, dtype=object), ("login_id",)
    pipeline, sink = SINKS[name]
    return good_frame(pipeline, sink, rows), sink.key


def _every() -> Iterator[Any]:
    for name in SUITES:
        for expectation in SUITES[name].expectations:
            columns = [
                expectation.kwargs[key] for key in ("column", "column_A", "column_list") if key in expectation.kwargs
            ]
            yield pytest.param(name, expectation.id, id=f"{name}-{expectation.type}-{columns}")


def _cells(kwargs: Content, *wrong: Any) -> Callable[[pd.DataFrame], Planted]:
    """Put wrong values into row 3, or into every second row where a share of wrong rows is allowed."""

    def plant(frame: pd.DataFrame) -> Planted:
        name = kwargs["column"]
        at = [3] if "mostly" not in kwargs else list(range(0, len(frame), 2))
        column = frame[name].astype(object).copy()
        for position in at:
            column.iloc[position] = wrong[0]
        return frame.assign(**{name: column.convert_dtypes() if column.dtype == "Int64" else column}), {}, at

    return plant


def _same(columns: list[str]) -> Callable[[pd.DataFrame], Planted]:
    def plant(frame: pd.DataFrame) -> Planted:
        changed = frame.copy()
        for name in columns:
            changed.loc[3, name] = changed.loc[5, name]
        return changed, {}, [3, 5]

    return plant


def _pair(kwargs: Content) -> Callable[[pd.DataFrame], Planted]:
    def plant(frame: pd.DataFrame) -> Planted:
        at, name = list(range(0, len(frame), 2)), kwargs["column_A"]
        changed = frame[name].astype(object).copy()
        changed.iloc[at] = [value + 1 for value in changed.to_numpy()[at]]
        return frame.assign(**{name: changed}), {}, at

    return plant


def _beyond(bounds: Content) -> Any:
    """Return a value outside of [min_value, max_value]; a parameter stands for its value."""
    low, high = (_value(bounds.get(key)) for key in ("min_value", "max_value"))
    return high + 1 if high is not None else low - 1


def _value(bound: Any) -> Any:
    return PARAMETERS[bound["$PARAMETER"]] if isinstance(bound, dict) else bound


def _faults(kind: str, kwargs: Content) -> Callable[[pd.DataFrame], Planted]:
    if kind == "table_columns_to_match_set":
        return lambda frame: (frame.assign(stranger=1), {}, [])
    if kind == "table_row_count_to_equal":
        return lambda frame: (frame.iloc[1:], {}, [])
    if kind == "table_row_count_to_be_between":
        high = kwargs.get("max_value")
        size = 0 if high is None else high + 1
        return lambda frame: (frame.iloc[[0] * size] if size else frame.iloc[:0], {}, [])
    if kind in {"column_max_to_be_between", "column_sum_to_be_between"}:
        shift = -1 if "max_value" not in kwargs else 0
        if shift:
            return lambda frame: (frame.iloc[1:], {}, [])
        return lambda frame: (_cells(kwargs, int(_beyond(kwargs)))(frame)[0], {}, [])
    return {
        "column_values_to_not_be_null": _cells(kwargs, None),
        "column_values_to_be_null": _cells(kwargs, "amount is 'x', no decimal(12,2)"),
        "column_values_to_be_between": _cells(kwargs, None if "value_set" in kwargs else _beyond_or_none(kwargs)),
        "column_values_to_be_in_set": _cells(kwargs, _other(kwargs.get("value_set", []))),
        "column_values_to_match_regex": _cells(kwargs, _unmatched(kwargs.get("regex", "x"))),
        "column_value_lengths_to_be_between": _cells(kwargs, "x" * (kwargs.get("max_value", 0) + 1)),
        "column_values_to_be_unique": _same([kwargs.get("column", "")]),
        "compound_columns_to_be_unique": _same(kwargs.get("column_list", [])),
        "column_pair_values_to_be_equal": _pair(kwargs),
    }[kind]


def _beyond_or_none(kwargs: Content) -> Any:
    return _beyond(kwargs) if {"min_value", "max_value"} & set(kwargs) else None


def _other(values: list[Any]) -> Any:
    return False if values == [True] else 7 if values and isinstance(values[0], int) else "another"


def _unmatched(regex: str) -> str:
    return next(text for text in NO_MATCH if not re.search(regex, text))


@pytest.mark.parametrize("name", SUITES)
def test_a_healthy_sink_keeps_every_expectation(name: str) -> None:
    frame, key = _good(name)
    outcomes, result = validate(SUITES[name], frame, key, PARAMETERS)
    assert [(outcome.text, outcome.error) for outcome in outcomes if not outcome.success] == []
    assert status_of(outcomes) == "PASSED"
    assert result["success"] is True


@pytest.mark.parametrize("name", [name for name in SUITES if name != "kafka.attributed"])
def test_a_sink_that_has_lost_all_its_rows_fails_by_their_number(name: str) -> None:
    frame, key = _good(name, rows=0)
    outcomes, _ = validate(SUITES[name], frame, key, PARAMETERS)
    critical = [outcome.type for outcome in outcomes if not outcome.success and outcome.severity == "critical"]
    assert any(kind.startswith("expect_table_row_count") for kind in critical)
    assert set(critical) <= {
        "expect_table_row_count_to_equal",
        "expect_table_row_count_to_be_between",
        "expect_column_sum_to_be_between",
    }


@pytest.mark.parametrize(("name", "expectation_id"), list(_every()))
def test_a_planted_fault_is_found_and_its_keys_are_named(name: str, expectation_id: str) -> None:
    suite = SUITES[name]
    good, key = _good(name)
    (expectation,) = [candidate for candidate in suite.expectations if candidate.id == expectation_id]
    plant = _faults(expectation.type.removeprefix("expect_"), expectation.kwargs)
    frame, parameters, at = plant(good)
    (outcome,), _ = validate(replace(suite, expectations=(expectation,)), frame, key, PARAMETERS | parameters)
    assert not outcome.success
    assert outcome.error == ""
    assert outcome.id == expectation_id
    keys = [tuple(str(row[part]) for part in key) for row in outcome.rows]
    wanted = [tuple(_text(frame.loc[position, part]) for part in key) for position in at]
    assert keys == wanted


@pytest.mark.parametrize("name", ["cassandra.pos_sales.product_totals", "cassandra.pos_sales.leaderboard"])
def test_a_table_of_totals_that_lost_some_of_its_rows_fails_by_what_the_ledger_says_was_taken(name: str) -> None:
    """`rows >= 1` held for a table that had lost 99.9 % of its rows."""
    frame, key = _good(name)
    taken = PARAMETERS | {"rows_least": int(frame["sales"].sum())}
    assert status_of(validate(SUITES[name], frame, key, taken)[0]) == "PASSED"
    outcomes, _ = validate(SUITES[name], frame.iloc[1:], key, taken)
    assert [outcome.text for outcome in outcomes if not outcome.success] == ["column_sum_to_be_between(sales)"]
    assert status_of(outcomes) == "FAILED"


ODD_TEXTS = (
    "",
    " ",
    "BANK CHARGES",
    "a\nb",
    "x" * 300,
    "ŁÓDŹ",
    "a:b",
    ":",
    "İ",
    "\u2028",
    "none",
    "NULL",
    '"',
    "tab\t",
)
DERIVED: dict[str, tuple[str, Callable[[str], str]]] = {
    "lower_city": ("city", str.lower),
    "behavior": ("event", "a.example:{}".format),
    "impr_uuid": ("uuid", str),
}
"""Column of a sink -> the source's column that it is made of, and how; every other one has its source's name."""
NOT_FROM_A_SOURCE = {"board", "click_key", "topic", "reason"}


@pytest.mark.parametrize("name", [name for name, (_, sink) in SINKS.items() if sink.kind != "iceberg"])
def test_whatever_text_the_contract_takes_passes_the_critical_expectations_of_its_sinks(name: str, seed: int) -> None:
    """C19: "BANK CHARGES" was accepted, and shut the gates of six sinks for ever; so was an empty city."""
    pipeline, sink = SINKS[name]
    draw = random.Random(seed)
    drawn = ["".join(draw.choices("aZ :._-\u00e9\u4e2d\r\n", k=draw.randrange(1, 70))) for _ in range(ROWS)]
    texts = list(dict.fromkeys([*ODD_TEXTS, *drawn]))
    for first in range(0, len(texts), ROWS):
        portion = texts[first : first + ROWS]
        frame = good_frame(pipeline, sink, len(portion))
        for column, spec in sink.columns.items():
            if spec.type == "string" and column not in NOT_FROM_A_SOURCE:
                origin, made = DERIVED.get(column, (column, str))
                taken = _taken(pipeline, origin, portion)
                assert len(taken) >= len(portion) - 1, "all but an empty key"
                frame[column] = [made(text if text in taken else f"k{at}") for at, text in enumerate(portion)]
        outcomes, _ = validate(SUITES[name], frame, sink.key, PARAMETERS | {"rows_out": len(portion)})
        assert [outcome.text for outcome in outcomes if outcome.severity == "critical" and not outcome.success] == []


def _taken(pipeline: Pipeline, column: str, texts: list[str]) -> set[str]:
    """Return the texts that the decoders of all sources with this column accept in it."""
    usual = {"string": "k", "timestamp": "2026-03-01T10:00:00Z", "date": "2026-03-01", "boolean": True}
    taken = set(texts)
    for source in pipeline.sources.values():
        if column in source.columns:
            record = {name: usual.get(spec.type, 1) for name, spec in source.columns.items()}
            judged = reasons(make_decoder(source), [json.dumps(record | {column: text}).encode() for text in texts])
            taken &= {text for text, reason in zip(texts, judged, strict=True) if reason is None}
    return taken


def _text(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return "None"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def test_an_expectation_that_cannot_be_judged_has_failed_and_says_why() -> None:
    pipeline, sink = SINKS["cassandra.pos_sales.product_totals"]
    suite = SUITES[sink.name]
    outcomes, _ = validate(suite, good_frame(pipeline, sink).drop(columns="sales"), sink.key, PARAMETERS)
    broken = {outcome.text: outcome.error for outcome in outcomes if outcome.error}
    assert "column_values_to_not_be_null(sales)" in broken
    assert all('The column "sales" in BatchData does not exist.' in error for error in broken.values())


def test_a_parameter_that_no_check_gives_is_refused_in_one_sentence() -> None:
    pipeline, sink = SINKS["cassandra.pos_sales.product_totals"]
    suite = SUITES[sink.name]
    says = r"product_totals uses an unknown parameter \(No value found for \$PARAMETER rows_min\)\. Known parameters: rows\."
    with pytest.raises(HeadraceError, match=says):
        validate(suite, good_frame(pipeline, sink), sink.key, {"rows": 1})


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        pytest.param("expect_nothing", {}, id="an unknown type"),
        pytest.param("expect_column_values_to_not_be_null", {"colum": "a"}, id="an argument that it does not take"),
    ],
)
def test_an_expectation_that_great_expectations_does_not_take_is_refused(kind: str, kwargs: Content) -> None:
    suite = Suite("a", "1", (SuiteExpectation("1", kind, kwargs, "critical", {}),))
    with pytest.raises(HeadraceError, match=r"The suite a is not valid"):
        validate(suite, pd.DataFrame({"a": [1]}), (), {})


def test_the_gate_stops_at_a_critical_finding_and_lets_a_warning_pass() -> None:
    pipeline, sink = SINKS["kafka.pos_items"]
    suite = SUITES[sink.name]
    frame = good_frame(pipeline, sink)
    frame.loc[4, "product_id"] = None
    outcomes, _ = validate(suite, frame, sink.key, PARAMETERS)
    summary = Summary(
        sink=sink.name,
        window=Batches(name="batches 0 to 1"),
        status=status_of(outcomes),
        failed=failures(outcomes),
        rows=len(frame),
        expectations=len(outcomes),
    )
    assert summary.status == "FAILED"
    with pytest.raises(
        HeadraceError, match=r"kafka\.pos_items \(batches 0 to 1\) breaks 1 critical expectation"
    ) as refused:
        gate(summary)
    assert "'_offset': 4" in str(refused.value)
    assert "column_values_to_not_be_null(product_id) in 1 rows" in str(refused.value)

    odd = good_frame(pipeline, sink)
    odd["amount"] = [*odd["amount"][:4], Decimal(2_000_000), *odd["amount"][5:]]
    outcomes, _ = validate(suite, odd, sink.key, PARAMETERS)
    summary = replace(summary, status=status_of(outcomes), failed=failures(outcomes))
    assert summary.status == "WARNED"
    assert "warning: column_values_to_be_between(amount) in 1 rows" in gate(summary)

    late = good_frame(pipeline, sink).assign(_behind_seconds=99.5)
    outcomes, _ = validate(suite, late, sink.key, PARAMETERS)
    summary = replace(summary, status=status_of(outcomes), failed=failures(outcomes))
    assert summary.status == "STALE"
    with pytest.raises(HeadraceError, match="is stale: no batch has finished for longer than the pipeline promises"):
        gate(summary)
