"""Check the pipeline files of a project, and show what each pipeline creates. Reads files only; no server needs to run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.contract import cassandra, kafka, names
from headrace.contract.load import Folder, read_folder
from headrace.contract.model import Pipeline, format_duration
from headrace.operations.quality.suites import suites
from headrace.store.paths import generation_paths

ROOT = "<storage root>"
_FIRST = 1


def check(project: Path, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Return `faults` (sentences) and `pipelines` (what each one creates) as plain JSON values.

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
    return {"faults": faults, "pipelines": [creates(one, folder.pipelines) for one in described.values()]}


def _faults(folder: Folder, chosen: Sequence[str]) -> list[str]:
    if not chosen:
        return folder.faults()
    said = [text for each in (folder.broken, folder.clashes) for name, text in each.items() if name in chosen]
    return list(dict.fromkeys(line for text in said for line in text.splitlines()))


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


def creates(pipeline: Pipeline, others: Mapping[str, Pipeline]) -> dict[str, Any]:
    """Return what a pipeline creates. `others` are all pipelines of the project: the names of DAGs depend on them."""
    return {
        "name": pipeline.name,
        "owner": pipeline.owner,
        "description": pipeline.description,
        "topics": [_topic(topic) for topic in kafka.topics(pipeline)],
        "tables": [_table(table) for table in cassandra.tables(pipeline)],
        "archives": [names.archive_table(pipeline.name, topic) for topic in pipeline.sources],
        "users": _users(pipeline),
        "queries": [_query(pipeline, name) for name in names.query_names(pipeline)],
        "suites": [_suite(suite) for suite in suites(pipeline).values()],
        "dags": refresh_dags(pipeline, others),
    }


def _topic(topic: kafka.Topic) -> dict[str, Any]:
    return {"name": topic.name, "partitions": topic.partitions, "config": topic.config}


def _table(table: cassandra.Table) -> dict[str, Any]:
    return {
        "name": f"{table.keyspace}.{table.name}",
        "columns": table.columns,
        "partition_key": list(table.partition_key),
        "clustering_key": list(table.clustering_key),
        "written": not table.shared,
    }


def _users(pipeline: Pipeline) -> dict[str, Any]:
    user = names.principal(pipeline.name)
    return {
        "kafka": user,
        "kafka_rights": [f"{acl.operation} {acl.resource} {acl.name} ({acl.pattern})" for acl in kafka.acls(pipeline)],
        "cassandra": user,
        "cassandra_rights": [
            f"{grant.permission} {grant.keyspace}.{grant.table}" for grant in cassandra.grants(pipeline)
        ],
    }


def _query(pipeline: Pipeline, name: str) -> dict[str, Any]:
    declared = pipeline.queries.get(name)
    folders = generation_paths(ROOT, pipeline.name, name, _FIRST)
    return {
        "name": names.query_name(pipeline.name, name),
        "group": names.consumer_group(pipeline.name, name),
        "mode": declared.mode if declared else "append",
        "trigger": format_duration(declared.trigger) if declared else "",
        "checkpoint": folders.checkpoint,
        "files": folders.files if declared and any(sink.kind == "files" for sink in declared.sinks) else "",
    }


def _suite(suite: Mapping[str, Any]) -> dict[str, Any]:
    expectations = suite["expectations"]
    critical = sum(each["severity"] == "critical" for each in expectations)
    return {"name": suite["name"], "expectations": len(expectations), "critical": critical}


def refresh_dags(pipeline: Pipeline, others: Mapping[str, Pipeline]) -> list[str]:
    """Return the DAGs that only this pipeline has: one per refreshed dimension. All other DAGs serve every pipeline."""
    every = {**others, pipeline.name: pipeline}.values()
    refreshed = [(one.name, name) for one in every for name, dimension in one.dimensions.items() if dimension.refresh]
    known = names.refresh_names(refreshed)
    return [names.refresh_dag(known[pair]) for pair in refreshed if pair[0] == pipeline.name]
