"""What a check reads is decided by watermark, ledger and the last check; a retry decides nothing anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.ledger import Record
from headrace.contract.load import load_pipelines
from headrace.operations.quality import plan, store
from headrace.operations.quality.plan import Check, Grid, closed_windows, finished_batches
from headrace.operations.quality.sinks import find, sinks_of
from headrace.operations.quality.summary import Summary
from headrace.operations.quality.validate import Outcome, json_safe

PROJECT = Path(__file__).resolve().parents[3]
PIPELINES = load_pipelines(PROJECT / "pipelines")
MINUTE = 60_000


def _record(batch: int, rows_out: int = 10, written_ms: int = 0, end: int = 0, watermark: int = 0) -> Record:
    return Record(
        query="q",
        generation=1,
        batch=batch,
        offsets={"pos": {"0": [end - 5, end], "1": [2 * end, 2 * end + 7]}},
        watermark_ms=watermark,
        late_watermark_ms=0,
        rows_in=12,
        rows_out=rows_out,
        began_ms=written_ms,
        written_ms=written_ms,
    )


@pytest.mark.parametrize(
    ("watermark", "since", "starts"),
    [
        pytest.param(60, None, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55], id="all that have closed"),
        pytest.param(59, 50, [50], id="an open window is left, one that ended at since is left"),
        pytest.param(60, 54, [50, 55], id="one that ended after since is taken"),
        pytest.param(4, None, None, id="none has closed"),
        pytest.param(60, 60, None, id="none since"),
    ],
)
def test_a_window_is_read_once_and_only_when_it_has_closed(
    watermark: int, since: int | None, starts: list[int] | None
) -> None:
    window = closed_windows(watermark * MINUTE, Grid(5 * MINUTE, 5 * MINUTE), None if since is None else since * MINUTE)
    if starts is None:
        assert window["kind"] == "nothing"
    else:
        assert window["starts_ms"] == [start * MINUTE for start in starts]
        assert window["until_ms"] == (starts[-1] + 5) * MINUTE


def test_sliding_windows_have_closed_when_their_whole_size_is_behind_the_watermark() -> None:
    window = closed_windows(62 * MINUTE, Grid(10 * MINUTE, 5 * MINUTE), 45 * MINUTE)
    assert window["starts_ms"] == [40 * MINUTE, 45 * MINUTE, 50 * MINUTE]


@pytest.mark.parametrize(("since", "starts"), [(None, [3, 13, 23, 33, 43]), (33, [33, 43]), (32, [23, 33, 43])])
def test_windows_with_an_offset_are_read_by_their_own_starts(since: int | None, starts: list[int]) -> None:
    grid = Grid(10 * MINUTE, 10 * MINUTE, 3 * MINUTE)
    window = closed_windows(60 * MINUTE, grid, None if since is None else since * MINUTE)
    assert window["starts_ms"] == [start * MINUTE for start in starts]


def test_at_most_the_newest_windows_are_read() -> None:
    window = closed_windows(10**13, Grid(5 * MINUTE, 5 * MINUTE), None)
    assert len(window["starts_ms"]) == plan.MAX_WINDOWS
    assert window["until_ms"] == 10**13 // (5 * MINUTE) * 5 * MINUTE


def test_finished_batches_are_those_since_the_last_check_as_many_as_fit() -> None:
    records = [_record(batch, rows_out=40_000, written_ms=batch * 1000) for batch in range(10)]
    assert [record["batch"] for record in finished_batches(records, 9)] == [9]
    assert [record["batch"] for record in finished_batches(records, 0)] == [8, 9]
    assert [record["batch"] for record in finished_batches(records, 10)] == []
    assert [record["batch"] for record in finished_batches(records, 0, since_ms=9_000)] == [9]
    large = [_record(0, rows_out=10**9)]
    assert finished_batches(large, 0) == large, "one batch is taken whole"


def test_the_offsets_of_consecutive_batches_are_one_range_a_partition() -> None:
    assert plan._spans([_record(0, end=5), _record(1, end=10)]) == {"0": [0, 10], "1": [10, 27]}


def test_a_query_judges_another_only_when_it_has_read_as_much() -> None:
    own = _record(3, end=10, watermark=100)
    assert plan._covers(_record(9, end=10, watermark=100), own)
    assert plan._covers(_record(9, end=11, watermark=0), own), "a query without a watermark"
    assert not plan._covers(_record(9, end=9, watermark=100), own)
    assert not plan._covers(_record(9, end=10, watermark=99), own)


def test_a_check_and_a_summary_pass_between_tasks_as_json() -> None:
    check = Check("kafka.a", "p", "q", {"kind": "batches", "name": "n"}, {"rows_out": 1}, {"totals": True})
    assert Check(**json.loads(json.dumps(check.to_json_dict()))) == check
    summary = Summary("kafka.a", "p", "q", "PASSED", {"name": "n"}, 5)
    assert Summary(**json.loads(json.dumps(summary.to_json_dict()))) == summary


def _outcome(**values: Any) -> Outcome:
    return Outcome("id-1", "expect_a", ("x",), "critical", "Why.", False, **values)


def test_the_quarantine_has_one_row_a_sink_window_expectation_and_key() -> None:
    check = Check("kafka.a", "p", "q", {"kind": "batches", "name": "batches 1 to 2"}, {"now_ms": 0})
    rows = ({"k": 1, "x": "1.50"}, {"k": 1, "x": "1.50"}, {"k": None, "x": "ł"})
    found = store.quarantine_rows(check, [_outcome(rows=rows)], ("k",))
    assert [row["row_key"] for row in found] == ["[1]", "[null]"]
    assert {(row["sink"], row["window"], row["expectation"]) for row in found} == {
        ("kafka.a", "batches 1 to 2", "a(x)")
    }
    assert found[1]["row"] == '{"k": null, "x": "ł"}'
    assert all(set(row) == set(store.QUARANTINE.columns) for row in found)


def test_reports_are_kept_by_number_and_written_again_by_a_retry(tmp_path: Path) -> None:
    root, sink = str(tmp_path), "kafka.a"
    for at in [*range(store.REPORTS_KEPT + 5), 3, store.REPORTS_KEPT + 4]:
        check = Check(sink, "p", "q", {"kind": "table", "name": f"table at {at}"}, {"now_ms": at})
        path = store.report_path(root, check)
        store.write_report(root, Summary(sink, "p", "q", "PASSED", check.window, at, report=path), {"success": True})
    kept = sorted((tmp_path / "quality" / "results" / sink).iterdir())
    assert len(kept) == store.REPORTS_KEPT
    assert kept[-1].name == f"{store.REPORTS_KEPT + 4:015d}-table-at-{store.REPORTS_KEPT + 4}.json"
    assert json.loads(kept[-1].read_text())["result"] == {"success": True}


def test_every_sink_of_every_pipeline_has_a_name_of_its_own() -> None:
    names = [sink.name for pipeline in PIPELINES.values() for sink in sinks_of(pipeline)]
    assert len(set(names)) == len(names) == 16
    assert find(PIPELINES.values(), "cassandra.pos_sales.tumbling").key == ("window_start", "product_id")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_null(value: float) -> None:
    assert json_safe({"a": [value, 1.5]}) == {"a": [None, 1.5]}
