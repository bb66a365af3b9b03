"""The list of expectations that a pipeline file may declare is that of the installed Great Expectations.

Slow: Great Expectations takes 7 seconds to import.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from headrace.contract.expectation_types import OF_NUMBERS, OF_TEXTS, TYPES
from tests.support.expectations import import_great_expectations

pytestmark = [pytest.mark.slow]

# What every expectation takes, and what a pipeline file does not offer.
NOT_OFFERED = {"batch_id", "row_condition", "condition_parser", "library_metadata"}
# SQL only, of several batches, derived from the contract already, or of no use on typed columns.
LEFT_OUT = {
    "expect_column_kl_divergence_to_be_less_than",
    "expect_column_most_common_value_to_be_in_set",
    "expect_column_pair_values_to_be_in_set",
    "expect_column_quantile_values_to_be_between",
    "expect_column_to_exist",
    "expect_column_type_to_be",
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_be_dateutil_parseable",
    "expect_column_values_to_be_decreasing",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_match_json_schema",
    "expect_column_values_to_match_like_pattern",
    "expect_column_values_to_match_like_pattern_list",
    "expect_column_values_to_not_be_outliers",
    "expect_column_values_to_not_match_like_pattern",
    "expect_column_values_to_not_match_like_pattern_list",
    "expect_multicolumn_values_to_be_equal",
    "expect_query_results_to_match_comparison",
    "expect_select_column_values_to_be_unique_within_record",
    "expect_table_column_count_to_be_between",
    "expect_table_column_count_to_equal",
    "expect_table_columns_to_match_ordered_list",
    "expect_table_columns_to_match_set",
    "expect_table_row_count_to_equal_other_table",
    "unexpected_rows_expectation",
}


@pytest.fixture(scope="module")
def offered() -> dict[str, dict[str, bool]]:
    """Return Great Expectations' own expectations: name -> argument -> whether it is required."""
    import_great_expectations()
    import great_expectations.expectations as gxe
    from great_expectations.expectations.expectation import Expectation

    expectation_types: dict[str, dict[str, bool]] = {}
    for value in vars(gxe).values():
        one: Any = value
        if inspect.isclass(one) and issubclass(one, Expectation) and getattr(one, "expectation_type", None):
            fields = {name: field for name, field in one.__fields__.items() if name not in Expectation.__fields__}
            expectation_types[one.expectation_type] = {
                name: bool(field.required) for name, field in fields.items() if name not in NOT_OFFERED
            }
    return expectation_types


def test_every_expectation_of_great_expectations_is_offered_or_left_out_on_purpose(
    offered: dict[str, dict[str, bool]],
) -> None:
    assert set(offered) == set(TYPES) | LEFT_OUT
    assert not set(TYPES) & LEFT_OUT


@pytest.mark.parametrize("name", TYPES)
def test_the_arguments_of_an_expectation_are_those_of_great_expectations(
    offered: dict[str, dict[str, bool]], name: str
) -> None:
    assert set(TYPES[name]) == set(offered[name])
    required = {argument for argument, kind in TYPES[name].items() if kind.endswith("!")}
    assert {argument for argument, needed in offered[name].items() if needed} <= required


def test_no_expectation_asks_for_numbers_and_for_texts() -> None:
    assert set(TYPES) >= OF_NUMBERS | OF_TEXTS
    assert not OF_NUMBERS & OF_TEXTS
