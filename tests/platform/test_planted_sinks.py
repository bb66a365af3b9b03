"""A fault in each of the 16 sinks of the project, in the real stores: the checks find each one, name its row, and shut its gate.

Long: four drivers, one after another, and two passes of quality over each pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from confluent_kafka import Producer

from headrace.access.bindings import read_kafka
from headrace.contract.checked_sinks import CheckedSink, Kind, sinks_of
from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations import lake
from headrace.operations.dimensions import load_users
from headrace.operations.produce.accounts import user_directory
from headrace.operations.produce.generate import generate
from headrace.operations.produce.mix import Mix
from headrace.operations.quality import tasks
from headrace.operations.quality.summary import Summary
from headrace.store import archive_notes, paths
from tests.support.drivers import Stage, make_stage
from tests.support.expectations import import_great_expectations

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

SUFFIX = "_planted"
EVENTS = {"pos_sales": "pos", "web_events": "quickstart", "user_logins": "logins", "ad_attribution": "impressions"}
Row = dict[str, Any]


def test_each_kind_of_sink_has_a_fault(project: Path) -> None:
    pipelines = load_pipelines(project / "pipelines")
    assert set(EVENTS) <= set(pipelines)
    kinds = {sink.kind for name in EVENTS for sink in sinks_of(pipelines[name])}
    assert kinds == set(FAULTS) == set(get_args(Kind))


@pytest.mark.parametrize("name", EVENTS)
def test_a_fault_in_each_sink_is_found_and_named(platform: Settings, project: Path, tmp_path: Path, name: str) -> None:
    import_great_expectations()
    stage = make_stage(platform, project, tmp_path, name, suffix=SUFFIX, trigger="500 milliseconds")
    mix = Mix(seed=21, events={EVENTS[name]: 600}, duration=2 * 3600.0, since=timedelta(0), products=20, users=50)
    for dimension in stage.pipeline.dimensions.values():
        load_users(platform.bindings(), dimension, user_directory(mix))
    records = list(generate(mix, datetime.now(UTC) - timedelta(hours=2)))
    try:
        stage.start_and_wait()
        for part in (records[:400], records[400:]):
            stage.send((record.topic + SUFFIX, record.key, record.value) for record in part)
            stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()
    before = _pass(stage)
    assert {
        sink: summary.failed for sink, summary in before.items() if summary.status not in ("PASSED", "WARNED")
    } == {}
    sinks = sinks_of(stage.pipeline)
    named = {sink.name: FAULTS[sink.kind](stage, sink) for sink in sinks}
    after = _pass(stage, since_ms=1)
    assert {sink: summary.status for sink, summary in after.items()} == dict.fromkeys(named, "FAILED")
    for sink, fault in named.items():
        with pytest.raises(HeadraceError, match="critical expectation"):
            tasks.gate(after[sink])
        rows = [row for failure in after[sink].failed for row in failure.examples]
        assert not fault or any(fault.items() <= row.items() for row in rows), (sink, fault, rows)


def _pass(stage: Stage, since_ms: int | None = None) -> dict[str, Summary]:
    checks = tasks.plan_checks(stage.deployment, stage.name, since_ms=since_ms)
    return {summary.sink: summary for summary in tasks.run_checks(stage.deployment, stage.name, checks)}


def _in_table(stage: Stage, sink: CheckedSink) -> Row:
    """Move a time of the first row by a day, or empty a required number of a table without times."""
    row = min(stage.table(*sink.place), key=lambda row: tuple(map(str, (row[name] for name in sink.key))))
    others = {name: column for name, column in sink.columns.items() if name not in sink.key}
    times = [name for name, column in others.items() if column.type == "timestamp"]
    numbers = [name for name in sink.numbers if name in others and others[name].required]
    changed, value = (times[-1], datetime.now(UTC) + timedelta(days=1)) if times else (numbers[0], None)
    where = " AND ".join(f'"{name}" = %s' for name in sink.key)
    place = ".".join(f'"{part}"' for part in sink.place)
    stage.cql(f'UPDATE {place} SET "{changed}" = %s WHERE {where}', [value, *(row[name] for name in sink.key)])
    return {name: row[name] for name in sink.key if isinstance(row[name], str)}


def _in_topic(stage: Stage, sink: CheckedSink) -> Row:
    """Write a row as the newest batch would have, without a required text."""
    missing = next(name for name, column in sink.columns.items() if column.required and column.type == "string")
    value = json.loads(stage.read(sink.place[0])[-1].value or b"") | {missing: None}
    newest = stage.ledger(sink.query)[-1]
    headers = {"headrace.id": "planted", "headrace.generation": "1", "headrace.batch": str(newest["batch"])}
    placed: list[Row] = []
    producer = Producer(read_kafka(stage.admin).client_config())
    producer.produce(
        sink.place[0],
        value=json.dumps(value).encode(),
        headers=list(headers.items()),
        on_delivery=lambda error, message: placed.append(
            {"_partition": message.partition(), "_offset": message.offset()}
        ),
    )
    assert producer.flush(120) == 0
    return placed[0] if sink.key == ("_partition", "_offset") else {missing: None}


def _in_files(stage: Stage, sink: CheckedSink) -> Row:
    """Put a row without a required text into the file of a batch."""
    folder = Path(stage.generation(sink.query).paths(stage.root).files)
    part = next(path for path in sorted(folder.glob("batch_id=*/part-*")) if path.read_text())
    row = json.loads(part.read_text().splitlines()[0]) | {"domain": None}
    part.write_text(part.read_text() + json.dumps(row) + "\n")
    return {"domain": None, "_batch": int(part.parent.name.removeprefix("batch_id="))}


def _in_archive(stage: Stage, sink: CheckedSink) -> Row:
    """Lose the newest commits of the archive, up to one that wrote rows. No row is left to be named."""
    folder = f"{paths.lake(stage.root)}/{sink.pipeline}/{sink.query}/metadata"
    table = f"lake.{sink.pipeline}.{sink.query}"
    rows = content = lake.scan(stage.root, table)
    while rows is not None and content is not None and content.num_rows == rows.num_rows:
        Path(str(archive_notes.metadata_file(folder)).removeprefix("file://")).unlink()
        content = lake.scan(stage.root, table)
    return {}


FAULTS: dict[str, Callable[[Stage, CheckedSink], Row]] = {
    "cassandra": _in_table,
    "kafka": _in_topic,
    "files": _in_files,
    "iceberg": _in_archive,
}
