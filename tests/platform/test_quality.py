"""Suites on real sinks: two pipelines as shipped keep them, and what is planted by hand is found, named and kept once.

Slow: two drivers, and Great Expectations takes 7 seconds to import; about two minutes in all.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from headrace.access.bindings import read_kafka
from headrace.contract.checked_sinks import find
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.produce.generate import generate
from headrace.operations.produce.mix import Mix
from headrace.operations.quality import bounds, read_cassandra, store, tasks
from headrace.operations.quality.summary import WrongBatch
from headrace.store import records
from tests.support.drivers import Content, Stage, make_stage
from tests.support.expectations import import_great_expectations
from tests.support.expected import accepted, final_watermark

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

SUFFIX = "_checked"
PORTIONS = 3


def _pausing(content: Content) -> None:
    content["quality"] = {"on_critical": "pause"}


def _records(seed: int, events: dict[str, int]) -> list[Any]:
    mix = Mix(seed=seed, events=events, duration=2 * 3600.0, since=timedelta(0), products=50)
    return list(generate(mix, datetime.now(UTC) - timedelta(hours=2)))


def _run(stage: Stage, records: list[Any], windowed: tuple[str, ...] = ()) -> None:
    """Feed in portions, so that windows close, and wait until all is taken and the last watermark is reached."""
    portion = len(records) // PORTIONS + 1
    stage.start_and_wait()
    for begin in range(0, len(records), portion):
        stage.send((record.topic + SUFFIX, record.key, record.value) for record in records[begin : begin + portion])
        stage.await_quiet()
    for topic, source in stage.pipeline.sources.items() if windowed else ():
        reached = final_watermark(source, accepted(source, stage.read(topic)), timedelta(minutes=10))
        stage.await_quiet(dict.fromkeys(windowed, reached))


@pytest.fixture(scope="module")
def sales(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A pos_sales that has taken two hours of sales, still running."""
    folder = tmp_path_factory.mktemp("sales")
    stage = make_stage(platform, project, folder, "pos_sales", suffix=SUFFIX, trigger="500 milliseconds", edit=_pausing)
    try:
        _run(stage, _records(11, {"pos": 3_000}), ("tumbling", "sliding", "final_windows"))
        yield stage
    finally:
        stage.kill()


@pytest.fixture(scope="module")
def checked(sales: Stage) -> dict[str, Any]:
    """The first pass over all sinks of pos_sales, by sink."""
    import_great_expectations()
    return _pass(sales.deployment, sales.name)


def _pass(deployment: Deployment, pipeline: str, since_ms: int | None = None) -> dict[str, Any]:
    checks = [_through_json(check) for check in tasks.plan_checks(deployment, pipeline, since_ms=since_ms)]
    return {summary.sink: _through_json(summary) for summary in tasks.run_checks(deployment, pipeline, checks)}


def _through_json(document: Any) -> Any:
    """Pass a document between tasks, as Airflow does."""
    return records.from_json(type(document), json.loads(json.dumps(records.to_json(document))))


def _sink(stage: Stage, query: str) -> str:
    return f"cassandra.{stage.name}.{query}"


def test_all_sinks_of_a_healthy_pipeline_keep_their_suites(sales: Stage, checked: dict[str, Any]) -> None:
    assert len(checked) == 7
    assert {sink: summary.failed for sink, summary in checked.items() if summary.status != "PASSED"} == {}
    assert all(summary.rows > 0 and not summary.sampled for summary in checked.values())
    archive = checked[f"iceberg.{sales.name}.archive_pos{SUFFIX}"]
    assert archive.rows == 3_000
    assert sum(end - start for start, end in archive.window.offsets.values()) == 3_000
    totals = checked[_sink(sales, "product_totals")]
    assert totals.rows == len(sales.table(sales.name, "product_totals"))
    for summary in checked.values():
        assert tasks.gate(summary).startswith(f"{summary.sink} ({summary.window.name}): PASSED")


def test_only_windows_behind_the_watermark_are_judged(sales: Stage, checked: dict[str, Any]) -> None:
    window = checked[_sink(sales, "tumbling")].window
    watermark = sales.ledger("tumbling")[-1]["watermark_ms"]
    assert window.kind == "closed"
    assert window.until_ms <= watermark < window.until_ms + 5 * 60_000
    known = {
        int(row["window_end"].replace(tzinfo=UTC).timestamp() * 1000) for row in sales.table(sales.name, "tumbling")
    }
    assert max(known) > watermark, "open windows are there, and were left"


