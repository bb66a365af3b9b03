"""Lineage as OpenLineage events: from topic to table across foreachBatch, which Spark's own listener cannot see.

What a query reads and writes follows from its pipeline file, so the events are made from there (spec 2-0-2, RunEvent;
dataset names by the OpenLineage naming conventions). The run of a stream is one generation of one query: its event is
replaced while it goes on, so an endless job leaves one small file. Events go to an HTTP endpoint where OPENLINEAGE_URL names
one (OPENLINEAGE_ENDPOINT, default api/v1/lineage), and always to files below the storage root.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from headrace import __version__
from headrace.contract import generation, ledger, names, paths, storage, views
from headrace.contract.bindings import read_cassandra, read_kafka
from headrace.contract.model import CassandraSink, Column, KafkaSink, Pipeline, Query, Sink
from headrace.operations.deployment import Deployment

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
PRODUCER = f"urn:headrace:{__version__}"
NAMESPACE = "headrace"
HTTP_SECONDS = 5.0
_RUNS = uuid.UUID("6b1f5a52-2f3b-4c57-9d51-7d1e0a8f4e11")  # names of runs are derived from it

Event = dict[str, Any]
EventType = Literal["START", "RUNNING", "COMPLETE", "FAIL"]


@dataclass(frozen=True)
class Dataset:
    """A dataset by its OpenLineage name; `columns` becomes its schema facet."""

    namespace: str
    name: str
    columns: Mapping[str, str]

    def to_json_dict(self) -> dict[str, Any]:
        """Return the dataset as an event has it."""
        fields = [{"name": name, "type": kind} for name, kind in self.columns.items()]
        schema = _facet("1-1-1/SchemaDatasetFacet.json", fields=fields)
        return {"namespace": self.namespace, "name": self.name, "facets": {"schema": schema} if fields else {}}


@dataclass(frozen=True)
class Job:
    """A job with what it reads and writes."""

    name: str
    kind: Literal["STREAMING", "BATCH"]
    description: str
    owner: str
    inputs: tuple[Dataset, ...]
    outputs: tuple[Dataset, ...]


@dataclass(frozen=True)
class Places:
    """Where the systems of a deployment are, as dataset namespaces."""

    kafka: str
    cassandra: str
    root: str


def places(deployment: Deployment) -> Places:
    """Return the namespaces of a deployment, from the admin's bindings; no secret is in them."""
    kafka, cassandra = read_kafka(deployment.bindings), read_cassandra(deployment.bindings)
    return Places(
        f"kafka://{kafka.bootstrap_servers.split(',')[0]}",
        f"cassandra://{cassandra.contact_points[0]}:{cassandra.port}",
        deployment.root if "://" in deployment.root else f"file://{deployment.root}",
    )


def stream_jobs(pipeline: Pipeline, where: Places) -> dict[str, Job]:
    """Return the job of every query of a pipeline, declared or archive, by the query's short name."""
    jobs = {}
    for name, query in pipeline.queries.items():
        inputs = [_topic(where, topic, pipeline.sources[topic].columns) for topic in query.sources]
        for dimension in query.dimensions:
            table = pipeline.dimensions[dimension]
            inputs.append(_table(where, table.keyspace, table.table, table.columns))
        outputs = [_sink(where, pipeline, name, query, sink) for sink in query.sinks]
        if query.matched:
            outputs += [_topic(where, names.dead_letter_topic(topic), {}) for topic in query.sources]
        jobs[name] = _job(pipeline, name, "STREAMING", query.description, inputs, outputs)
    for topic, source in pipeline.sources.items():
        outputs = [_lake(where, names.archive_table(pipeline.name, topic), {})]
        outputs.append(_topic(where, names.dead_letter_topic(topic), {}))
        name = names.archive_query(topic)
        told = f"Every record of {topic} as it came."
        jobs[name] = _job(pipeline, name, "STREAMING", told, [_topic(where, topic, source.columns)], outputs)
    return jobs


