"""Every expectation of the project's suites is said in plain words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.operations.quality.expectation_words import in_words


def test_each_expectation_of_each_suite_has_words_of_its_own(project: Path) -> None:
    said = set()
    for path in sorted((project / "expectations").glob("*.json")):
        for expectation in json.loads(path.read_text())["expectations"]:
            words = in_words(expectation["type"], expectation["kwargs"])
            assert " = " not in words, f"{expectation['type']} has no words"
            assert "$PARAMETER" not in words
            assert "{" not in words.replace(str(expectation["kwargs"].get("regex")), "")
            said.add(words)
    assert len(said) > 50


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("expect_column_values_to_not_be_null", {"column": "a"}, "a is never empty"),
        ("expect_column_values_to_be_between", {"column": "a", "min_value": 1000}, "a is at least 1,000"),
        ("expect_column_values_to_be_between", {"column": "a", "max_value": 2}, "a is at most 2"),
        ("expect_column_values_to_be_between", {"column": "a", "min_value": 0, "max_value": 2.5}, "a is between 0 and 2.5"),
        (
            "expect_column_pair_values_to_be_equal",
            {"column_A": "a", "column_B": "b", "mostly": 0.9},
            "a equals b, in at least 90% of the rows",
        ),
        (
            "expect_table_row_count_to_equal",
            {"value": {"$PARAMETER": "rows_out"}},
            "the number of rows is the rows that the ledger records",
        ),
        ("expect_column_values_to_be_in_set", {"column": "a", "value_set": ["x", 1]}, "a is one of x, 1"),
        ("expect_column_median_to_be_between", {"column": "a"}, "column median to be between: column = a"),
    ],
)  # fmt: skip
def test_bounds_shares_and_parameters_are_named(kind: str, arguments: dict[str, object], words: str) -> None:
    assert in_words(kind, arguments) == words
