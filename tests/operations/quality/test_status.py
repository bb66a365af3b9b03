"""What a check can end with: exit codes and documentation say the same as the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.operations.quality.status import EXIT_CODES, MEANING, exit_code


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["PASSED", "NOTHING", "WARNED"], 0),
        (["PASSED", "STALE"], 4),
        (["STALE", "UNREADABLE", "PASSED"], 3),
        (["UNREADABLE", "FAILED"], 1),
        (["NOTHING", "NOTHING"], 5),
        ([], 5),
    ],
)
def test_the_exit_code_is_that_of_the_worst_sink_and_nothing_compared_is_never_zero(
    statuses: list[str], code: int
) -> None:
    assert exit_code(statuses) == code


def test_every_status_and_exit_code_is_in_the_documentation(project: Path) -> None:
    guide = (project / "docs" / "howto" / "quality.md").read_text()
    assert set(MEANING) == set(EXIT_CODES)
    for status, code in EXIT_CODES.items():
        assert f"| `{status}` |" in guide
        (line,) = [row for row in guide.splitlines() if row.startswith(f"| `{status}` |")]
        assert line.endswith(f"| {code} |"), line
