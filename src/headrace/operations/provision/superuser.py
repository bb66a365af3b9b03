"""Our own superuser in a new Cassandra, with the default one disabled: on one machine, and inside a cluster.

The default superuser's password equals its name. Every step is idempotent: an interrupted run is completed by the next.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, Session

from headrace.access.bindings import CassandraBinding
from headrace.operations.clients import log_in

_DEFAULT = "cassandra"
_NOT_YET = (NoHostAvailable, DriverException)  # no listener, a refused password, or an uninitialised role manager


def set_up(binding: CassandraBinding, replicas: int = 1) -> bool:
    """Return whether the binding's user can log in and the default one cannot; set both up in a new Cassandra.

    `replicas` is the number of copies of all roles. False: try again, the next call continues.
    """
    try:
        with log_in(binding) as session:
            _shut_out_default(session)
            return True
    except _NOT_YET:
        pass
    try:
        with log_in(replace(binding, username=_DEFAULT, password=_DEFAULT)) as session:
            if replicas > 1:
                session.execute(
                    "ALTER KEYSPACE system_auth WITH replication = "
                    f"{{'class': 'NetworkTopologyStrategy', '{binding.local_datacenter}': {replicas}}}"
                )
            session.execute(f"CREATE ROLE IF NOT EXISTS {binding.username} WITH SUPERUSER = true AND LOGIN = true")
            session.execute(f"ALTER ROLE {binding.username} WITH PASSWORD = %s", (binding.password,))
    except _NOT_YET:
        pass
    return False


def _shut_out_default(session: Session) -> None:
    """Remove login, rights and the known password from the default role. It is not dropped, to reserve its name."""
    row = session.execute("SELECT can_login, is_superuser FROM system_auth.roles WHERE role = %s", (_DEFAULT,)).one()
    if row is None or row.can_login or row.is_superuser:
        session.execute(f"CREATE ROLE IF NOT EXISTS {_DEFAULT}")
        drawn = secrets.token_urlsafe(32)
        session.execute(f"ALTER ROLE {_DEFAULT} WITH PASSWORD = '{drawn}' AND SUPERUSER = false AND LOGIN = false")
