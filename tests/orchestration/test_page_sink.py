"""The page of a sink: its columns, its checks in plain words, and what the newest check found, broken ones first."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contract.checked_sinks import sinks_of
from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.quality import suites, trend
from headrace.operations.quality.status import Status
from headrace.operations.quality.summary import Failure, Summary
from headrace.operations.quality.windows import Batches
from headrace.orchestration import page, page_sink
from headrace.orchestration.page_sink import SinkPage
from headrace.store import paths, records

SINK = "kafka.pos_items"
EVIL = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def pipelines(project: Path) -> dict[str, Pipeline]:
    return load_pipelines(project / "pipelines")


def _page(root: Path, pipelines: dict[str, Pipeline], name: str = SINK) -> SinkPage:
    return page_sink.page_of(str(root), pipelines, name)


def _checked(root: Path, status: Status, rows: int, *failed: Failure, at_ms: int = 1_800_000_000_000) -> None:
    window = Batches(name=f"batches of {at_ms}")
    summary = Summary(SINK, "pos_sales", "items", status, window, at_ms, rows=rows, failed=failed)
    records.write(paths.quality_latest(str(root), SINK), summary)
    trend.remember(str(root), summary)


def test_every_sink_has_a_page_before_its_first_check(tmp_path: Path, pipelines: dict[str, Pipeline]) -> None:
    for pipeline in pipelines.values():
        for sink in sinks_of(pipeline):
            shown = _page(tmp_path, pipelines, sink.name)
            assert [column.name for column in shown.columns] == list(sink.columns)
            assert {line.result for line in shown.checks} == {"not checked"}
            assert len(shown.checks) == len(suites.suite_of(pipeline, sink.name).expectations)
            assert shown.look
            assert "not checked yet" in page.render("sink.html", title=sink.name, nonce="n", s=shown)


def test_a_broken_expectation_comes_first_with_its_rows_and_the_others_are_met(
    tmp_path: Path, pipelines: dict[str, Pipeline]
) -> None:
    expectation = suites.suite_of(pipelines["pos_sales"], SINK).expectations[-1]
    rows = ({"_partition": 0, "_offset": 7, "product_id": EVIL},)
    _checked(tmp_path, "FAILED", 40, Failure(expectation.id, "x", "critical", "Why.", 2, 5.0, examples=rows))
    shown = _page(tmp_path, pipelines)
    first, *others = shown.checks
    assert (first.met, first.result) == (False, "2 rows (5 %)")
    assert first.examples == (f"_offset = 7, _partition = 0, product_id = {EVIL}",)
    assert {line.result for line in others} == {"met"}
    html = page.render("sink.html", title=SINK, nonce="n", s=shown)
    assert EVIL not in html
    assert "_offset = 7" in html


def test_a_sink_that_could_not_be_read_says_nothing_of_its_expectations(
    tmp_path: Path, pipelines: dict[str, Pipeline]
) -> None:
    _checked(tmp_path, "UNREADABLE", 0)
    assert {line.result for line in _page(tmp_path, pipelines).checks} == {"not checked"}


def test_the_plot_has_the_newest_thirty_checks_oldest_first_by_their_rows(
    tmp_path: Path, pipelines: dict[str, Pipeline]
) -> None:
    for number in range(40):
        _checked(tmp_path, "PASSED", number, at_ms=1_800_000_000_000 + number)
    bars = _page(tmp_path, pipelines).bars
    assert len(bars) == 30
    assert [bar.x for bar in bars] == [number * page_sink.BAR for number in range(30)]
    assert [bar.height for bar in bars] == sorted(bar.height for bar in bars)
    assert bars[-1].height == page_sink.HEIGHT


def test_an_unknown_sink_is_refused_with_the_names_that_exist(tmp_path: Path, pipelines: dict[str, Pipeline]) -> None:
    with pytest.raises(HeadraceError, match=r"Unknown sink 'nope'\. Known sinks: cassandra\."):
        _page(tmp_path, pipelines, "nope")
