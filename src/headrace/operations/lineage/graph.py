"""Lineage as OpenLineage events: from topic to table across foreachBatch, which Spark's own listener cannot see.

The inputs and outputs of a job follow from its pipeline file, so the events are made from that file. Dataset names follow the
OpenLineage naming conventions. `run_events` decides when events are made. `emit` writes them to files below the storage root,
and posts them to the HTTP endpoint that OPENLINEAGE_URL names.

Column lineage contains only what the file says: a grouping or join key is the identity of the input column, a column of the
same name is a transformation of it, and a window comes from the event time. Other inputs of a transform are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, assert_never

from headrace.access.bindings import read_cassandra, read_kafka
from headrace.contract import batch_views, names
from headrace.contract.cassandra import directory_columns
from headrace.contract.model import CassandraSink, Column, FilesSink, KafkaSink, Pipeline, Query, Sink
from headrace.operations.deployment import Deployment
from headrace.store import paths, small_files

NAMESPACE = "headrace"
PARENT = "HEADRACE_LINEAGE_PARENT"
"""The environment variable of a task: the JSON of its DAG run (`dag`, `at`, `clear`), the parent of the runs that it emits."""

Event = dict[str, Any]


How = Literal["IDENTITY", "TRANSFORMATION", "GROUP_BY", "JOIN"]


@dataclass(frozen=True)
class Origin:
    """An input column from which an output, or one of its columns, is derived. `how` is OpenLineage's subtype."""

    namespace: str
    name: str
    column: str
    how: How


@dataclass(frozen=True)
class Dataset:
    """A dataset by its OpenLineage name. `columns` becomes its schema facet.

    For an output, `origins` holds the origins of each column, and `row_origins` those that decide which rows the output has.
    """

    namespace: str
    name: str
    columns: Mapping[str, str]
    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)
    row_origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class LineageJob:
    """A job with its inputs and outputs."""

    name: str
    kind: Literal["STREAMING", "BATCH"]
    description: str
    owner: str
    inputs: tuple[Dataset, ...]
    outputs: tuple[Dataset, ...]


@dataclass(frozen=True)
class Places:
    """The systems of a deployment as dataset namespaces."""

    kafka: str
    cassandra: str
    root: str


def places(deployment: Deployment) -> Places:
    """Return the namespaces of a deployment, from the admin's bindings. They contain no secret."""
    kafka, cassandra = read_kafka(deployment.bindings), read_cassandra(deployment.bindings)
    return Places(
        f"kafka://{kafka.bootstrap_servers.split(',')[0]}",
        f"cassandra://{cassandra.contact_points[0]}:{cassandra.port}",
        deployment.root if "://" in deployment.root else f"file://{deployment.root}",
    )


def stream_jobs(pipeline: Pipeline, where: Places) -> dict[str, LineageJob]:
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
        traced = [_traced(output, inputs, pipeline, query) for output in outputs]
        jobs[name] = _job(pipeline, name, "STREAMING", query.description, inputs, traced)
    for topic, source in pipeline.sources.items():
        outputs = [_lake(where, names.archive_table(pipeline.name, topic), {})]
        outputs.append(_topic(where, names.dead_letter_topic(topic), {}))
        name = names.archive_query(topic)
        description = f"Every record of {topic} as it came."
        jobs[name] = _job(pipeline, name, "STREAMING", description, [_topic(where, topic, source.columns)], outputs)
    return jobs


def view_jobs(pipeline: Pipeline, where: Places) -> dict[str, LineageJob]:
    """Return the batch job of every view, by the query's short name."""
    return {
        name: _job(
            pipeline,
            f"batch_{name}",
            "BATCH",
            f"{query.description} By day, over the archive.",
            [_lake(where, names.archive_table(pipeline.name, topic), {}) for topic in query.sources],
            [_lake(where, names.batch_view_table(pipeline.name, name), batch_views.columns(query))],
        )
        for name, query in batch_views.views(pipeline).items()
    }


def refresh_job(pipeline: Pipeline, dimension: str, where: Places, source: Dataset) -> LineageJob:
    """Return the job that refreshes a dimension from its directory. Its columns are copied."""
    declared = pipeline.dimensions[dimension]
    copied = [*declared.key, *directory_columns(pipeline, dimension)]
    columns = _types({name: declared.columns[name] for name in copied})
    input_ = replace(source, columns=columns)
    table = _table(where, declared.keyspace, declared.table, {name: declared.columns[name] for name in copied})
    origins = {name: (Origin(input_.namespace, input_.name, name, "IDENTITY"),) for name in copied}
    description = f"Brings {dimension} up to its directory."
    return _job(pipeline, f"refresh_{dimension}", "BATCH", description, [input_], [replace(table, origins=origins)])


