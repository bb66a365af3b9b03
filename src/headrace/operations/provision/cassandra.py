"""Compare Cassandra with a pipeline's declaration: tables, their columns and options, grants. Returns steps that change it."""

from __future__ import annotations

from functools import partial
from typing import Any

from cassandra.cluster import NoHostAvailable, Session
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from headrace.contract import cassandra
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.provision.changes import RIGHT, Change, ProvisionStep


def table_steps(session: Session, pipeline: Pipeline, replication_factor: int) -> list[ProvisionStep]:
    """Return the steps that create or change the tables as declared. Changes impossible in Cassandra become refusals."""
    steps = []
    for table in cassandra.tables(pipeline):
        place = f"{table.keyspace}.{table.name}"
        existing = _existing(session, table)
        if existing is None:
            made = [cassandra.create_keyspace(table.keyspace, replication_factor), cassandra.create_table(table)]
            steps.append(ProvisionStep(Change(pipeline.name, "table", place), partial(_execute, session, made)))
            continue
        try:
            columns = cassandra.alter(existing, table)
        except HeadraceError as error:
            steps.append(
                ProvisionStep(Change(pipeline.name, "table", place, "change", "", "", str(error)), lambda: None)
            )
            continue
        for name, statement in columns.items():
            change = Change(pipeline.name, "column", f"{place}.{name}", "add", table.columns[name])
            steps.append(ProvisionStep(change, partial(_execute, session, [statement])))
        if differing := cassandra.option_differences(existing, table):
            detail = ", ".join(f"{name} {now} -> {wanted}" for name, (now, wanted) in differing.items())
            statement = cassandra.set_options(table, {name: wanted for name, (_, wanted) in differing.items()})
            change = Change(pipeline.name, "table settings", place, "change", detail)
            steps.append(ProvisionStep(change, partial(_execute, session, [statement])))
    return steps


def _execute(session: Session, statements: list[str]) -> None:
    for statement in statements:
        session.execute(statement)


def _existing(session: Session, table: cassandra.Table) -> cassandra.Table | None:
    place = (table.keyspace, table.name)
    rows = session.execute(
        "SELECT column_name, type, kind, position, clustering_order FROM system_schema.columns "
        "WHERE keyspace_name = %s AND table_name = %s",
        place,
    ).all()
    if not rows:
        return None

    def key(kind: str) -> tuple[str, ...]:
        return tuple(r.column_name for r in sorted(rows, key=lambda r: r.position) if r.kind == kind)

    options = session.execute(
        "SELECT default_time_to_live, gc_grace_seconds, compaction FROM system_schema.tables "
        "WHERE keyspace_name = %s AND table_name = %s",
        place,
    ).one()
    return cassandra.Table(
        table.keyspace,
        table.name,
        {row.column_name: row.type for row in rows},
        key("partition_key"),
        key("clustering"),
        {
            "default_time_to_live": str(options.default_time_to_live),
            "gc_grace_seconds": str(options.gc_grace_seconds),
            "compaction": str(dict(options.compaction)),
        },
        {row.column_name: row.clustering_order for row in rows if row.kind == "clustering"},
    )


def grant_steps(session: Session, pipeline: Pipeline, role: str) -> list[ProvisionStep]:
    """Return the steps that revoke a role's undeclared rights on data and grant the missing ones."""
    rows = session.execute("SELECT resource, permissions FROM system_auth.role_permissions WHERE role = %s", (role,))
    existing = {
        (row.resource, name) for row in rows for name in row.permissions or () if row.resource.startswith("data")
    }
    wanted = {(grant.resource, grant.permission): grant for grant in cassandra.grants(pipeline)}
    steps = []
    for resource, permission in sorted(existing - wanted.keys()):
        change = Change(pipeline.name, RIGHT["remove"], cassandra.resource_name(resource), "remove", permission)
        statement = cassandra.revoke(role, permission, resource)
        steps.append(ProvisionStep(change, partial(_execute, session, [statement])))
    for key, grant in wanted.items():
        if key not in existing:
            change = Change(
                pipeline.name, RIGHT["add"], cassandra.resource_name(grant.resource), "add", grant.permission
            )
            steps.append(ProvisionStep(change, partial(_execute, session, [grant.cql])))
    return steps


def has_role(session: Session, role: str) -> bool:
    """Return whether a role exists."""
    return role_of(session, role) is not None


def role_of(session: Session, name: str) -> Any | None:  # noqa: ANN401 - a row
    """Return a role with `is_superuser`, or None."""
    return session.execute("SELECT role, is_superuser FROM system_auth.roles WHERE role = %s", (name,)).one()


def drop_role(session: Session, name: str) -> None:
    """Remove a role with its rights, if it exists."""
    session.execute(f"DROP ROLE IF EXISTS {cassandra.quoted(name)}")


def set_role(session: Session, role: str, password: str, *, known: bool) -> None:
    """Create the role. A password already in its binding is not set again (Cassandra allows one change in 5 s)."""
    if not has_role(session, role):
        session.execute(f'CREATE ROLE IF NOT EXISTS "{role}" WITH PASSWORD = %s AND LOGIN = true', (password,))
    elif not known:
        for attempt in Retrying(
            retry=retry_if_exception_type(NoHostAvailable), wait=wait_fixed(2), stop=stop_after_delay(20)
        ):
            with attempt:
                session.execute(f'ALTER ROLE "{role}" WITH PASSWORD = %s AND LOGIN = true', (password,))
