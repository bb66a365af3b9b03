"""Clients of Kafka and Cassandra for the operator's tools, created from bindings."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import DCAwareRoundRobinPolicy, ExponentialReconnectionPolicy
from cassandra.query import dict_factory
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.access.bindings import CassandraBinding, read_cassandra, read_kafka
from headrace.contract.cassandra import Table, create_keyspace, create_table
from headrace.errors import HeadraceError


def kafka_admin(root: Path) -> AdminClient:
    """Return Kafka's admin client, logged in as the binding's user."""
    return AdminClient(read_kafka(root).client_config())


def silent(root: Path, seconds: float = 15) -> dict[str, str]:
    """Return, for Kafka and Cassandra, why they do not answer the binding's user within that time; "" if they do."""
    answers = {"kafka": "", "cassandra": ""}
    try:
        kafka_admin(root).list_topics(timeout=seconds)
    except KafkaException as error:
        answers["kafka"] = str(error)
    try:
        with log_in(read_cassandra(root), connect_seconds=seconds):
            pass
    except NoHostAvailable as error:
        answers["cassandra"] = str(error)
    return answers


def cassandra_tls(ca_file: Path | None) -> ssl.SSLContext | None:
    """Return an SSL context that trusts only this CA, or None if the binding has none.

    Nodes are reached by address, which no certificate contains, so host names are not checked; the CA vouches for the nodes.
    """
    if ca_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ca_file)
    return context


@contextmanager
def log_in(binding: CassandraBinding, *, connect_seconds: float = 15) -> Iterator[Session]:
    """Yield a Cassandra session for a binding. Raises NoHostAvailable if nothing answers or the login is refused."""
    # Reads see everything written at LOCAL_QUORUM; the Python driver's default is one replica.
    profile = ExecutionProfile(
        DCAwareRoundRobinPolicy(binding.local_datacenter),
        request_timeout=30,
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
    )
    cluster = Cluster(
        list(binding.contact_points),
        port=binding.port,
        auth_provider=PlainTextAuthProvider(binding.username, binding.password),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(0.5, 5),
        protocol_version=5,
        connect_timeout=connect_seconds,
        control_connection_timeout=connect_seconds,  # by default 2 s: a pause of Cassandra would be a refused login
        ssl_context=cassandra_tls(binding.ca_file),
    )
    try:
        yield cluster.connect()
    finally:
        cluster.shutdown()


def as_dicts(session: Session) -> ExecutionProfile:
    """Return the session's profile, with rows as dicts: a named tuple renames columns like `class`, Python's keywords."""
    return session.execution_profile_clone_update(EXEC_PROFILE_DEFAULT, row_factory=dict_factory)


def stored_time(value: datetime) -> datetime:
    """Return a timestamp that the Python driver read as Cassandra has it: in UTC, to the millisecond.

    The driver computes with a float, which is off by some microseconds for years before 1700 and after 2240.
    """
    utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return utc + timedelta(microseconds=round(utc.microsecond, -3) - utc.microsecond)


def ensure_tables(session: Session, tables: Sequence[Table]) -> None:
    """Create tables of one keyspace, and the keyspace, where they are missing: one replica for each node, at most three."""
    metadata = session.cluster.metadata
    keyspace = metadata.keyspaces.get(tables[0].keyspace)
    if keyspace is None:
        session.execute(create_keyspace(tables[0].keyspace, min(3, len(metadata.all_hosts()))))
    for table in tables:
        if keyspace is None or table.name not in keyspace.tables:
            session.execute(create_table(table))


@contextmanager
def cassandra_session(root: Path) -> Iterator[Session]:
    """Yield a Cassandra session, logged in as the binding's user. Raises HeadraceError if nothing answers."""
    binding = read_cassandra(root)
    with ExitStack() as stack:
        try:
            session = stack.enter_context(log_in(binding))
        except NoHostAvailable as error:
            raise HeadraceError(
                f"Cassandra at {','.join(binding.contact_points)}:{binding.port} refuses {binding.username} or does not "
                "answer. Check `headrace status`, then `headrace up`."
            ) from error
        yield session
