"""OpenLineage events: each run begins and ends once, at real moments, and every event keeps to the specification.

The published JSON schemas are in no package, and other projects' files are not committed here. What they require of our events
is in `faults`: OpenLineage 2-0-2 and the facets that we use.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openlineage.client.serde import Serde
from openlineage.client.uuid import generate_static_uuid

from headrace.contract.load import load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.lineage import emit, graph, run_events
from headrace.operations.lineage.graph import (
    PARENT,
    Dataset,
    LineageJob,
    Places,
    quality_job,
    refresh_job,
    stream_jobs,
    view_jobs,
)
from headrace.operations.quality.suites import suite_of
from headrace.operations.quality.summary import Failure, Summary
from headrace.store import driver_files, generation, ledger, small_files
from headrace.store.driver_files import Heartbeat
from headrace.store.job_reports import ViewsReport
from headrace.store.records import from_json

PROJECT = Path(__file__).resolve().parents[3]
PLACES = Places("kafka://k:9092", "cassandra://c:9042", "s3a://bucket")
RUN = "8d5e6f2c-0000-5000-8000-000000000000"
URI = re.compile(r"^[a-z][a-z0-9+.-]*:.+")


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return dict(load_pipelines(PROJECT / "pipelines"))


@pytest.fixture
def deployment(tmp_path: Path, pipelines: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch) -> Any:
    living: list[Any] = []
    monkeypatch.setattr(run_events, "places", lambda _: PLACES)
    return SimpleNamespace(
        root=str(tmp_path), project=PROJECT, bindings=tmp_path, pipeline=pipelines.__getitem__, living=living,
        launcher=lambda: SimpleNamespace(find=lambda _: living),
    )  # fmt: skip


def faults(event: dict[str, Any]) -> Iterator[str]:
    """Yield what the specification requires and an event does not keep."""
    if event["eventType"] not in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}:
        yield f"eventType {event['eventType']}"
    if datetime.fromisoformat(event["eventTime"]).tzinfo is None:
        yield "eventTime without zone"
    for key in ("producer", "schemaURL"):
        if not URI.match(event[key]):
            yield f"{key} is no URI"
    uuid.UUID(event["run"]["runId"])
    holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    if not all(holder["namespace"] and holder["name"] for holder in holders[1:]):
        yield "a job or dataset without a name"
    kinds = ("facets", "inputFacets", "outputFacets")
    for name, facet in (pair for holder in holders for kind in kinds for pair in (holder.get(kind) or {}).items()):
        if not URI.match(facet["_producer"]) or not URI.match(facet["_schemaURL"]):
            yield f"facet {name} without _producer or _schemaURL"
    yield from column_faults(event)


def column_faults(event: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the columns that outputs are said to come from."""
    read = {
        (dataset["namespace"], dataset["name"], one["name"])
        for dataset in event["inputs"]
        for one in dataset["facets"].get("schema", {}).get("fields", ())
    }
    for dataset in event["outputs"]:
        columns = {one["name"] for one in dataset["facets"].get("schema", {}).get("fields", ())}
        traced = dataset["facets"].get("columnLineage", {"fields": {}, "dataset": []})
        if not traced["fields"].keys() <= columns:
            yield f"{dataset['name']}: column lineage of columns that the schema lacks"
        for one in [*traced["dataset"], *(one for entry in traced["fields"].values() for one in entry["inputFields"])]:
            if (one["namespace"], one["name"], one["field"]) not in read:
                yield f"{dataset['name']}: comes from {one['field']} of {one['name']}, which is no input"
            if {way["type"] for way in one["transformations"]} - {"DIRECT", "INDIRECT"}:
                yield "a transformation of another type"


