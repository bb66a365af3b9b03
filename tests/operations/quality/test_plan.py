"""What a check reads is decided by watermark, ledger and the last check; a retry decides nothing anew."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.checked_sinks import find, sinks_of
from headrace.contract.load import load_pipelines
from headrace.operations.checkpoints import compact
from headrace.operations.quality import bounds, plan, position, steps, store
from headrace.operations.quality.plan import Check
from headrace.operations.quality.summary import Summary
from headrace.operations.quality.validate import Outcome, json_safe
from headrace.operations.quality.windows import (
    Batches,
    Closed,
    Grid,
    Nothing,
    Passed,
    TableWindow,
    closed_windows,
    finished_batches,
)
from headrace.store import ledger
from headrace.store.ledger import BatchRecord

PROJECT = Path(__file__).resolve().parents[3]
PIPELINES = load_pipelines(PROJECT / "pipelines")
MINUTE = 60_000


def _record(batch: int, rows_out: int = 10, written_ms: int = 0, end: int = 0, watermark: int = 0) -> BatchRecord:
    return BatchRecord(
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
        assert isinstance(window, Nothing)
    else:
        assert isinstance(window, Closed)
        assert window.starts_ms == tuple(start * MINUTE for start in starts)
        assert window.until_ms == (starts[-1] + 5) * MINUTE


def test_sliding_windows_have_closed_when_their_complete_size_is_behind_the_watermark() -> None:
    window = closed_windows(62 * MINUTE, Grid(10 * MINUTE, 5 * MINUTE), 45 * MINUTE)
    assert isinstance(window, Closed)
    assert window.starts_ms == (40 * MINUTE, 45 * MINUTE, 50 * MINUTE)


@pytest.mark.parametrize(("since", "starts"), [(None, [3, 13, 23, 33, 43]), (33, [33, 43]), (32, [23, 33, 43])])
def test_windows_with_an_offset_are_read_by_their_own_starts(since: int | None, starts: list[int]) -> None:
    grid = Grid(10 * MINUTE, 10 * MINUTE, 3 * MINUTE)
    window = closed_windows(60 * MINUTE, grid, None if since is None else since * MINUTE)
    assert isinstance(window, Closed)
    assert window.starts_ms == tuple(start * MINUTE for start in starts)


def test_windows_beyond_the_bound_are_left_for_the_next_check_and_counted() -> None:
    """It was the newest ones that were read, and the others never."""
    size = 5 * MINUTE
    closed = 10**7
    until: int | None = None
    seen: list[int] = []
    for _ in range(10):
        window = closed_windows(closed * size, Grid(size, size), until)
        if isinstance(window, Nothing):
            break
        assert len(window.starts_ms) <= bounds.CHECK_WINDOWS
        assert window.left["windows"] == closed - len(seen) - len(window.starts_ms)
        seen += window.starts_ms
        until = window.until_ms
    assert seen == [number * size for number in range(10 * bounds.CHECK_WINDOWS)]


@pytest.mark.parametrize(
    ("since", "asked", "first"),
    [
        pytest.param(None, 0, 10**6, id="the first check begins with the first row"),
        pytest.param(20, 20, 10**6, id="a gap longer than a check is passed over"),
        pytest.param(10**6, None, 10**6, id="no gap: the table is not asked"),
    ],
)
def test_where_windows_begin_is_asked_of_the_table_only_where_a_check_cannot_count_to_it(
    since: int | None, asked: int | None, first: int
) -> None:
    size, asks = 5 * MINUTE, []

    def earliest(_: object, after_ms: int) -> int:
        asks.append(after_ms)
        return 10**6 * size

    sink = find(PIPELINES.values(), "cassandra.pos_sales.tumbling")
    until = None if since is None else since * size
    window = plan._closed(sink, (10**6 + 3) * size, Grid(size, size), until, earliest)
    assert isinstance(window, Closed)
    assert window.starts_ms == tuple((first + number) * size for number in range(3))
    assert asks == ([] if asked is None else [asked * size])


def test_finished_batches_are_those_since_the_last_check_the_oldest_first_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was the newest ones that were taken, and the position moved past the others (B2)."""
    monkeypatch.setattr(bounds, "CHECK_ROWS", 100_000)
    records = [_record(batch, rows_out=40_000, written_ms=batch * 1000) for batch in range(10)]
    window = batches_of(records)
    assert (window.first, window.last, window.batches, window.rows) == (0, 1, 2, 80_000)
    assert window.left == {"batches": 8, "rows": 320_000}
    window = batches_of(records[9:])
    assert (window.first, window.last, window.left) == (9, 9, {"batches": 0, "rows": 0})
    assert finished_batches(1, []).kind == "nothing"
    assert batches_of(records, since_ms=9_000).first == 9
    large = [_record(0, rows_out=10**9), _record(1)]
    assert batches_of(large).last == 0, "a step takes at least one complete batch"
    monkeypatch.setattr(bounds, "CHECK_BATCHES", 3)
    assert finished_batches(1, [_record(batch, rows_out=0) for batch in range(5)]).left["batches"] == 2


