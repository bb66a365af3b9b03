"""Keyspaces, tables and grants that follow from a pipeline file."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from headrace.contract.model import CassandraSink, Column, Pipeline
from headrace.contract.names import cassandra_table, principal
from headrace.errors import HeadraceError

_SIMPLE = {
    "string": "text",
    "boolean": "boolean",
    "int": "int",
    "long": "bigint",
    "timestamp": "timestamp",
    "date": "date",
}

# Unified compaction (CEP-26), tiered: most tables here are overwritten row by row.
_UPSERTED = "{'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}"
# Cassandra's own page on the strategy (CASSANDRA-9666) advises 20 to 30 windows in the lifetime of a row.
_WINDOWS_PER_TTL = 24
# Deletes come from the users refresh and from complete mode; ten days (Cassandra's default) leave time for a repair.
_GC_GRACE = timedelta(days=10)


@dataclass(frozen=True)
class Table:
    """A Cassandra table as it must be, or as `system_schema` says it is. `columns` maps a name to its CQL type.

    `order` says asc or desc of clustering columns; of one that it does not name, a declaration takes either.
    `options` maps a table option to its value in CQL. `shared`: no query of the pipeline writes it, so its options count
    only where the table is made; whoever writes it decides.
    """

    keyspace: str
    name: str
    columns: dict[str, str]
    partition_key: tuple[str, ...]
    clustering_key: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict, compare=False)
    order: dict[str, str] = field(default_factory=dict, compare=False)
    shared: bool = field(default=False, compare=False)

    @property
    def key(self) -> tuple[str, ...]:
        """Return the full primary key."""
        return self.partition_key + self.clustering_key


@dataclass(frozen=True)
class Grant:
    """One permission of a role on one table."""

    role: str
    permission: str
    keyspace: str
    table: str

    @property
    def resource(self) -> str:
        """Return the table as `system_auth.role_permissions` names it."""
        return f"data/{self.keyspace}/{self.table}"

    @property
    def cql(self) -> str:
        """Return the GRANT statement; it may be repeated."""
        return f'GRANT {self.permission} ON TABLE {quoted(self.keyspace, self.table)} TO "{self.role}"'


def cql_type(column_type: str) -> str:
    """Return the CQL type of one contract type. A Cassandra timestamp keeps milliseconds only."""
    return "decimal" if column_type.startswith("decimal(") else _SIMPLE[column_type]


def quoted(*names: str) -> str:
    """Return a dotted name with every part quoted, so that a reserved word is no trap."""
    return ".".join(f'"{name}"' for name in names)


def tables(pipeline: Pipeline) -> list[Table]:
    """Return the tables of a pipeline, dimensions first; what a query and a dimension share is one table.

    Raises HeadraceError if two declarations of one table disagree in key or in a column's type.
    """
    found: dict[tuple[str, str], Table] = {}
    for table in _declared(pipeline):
        place = (table.keyspace, table.name)
        found[place] = _merged(found[place], table) if place in found else table
    return list(found.values())


def _declared(pipeline: Pipeline) -> Iterator[Table]:
    for dimension in pipeline.dimensions.values():
        types = _cql_columns(dimension.columns)
        yield Table(dimension.keyspace, dimension.table, types, tuple(dimension.key), (), _options(), shared=True)
    for query_name, query in pipeline.queries.items():
        for sink in query.sinks:
            if isinstance(sink, CassandraSink):
                keyspace, table = cassandra_table(pipeline.name, query_name, sink)
                key = (tuple(sink.partition_key), tuple(sink.clustering_key))
                options = _options(sink.ttl, by_event_time=sink.writetime != "batch")
                yield Table(keyspace, table, _cql_columns(query.columns), *key, options, dict(sink.clustering_order))


def _cql_columns(columns: Mapping[str, Column]) -> dict[str, str]:
    return {name: cql_type(column.type) for name, column in columns.items()}


def _merged(first: Table, second: Table) -> Table:
    _refuse_conflicts(first, second)
    options = {**first.options, **{k: v for k, v in second.options.items() if k == "default_time_to_live"}}
    return Table(
        first.keyspace,
        first.name,
        {**first.columns, **second.columns},
        first.partition_key,
        first.clustering_key,
        options,
        {**first.order, **second.order},
        first.shared and second.shared,
    )


def _options(ttl: timedelta | None = None, *, by_event_time: bool = False) -> dict[str, str]:
    options = {"compaction": _UPSERTED, "gc_grace_seconds": str(_GC_GRACE // timedelta(seconds=1))}
    if ttl is None:
        return options
    options["default_time_to_live"] = str(ttl // timedelta(seconds=1))
    # Time-window compaction sorts by write time. A 'batch' write time stands still at the generation's start, so every
    # row would fall into one window that is rewritten for ever; only rows written with their own time gain from it.
    if by_event_time:
        minutes = max(1, ttl // timedelta(minutes=1) // _WINDOWS_PER_TTL)
        options["compaction"] = (
            "{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', "
            f"'compaction_window_size': '{minutes}'}}"
        )
    return options


def create_keyspace(name: str, replication_factor: int) -> str:
    """Return CREATE KEYSPACE; `replication_factor` holds for every datacenter that Cassandra knows then."""
    replication = f"{{'class': 'NetworkTopologyStrategy', 'replication_factor': {replication_factor}}}"
    return f"CREATE KEYSPACE IF NOT EXISTS {quoted(name)} WITH replication = {replication}"


def create_table(table: Table) -> str:
    """Return CREATE TABLE IF NOT EXISTS in one line."""
    columns = ", ".join(f'"{name}" {cql}' for name, cql in table.columns.items())
    key = ", ".join([f"({_list(table.partition_key)})", *(f'"{name}"' for name in table.clustering_key)])
    options = " AND ".join([*_order(table), *(f"{name} = {value}" for name, value in sorted(table.options.items()))])
    statement = f"CREATE TABLE IF NOT EXISTS {quoted(table.keyspace, table.name)} ({columns}, PRIMARY KEY ({key}))"
    return f"{statement} WITH {options}" if options else statement


def _order(table: Table) -> list[str]:
    """Return the clause of the clustering order, if one is said; Cassandra asks for all columns of it then."""
    parts = (f'"{name}" {table.order.get(name, "asc").upper()}' for name in table.clustering_key)
    return [f"CLUSTERING ORDER BY ({', '.join(parts)})"] if table.order else []


def ddl(pipeline: Pipeline, replication_factor: int = 1) -> list[str]:
    """Return the statements that create a pipeline's keyspaces and tables; all may be repeated."""
    wanted = tables(pipeline)
    keyspaces = sorted({table.keyspace for table in wanted})
    return [*(create_keyspace(name, replication_factor) for name in keyspaces), *map(create_table, wanted)]


