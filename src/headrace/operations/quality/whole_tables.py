"""Expectations on all rows of a table together: the number of rows, and sums.

A table of one step is validated with its complete suite. In a larger one these expectations are left out of each step, and a
check that reads the complete table validates number and sums at its end; what else is of all rows is not validated there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pandas as pd

from headrace.operations.quality.suites import Suite
from headrace.operations.quality.validate import Outcome, validate
from headrace.store.records import Json

ROWS, SUM = "expect_table_row_count", "expect_column_sum"
_OF_ALL_ROWS = (
    ROWS,
    SUM,
    "expect_column_mean",
    "expect_column_median",
    "expect_column_stdev",
    "expect_column_proportion",
    "expect_column_unique_value_count",
    "expect_column_distinct_values_to_contain",
    "expect_column_distinct_values_to_equal",
)


@dataclass
class TableTotals:
    """The number of rows that the steps of a check read, and the sums of the columns for which the suite asks."""

    rows: int = 0
    sums: dict[str, Decimal] = field(default_factory=dict)

    def add(self, suite: Suite, frame: pd.DataFrame) -> None:
        """Add the rows of a step."""
        self.rows += len(frame)
        for column in {expectation.kwargs["column"] for expectation in _kept(suite, SUM).expectations} & set(frame):
            cells = (Decimal(str(cell)) for cell in frame[column].dropna())
            self.sums[column] = sum(cells, self.sums.get(column, Decimal(0)))


def of_rows(suite: Suite) -> Suite:
    """Return the suite without the expectations on all rows together."""
    return replace(suite, expectations=tuple(e for e in suite.expectations if not e.type.startswith(_OF_ALL_ROWS)))


def validated(suite: Suite, totals: TableTotals, parameters: Mapping[str, float]) -> tuple[list[Outcome], list[Json]]:
    """Validate the number of rows, and the sums, of a table that was read completely."""
    frames = {
        ROWS: pd.DataFrame(index=pd.RangeIndex(totals.rows)),
        SUM: pd.DataFrame({column: [total] for column, total in totals.sums.items()}, dtype=object),
    }
    outcomes, results = [], []
    for kind, frame in frames.items():
        if (kept := _kept(suite, kind)).expectations:
            of_kind, result = validate(kept, frame, (), parameters)
            outcomes += of_kind
            results.append(result)
    return outcomes, results


def _kept(suite: Suite, kind: str) -> Suite:
    return replace(suite, expectations=tuple(e for e in suite.expectations if e.type.startswith(kind)))