def kept(root: str) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the runs of every job that are kept; each event keeps to the specification, each run to its order."""
    folder = Path(root) / "lineage"
    jobs = {path.name: graph.runs(root, path.name) for path in sorted(folder.iterdir())}
    for run in (run for runs in jobs.values() for run in runs):
        assert [fault for event in run for fault in faults(event)] == []
        assert [event["eventTime"] for event in run] == sorted(event["eventTime"] for event in run)
        assert run[0]["eventType"] == "START"
        assert len({event["run"]["runId"] for event in run}) == 1
        assert all(event["eventType"] == "RUNNING" for event in run[1:-1])
    return jobs


def kinds(run: list[dict[str, Any]]) -> list[str]:
    return [event["eventType"] for event in run]


def all_jobs(pipelines: dict[str, Pipeline]) -> Iterator[LineageJob]:
    for pipeline in pipelines.values():
        yield from stream_jobs(pipeline, PLACES).values()
        yield from view_jobs(pipeline, PLACES).values()
        yield from (quality_job(pipeline, query, PLACES) for query in pipeline.queries)
        for name in (name for name, dimension in pipeline.dimensions.items() if dimension.refresh):
            yield refresh_job(pipeline, name, PLACES, Dataset("file:///x", "drop", {}))


def test_every_event_of_every_job_keeps_to_the_specification(pipelines: dict[str, Pipeline]) -> None:
    for job in all_jobs(pipelines):
        for kind in ("START", "RUNNING", "COMPLETE", "ABORT", "FAIL"):
            event = emit.event(job, RUN, kind, 1_800_000_000_000, {}, error="broken" if kind == "FAIL" else "")
            document = json.loads(json.dumps(Serde.to_dict(event)))
            assert list(faults(document)) == [], (job.name, kind)
            assert ("errorMessage" in document["run"]["facets"]) == (kind == "FAIL")


def test_columns_lead_back_to_where_they_come_from(pipelines: dict[str, Pipeline]) -> None:
    def origins(pipeline: str, query: str) -> dict[str, set[tuple[str, str, str]]]:
        output = stream_jobs(pipelines[pipeline], PLACES)[query].outputs[0]
        return {
            name: {(origin.name, origin.column, origin.how) for origin in column_origins}
            for name, column_origins in output.origins.items()
        }

    tumbling = origins("pos_sales", "tumbling")
    assert tumbling["product_id"] == {("pos", "product_id", "IDENTITY")}
    assert tumbling["window_start"] == {("pos", "create_date", "TRANSFORMATION")}
    assert "total_amount" not in tumbling, "what the transform reads for it is not known"
    row_origins = stream_jobs(pipelines["user_logins"], PLACES)["last_login"].outputs[0].row_origins
    assert ("test_db.users", "login_id", "JOIN") in {(origin.name, origin.column, origin.how) for origin in row_origins}
    refreshed = refresh_job(pipelines["user_logins"], "users", PLACES, Dataset("file:///x", "drop", {})).outputs[0]
    assert set(refreshed.columns) == set(refreshed.origins) == {"login_id", "user_name"}, "nothing that a stream writes"


def stream(deployment: Any, monkeypatch: pytest.MonkeyPatch, **beat: Any) -> dict[str, Any]:
    """Emit the lineage of pos_sales with one batch of each query and a heartbeat like this."""
    now = SimpleNamespace(number=1, started_micros=1_000_000_000, paths=lambda _: SimpleNamespace(ledger="ledger"))
    newest = {"batch": 7, "offsets": {}, "written_ms": beat.pop("written_ms", 1_100_000)}
    monkeypatch.setattr(generation, "current", lambda *_: now)
    monkeypatch.setattr(ledger, "newest", lambda _: newest)
    heartbeat = from_json(Heartbeat, {"exit": None, "life": "a", "at_ms": 1_200_000} | beat)
    monkeypatch.setattr(driver_files, "heartbeat", lambda *_: heartbeat)
    monkeypatch.setattr(driver_files, "exit_record", lambda *_: None)
    run_events.emit_streams(deployment, "pos_sales")
    return kept(deployment.root)


def test_a_stream_starts_runs_and_completes_when_it_did(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.living.append(SimpleNamespace(started=1_050.0, instance="a"))
    (run,) = stream(deployment, monkeypatch)["pos_sales.tumbling"]
    assert kinds(run) == ["START", "RUNNING"]
    assert datetime.fromisoformat(run[0]["eventTime"]).timestamp() == 1_050
    assert datetime.fromisoformat(run[1]["eventTime"]).timestamp() == 1_100
    deployment.living.clear()
    (run,) = stream(deployment, monkeypatch, exit="FINISHED", written_ms=1_150_000)["pos_sales.tumbling"]
    assert kinds(run) == ["START", "RUNNING", "COMPLETE"]
    assert datetime.fromisoformat(run[2]["eventTime"]).timestamp() == 1_200
    assert stream(deployment, monkeypatch, exit="FINISHED")["pos_sales.tumbling"] == [run], "an ended run stays so"


@pytest.mark.parametrize(
    ("beat", "end"), [({}, "ABORT"), ({"exit": "CUT_OFF"}, "ABORT"), ({"exit": "FAILED", "why": "no topic"}, "FAIL")]
)
def test_a_driver_that_was_killed_broken_off_or_failed_says_so(
    deployment: Any, monkeypatch: pytest.MonkeyPatch, beat: dict[str, Any], end: str
) -> None:
    (run,) = stream(deployment, monkeypatch, **beat)["pos_sales.tumbling"]
    assert kinds(run) == ["START", "RUNNING", end]
    assert ("no topic" in json.dumps(run[2])) == (end == "FAIL")


def test_a_life_that_nobody_saw_end_is_aborted_by_the_next(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.living.append(SimpleNamespace(started=1_050.0, instance="a"))
    stream(deployment, monkeypatch)
    deployment.living[:] = [SimpleNamespace(started=1_300.0, instance="b")]
    jobs = stream(deployment, monkeypatch, life="b", at_ms=1_400_000, written_ms=1_350_000)
    assert sorted(map(kinds, jobs["pos_sales.tumbling"])) == [["START", "RUNNING"], ["START", "RUNNING", "ABORT"]]


def test_batch_views_start_and_complete_or_fail(deployment: Any) -> None:
    run_events.start_views(deployment, "pos_sales", "one")
    job = "pos_sales.batch_tumbling"
    assert [kinds(run) for run in kept(deployment.root)[job]] == [["START"]]
    views = view_jobs(deployment.pipeline("pos_sales"), PLACES)
    report = ViewsReport("one", "pos_sales", ("2026-03-01",), dict.fromkeys(views, 5))
    assert run_events.emit_views(deployment, report).events == len(views)
    (run,) = kept(deployment.root)[job]
    assert kinds(run) == ["START", "COMPLETE"]
    assert run[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 5
    run_events.start_views(deployment, "pos_sales", "two")
    run_events.fail_views(deployment, "pos_sales", "two", "no space")
    assert sorted(map(kinds, kept(deployment.root)[job])) == [["START", "COMPLETE"], ["START", "FAIL"]]


def test_what_a_task_runs_has_its_dag_run_as_parent_and_a_stream_has_none(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is the one that Airflow's OpenLineage provider gives a DAG run: of its time, namespace, name and clear number."""
    job, at = "pos_sales.batch_tumbling", datetime(2026, 3, 1, 3, 37, tzinfo=UTC)
    run_events.start_views(deployment, "pos_sales", "by hand")
    monkeypatch.setenv(PARENT, json.dumps({"dag": "batch_views", "at": at.isoformat(), "clear": 2}))
    run_events.start_views(deployment, "pos_sales", "one")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "shop")
    views = dict.fromkeys(view_jobs(deployment.pipeline("pos_sales"), PLACES), 1)
    run_events.emit_views(deployment, ViewsReport("one", "pos_sales", (), views))
    by_hand, run = sorted(kept(deployment.root)[job], key=lambda run: kinds(run)[-1])
    assert (kinds(by_hand), kinds(run)) == (["START", "ABORT"], ["START", "COMPLETE"])
    assert not any("parent" in event["run"]["facets"] for event in by_hand), "no task began it"
    for event, namespace in zip(run, ("default", "shop"), strict=True):
        parent = event["run"]["facets"]["parent"]
        assert (parent["job"]["namespace"], parent["job"]["name"]) == (namespace, "batch_views")
        assert parent["run"]["runId"] == str(generate_static_uuid(at, f"{namespace}.batch_views.2".encode()))
        assert parent["root"] == {"run": parent["run"], "job": parent["job"]}
    deployment.living.append(SimpleNamespace(started=1_050.0, instance="a"))
    (run,) = stream(deployment, monkeypatch)["pos_sales.tumbling"]
    assert not any("parent" in event["run"]["facets"] for event in run), "its driver outlives the run that started it"