def view_jobs(pipeline: Pipeline, where: Places) -> dict[str, Job]:
    """Return the batch job of every view, by the query's short name."""
    return {
        name: _job(
            pipeline,
            f"batch_{name}",
            "BATCH",
            f"{query.description} By day, over the archive.",
            [_lake(where, names.archive_table(pipeline.name, topic), {}) for topic in query.sources],
            [_lake(where, names.batch_view_table(pipeline.name, name), views.columns(query))],
        )
        for name, query in views.views(pipeline).items()
    }


def emit_streams(deployment: Deployment, pipeline: str) -> dict[str, Any]:
    """Emit one RUNNING event a query that has a generation; returns {pipeline, events, http}, where http is an error or ""."""
    found, where = deployment.pipeline(pipeline), places(deployment)
    events = []
    for name, job in stream_jobs(found, where).items():
        now = generation.current(deployment.root, pipeline, name)
        newest = ledger.newest(now.paths(deployment.root).ledger) if now else None
        if now is None or newest is None:
            continue
        told = {"generation": now.number, "batch": newest["batch"], "offsets": newest["offsets"]}
        run = str(uuid.uuid5(_RUNS, f"{job.name}/{now.number}/{now.started_micros}"))
        events.append(event(job, run, "RUNNING", newest["written_ms"], told))
    return {"pipeline": pipeline, "events": len(events), "http": emit(deployment.root, events)}


def emit_views(deployment: Deployment, report: Mapping[str, Any]) -> dict[str, Any]:
    """Emit one COMPLETE event a view after a run of batch views, with how many rows were written."""
    pipeline = report["pipeline"]
    found, where = deployment.pipeline(pipeline), places(deployment)
    at_ms = int(datetime.now(UTC).timestamp() * 1000)
    events = []
    for name, job in view_jobs(found, where).items():
        told = {"days": report["days"], "run": report["run"]}
        made = event(job, str(uuid.uuid5(_RUNS, f"{job.name}/{report['run']}")), "COMPLETE", at_ms, told)
        rows = _facet("1-0-2/OutputStatisticsOutputDatasetFacet.json", rowCount=report["rows"][name])
        made["outputs"][0]["outputFacets"] = {"outputStatistics": rows}
        events.append(made)
    return {"pipeline": pipeline, "events": len(events), "http": emit(deployment.root, events)}


def event(job: Job, run: str, kind: EventType, at_ms: int, told: Mapping[str, Any]) -> Event:
    """Return one RunEvent. `run` is a UUID, `at_ms` milliseconds since 1970, `told` goes into a run facet of ours."""
    job_type = _facet("2-0-3/JobTypeJobFacet.json", processingType=job.kind, integration="HEADRACE", jobType="QUERY")
    facets = {
        "jobType": job_type,
        "documentation": _facet("1-0-1/DocumentationJobFacet.json", description=job.description),
        "ownership": _facet("1-0-1/OwnershipJobFacet.json", owners=[{"name": job.owner, "type": "MAINTAINER"}]),
    }
    return {
        "eventType": kind,
        "eventTime": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
        "run": {"runId": run, "facets": {"headrace": {"_producer": PRODUCER, "_schemaURL": SPEC, **told}}},
        "job": {"namespace": NAMESPACE, "name": job.name, "facets": facets},
        "inputs": [each.to_json_dict() for each in job.inputs],
        "outputs": [each.to_json_dict() for each in job.outputs],
        "producer": PRODUCER,
        "schemaURL": SPEC,
    }