def drop_folder(pipeline: Pipeline, dimension: str, where: Places) -> Dataset:
    """Return the drop folder of a dimension's snapshots."""
    folder = paths.refresh_drop(where.root, pipeline.name, dimension).removeprefix(f"{where.root}/")
    return Dataset(where.root, folder, {})


def quality_job(pipeline: Pipeline, query: str, where: Places) -> LineageJob:
    """Return the job that checks the sinks of a query: it reads them and writes nothing."""
    stream = stream_jobs(pipeline, where)[query]
    dead_letters = {names.dead_letter_topic(topic) for topic in pipeline.sources}
    read = [replace(output, origins={}, row_origins=()) for output in stream.outputs if output.name not in dead_letters]
    return _job(pipeline, f"quality_{query}", "BATCH", f"Checks the sinks of {query}.", read, [])


def _traced(output: Dataset, inputs: Sequence[Dataset], pipeline: Pipeline, query: Query) -> Dataset:
    """Return an output of a query with the origins of its columns, as far as the pipeline file states them."""
    keys = set(query.aggregate.keys if query.aggregate else ())
    joined = set(query.join.using if query.join else ())
    window = query.aggregate.window.column if query.aggregate and query.aggregate.window else None

    def origins_of(column: str) -> tuple[Origin, ...]:
        how: How = "IDENTITY" if column in keys | joined else "TRANSFORMATION"
        source_column = window if window and column in (batch_views.WINDOW_START, batch_views.WINDOW_END) else column
        return tuple(
            Origin(dataset.namespace, dataset.name, source_column, how)
            for dataset in inputs
            if source_column in dataset.columns
        )

    row_origins: list[Origin] = []
    for dataset in inputs:
        grouped = [name for name in (*sorted(keys), window) if name and name in dataset.columns]
        row_origins += [Origin(dataset.namespace, dataset.name, name, "GROUP_BY") for name in grouped]
        row_origins += [
            Origin(dataset.namespace, dataset.name, name, "JOIN") for name in sorted(joined) if name in dataset.columns
        ]
    for dimension in query.dimensions:
        declared = pipeline.dimensions[dimension]
        row_origins += [
            Origin(dataset.namespace, dataset.name, name, "JOIN")
            for dataset in inputs
            for name in declared.key
            if dataset.name == f"{declared.keyspace}.{declared.table}"
        ]
    if not output.columns:
        return output
    column_origins = {column: origins for column in output.columns if (origins := origins_of(column))}
    return replace(output, origins=column_origins, row_origins=tuple(row_origins))


def events(root: str) -> list[Event]:
    """Return the newest event of each job, by job name."""
    newest = {}
    for job in small_files.list_names(paths.lineage(root)):
        job_events = [event for run in runs(root, job) for event in run]
        if job_events:
            newest[job] = sorted(job_events, key=lambda event: str(event["eventTime"]))[
                -1
            ]  # of events at the same time: the last of its run
    return [newest[job] for job in sorted(newest)]


def runs(root: str, job: str) -> list[list[Event]]:
    """Return the events of each stored run of a job, in their order within the run."""
    folder, stored = f"{paths.lineage(root)}/{job}", []
    for name in small_files.list_names(folder):
        content = small_files.read_json(f"{folder}/{name}") if name.endswith(".json") else None
        if content:  # a file from an older release holds one event, not a list
            stored.append([content] if isinstance(content, dict) else list(content))
    return stored


def _job(
    pipeline: Pipeline,
    name: str,
    kind: Literal["STREAMING", "BATCH"],
    description: str,
    inputs: Sequence[Dataset],
    outputs: Sequence[Dataset],
) -> LineageJob:
    full = names.query_name(pipeline.name, name)
    return LineageJob(full, kind, description, pipeline.owner, tuple(inputs), tuple(outputs))


def _sink(where: Places, pipeline: Pipeline, name: str, query: Query, sink: Sink) -> Dataset:
    match sink:
        case CassandraSink():
            return _table(where, *names.cassandra_table(pipeline.name, name, sink), query.columns)
        case KafkaSink():
            return _topic(where, sink.topic, query.columns)
        case FilesSink():
            folder = paths.query_files(where.root, pipeline.name, name).removeprefix(f"{where.root}/")
            return Dataset(where.root, folder, _types(query.columns))
        case _:
            assert_never(sink)


def _topic(where: Places, name: str, columns: Mapping[str, Column]) -> Dataset:
    return Dataset(where.kafka, name, _types(columns))


def _table(where: Places, keyspace: str, table: str, columns: Mapping[str, Column]) -> Dataset:
    return Dataset(where.cassandra, f"{keyspace}.{table}", _types(columns))


def _lake(where: Places, table: str, columns: Mapping[str, Column]) -> Dataset:
    name = table.removeprefix(f"{names.LAKE_CATALOG}.")
    return Dataset(paths.lake(where.root), name, _types(columns))


def _types(columns: Mapping[str, Column]) -> dict[str, str]:
    return {name: column.type for name, column in columns.items()}
