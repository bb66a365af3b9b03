"""What a driver tells of a query: one look, the heartbeat file, the metrics as Prometheus reads them."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.driver.progress import Metrics, Rates, observe, write_heartbeat
from headrace.driver.writer import Counters
from headrace.store.checkpoint_log import BatchRange
from headrace.store.driver_files import Heartbeat, QueryState
from headrace.store.ledger import make_record
from headrace.store.records import to_json


class Query:
    """Stands for a StreamingQuery: what `observe` reads."""

    def __init__(self, progress: dict[str, Any] | None = None, error: str | None = None) -> None:
        self.lastProgress, self.isActive, self._error = progress, error is None, error

    def exception(self) -> str | None:
        return self._error or None


PROGRESS = {
    "durationMs": {"triggerExecution": 250, "addBatch": 200},
    "eventTime": {"watermark": "2026-06-30T12:00:00.000Z"},
    "sources": [
        {"latestOffset": {"pos": {"0": 100, "1": 50}}, "endOffset": {"pos": {"0": 90, "1": 50}}},
        {"latestOffset": '{"clicks": {"0": 7}}', "endOffset": '{"clicks": {"0": 5}}'},
    ],
    "stateOperators": [
        {"operatorName": "stateStoreSave", "numRowsTotal": 11, "numRowsDroppedByWatermark": 2},
        {"operatorName": "dedupe", "numRowsTotal": 4, "numRowsDroppedByWatermark": 1},
    ],
}


def state(query: Query | None = None, **counted: Any) -> QueryState:
    return observe(query or Query(PROGRESS), "pos_sales.tumbling", 3, 2000, Counters(**counted))


def written() -> Counters:
    taken = BatchRange(8, {"pos": {0: 80}}, {"pos": {0: 90, 1: 50}}, 2, 1)
    newest = make_record("pos_sales.tumbling", 3, taken, rows_out=4, began_ms=1000, written_ms=1500)
    return Counters(batches=2, rows_in=60, rows_out=4, newest=newest)


def test_a_query_state_adds_up_all_sources_and_state_operators() -> None:
    observed = observe(Query(PROGRESS), "pos_sales.tumbling", 3, 2000, written())
    assert (observed.lag, observed.state_rows, observed.groups, observed.late_groups) == (12, 15, 11, 3)
    assert (observed.batch, observed.batch_written_ms, observed.batch_duration_ms) == (8, 1500, 250)
    assert (observed.rows_in, observed.rows_out, observed.batches) == (60, 4, 2)
    assert observed.watermark_ms == 1_782_820_800_000
    assert observed.offsets == {"pos": {"0": 90, "1": 50}}
    assert (observed.active, observed.error) == (True, None)


def test_what_is_not_known_before_the_first_batch_is_none_and_not_zero() -> None:
    observed = state(Query(None))
    assert [
        getattr(observed, name) for name in ("batch", "batch_written_ms", "batch_duration_ms", "lag", "watermark_ms")
    ] == [None] * 5
    assert (observed.rows_in, observed.state_rows, observed.offsets) == (0, 0, {})


def test_a_watermark_that_has_not_moved_yet_is_none_and_not_1970() -> None:
    assert state(Query({"eventTime": {"watermark": "1970-01-01T00:00:00.000Z"}})).watermark_ms is None


def test_rates_are_those_of_the_newest_batches_and_an_old_progress_is_counted_once() -> None:
    rates, measured = Rates(), []
    for batch in range(30):
        source = {"endOffset": {"pos": {"0": 500 * batch}}, "latestOffset": {"pos": {"0": 9_000 + 200 * batch}}}
        at = f"2026-06-30T12:{batch:02d}:00.000Z"
        for _ in range(2):
            measured.append(rates.update({"batchId": batch, "timestamp": at, "sources": [source]}))
    assert measured[:2] == [(None, None)] * 2
    assert measured[-1] == (round(500 / 60, 2), round(200 / 60, 2))
    assert rates.update({}) == measured[-1]


def test_a_query_that_ended_says_why() -> None:
    observed = state(Query(PROGRESS, error="x" * 9000))
    assert (observed.active, observed.error) == (False, "x" * 500)
    assert state(Query(PROGRESS, error="")).error == "ended without an error"


def test_the_heartbeat_is_one_json_file_with_pid_and_time(tmp_path: Path) -> None:
    path = tmp_path / "pos_sales" / "heartbeat.json"
    for _ in range(2):
        write_heartbeat(str(path), Heartbeat("pos_sales", queries=(state(),), metrics_port=9))
    beat = json.loads(path.read_text())
    assert (beat["pipeline"], beat["pid"], beat["metrics_port"]) == ("pos_sales", os.getpid(), 9)
    assert beat["queries"] == [to_json(state())]
    assert beat["at_ms"] > 1_700_000_000_000
    assert [p.name for p in path.parent.iterdir()] == ["heartbeat.json"]


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics_server = Metrics("127.0.0.1", 0)
    yield metrics_server
    metrics_server.close()


def scrape(metrics: Metrics) -> dict[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=120) as answer:
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_metrics_have_base_units_and_one_sample_a_query(metrics: Metrics) -> None:
    other = observe(Query(None, error="gone"), "pos_sales.items", 1, 2000, Counters())
    metrics.states = [observe(Query(PROGRESS), "pos_sales.tumbling", 3, 2000, written()), other]
    scraped = scrape(metrics)
    ours = {name.split("{")[0]: float(value) for name, value in scraped.items() if 'query="pos_sales.tumbling"' in name}
    age = ours.pop("headrace_query_batch_age_seconds")
    assert age > 0
    assert ours == {
        "headrace_query_active": 1,
        "headrace_query_generation": 3,
        "headrace_query_batch": 8,
        "headrace_query_batch_duration_seconds": 0.25,
        "headrace_query_trigger_seconds": 2,
        "headrace_query_lag_offsets": 12,
        "headrace_query_watermark_seconds": 1_782_820_800,
        "headrace_query_state_rows": 15,
        "headrace_query_late_groups": 3,
        "headrace_query_rows_in_total": 60,
        "headrace_query_rows_out_total": 4,
        "headrace_query_batches_total": 2,
    }
    assert scraped['headrace_query_active{query="pos_sales.items"}'] == "0.0"
    assert 'headrace_query_lag_offsets{query="pos_sales.items"}' not in scraped, "unknown is no sample"


def test_metrics_answer_before_any_query_runs(metrics: Metrics) -> None:
    assert scrape(metrics) == {}
