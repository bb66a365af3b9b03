"""Check the pipeline files of a project, and show what each pipeline creates. Reads files only; no server needs to run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.contract import cassandra, kafka, names
from headrace.contract.load import Folder, read_folder
from headrace.contract.model import Pipeline, format_duration
from headrace.operations.quality.suites import suites
from headrace.store.paths import generation_paths

ROOT = "<storage root>"
_FIRST = 1


@dataclass(frozen=True)
class CreatedTopic:
    """A topic, with its configuration as Kafka names it."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class CreatedTable:
    """A table, `<keyspace>.<table>`. `columns`: name -> CQL type. `written`: the pipeline writes it, not only reads it."""

    name: str
    columns: Mapping[str, str]
    partition_key: tuple[str, ...]
    clustering_key: tuple[str, ...]
    written: bool


@dataclass(frozen=True)
class Users:
    """The Kafka user and the Cassandra role of a pipeline, with their rights as text."""

    kafka: str
    kafka_rights: tuple[str, ...]
    cassandra: str
    cassandra_rights: tuple[str, ...]


@dataclass(frozen=True)
class CheckedQuery:
    """A query: its consumer group, its first checkpoint, and its folder of output files ("": it writes none)."""

    name: str
    group: str
    mode: str
    trigger: str
    checkpoint: str
    files: str


@dataclass(frozen=True)
class CreatedSuite:
    """An expectation suite, by the numbers of its expectations."""

    name: str
    expectations: int
    critical: int


@dataclass(frozen=True)
class Created:
    """What a pipeline creates."""

    name: str
    owner: str
    description: str
    topics: tuple[CreatedTopic, ...]
    tables: tuple[CreatedTable, ...]
    archives: tuple[str, ...]
    users: Users
    queries: tuple[CheckedQuery, ...]
    suites: tuple[CreatedSuite, ...]
    dags: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """The result of a check: `faults` are sentences."""

    faults: tuple[str, ...]
    pipelines: tuple[Created, ...]


def check(project: Path, chosen: Sequence[str] = ()) -> Checked:
    """Return the faults of the pipeline files, and what each pipeline creates.

    `project` holds pipelines/ and spark_jobs/. `chosen` limits both to these pipelines; without it all are checked. Raises
    HeadraceError for an unknown name, and where the project has no pipeline file.
    """
    folder = read_folder(project / "pipelines")
    for name in chosen:
        if name not in folder.broken:
            folder.pipeline(name)  # raises for an unknown name
    faults = _faults(folder, chosen)
    described = {name: one for name, one in folder.pipelines.items() if not chosen or name in chosen}
    for one in described.values():
        faults += transform_faults(project, one)
    return Checked(tuple(faults), tuple(creates(one, folder.pipelines) for one in described.values()))


def _faults(folder: Folder, chosen: Sequence[str]) -> list[str]:
    if not chosen:
        return folder.faults()
    texts = [text for faults in (folder.broken, folder.clashes) for name, text in faults.items() if name in chosen]
    return list(dict.fromkeys(line for text in texts for line in text.splitlines()))


def transform_faults(project: Path, pipeline: Pipeline) -> list[str]:
    """Return a sentence for each query without a transform. `headrace check` also plans the queries."""
    path = project / "spark_jobs" / f"{pipeline.name}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"{path}: missing; write one function for each query: {', '.join(pipeline.queries)}."]
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        return [f"{path}: not a Python file ({error}); correct it."]
    defined = set(_defined(tree))
    return [
        f"{path}: the query {query} has no transform; write a function {query}."
        for query in pipeline.queries
        if query not in defined
    ]


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)


def creates(pipeline: Pipeline, others: Mapping[str, Pipeline]) -> Created:
    """Return what a pipeline creates. `others` are all pipelines of the project: the names of DAGs depend on them."""
    return Created(
        pipeline.name,
        pipeline.owner,
        pipeline.description,
        topics=tuple(CreatedTopic(topic.name, topic.partitions, topic.config) for topic in kafka.topics(pipeline)),
        tables=tuple(_table(table) for table in cassandra.tables(pipeline)),
        archives=tuple(names.archive_table(pipeline.name, topic) for topic in pipeline.sources),
        users=_users(pipeline),
        queries=tuple(_query(pipeline, name) for name in names.query_names(pipeline)),
        suites=tuple(
            CreatedSuite(
                suite.name,
                len(suite.expectations),
                sum(expectation.severity == "critical" for expectation in suite.expectations),
            )
            for suite in suites(pipeline).values()
        ),
        dags=tuple(refresh_dags(pipeline, others)),
    )


def _table(table: cassandra.Table) -> CreatedTable:
    name = f"{table.keyspace}.{table.name}"
    return CreatedTable(name, table.columns, tuple(table.partition_key), tuple(table.clustering_key), not table.shared)


def _users(pipeline: Pipeline) -> Users:
    user = names.principal(pipeline.name)
    acls, grants = kafka.acls(pipeline), cassandra.grants(pipeline)
    return Users(
        user,
        tuple(f"{acl.operation} {acl.resource} {acl.name} ({acl.pattern})" for acl in acls),
        user,
        tuple(f"{grant.permission} {grant.keyspace}.{grant.table}" for grant in grants),
    )


def _query(pipeline: Pipeline, name: str) -> CheckedQuery:
    declared = pipeline.queries.get(name)
    folders = generation_paths(ROOT, pipeline.name, name, _FIRST)
    return CheckedQuery(
        names.query_name(pipeline.name, name),
        names.consumer_group(pipeline.name, name),
        mode=declared.mode if declared else "append",
        trigger=format_duration(declared.trigger) if declared else "",
        checkpoint=folders.checkpoint,
        files=folders.files if declared and any(sink.kind == "files" for sink in declared.sinks) else "",
    )


def refresh_dags(pipeline: Pipeline, others: Mapping[str, Pipeline]) -> list[str]:
    """Return the DAGs that only this pipeline has: one per refreshed dimension. All other DAGs serve every pipeline."""
    every = {**others, pipeline.name: pipeline}.values()
    refreshed = [(one.name, name) for one in every for name, dimension in one.dimensions.items() if dimension.refresh]
    known = names.refresh_names(refreshed)
    return [names.refresh_dag(known[pair]) for pair in refreshed if pair[0] == pipeline.name]