def batches_of(records: list[BatchRecord], **bounds_ms: int) -> Batches:
    window = finished_batches(1, records, **bounds_ms)
    assert isinstance(window, Batches)
    return window


def test_batches_whose_rows_retention_may_have_taken_are_passed_over_and_counted() -> None:
    records = [_record(batch, rows_out=10, written_ms=batch * 1000) for batch in range(6)]
    window = batches_of(records, gone_ms=4_000)
    assert (window.first, window.last) == (4, 5)
    assert window.expired == Passed(batches=4, rows=40)
    nothing = finished_batches(1, records, gone_ms=10_000)
    assert nothing.expired is not None
    assert (nothing.kind, nothing.passed, nothing.expired.batches) == ("nothing", 5, 6)


def test_a_check_is_read_in_steps_of_complete_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "STEP_ROWS", 100)
    sizes = [60, 40, 1, 500, 0, 100]
    groups = steps.grouped([_record(batch, rows_out=size) for batch, size in enumerate(sizes)])
    assert [[record["batch"] for record in group] for group in groups] == [[0, 1], [2], [3], [4, 5]]


def test_the_sums_of_a_ledger_go_on_where_the_last_check_ended_also_after_upkeep_has_gathered_it(
    tmp_path: Path,
) -> None:
    """`plan` read .json files only: what upkeep had gathered did not exist for it (B2)."""
    folder = str(tmp_path)
    for batch in range(30):
        ledger.write(folder, _record(batch, rows_out=2))
    sums = position.tally(folder, 1, None, 29)
    assert (sums.last, sums.rows_in, sums.rows_out) == (29, 30 * 12, 60)
    for batch in range(30, 60):
        ledger.write(folder, _record(batch, rows_out=3))
    assert compact.compact_ledger(folder, singles=2) == 58
    assert position.tally(folder, 1, sums, 59) == position.tally(folder, 1, None, 59)
    assert position.tally(folder, 2, sums, 59).rows_out == 150, "another generation begins again"


def test_the_offsets_of_consecutive_batches_are_one_range_a_partition() -> None:
    assert steps.spans([_record(0, end=5), _record(1, end=10)]) == {"0": [0, 10], "1": [10, 27]}


def test_a_query_judges_another_only_when_it_has_read_as_much() -> None:
    record = _record(3, end=10, watermark=100)
    assert plan._covers(_record(9, end=10, watermark=100), record)
    assert plan._covers(_record(9, end=11, watermark=0), record), "a query without a watermark"
    assert not plan._covers(_record(9, end=9, watermark=100), record)
    assert not plan._covers(_record(9, end=10, watermark=99), record)


def _outcome(**values: Any) -> Outcome:
    return Outcome("id-1", "expect_a", ("x",), "critical", "Why.", False, **values)


def test_the_quarantine_has_one_row_a_sink_window_expectation_and_key() -> None:
    check = Check("kafka.a", "p", "q", Batches(name="batches 1 to 2"), {"now_ms": 0})
    rows = ({"k": 1, "x": "1.50"}, {"k": 1, "x": "1.50"}, {"k": None, "x": "ł"})
    quarantined = store.quarantine_rows(check, [_outcome(rows=rows)], ("k",))
    assert [row.row_key for row in quarantined] == ["[1]", "[null]"]
    assert {(row.sink, row.window, row.expectation) for row in quarantined} == {("kafka.a", "batches 1 to 2", "a(x)")}
    assert quarantined[1].row == '{"k": null, "x": "ł"}'
    for kind, table in ((store.QuarantinedRow, store.QUARANTINE), (store.SeriesRow, store.RESULTS)):
        assert [field.name for field in fields(kind)] == list(table.columns)


def test_reports_are_kept_by_number_and_written_again_by_a_retry(tmp_path: Path) -> None:
    root, sink = str(tmp_path), "kafka.a"
    for at in [*range(store.REPORTS_KEPT + 5), 3, store.REPORTS_KEPT + 4]:
        check = Check(sink, "p", "q", TableWindow(name=f"table at {at}"), {"now_ms": at})
        path = store.report_path(root, check)
        store.write_report(root, Summary(sink, "p", "q", "PASSED", check.window, at, report=path), {"success": True})
    kept = sorted((tmp_path / "quality" / "results" / sink).iterdir())
    assert len(kept) == store.REPORTS_KEPT
    assert kept[-1].name == f"{store.REPORTS_KEPT + 4:015d}-table-at-{store.REPORTS_KEPT + 4}.json"
    assert json.loads(kept[-1].read_text())["result"] == {"success": True}


def test_every_sink_of_every_pipeline_has_a_name_of_its_own() -> None:
    names = [sink.name for pipeline in PIPELINES.values() for sink in sinks_of(pipeline)]
    assert len(set(names)) == len(names)
    assert find(PIPELINES.values(), "cassandra.pos_sales.tumbling").key == ("window_start", "product_id")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_null(value: float) -> None:
    assert json_safe({"a": [value, 1.5]}) == {"a": [None, 1.5]}