def directory_columns(pipeline: Pipeline, dimension: str) -> list[str]:
    """Return the columns of a dimension that a refresh writes: all but its key and those that a query's sink writes."""
    own = pipeline.dimensions[dimension]
    written = {
        column
        for name, query in pipeline.queries.items()
        for sink in query.sinks
        if isinstance(sink, CassandraSink) and cassandra_table(pipeline.name, name, sink) == (own.keyspace, own.table)
        for column in query.columns
    }
    return [name for name in own.columns if name not in own.key and name not in written]


def grants(pipeline: Pipeline) -> list[Grant]:
    """Return the least rights of a pipeline's role: read its dimensions, read and write its own sink tables."""
    role = principal(pipeline.name)
    written = {
        cassandra_table(pipeline.name, name, sink)
        for name, query in pipeline.queries.items()
        for sink in query.sinks
        if isinstance(sink, CassandraSink)
    }
    return [
        Grant(role, permission, table.keyspace, table.name)
        for table in tables(pipeline)
        for permission in ("SELECT", "MODIFY")
        if permission == "SELECT" or (table.keyspace, table.name) in written
    ]


def revoke(role: str, permission: str, resource: str) -> str:
    """Return the REVOKE statement for a resource of `system_auth.role_permissions`: data, data/keyspace[/table]."""
    _, *parts = resource.split("/")
    kind = ("ALL KEYSPACES", "KEYSPACE", "TABLE")[len(parts)]
    return " ".join(filter(None, (f"REVOKE {permission} ON {kind}", quoted(*parts), f'FROM "{role}"')))


def resource_name(resource: str) -> str:
    """Return a resource of `system_auth.role_permissions` in words: `table a.b`, `keyspace a`, `all keyspaces`."""
    _, *parts = resource.split("/")
    return " ".join((("all keyspaces", "keyspace", "table")[len(parts)], ".".join(parts))).strip()


def option_differences(existing: Table, wanted: Table) -> dict[str, tuple[str, str]]:
    """Return the options that differ, name -> (value now, wanted value), both in CQL.

    None of them touches a row that is there: a default time to live holds for rows that are written from now on.
    """
    if wanted.shared:
        return {}
    options = {"default_time_to_live": "0"} | wanted.options if wanted.options else {}
    now = {name: existing.options.get(name, "0") for name in options}
    return {name: (now[name], value) for name, value in options.items() if not _same_option(now[name], value)}


def _same_option(now: str, wanted: str) -> bool:
    if not wanted.startswith("{"):
        return now == wanted
    have, want = ast.literal_eval(now), ast.literal_eval(wanted)
    short = {**have, "class": have["class"].rpartition(".")[2]}
    return all(short.get(key) == value for key, value in want.items())


def set_options(table: Table, options: Mapping[str, str]) -> str:
    """Return the ALTER TABLE statement that gives a table these options."""
    values = " AND ".join(f"{name} = {value}" for name, value in options.items())
    return f"ALTER TABLE {quoted(table.keyspace, table.name)} WITH {values}"


def alter(existing: Table, wanted: Table) -> dict[str, str]:
    """Return ALTER TABLE statements by the column that each adds; columns that only `existing` has stay.

    Raises HeadraceError if the key or a column's type differs: Cassandra can change neither (CASSANDRA-12443).
    """
    _refuse_conflicts(existing, wanted)
    table = quoted(existing.keyspace, existing.name)
    missing = {name: cql for name, cql in wanted.columns.items() if name not in existing.columns}
    return {name: f'ALTER TABLE {table} ADD IF NOT EXISTS "{name}" {cql}' for name, cql in missing.items()}


def _refuse_conflicts(first: Table, second: Table) -> None:
    place = f"{first.keyspace}.{first.name}"
    if (first.partition_key, first.clustering_key) != (second.partition_key, second.clustering_key):
        raise HeadraceError(
            f"Table {place} has the primary key {_key_text(first)} but {_key_text(second)} is wanted: Cassandra cannot "
            "change a key; give the sink a new table name, fill it, and drop the old table."
        )
    for name, order in second.order.items():
        if first.order.get(name, order) != order:
            raise HeadraceError(
                f"Table {place} has its rows by {name} {first.order[name]} but {order} is wanted: Cassandra cannot change an "
                "order; give the sink a new table name, fill it, and drop the old table."
            )
    for name, cql in second.columns.items():
        if first.columns.get(name, cql) != cql:
            raise HeadraceError(
                f"Column {name} of table {place} is {first.columns[name]} but {cql} is wanted: Cassandra cannot change "
                "a type; give the column or the table a new name."
            )


def _key_text(table: Table) -> str:
    return f"(({', '.join(table.partition_key)}){''.join(f', {name}' for name in table.clustering_key)})"


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
