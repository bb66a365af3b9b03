"""docs/howto/add-a-pipeline.md works as printed: two files run end to end beside the real pipelines, nothing else is edited."""

from __future__ import annotations

import shutil
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from headrace.access.bindings import read_kafka
from headrace.contract.load import load_pipeline
from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from headrace.operations.pipelines import from_topic
from headrace.operations.pipelines.sample import columns_of
from headrace.operations.produce.run import produce_file
from headrace.operations.quality import tasks
from tests.support import actual, howto
from tests.support.drivers import make_stage
from tests.support.expectations import import_great_expectations
from tests.support.expected import micros

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]


def test_the_pipeline_of_the_howto_runs_end_to_end_from_its_two_files(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    starter = tmp_path / "starter"
    howto.write(starter)
    (starter / "spark_jobs" / "main.py").write_bytes((project / "spark_jobs" / "main.py").read_bytes())

    stage = make_stage(platform, starter, tmp_path, "fridges")
    for name in ("pipelines", "spark_jobs"):
        shutil.copytree(project / name, stage.launcher.project / name, dirs_exist_ok=True)
    assert stage.pipeline == load_pipeline(starter / "pipelines" / "fridges.yaml")
    try:
        stage.start()
        pipelines = stage.deployment.pipelines()
        assert pipelines.keys() > {"fridges"}
        binding = read_kafka(stage.admin)
        produce_file(binding, pipelines, starter / "readings.ndjson", "fridge_readings", rate=None)
        stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()

    (window,) = stage.table("fridges", "warmest")
    assert window == {
        "fridge_id": "f1",
        "window_start": datetime(2026, 3, 1, 10, 0),
        "warmest": Decimal("9.25"),
        "readings": 2,
    }
    (alarm,) = map(actual.parse, [message.value for message in stage.read("fridge_alarms")])
    assert (alarm["fridge_id"], alarm["celsius"]) == ("f1", Decimal("9.25"))
    assert actual.in_micros(alarm["read_at"]) == micros(datetime(2026, 3, 1, 10, 4))
    (letter,) = stage.read(dead_letter_topic("fridge_readings"))
    assert letter.value == (starter / "readings.ndjson").read_bytes().splitlines()[2]
    assert letter.header("headrace.reason") == "bad_number: celsius: 'cold' is not a number"
    assert len(actual.archive(stage, "fridge_readings")) == 3
    actual.require_ledgers(stage)

    sampled = {column.name: column for column in columns_of(from_topic.records(stage.admin, "fridge_readings"))}
    assert {name: column.type for name, column in sampled.items()} == {
        "fridge_id": "string", "celsius": "json", "read_at": "timestamp",  # one reading is a word
    }  # fmt: skip

    import_great_expectations()
    summaries = tasks.run_checks(stage.deployment, "fridges", tasks.plan_checks(stage.deployment, "fridges"))
    assert {summary.sink: summary.status for summary in summaries} == {
        "cassandra.fridges.warmest": "PASSED",
        "kafka.fridge_alarms": "PASSED",
        "iceberg.fridges.archive_fridge_readings": "WARNED",  # one of three records is a dead letter
    }
