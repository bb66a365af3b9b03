"""docs/reference/limits.md says the numbers that the code has, and names a test for each line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.contract import limits

PAGE = Path(__file__).parents[2] / "docs/reference/limits.md"
ROOT = Path(__file__).parents[2]
LINES = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| what")]


@pytest.mark.parametrize("line", LINES)
def test_each_line_has_a_test(line: str) -> None:
    match = re.search(r"`(test_\w+)`(?: in `([\w/]+\.py)`)? \|$", line)
    assert match, line
    file = match[2] or "test_refused_rows.py"
    assert f"\ndef {match[1]}(" in (ROOT / (file if "/" in file else f"tests/jobs/{file}")).read_text()


@pytest.mark.parametrize(
    "number",
    [
        limits.CASSANDRA_KEY_BYTES,
        limits.CASSANDRA_ROW_BYTES,
        limits.KAFKA_RECORD_BYTES,
        limits.LETTER_KEY_BYTES,
        limits.KAFKA_RECORD_BYTES - 2 * limits.LETTER_KEY_BYTES,
    ],
)
def test_the_numbers_are_those_of_the_code(number: int) -> None:
    assert f"{number:,} " in PAGE.read_text().replace("\n", " ")