def test_a_pass_goes_on_where_the_last_one_ended(sales: Stage, checked: dict[str, Any]) -> None:
    again = {check.sink: check for check in tasks.plan_checks(sales.deployment, sales.name)}
    for sink, check in again.items():
        if checked[sink].window.kind == "batches":
            assert getattr(check.window, "first", 10**9) > checked[sink].window.last
    assert again[_sink(sales, "tumbling")].window.kind == "nothing"


def test_a_table_with_too_many_rows_is_checked_in_portions_each_row_once(sales: Stage) -> None:
    """It was a sample, and the result said so; rows that were never drawn were never checked."""
    (pipeline,) = sales.deployment.pipelines().values()
    totals, board = (find([pipeline], _sink(sales, name)) for name in ("product_totals", "leaderboard"))
    with cassandra_session(sales.admin) as session:
        portions = list(read_cassandra.portions(session, totals, None, 20))
        (portion,) = read_cassandra.portions(session, board, None, 3)
        after = list(read_cassandra.portions(session, totals, portions[0][1], 20))
    products = [row["product_id"] for rows, _ in portions for row in rows]
    assert len(portions) > 1
    assert portions[-1][1] is None
    assert len(products) == len(set(products)) == len(sales.table(sales.name, "product_totals"))
    assert after == portions[1:], "a check goes on behind the token where the last one ended"
    assert len(portion[0]) == len(products), "a partition is never parted"


