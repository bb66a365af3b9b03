"""The expectations that a pipeline file may declare, by their Great Expectations names, with their arguments.

Great Expectations takes seconds to import, so the loader reads this list. `tests/operations/quality/test_expectation_types.py`
compares the list with the installed Great Expectations.
"""

from __future__ import annotations

from pydantic.json_schema import JsonSchemaValue

_COLUMN = {"column": "column!"}
_PAIR = {"column_A": "column!", "column_B": "column!"}
_BOUNDS = {"min_value": "bound", "max_value": "bound", "strict_min": "boolean", "strict_max": "boolean"}
_MOSTLY = {"mostly": "share"}
_PAIR_NULLS = {"ignore_row_if": "pair_nulls"}
_ROW_NULLS = {"ignore_row_if": "row_nulls"}

TYPES: dict[str, dict[str, str]] = {
    "expect_column_distinct_values_to_be_in_set": _COLUMN | {"value_set": "values!"},
    "expect_column_distinct_values_to_contain_set": _COLUMN | {"value_set": "values!"},
    "expect_column_distinct_values_to_equal_set": _COLUMN | {"value_set": "values!"},
    "expect_column_max_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_mean_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_median_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_min_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_pair_values_a_to_be_greater_than_b": _PAIR | _MOSTLY | _PAIR_NULLS | {"or_equal": "boolean"},
    "expect_column_pair_values_to_be_equal": _PAIR | _MOSTLY | _PAIR_NULLS,
    "expect_column_proportion_of_non_null_values_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_proportion_of_unique_values_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_stdev_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_sum_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_unique_value_count_to_be_between": _COLUMN | _BOUNDS,
    "expect_column_value_lengths_to_be_between": _COLUMN | _MOSTLY | _BOUNDS,
    "expect_column_value_lengths_to_equal": _COLUMN | _MOSTLY | {"value": "number!"},
    "expect_column_values_to_be_between": _COLUMN | _MOSTLY | _BOUNDS,
    "expect_column_values_to_be_in_set": _COLUMN | _MOSTLY | {"value_set": "values!"},
    "expect_column_values_to_be_json_parseable": _COLUMN | _MOSTLY,
    "expect_column_values_to_be_null": _COLUMN | _MOSTLY,
    "expect_column_values_to_be_unique": _COLUMN | _MOSTLY,
    "expect_column_values_to_match_regex": _COLUMN | _MOSTLY | {"regex": "regex!"},
    "expect_column_values_to_match_regex_list": _COLUMN | _MOSTLY | {"regex_list": "regexes!", "match_on": "match_on"},
    "expect_column_values_to_match_strftime_format": _COLUMN | _MOSTLY | {"strftime_format": "text!"},
    "expect_column_values_to_not_be_in_set": _COLUMN | _MOSTLY | {"value_set": "values!"},
    "expect_column_values_to_not_be_null": _COLUMN | _MOSTLY,
    "expect_column_values_to_not_match_regex": _COLUMN | _MOSTLY | {"regex": "regex!"},
    "expect_column_values_to_not_match_regex_list": _COLUMN | _MOSTLY | {"regex_list": "regexes!"},
    "expect_compound_columns_to_be_unique": {"column_list": "columns!"} | _MOSTLY | _ROW_NULLS,
    "expect_multicolumn_sum_to_equal": {"column_list": "columns!", "sum_total": "number!"} | _MOSTLY | _ROW_NULLS,
    "expect_table_row_count_to_be_between": dict(_BOUNDS),
    "expect_table_row_count_to_equal": {"value": "number!"},
}
"""Expectation -> its arguments and the kind of value of each; `!` marks a required argument."""

SEVERITIES = ("critical", "warning")
OWN_ARGUMENTS = {"severity": "severity", "why": "sentence"}
"""What every declared expectation may say besides its arguments."""

CHOICES = {
    "match_on": ("any", "all"),
    "pair_nulls": ("both_values_are_missing", "either_value_is_missing", "neither"),
    "row_nulls": ("all_values_are_missing", "any_value_is_missing", "never"),
    "severity": SEVERITIES,
}

PARAMETERS = ("rows_out", "rows_in", "rows_least", "rows_min", "freshness_seconds", "behind_seconds")
"""What a check of a sink gives, as {"$PARAMETER": "rows_in"}."""
STAGE_PARAMETERS = ("rows_min",)
"""What the check of a dimension's stage gives."""

OF_NUMBERS = frozenset(
    name for name, arguments in TYPES.items() if "min_value" in arguments and "column" in arguments
) - {
    "expect_column_value_lengths_to_be_between",
    "expect_column_unique_value_count_to_be_between",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_proportion_of_non_null_values_to_be_between",
} | {"expect_multicolumn_sum_to_equal"}
"""Expectations whose columns must be numbers."""

OF_TEXTS = frozenset(
    name for name in TYPES if any(word in name for word in ("_lengths_", "_regex", "json_parseable", "strftime"))
)
"""Expectations whose columns must be strings."""


def json_schema() -> JsonSchemaValue:
    """Return the JSON Schema of one declared expectation: an object with one name and its arguments."""
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {name: _of(arguments) for name, arguments in TYPES.items()},
    }


def _of(arguments: dict[str, str]) -> JsonSchemaValue:
    known = arguments | OWN_ARGUMENTS
    required = sorted(name for name, kind in arguments.items() if kind.endswith("!"))
    properties = {name: _value(kind.rstrip("!")) for name, kind in known.items()}
    made = {"type": "object", "additionalProperties": False, "properties": properties}
    return made | ({"required": required} if required else {})


def _value(kind: str) -> JsonSchemaValue:
    if kind in CHOICES:
        return {"enum": list(CHOICES[kind])}
    if kind in {"bound", "number"}:
        parameter = {
            "type": "object",
            "additionalProperties": False,
            "properties": {"$PARAMETER": {"enum": list(PARAMETERS)}},
            "required": ["$PARAMETER"],
        }
        return {"anyOf": [{"type": "number"}, parameter]}
    plain: dict[str, JsonSchemaValue] = {
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "boolean": {"type": "boolean"},
        "values": {"type": "array", "minItems": 1},
        "columns": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "regexes": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    }
    return plain.get(kind, {"type": "string"})
