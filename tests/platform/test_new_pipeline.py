"""docs/howto/add-a-pipeline.md works as printed: its two files run end to end in an empty tree; nothing else is edited."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from headrace.contract.bindings import read_kafka
from headrace.contract.load import load_pipeline
from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from headrace.operations.produce import produce_file
from tests.support import found, howto
from tests.support.drivers import make_stage
from tests.support.expected import micros

pytestmark = [pytest.mark.platform, pytest.mark.timeout(600)]


def test_the_pipeline_of_the_howto_runs_end_to_end_from_its_two_files(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    starter = tmp_path / "starter"
    howto.write(starter)
    (starter / "spark_jobs" / "main.py").write_bytes((project / "spark_jobs" / "main.py").read_bytes())

    stage = make_stage(platform, starter, tmp_path, "fridges")
    assert stage.pipeline == load_pipeline(starter / "pipelines" / "fridges.yaml")
    try:
        stage.start()
        pipelines = {"fridges": stage.pipeline}
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
    (alarm,) = map(found.parse, [message.value for message in stage.read("fridge_alarms")])
    assert (alarm["fridge_id"], alarm["celsius"]) == ("f1", Decimal("9.25"))
    assert found.in_micros(alarm["read_at"]) == micros(datetime(2026, 3, 1, 10, 4))
    (letter,) = stage.read(dead_letter_topic("fridge_readings"))
    assert letter.value == (starter / "readings.ndjson").read_bytes().splitlines()[2]
    assert letter.header("headrace.reason") == "bad_number: celsius: 'cold' is not a number"
    assert len(found.archive(stage, "fridge_readings")) == 3
    found.require_ledgers(stage)