def test_the_checks_of_a_backlog_read_every_row_once(
    sales: Stage, checked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2, on real sinks: with small bounds a check leaves a rest, and the next one goes on behind it."""
    monkeypatch.setattr(bounds, "STEP_ROWS", 200)
    monkeypatch.setattr(bounds, "STEP_WINDOWS", 4)
    monkeypatch.setattr(bounds, "CHECK_ROWS", 1_000)
    monkeypatch.setattr(bounds, "CHECK_WINDOWS", 10)
    folder = Path(sales.root) / "quality" / "position"
    for path in folder.iterdir():
        path.unlink()
    for path in (folder.parent / "latest").iterdir():
        path.unlink()
    rows: dict[str, int] = dict.fromkeys(checked, 0)
    for _ in range(20):
        summaries = _pass(sales.deployment, sales.name)
        assert {summary.status for summary in summaries.values()} <= {"PASSED", "NOTHING"}
        for sink, summary in summaries.items():
            if summary.window.kind != "table":
                rows[sink] += summary.rows
        if not any(sum(summary.coverage.left.values()) for summary in summaries.values()):
            break
    assert {sink: count for sink, count in rows.items() if count} == {
        sink: summary.rows for sink, summary in checked.items() if summary.window.kind != "table"
    }


def test_a_record_that_no_batch_of_ours_wrote_is_found_on_the_topic_once(sales: Stage, checked: dict[str, Any]) -> None:
    """B24: a record without our headers was passed over."""
    sales.send([("pos" + SUFFIX, b"p", json.dumps(_sale()).encode())])
    sales.await_quiet()
    producer = Producer(read_kafka(sales.admin).client_config())
    items = f"kafka.pos_items{SUFFIX}"
    placed: list[tuple[int, int]] = []
    producer.produce(
        f"pos_items{SUFFIX}",
        key=b"x",
        value=b'{"product_id": "p", "amount": 1.00}',
        on_delivery=lambda error, message: placed.append((message.partition(), message.offset())),
    )
    assert producer.flush(120) == 0
    summary = _pass(sales.deployment, sales.name)[items]
    assert summary.status == "FAILED"
    strange = "column_values_to_be_null(_schema_error)"
    (row,) = next(failure.examples for failure in summary.failed if failure.expectation == strange)
    assert (row["_partition"], row["_offset"]) == placed[0]
    assert row["_schema_error"] == "no batch of this query wrote this record"
    tasks.accept(sales.deployment, items, [], by="test", reason="it was the test")
    sales.send([("pos" + SUFFIX, b"p", json.dumps(_sale()).encode())])
    sales.await_quiet()
    assert _pass(sales.deployment, sales.name)[items].status == "PASSED", "it is counted once"


def _sale() -> Content:
    return {"product_id": "p-1", "amount": 1, "create_date": (datetime.now(UTC) - timedelta(minutes=1)).isoformat()}


def test_a_table_that_was_dropped_fails_its_own_sink_only(sales: Stage, checked: dict[str, Any]) -> None:
    """B1: it silenced the quality of all pipelines."""
    statements = sales.cql(
        "SELECT keyspace_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'leaderboard'",
        (sales.name,),
    )
    assert len(statements) == 1
    (pipeline,) = sales.deployment.pipelines().values()
    gone = find([pipeline], _sink(sales, "leaderboard"))
    sinks = [check for check in tasks.plan_checks(sales.deployment, sales.name) if check.sink == gone.name]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "headrace.operations.quality.checks.find",
            lambda pipelines, name: (
                find(pipelines, name)
                if name != gone.name
                else dataclasses.replace(gone, place=(gone.place[0], "dropped"))
            ),
        )
        others = tasks.plan_checks(sales.deployment, sales.name)
        summaries = {summary.sink: summary for summary in tasks.run_checks(sales.deployment, sales.name, others)}
    assert sinks
    assert summaries[gone.name].status == "UNREADABLE"
    assert "Cassandra has no table" in summaries[gone.name].window.reason
    assert not [
        summary
        for sink, summary in summaries.items()
        if sink != gone.name and summary.status in {"UNREADABLE", "FAILED"}
    ]


def test_what_is_planted_in_a_sink_is_found_with_its_keys_once_and_stops_the_stream(
    sales: Stage, checked: dict[str, Any]
) -> None:
    deployment = sales.deployment
    window = checked[_sink(sales, "tumbling")].window
    start = datetime.fromtimestamp(window.until_ms / 1000, UTC) - timedelta(minutes=10)  # the last window but one
    table = f'"{sales.name}"'
    (product, *_) = [
        row["product_id"]
        for row in sales.cql(f"SELECT product_id FROM {table}.tumbling WHERE window_start = %s", (start,))
    ]
    sales.cql(f"UPDATE {table}.product_totals SET sales = 0 WHERE product_id = %s", (product,))
    sales.cql(
        f"UPDATE {table}.tumbling SET window_end = %s WHERE window_start = %s AND product_id = %s",
        (start + timedelta(minutes=6), start, product),
    )
    sales.cql(
        f"INSERT INTO {table}.tumbling (window_start, window_end, product_id, total_amount, sales) "
        "VALUES (%s, %s, 'nobody', 1, 1)",
        (start, start + timedelta(minutes=5)),
    )
    place = _plant_record(sales)

    checks_before = len(tasks.trend(deployment, [f"kafka.pos_items{SUFFIX}"])[f"kafka.pos_items{SUFFIX}"])
    checks = tasks.plan_checks(deployment, sales.name, since_ms=1)
    summaries = {summary.sink: summary for summary in tasks.run_checks(deployment, sales.name, checks)}
    bad = {sink for sink, summary in summaries.items() if summary.status == "FAILED"}
    items = f"kafka.pos_items{SUFFIX}"
    assert bad == {_sink(sales, "product_totals"), _sink(sales, "tumbling"), items}
    for sink in bad:
        with pytest.raises(HeadraceError, match="critical expectation"):
            tasks.gate(summaries[sink])

    def keys(sink: str, expectation: str) -> list[Any]:
        rows = store.quarantined(deployment.bindings, sink, summaries[sink].window.name)
        return [json.loads(row.row_key) for row in rows if row.expectation == expectation]

    before = {sink: store.quarantined(deployment.bindings, sink, summaries[sink].window.name) for sink in bad}
    assert keys(_sink(sales, "product_totals"), "column_values_to_be_between(sales)") == [[product]]
    at = start.isoformat()
    lengths = "column_values_to_be_in_set(_window_start_to_window_end_seconds)"
    assert keys(_sink(sales, "tumbling"), lengths) == [[at, product]]
    known = "column_values_to_be_in_set(_known_in_product_totals)"
    assert keys(_sink(sales, "tumbling"), known) == [[at, "nobody"]]
    assert keys(items, "column_values_to_match_regex(product_id)") == [list(place)]

    tasks.run_checks(deployment, sales.name, checks)
    after = {sink: store.quarantined(deployment.bindings, sink, summaries[sink].window.name) for sink in bad}
    assert after == before, "a retry of the same checks adds nothing"
    series = tasks.trend(deployment, [items])[items]
    assert len(series) == checks_before + 1, "one row a check"
    assert series[0].status == "FAILED", "newest first"
    assert series[-1].status == "PASSED"

    page = Path(tasks.build_docs(deployment))
    assert page.name == "index.html"
    assert all(sink in page.read_text() for sink in summaries)

    assert tasks.act(deployment, list(summaries.values()), by="test") == [sales.name]
    desired = desired_state.read(sales.root, sales.name)
    assert (desired.want, desired.by) == ("PAUSED", "test")
    assert "critical expectations failed for" in desired.reason
    assert sales.launcher.find(sales.name) == []


def _plant_record(stage: Stage) -> tuple[int, int]:
    """Send one record as the query's last batch would have, with a product id that is none; returns its place."""
    batch = stage.ledger("items")[-1]
    producer = Producer(read_kafka(stage.admin).client_config())
    placed: list[tuple[int, int]] = []
    headers = {"headrace.id": "planted", "headrace.generation": "1", "headrace.batch": str(batch["batch"])}
    producer.produce(
        f"pos_items{SUFFIX}",
        key=b"x",
        value=b'{"product_id": "two words", "amount": 1.00}',
        headers=list(headers.items()),
        on_delivery=lambda error, message: placed.append((message.partition(), message.offset())),
    )
    assert producer.flush(120) == 0
    return placed[0]


def test_files_are_judged_by_finished_batches_and_a_lost_one_is_named(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    import_great_expectations()
    stage = make_stage(platform, project, tmp_path, "web_events", suffix=SUFFIX, trigger="500 milliseconds")
    try:
        _run(stage, _records(12, {"quickstart": 900}))
        stage.stop()
    finally:
        stage.kill()
    deployment = stage.deployment
    folder = Path(stage.generation("files").paths(stage.root).files)
    batches = {record["batch"]: record["rows_out"] for record in stage.ledger("files") if record["rows_out"]}
    half = folder / f"batch_id={max(batches) + 1}"
    half.mkdir()
    (half / "part-00000-x.json").write_text('{"lower_city": "hal')
    summaries = _pass(deployment, stage.name)
    assert {sink: summary.failed for sink, summary in summaries.items() if summary.status != "PASSED"} == {}
    assert summaries[f"files.{stage.name}.files"].rows == sum(batches.values())

    lost = max(batches)
    shutil.rmtree(folder / f"batch_id={lost}")
    kept = folder / f"batch_id={min(batches)}"
    part = next(path for path in sorted(kept.glob("part-*")) if path.read_text())
    part.write_text(part.read_text() + '{"lower_city": "UPPER", "domain": "d", "behavior": "d:x", "more": 1}\n')
    files = _pass(deployment, stage.name, since_ms=1)[f"files.{stage.name}.files"]
    assert files.status == "FAILED"
    assert files.batches == (
        WrongBatch(batch=min(batches), expected=batches[min(batches)], rows=batches[min(batches)] + 1),
        WrongBatch(batch=lost, expected=batches[lost], rows=0),
    )
    failed = {failure.expectation: failure.examples for failure in files.failed}
    assert set(failed) == {
        "table_columns_to_match_set()",
        "table_row_count_to_equal()",
        "column_values_to_be_null(_schema_error)",
        "column_values_to_match_regex(lower_city)",
    }
    assert failed["column_values_to_match_regex(lower_city)"][0]["lower_city"] == "UPPER"
    assert failed["column_values_to_be_null(_schema_error)"][0]["_schema_error"] == "more is no column of the contract"


def test_a_pipeline_that_never_ran_has_nothing_to_check_and_says_so(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    stage = make_stage(platform, project, tmp_path, "ad_attribution", suffix="_never")
    summaries = _pass(stage.deployment, stage.name)
    assert {summary.status for summary in summaries.values()} == {"NOTHING"}
    assert {summary.window.reason for summary in summaries.values()} == {
        f"{query} has not finished a batch yet"
        for query in ("attributed_never", "archive_impressions_never", "archive_clicks_never")
    }
    (refused,) = tasks.plan_checks(stage.deployment, "nope")
    assert refused.window.kind == "unreadable"
    assert "Unknown pipeline 'nope'" in refused.window.reason
    (summary,) = tasks.run_checks(stage.deployment, "nope", [refused])
    with pytest.raises(HeadraceError, match="Unknown pipeline 'nope'"):
        tasks.gate(summary)
