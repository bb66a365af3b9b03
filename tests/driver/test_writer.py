"""Telling a refused null from other errors, without Spark (with it: tests/jobs/test_one_pass.py)."""

from __future__ import annotations

import pytest

from headrace.driver.writer import lacking

RAISED = "Caused by: java.lang.RuntimeException: headrace: a row lacks domain, event\n\tat org.apache.spark.x"
PLAN = "+- Filter CASE WHEN isnull(domain#1) THEN raise_error(concat(headrace: a row lacks , concat_ws(, , CASE WHEN"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (RAISED, "domain, event"),
        (f"{PLAN}\n{RAISED}", "domain, event"),
        (PLAN, None),
        ("java.net.ConnectException: refused", None),
    ],
)
def test_the_columns_are_read_from_the_error_and_never_from_a_plan_in_it(text: str, columns: str | None) -> None:
    assert lacking(text, ("domain", "event", "city")) == columns