def test_a_refresh_starts_and_completes_and_one_that_is_refused_fails(deployment: Any) -> None:
    target = (deployment, "user_logins", "users")
    job = "user_logins.refresh_users"
    run_events.emit_refresh(*target, "v1", "START")
    run_events.emit_refresh(*target, "v1", "COMPLETE", rows=3)
    run_events.emit_refresh(*target, "v2", "START")
    with pytest.raises(HeadraceError, match="plan again"), run_events.refreshing(*target, "v2"):
        raise HeadraceError("plan again")
    run_events.emit_refresh(*target, "v3", "START")
    run_events.emit_refresh(*target, "v4", "START")  # v3 was rejected: nobody said so
    runs = kept(deployment.root)[job]
    assert sorted(map(kinds, runs)) == [["START"], ["START", "ABORT"], ["START", "COMPLETE"], ["START", "FAIL"]]
    assert runs[0][0]["inputs"][0]["name"] == "refresh/user_logins/users/drop"


def test_checks_start_and_complete_with_what_each_expectation_found(deployment: Any) -> None:
    pipeline = deployment.pipeline("user_logins")
    (sink,) = [checked for checked in lineage_runs_sinks(pipeline) if checked.query == "last_login"]
    suite = suite_of(pipeline, sink.name).expectations
    summaries: list[Summary] = []
    with run_events.checking(deployment, pipeline, summaries):
        assert [kinds(run) for run in kept(deployment.root)["user_logins.quality_last_login"]] == [["START"]]
        failed = (Failure(id=suite[0].id),)
        summaries.append(Summary(query="last_login", sink=sink.name, status="FAILED", expectations=9, failed=failed))
    (run,) = kept(deployment.root)["user_logins.quality_last_login"]
    assert kinds(run) == ["START", "COMPLETE"]
    asserted = run[1]["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [assertion["success"] for assertion in asserted] == [False] + [True] * (len(suite) - 1)
    with pytest.raises(RuntimeError), run_events.checking(deployment, pipeline, summaries):
        raise RuntimeError("Cassandra is away")
    assert sorted(map(kinds, kept(deployment.root)["user_logins.quality_last_login"])) == [
        ["START", "COMPLETE"],
        ["START", "FAIL"],
    ]


def lineage_runs_sinks(pipeline: Pipeline) -> Any:
    from headrace.contract.checked_sinks import sinks_of

    return sinks_of(pipeline)


def test_lineage_that_cannot_be_written_fails_nothing(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(small_files, "write_json", refuse)
    run_events.start_views(deployment, "pos_sales", "one")
    run_events.emit_refresh(deployment, "user_logins", "users", "v1", "START")
    with run_events.checking(deployment, deployment.pipeline("user_logins"), []):
        pass


def test_the_oldest_runs_go_once_there_are_many(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "RUNS_KEPT", 3)
    job = next(iter(view_jobs(deployment.pipeline("pos_sales"), PLACES).values()))
    ids = [str(uuid.uuid4()) for _ in range(8)]
    for number, run in enumerate(ids):
        emit.emit(deployment.root, [emit.event(job, run, "START", 1_000_000 + number, {})])
    left = {run[0]["run"]["runId"] for run in graph.runs(deployment.root, job.name)}
    assert left == {*ids[3:]}
