"""New generations that an operator asks for, and what they do to the rows that a table has already.

A new generation reads only what Kafka still holds. In a table with rows of an older one it overwrites a key with its own,
smaller total, and a key that it never writes keeps the old total: two histories in one table. So the operator says first
what happens to the old rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from headrace.contract import names
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import restore
from headrace.operations.clients import cassandra_session
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Launcher

ALL = "all"
KEEP, EMPTY = "keep", "empty"


def named(pipeline: Pipeline, asked: Sequence[str]) -> list[str]:
    """Return the queries that an operator names for new generations; `all` is every one. Raises HeadraceError for others."""
    known = names.query_names(pipeline)
    if list(asked) == [ALL]:
        return known
    for query in asked:
        if query not in known:
            raise HeadraceError(
                f"Unknown query {query!r} of {pipeline.name}. Known queries: {', '.join(known)}, or {ALL}."
            )
    return list(asked)


def prepare(
    launcher: Launcher, bindings: Path, pipeline: Pipeline, queries: Sequence[str], rows: str, request: str = ""
) -> None:
    """Keep or empty the tables of queries that begin a new generation: `rows` is "keep", "empty", or "" (no choice).

    Raises HeadraceError if a table has rows and no choice was made (the message says what would happen to them, and the
    choices), and if a table is to be emptied while a driver may write, or although it has rows of others. A repeated
    `request` changes nothing.
    """
    if rows not in {"", KEEP, EMPTY}:
        raise HeadraceError(
            f"Unknown choice {rows!r} for the rows of the older generation. Known choices: {KEEP}, {EMPTY}."
        )
    desired = desired_state.read(launcher.root, pipeline.name)
    if rows == KEEP or (request and desired.request == request and desired.want == "RUNNING"):
        return
    tables = _tables(pipeline, queries)
    if not tables:
        return
    with cassandra_session(bindings) as session:
        filled = {table: query for table, query in tables.items() if _has_rows(session, table)}
        others = _others(pipeline, filled, queries)
        if filled and not rows:
            raise HeadraceError(_choices(pipeline.name, filled, queries, can_be_emptied=not others))
        blockers = [*restore.blockers(launcher, pipeline.name), *others] if filled else []
        if filled and desired.want == "PAUSED":  # a start would refuse, its tables empty already
            blockers.append(f"{pipeline.name} is paused: headrace stream stop {pipeline.name}")
        if blockers:
            raise HeadraceError(f"Its tables cannot be emptied: {'; '.join(blockers)}.")
        for table in filled:
            session.execute(f"TRUNCATE {_cql(table)}", timeout=120)


def _tables(pipeline: Pipeline, queries: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return (keyspace, table) -> query of the Cassandra sinks of some queries."""
    return {
        names.cassandra_table(pipeline.name, query, sink): query
        for query in queries
        if query in pipeline.queries
        for sink in pipeline.queries[query].sinks
        if isinstance(sink, CassandraSink)
    }


def _others(pipeline: Pipeline, tables: Collection[tuple[str, str]], queries: Sequence[str]) -> list[str]:
    """Return a sentence for each of these tables whose rows are not only those of these queries."""
    dimensions = {(dimension.keyspace, dimension.table): name for name, dimension in pipeline.dimensions.items()}
    writers = _tables(pipeline, [name for name in pipeline.queries if name not in queries])
    return [
        f"{'.'.join(table)} is also "
        + (f"the dimension {dimensions[table]}" if table in dimensions else f"a sink of {writers[table]}")
        for table in tables
        if table in dimensions or table in writers
    ]


def _has_rows(session: Any, table: tuple[str, str]) -> bool:  # noqa: ANN401 - a Cassandra session
    return session.execute(f"SELECT * FROM {_cql(table)} LIMIT 1").one() is not None  # noqa: S608 - names of the contract


def _cql(table: tuple[str, str]) -> str:
    return ".".join(quoted(name) for name in table)


def _choices(pipeline: str, filled: dict[tuple[str, str], str], queries: Sequence[str], *, can_be_emptied: bool) -> str:
    rows = ", ".join(f"{'.'.join(table)} ({query})" for table, query in filled.items())
    again = f"headrace stream start {pipeline} {' '.join(f'--new-generation {query}' for query in queries)}"
    first = next(iter(filled.values()))
    emptied = f"empty the tables first, the pipeline stopped: {again} --rows {EMPTY}; " if can_be_emptied else ""
    return (
        f"A new generation begins over rows of an older one in {rows}. A total that is written again falls to what Kafka "
        f"still holds, a key that is not written again keeps its old row. Say which: keep the rows: {again} --rows {KEEP}; "
        f"{emptied}or write every row again from the archive: headrace batch rebuild {pipeline} {first}"
    )
