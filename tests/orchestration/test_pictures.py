"""The pictures of the Streams page show what is known: values at their time and height, gaps as gaps, every sink once."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from headrace.contract.checked_sinks import sinks_of
from headrace.contract.load import load_pipelines
from headrace.operations.supervisor.history import EVERY_MS, KEPT_MS, Measure, Point
from headrace.orchestration import pictures
from headrace.orchestration.pictures import BOX, HEIGHT, ROW, SPACE, WIDTH

NOW = 1_800_000_000_000


def _points(*lags: int | None, until_ms: int = NOW) -> list[Point]:
    """Return one point every EVERY_MS, the last at `until_ms`."""
    first = until_ms - (len(lags) - 1) * EVERY_MS
    return [Point(first + number * EVERY_MS, {"q": Measure(lag)}) for number, lag in enumerate(lags)]


def _heights(path: str) -> list[float]:
    return [float(y) for y in re.findall(r"[ML][\d.-]+ ([\d.-]+)", path)]


def test_the_highest_value_is_at_the_top_and_the_newest_at_the_right() -> None:
    plot = pictures.plots(_points(0, 100, 50), "q", NOW, 2000).lag
    assert plot is not None
    low, high, newest = _heights(plot.path)
    assert low == HEIGHT - 1
    assert 0 < high < newest < low
    assert re.findall(r"[ML]([\d.]+) ", plot.path)[-1] == str(float(WIDTH))
    assert plot.title == "lag in the last hour: newest 50, highest 100 offsets"
    assert plot.limit_y is None


def test_a_time_without_observation_is_a_gap_and_older_points_are_left_out() -> None:
    points = [*_points(1, 2, until_ms=NOW - 1_800_000), *_points(3, 4), *_points(9, until_ms=NOW - KEPT_MS)]
    plot = pictures.plots(sorted(points, key=lambda point: point.at_ms), "q", NOW, 2000).lag
    assert plot is not None
    assert plot.path.count("M") == 2
    assert "highest 4 " in plot.title


def test_what_is_not_known_has_no_plot_and_a_query_that_is_always_at_zero_has_a_flat_one() -> None:
    assert pictures.plots(_points(None, None), "q", NOW, 2000).lag is None
    assert pictures.plots([], "q", NOW, 2000) == pictures.QueryPlots()
    flat = pictures.plots(_points(0, 0, 0), "q", NOW, 2000).lag
    assert flat is not None
    assert set(_heights(flat.path)) == {HEIGHT - 1}


def test_the_duration_of_batches_is_drawn_against_the_trigger() -> None:
    points = [Point(NOW, {"q": Measure(took_ms=500)})]
    plot = pictures.plots(points, "q", NOW, 2000).took
    assert plot is not None
    assert plot.limit_y is not None
    assert plot.limit_y < _heights(plot.path)[0], "the batch took less than its trigger"
    assert "the dashed line is the trigger, 2,000 ms" in plot.title


def test_a_flow_has_every_topic_query_and_sink_once_and_lines_between_what_is_read_and_written(project: Path) -> None:
    for pipeline in load_pipelines(project / "pipelines").values():
        flow = pictures.flow(pipeline, {next(iter(pipeline.queries)): "LAGGING"})
        columns = {x: [node for node in flow.nodes if node.x == x] for x in (0, BOX + SPACE, 2 * (BOX + SPACE))}
        left, middle, right = columns.values()
        assert len(left) == len(pipeline.sources) + len(pipeline.dimensions)
        assert len(middle) == len(pipeline.queries) + len(pipeline.sources)
        assert len(right) == len(sinks_of(pipeline))
        assert [node.verdict for node in middle if node.verdict] == ["LAGGING"]
        read = sum(len(query.sources) + len(query.dimensions) for query in pipeline.queries.values())
        assert len(flow.edges) == len(right) + read + len(pipeline.sources)
        for nodes in columns.values():
            heights = sorted(node.y for node in nodes)
            assert all(b - a >= ROW for a, b in itertools.pairwise(heights)), "boxes overlap"
            assert heights[0] > 0
            assert heights[-1] < flow.height


@pytest.mark.parametrize("length", [28, 29, 200])
def test_a_long_name_is_cut_and_complete_in_its_title(project: Path, length: int) -> None:
    pipeline = next(iter(load_pipelines(project / "pipelines").values()))
    query = next(iter(pipeline.queries))
    renamed = pipeline.model_copy(
        update={"queries": {"x" * length if name == query else name: q for name, q in pipeline.queries.items()}}
    )
    (node,) = [node for node in pictures.flow(renamed, {}).nodes if node.title.startswith("query x")]
    assert len(node.label) <= 28
    assert "x" * length in node.title
