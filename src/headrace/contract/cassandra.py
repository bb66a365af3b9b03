"""Keyspaces, tables and grants derived from a pipeline file."""

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

# Unified compaction (CEP-26), tiered: rows of most tables here are overwritten individually.
_UPSERTED = "{'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}"
# Cassandra's documentation of the strategy (CASSANDRA-9666) recommends 20 to 30 windows per row lifetime.
_WINDOWS_PER_TTL = 24
# Deletes come from the users refresh and from complete mode; ten days (Cassandra's default) leave time for a repair.
_GC_GRACE = timedelta(days=10)


@dataclass(frozen=True)
class Table:
    """A Cassandra table, as declared or as `system_schema` describes it. `columns` maps names to CQL types.

    `order` maps clustering columns to asc or desc; a column that is absent from it matches either order.
    `options` maps table options to CQL values. `shared` means that no query of the pipeline writes the table: its options
    apply only at creation, because the writer decides on them.
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
        """Return the table's name in `system_auth.role_permissions`."""
        return f"data/{self.keyspace}/{self.table}"

    @property
    def cql(self) -> str:
        """Return the GRANT statement (idempotent)."""
        return f'GRANT {self.permission} ON TABLE {quoted(self.keyspace, self.table)} TO "{self.role}"'


def cql_type(column_type: str) -> str:
    """Return the CQL type of one contract type. A Cassandra timestamp has millisecond precision."""
    return "decimal" if column_type.startswith("decimal(") else _SIMPLE[column_type]


def quoted(*names: str) -> str:
    """Return a dotted name with every part quoted, so that reserved words are safe."""
    return ".".join(f'"{name}"' for name in names)


def tables(pipeline: Pipeline) -> list[Table]:
    """Return the tables of a pipeline, dimensions first; a table shared by a query and a dimension appears once.

    Raises HeadraceError if two declarations of one table disagree on the key or on a column's type.
    """
    merged: dict[tuple[str, str], Table] = {}
    for table in _declared(pipeline):
        place = (table.keyspace, table.name)
        merged[place] = _merged(merged[place], table) if place in merged else table
    return list(merged.values())


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
    # Time-window compaction sorts by write time. With writetime 'batch' all write times stay near the generation's start,
    # so every row would fall into one window that is rewritten forever. Only rows with a write time column benefit.
    if by_event_time:
        minutes = max(1, ttl // timedelta(minutes=1) // _WINDOWS_PER_TTL)
        options["compaction"] = (
            "{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', "
            f"'compaction_window_size': '{minutes}'}}"
        )
    return options


def create_keyspace(name: str, replication_factor: int) -> str:
    """Return CREATE KEYSPACE; `replication_factor` applies to every datacenter that Cassandra knows at that time."""
    replication = f"{{'class': 'NetworkTopologyStrategy', 'replication_factor': {replication_factor}}}"
    return f"CREATE KEYSPACE IF NOT EXISTS {quoted(name)} WITH replication = {replication}"


def create_table(table: Table) -> str:
    """Return CREATE TABLE IF NOT EXISTS as one line."""
    columns = ", ".join(f'"{name}" {cql}' for name, cql in table.columns.items())
    key = ", ".join([f"({_list(table.partition_key)})", *(f'"{name}"' for name in table.clustering_key)])
    options = " AND ".join([*_order(table), *(f"{name} = {value}" for name, value in sorted(table.options.items()))])
    statement = f"CREATE TABLE IF NOT EXISTS {quoted(table.keyspace, table.name)} ({columns}, PRIMARY KEY ({key}))"
    return f"{statement} WITH {options}" if options else statement


def _order(table: Table) -> list[str]:
    """Return the CLUSTERING ORDER clause if the table declares an order; Cassandra then requires all columns in it."""
    parts = (f'"{name}" {table.order.get(name, "asc").upper()}' for name in table.clustering_key)
    return [f"CLUSTERING ORDER BY ({', '.join(parts)})"] if table.order else []


def ddl(pipeline: Pipeline, replication_factor: int = 1) -> list[str]:
    """Return the idempotent statements that create a pipeline's keyspaces and tables."""
    wanted = tables(pipeline)
    keyspaces = sorted({table.keyspace for table in wanted})
    return [*(create_keyspace(name, replication_factor) for name in keyspaces), *map(create_table, wanted)]


def directory_columns(pipeline: Pipeline, dimension: str) -> list[str]:
    """Return the columns of a dimension that a refresh writes: all except its key and those written by a query's sink."""
    declared = pipeline.dimensions[dimension]
    written = {
        column
        for name, query in pipeline.queries.items()
        for sink in query.sinks
        if isinstance(sink, CassandraSink)
        and cassandra_table(pipeline.name, name, sink) == (declared.keyspace, declared.table)
        for column in query.columns
    }
    return [name for name in declared.columns if name not in declared.key and name not in written]


def grants(pipeline: Pipeline) -> list[Grant]:
    """Return the minimal grants of a pipeline's role: read its dimensions, read and write its own sink tables."""
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
    """Return the REVOKE statement for a `system_auth.role_permissions` resource: data, data/keyspace[/table]."""
    _, *parts = resource.split("/")
    kind = ("ALL KEYSPACES", "KEYSPACE", "TABLE")[len(parts)]
    return " ".join(filter(None, (f"REVOKE {permission} ON {kind}", quoted(*parts), f'FROM "{role}"')))


def resource_name(resource: str) -> str:
    """Return a `system_auth.role_permissions` resource in readable form: `table a.b`, `keyspace a`, `all keyspaces`."""
    _, *parts = resource.split("/")
    return " ".join((("all keyspaces", "keyspace", "table")[len(parts)], ".".join(parts))).strip()


def option_differences(existing: Table, wanted: Table) -> dict[str, tuple[str, str]]:
    """Return the options that differ: name -> (current value, wanted value), both in CQL.

    Changing them never affects existing rows: a default time to live applies to rows written afterwards.
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
    """Return the ALTER TABLE statement that sets these options."""
    values = " AND ".join(f"{name} = {value}" for name, value in options.items())
    return f"ALTER TABLE {quoted(table.keyspace, table.name)} WITH {values}"


def alter(existing: Table, wanted: Table) -> dict[str, str]:
    """Return added column -> ALTER TABLE statement; columns that exist only in `existing` stay.

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
            f"Table {place} has the primary key {_key_text(first)} but {_key_text(second)} is declared. Cassandra cannot "
            "change a key: give the sink a new table name, fill it, and drop the old table."
        )
    for name, order in second.order.items():
        if first.order.get(name, order) != order:
            raise HeadraceError(
                f"Table {place} orders its rows by {name} {first.order[name]} but {order} is declared. Cassandra cannot change "
                "an order: give the sink a new table name, fill it, and drop the old table."
            )
    for name, cql in second.columns.items():
        if first.columns.get(name, cql) != cql:
            raise HeadraceError(
                f"Column {name} of table {place} is {first.columns[name]} but {cql} is declared. Cassandra cannot change "
                "a type: give the column or the table a new name."
            )


def _key_text(table: Table) -> str:
    return f"(({', '.join(table.partition_key)}){''.join(f', {name}' for name in table.clustering_key)})"


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
