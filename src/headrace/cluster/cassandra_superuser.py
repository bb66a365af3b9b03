"""Sets up our own superuser in a new Cassandra and disables the default one: `python -m ...superuser`, inside the cluster.

Every step is idempotent: an interrupted run is completed by the next. The default superuser's password equals its name;
until this has run it can log in, through the flows that the network policies allow.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import replace

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, Session

from headrace.access.bindings import CassandraBinding, binding_root, read_cassandra
from headrace.errors import HeadraceError
from headrace.operations.clients import log_in
from headrace.operations.waiting import poll

_DEFAULT = "cassandra"
_NOT_YET = (NoHostAvailable, DriverException)  # no listener, a refused password, or an uninitialised role manager
_POLL_SECONDS = 2


def ensure(binding: CassandraBinding, replicas: int, seconds: float) -> None:
    """Make the binding's user the only superuser, with `replicas` copies of all roles. Raises HeadraceError after `seconds`."""
    if not poll(lambda: _done(binding, replicas), seconds, _POLL_SECONDS):
        raise HeadraceError(
            f"Cassandra at {','.join(binding.contact_points)} accepted neither {binding.username} nor its first user in "
            f"{seconds:.0f} s. See the log of its pods. A volume of an earlier installation has that installation's password."
        )


def _done(binding: CassandraBinding, replicas: int) -> bool:
    try:
        with log_in(binding, connect_seconds=10) as session:
            _shut_out_default(session)
            return True
    except _NOT_YET:
        pass
    try:
        with log_in(replace(binding, username=_DEFAULT, password=_DEFAULT), connect_seconds=10) as session:
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


def main() -> int:
    """Run with the mounted admin binding; HEADRACE_REPLICAS is the number of copies (1 or 3)."""
    ensure(read_cassandra(binding_root()), int(os.environ.get("HEADRACE_REPLICAS", "1")), 240)
    sys.stdout.write("the deployment's own superuser can log in, the default one is disabled\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HeadraceError as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(refusal.exit_code)