def emit(root: str, events: Sequence[Event]) -> str:
    """Write events to files, one a job and run, and post them where OPENLINEAGE_URL says. Returns the error of that, or "".

    An endpoint that is away never fails a duty: the files have the events.
    """
    for each in events:
        name = f"{each['job']['name']}/{each['run']['runId']}.json"
        storage.write_json(f"{paths.lineage(root)}/{name}", each)
    url = os.environ.get("OPENLINEAGE_URL", "")
    if not url:
        return ""
    if not url.startswith(("http://", "https://")):
        return f"OPENLINEAGE_URL is no HTTP address: {url}"
    target = f"{url.rstrip('/')}/{os.environ.get('OPENLINEAGE_ENDPOINT', 'api/v1/lineage').lstrip('/')}"
    try:
        for each in events:
            body, headers = json.dumps(each).encode(), {"Content-Type": "application/json"}
            if key := os.environ.get("OPENLINEAGE_API_KEY"):
                headers["Authorization"] = f"Bearer {key}"
            request = urllib.request.Request(target, body, headers)  # noqa: S310 - the scheme is checked above
            with urllib.request.urlopen(request, timeout=HTTP_SECONDS):  # noqa: S310
                pass
    except (urllib.error.URLError, OSError) as error:
        return f"{target} did not take the events: {error}"
    return ""


def events(root: str) -> list[Event]:
    """Return the newest event of each job, by job name."""
    found: dict[str, Event] = {}
    folder = paths.lineage(root)
    for job in storage.list_names(folder):
        for name in storage.list_names(f"{folder}/{job}"):
            each = storage.read_json(f"{folder}/{job}/{name}") if name.endswith(".json") else None
            if each and (job not in found or found[job]["eventTime"] < each["eventTime"]):
                found[job] = each
    return [found[job] for job in sorted(found)]


def graph(told: Iterable[Event]) -> set[tuple[str, str]]:
    """Return the edges dataset -> job and job -> dataset of events; a dataset is `<namespace>/<name>`."""
    edges: set[tuple[str, str]] = set()
    for each in told:
        job = each["job"]["name"]
        edges |= {(f"{d['namespace']}/{d['name']}", job) for d in each["inputs"]}
        edges |= {(job, f"{d['namespace']}/{d['name']}") for d in each["outputs"]}
    return edges


def downstream(edges: Iterable[tuple[str, str]], start: str) -> set[str]:
    """Return everything that can be reached from a dataset or job."""
    forward: dict[str, set[str]] = {}
    for source, target in edges:
        forward.setdefault(source, set()).add(target)
    found: set[str] = set()
    open_ = {start}
    while open_:
        open_ = {target for each in open_ for target in forward.get(each, ())} - found
        found |= open_
    return found


def _job(
    pipeline: Pipeline,
    name: str,
    kind: Literal["STREAMING", "BATCH"],
    description: str,
    inputs: Sequence[Dataset],
    outputs: Sequence[Dataset],
) -> Job:
    full = names.query_name(pipeline.name, name)
    return Job(full, kind, description, pipeline.owner, tuple(inputs), tuple(outputs))


def _sink(where: Places, pipeline: Pipeline, name: str, query: Query, sink: Sink) -> Dataset:
    if isinstance(sink, CassandraSink):
        return _table(where, *names.cassandra_table(pipeline.name, name, sink), query.columns)
    if isinstance(sink, KafkaSink):
        return _topic(where, sink.topic, query.columns)
    folder = paths.query_files(where.root, pipeline.name, name).removeprefix(f"{where.root}/")
    return Dataset(where.root, folder, _types(query.columns))


def _topic(where: Places, name: str, columns: Mapping[str, Column]) -> Dataset:
    return Dataset(where.kafka, name, _types(columns))


def _table(where: Places, keyspace: str, table: str, columns: Mapping[str, Column]) -> Dataset:
    return Dataset(where.cassandra, f"{keyspace}.{table}", _types(columns))


def _lake(where: Places, table: str, columns: Mapping[str, Column]) -> Dataset:
    name = table.removeprefix(f"{names.LAKE_CATALOG}.")
    return Dataset(paths.lake(where.root), name, _types(columns))


def _types(columns: Mapping[str, Column]) -> dict[str, str]:
    return {name: column.type for name, column in columns.items()}


def _facet(schema: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/{schema}", **content}
