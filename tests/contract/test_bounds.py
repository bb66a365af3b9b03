"""How many groups a state may hold by the file."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.contract.model import Pipeline
from headrace.contract.state import max_groups
from tests.contract.conftest import changed


@pytest.mark.parametrize(
    ("query", "change", "most"),
    [
        ("totals", {}, 100),
        ("totals", {"queries.totals.columns.shop.max_distinct": 150}, 150),
        ("totals", {"queries.totals.aggregate.keys": []}, 1),
        ("windows", {}, None),
        ("copied", {}, None),
        ("archive_sales", {}, None),
        ("no_such_query", {}, None),
    ],
)
def test_the_bounds_of_the_keys_bound_the_groups(query: str, change: dict[str, Any], most: int | None) -> None:
    assert max_groups(Pipeline.model_validate(changed(change)), query) == most
