"""Progress where nobody looks at a terminal: one line a step."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from headrace.cli import common
from headrace.demo import screen


def test_progress_is_one_line_a_step_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(common, "errors", Console(file=written))
    with common.progress_bars() as report:
        for stage, fraction in (("kafka starts", None), ("jars", 0.5), ("jars", 1.0), ("[red]x", None)):
            report(stage, fraction)
            assert written.getvalue().splitlines()[-1] == stage
    assert written.getvalue().splitlines() == ["kafka starts", "jars", "[red]x"]


@pytest.mark.parametrize(("terminal", "lines"), [(False, ["driver pos_sales starts"]), (True, [])])
def test_the_demo_says_its_steps_where_no_screen_shows_them(terminal: bool, lines: list[str]) -> None:
    written = io.StringIO()
    screen._step(Console(file=written, force_terminal=terminal), "driver pos_sales starts")
    assert written.getvalue().splitlines() == lines
