"""Lineage as OpenLineage events: from topic to table across foreachBatch, which Spark's own listener cannot see.

What a query reads and writes follows from its pipeline file, so the events are made from there (dataset names by the
OpenLineage naming conventions). The run of a stream is one generation of one query: its event is replaced while it goes on,
so an endless job leaves one small file. Events go to an HTTP endpoint where OPENLINEAGE_URL names one, and always to files
below the storage root (`lineage_emit`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from headrace.contract import generation, ledger, names, paths, storage, views
from headrace.contract.bindings import read_cassandra, read_kafka
from headrace.contract.model import CassandraSink, Column, KafkaSink, Pipeline, Query, Sink
from headrace.operations.deployment import Deployment

NAMESPACE = "headrace"
_RUNS = uuid.UUID("6b1f5a52-2f3b-4c57-9d51-7d1e0a8f4e11")  # names of runs are derived from it

Event = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A dataset by its OpenLineage name; `columns` becomes its schema facet."""

    namespace: str
    name: str
    columns: Mapping[str, str]


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
    from headrace.operations import lineage_emit

    found, where = deployment.pipeline(pipeline), places(deployment)
    events = []
    for name, job in stream_jobs(found, where).items():
        now = generation.current(deployment.root, pipeline, name)
        newest = ledger.newest(now.paths(deployment.root).ledger) if now else None
        if now is None or newest is None:
            continue
        told = {"generation": now.number, "batch": newest["batch"], "offsets": newest["offsets"]}
        run = str(uuid.uuid5(_RUNS, f"{job.name}/{now.number}/{now.started_micros}"))
        events.append(lineage_emit.event(job, run, "RUNNING", newest["written_ms"], told))
    return {"pipeline": pipeline, "events": len(events), "http": lineage_emit.emit(deployment.root, events)}


def emit_views(deployment: Deployment, report: Mapping[str, Any]) -> dict[str, Any]:
    """Emit one COMPLETE event a view after a run of batch views, with how many rows were written."""
    from headrace.operations import lineage_emit

    pipeline = report["pipeline"]
    found, where = deployment.pipeline(pipeline), places(deployment)
    at_ms = int(datetime.now(UTC).timestamp() * 1000)
    events = []
    for name, job in view_jobs(found, where).items():
        told = {"days": report["days"], "run": report["run"]}
        run = str(uuid.uuid5(_RUNS, f"{job.name}/{report['run']}"))
        events.append(lineage_emit.event(job, run, "COMPLETE", at_ms, told, report["rows"][name]))
    return {"pipeline": pipeline, "events": len(events), "http": lineage_emit.emit(deployment.root, events)}


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
