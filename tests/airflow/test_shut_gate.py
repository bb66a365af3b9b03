"""A bad row through the real scheduler: its gate fails, its asset's reader waits, its stream is paused; repaired, all go on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.access.bindings import read_kafka
from headrace.local.settings import Settings
from headrace.operations import deployment as deployments
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import send
from headrace.store import driver_files, generation
from tests.support.airflow_client import Airflow
from tests.support.drivers import end_offsets

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800), pytest.mark.long(group="airflow")]

PIPELINE, TOPIC = "web_events", "quickstart"
FILES, ROWS = "files.web_events.files", "kafka.transformed"
GOOD, BAD = '"lower_city":"oslo"', '"lower_city":"OSLO"'


@pytest.fixture(scope="module")
def loaded(
    airflow: Airflow, airflow_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A deployment whose `web_events` is paused by a critical finding; its stream runs and has taken records."""
    file = airflow_settings.home / "deployment.json"
    before = deployments.load(file)
    project = tmp_path_factory.mktemp("project")
    for folder in ("pipelines", "spark_jobs"):
        shutil.copytree(before.project / folder, project / folder)
    path = project / "pipelines" / f"{PIPELINE}.yaml"
    path.write_text(
        yaml.safe_dump(yaml.safe_load(path.read_text()) | {"quality": {"on_critical": "pause"}}, sort_keys=False)
    )
    deployment = before.model_copy(update={"project": project})
    deployment.write(file)
    try:
        for dag in ("quality", "stream_start", "stream_resume", _reader(FILES), _reader(ROWS)):
            airflow.wait_for_dag(dag)
        _ended(airflow, "stream_start", "success", reason="a test")
        _send_and_await(airflow_settings, deployment)
        yield deployment
    finally:
        deployment.launcher().stop(PIPELINE, 0)
        desired_state.write(deployment.root, PIPELINE, "STOPPED", "a test", "over")
        before.write(file)


def _send_and_await(settings: Settings, deployment: Deployment) -> None:
    event = json.dumps({"city": "Oslo", "domain": "a.example", "event": "view"}).encode()
    send([Record(TOPIC, b"a.example", event, 0.0)] * 20, read_kafka(settings.bindings()), {TOPIC}, paced=False)
    ends = {TOPIC: end_offsets(deployment.bindings, TOPIC)}

    def taken() -> bool:
        """A heartbeat's lag may be from before the records; its offsets are those of the newest batch."""
        beat = driver_files.heartbeat(deployment.root, PIPELINE)
        return beat is not None and bool(beat.queries) and all(entry.offsets == ends for entry in beat.queries)

    _await(taken, f"{PIPELINE} has taken all records")


def _ended(airflow: Airflow, dag: str, state: str, **form: Any) -> str:
    run = airflow.trigger(dag, {"pipelines": [PIPELINE], **form})
    assert airflow.wait(dag, run, 900) == state, airflow.task_states(dag, run)
    return run


def _await(fact: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 300
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def _reader(sink: str) -> str:
    return f"probe_reads_{sink}"


def _read_since(airflow: Airflow, sink: str, since: datetime) -> int:
    """Return how often the reader of a sink was started since a time, by the asset of the sink."""
    runs = airflow.get(f"/dags/{_reader(sink)}/dagRuns", run_after_gte=since.isoformat())["dag_runs"]
    assert {run["run_type"] for run in runs} <= {"asset_triggered"}
    return len(runs)


def _gates(airflow: Airflow, run: str) -> dict[str, str | None]:
    states = airflow.task_states("quality", run)
    sinks = [summary["sink"] for summary in airflow.returned("quality", run, "together")]
    return {sink: states[f"gate[{index}]"] for index, sink in enumerate(sinks)}


def _part(deployment: Deployment, text: str) -> Path:
    """Return the newest file of the sink that has a text."""
    now = generation.current(deployment.root, PIPELINE, "files")
    assert now is not None
    folder = Path(now.paths(deployment.root).files.removeprefix("file://"))
    return max(
        (part for part in folder.glob("batch_id=*/part-*") if text in part.read_text()),
        key=lambda part: part.stat().st_mtime,
    )


def test_a_bad_row_shuts_the_gate_of_its_sink_alone_pauses_the_stream_and_is_open_until_it_is_repaired(
    airflow: Airflow, airflow_settings: Settings, loaded: Deployment
) -> None:
    bad, began = _part(loaded, GOOD), datetime.now(UTC)
    bad.write_text(bad.read_text().replace(GOOD, BAD, 1))
    run = _ended(airflow, "quality", "failed")
    gates = _gates(airflow, run)
    assert gates.pop(FILES) == "failed"
    assert set(gates.values()) == {"success"}
    _await(lambda: _read_since(airflow, ROWS, began), "the reader of the sink that passed runs")
    assert _read_since(airflow, FILES, began) == 0
    desired = desired_state.read(loaded.root, PIPELINE)
    assert (desired.want, FILES in desired.reason) == ("PAUSED", True)
    assert loaded.launcher().find(PIPELINE) == []

    _ended(airflow, "stream_resume", "success")
    _send_and_await(airflow_settings, loaded)
    run = _ended(airflow, "quality", "failed")
    assert _gates(airflow, run)[FILES] == "failed", "good rows came, and the bad one is still there"
    assert desired_state.read(loaded.root, PIPELINE).want == "RUNNING", "an older finding pauses no resumed stream"
    assert _read_since(airflow, FILES, began) == 0

    bad.write_text(bad.read_text().replace(BAD, GOOD, 1))
    _send_and_await(airflow_settings, loaded)
    run = _ended(airflow, "quality", "success")
    assert _gates(airflow, run)[FILES] == "success"
    _await(lambda: _read_since(airflow, FILES, began), "the reader of the repaired sink runs")
