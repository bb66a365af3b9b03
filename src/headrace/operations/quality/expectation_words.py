"""What an expectation asks, in plain words, for the page of a sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# What Great Expectations gets as {"$PARAMETER": name}: values that each check takes from the ledger and the pipeline file.
_PARAMETERS = {
    "freshness_seconds": "the promised freshness in seconds",
    "rows_min": "the expected minimum",
    "rows_out": "the rows that the ledger records",
    "rows_in": "the records that the query has read",
    "rows_least": "the records that the query has read, less its dead letters",
}


def in_words(kind: str, arguments: Mapping[str, Any]) -> str:
    """Return an expectation as a sentence without a full stop; `kind` and `arguments` are Great Expectations' type and kwargs."""
    words = _WORDS.get(kind)
    if words is None:
        return f"{kind.removeprefix('expect_').replace('_', ' ')}: {_listed(arguments)}"
    share = arguments.get("mostly")
    return words(arguments) + (f", in at least {share:.0%} of the rows" if share is not None else "")


def _value(value: object) -> str:
    """Return a bound or value; {"$PARAMETER": name} by what it stands for."""
    if isinstance(value, Mapping):
        name = str(value.get("$PARAMETER", ""))
        return _PARAMETERS.get(name, name.replace("_", " "))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _between(arguments: Mapping[str, Any]) -> str:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if low is None:
        return f"at most {_value(high)}"
    return f"at least {_value(low)}" if high is None else f"between {_value(low)} and {_value(high)}"


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in arguments.items())


def _columns(names: list[str]) -> str:
    return ", ".join(sorted(name for name in names if not name.startswith("_")))


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "expect_table_columns_to_match_set": lambda a: f"the columns are exactly {_columns(a['column_set'])}",
    "expect_table_row_count_to_equal": lambda a: f"the number of rows is {_value(a['value'])}",
    "expect_table_row_count_to_be_between": lambda a: f"the number of rows is {_between(a)}",
    "expect_column_values_to_be_null": lambda a: f"{a['column']} is always empty",
    "expect_column_values_to_not_be_null": lambda a: f"{a['column']} is never empty",
    "expect_column_values_to_be_unique": lambda a: f"no value of {a['column']} is there twice",
    "expect_compound_columns_to_be_unique": lambda a: f"no combination of {', '.join(a['column_list'])} is there twice",
    "expect_column_values_to_be_between": lambda a: f"{a['column']} is {_between(a)}",
    "expect_column_max_to_be_between": lambda a: f"the highest {a['column']} is {_between(a)}",
    "expect_column_sum_to_be_between": lambda a: f"the sum of {a['column']} is {_between(a)}",
    "expect_column_value_lengths_to_be_between": lambda a: f"the length of {a['column']} is {_between(a)}",
    "expect_column_values_to_be_in_set": lambda a: f"{a['column']} is one of {', '.join(map(str, a['value_set']))}",
    "expect_column_values_to_match_regex": lambda a: f"{a['column']} matches {a['regex']}",
    "expect_column_pair_values_to_be_equal": lambda a: f"{a['column_A']} equals {a['column_B']}",
}
