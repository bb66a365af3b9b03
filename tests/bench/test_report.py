"""The bench's arithmetic: CPU of a million events, ratios within a round, spreads over rounds."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import report


def run(engine: str, cpu_s: float, *, events: int = 2_000_000, workload: str = "read") -> dict[str, Any]:
    """Return a run whose load costs half a second whatever its size, and `cpu_s` more for its events."""
    cost = {"cpu_s": cpu_s + 0.5, "wall_s": cpu_s / 2, "peak_rss_mb": 100}
    cost |= {"small_events": events // 4, "small_cpu_s": cpu_s / 4 + 0.5}
    return {"engine": engine, "workload": workload, "events": events, "checked": "rows equal"} | cost


# The second machine is twice as slow: the ratio does not change.
ROUNDS = [
    {"runs": [run("parse", 1.0), run("ours_items", 5.0, workload="P1")]},
    {"runs": [run("parse", 2.0), run("ours_items", 10.0, workload="P1")]},
    {"runs": [run("parse", 1.0), run("ours_items", 6.0, workload="P1")]},
]
SMALL = {
    "lines": [
        {"name": "here", "cores": 0.6, "ms_a_batch": 400.0},
        {"name": "noop", "cores": 0.1, "ms_a_batch": 160.0},
    ]
}
RESULT = {
    "date": "2026-11-29", "commit": "abc1234", "events": 2_000_000, "rounds": ROUNDS,
    "machine": {"cpu": "a <fast> CPU", "cores": 2, "memory_gib": 24, "load": 1.5},
}  # fmt: skip


def test_cpu_is_that_of_a_million_events_without_what_every_load_costs() -> None:
    assert report.cpu_per_million(run("parse", 3.0, events=1_500_000)) == pytest.approx(2.0)


def test_a_ratio_is_within_one_round() -> None:
    floor, ours = report.lines(ROUNDS)
    assert floor.ratio == report.Spread(1.0, 1.0, 1.0)
    assert ours.ratio == report.Spread(5.0, 5.0, 6.0)
    assert ours.cpu == report.Spread(3.0, 2.5, 5.0)
    assert ours.wall == report.Spread(3.0, 2.5, 5.0)


def test_rounds_without_the_floor_give_no_ratio() -> None:
    (line,) = report.lines([{"runs": [run("ours_items", 5.0)]}])
    assert line.ratio is None
    assert line.cpu.median == 2.5


def test_all_outputs_of_a_small_batch_are_compared_by_cores() -> None:
    figures = report.small_batches([{"runs": [], "small": SMALL}, {"runs": [], "small": None}])
    assert figures["ours / noop, one output"] == report.Spread(2.5, 2.5, 2.5)
    assert figures["ours / noop, all three outputs"].median == pytest.approx(6.0)
    assert report.small_batches(ROUNDS) == {}


def test_the_table_has_a_row_an_engine_with_its_spread() -> None:
    text = report.markdown(RESULT, {"parse": "the floor"})
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "| read | the floor | 0.50 (0.50 to 1.00) | 1.00 | 1.5 | 0.5 | 100 | rows equal |" in text
    assert "| P1 | ours_items | 3.00 (2.50 to 5.00) | 5.00 (5.00 to 6.00) | 6.5 | 3.0 | 100 | rows equal |" in text
    assert "commit abc1234, 2,000,000 events, 3 round(s)" in text


def test_the_plot_is_xml_and_its_bars_are_as_long_as_the_medians() -> None:
    bars = ElementTree.fromstring(report.svg(RESULT, {})).findall("{*}rect[@x]")
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths[1] / widths[0] == pytest.approx(3.0 / 0.5, rel=0.01)
    assert not re.search("<fast>", report.svg({**RESULT, "date": "<fast>"}, {}))
