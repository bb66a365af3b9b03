"""Provision what a pipeline needs: topics, user and rights in Kafka; keyspaces, tables, role and rights in Cassandra.

Safe to repeat: what is there as wanted stays, what differs and can be changed is changed, what cannot is refused with a
sentence. The pipeline's own bindings are written last, so a driver never has a login that does not work yet.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cassandra.cluster import NoHostAvailable, Session
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from headrace.contract import bindings, cassandra, kafka, names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.clients import cassandra_session, kafka_admin

TIMEOUT_SECONDS = 30
SCRAM_ITERATIONS = 4096


@dataclass(frozen=True)
class Change:
    """One thing that was made or changed: which pipeline (or producer), what kind (topic, table, user ...), its name."""

    pipeline: str
    kind: str
    name: str

    def to_json_dict(self) -> dict[str, str]:
        """Return the change as plain JSON values."""
        return asdict(self)


def provision(
    pipelines: Sequence[Pipeline], admin_root: Path, bindings_root: Path, replication_factor: int = 1
) -> list[Change]:
    """Provision pipelines as the admin of `admin_root`; logins go to `<bindings_root>/<pipeline>`.

    Returns what was made or changed (empty the second time). Raises HeadraceError where something cannot be changed.
    """
    changes: list[Change] = []
    admin = kafka_admin(admin_root)
    try:
        with cassandra_session(admin_root) as session:
            for pipeline in pipelines:
                changes += _topics(admin, pipeline, replication_factor)
                changes += _tables(session, pipeline, replication_factor)
                changes += _logins(admin, session, pipeline, admin_root, bindings_root)
    except KafkaException as error:
        raise HeadraceError(
            f"Kafka at {bindings.read_kafka(admin_root).bootstrap_servers} did not do it: {error.args[0].str()}; see "
            "`headrace status`."
        ) from error
    return changes


def provision_producer(admin_root: Path, user: str, password: str, topics: Sequence[str]) -> list[Change]:
    """Give a producer its Kafka user and the right to write these topics and no other; without topics, take both.

    Returns the rights that were given or taken (empty the second time).
    """
    admin = kafka_admin(admin_root)
    mine = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, AclPermissionType.ANY
    )
    there = set(admin.describe_acls(mine).result(TIMEOUT_SECONDS))
    wanted = set(map(_binding, kafka.producer_acls(user, topics)))
    taken, given = there - wanted, wanted - there
    if taken:
        _wait(admin.delete_acls([_exactly(acl) for acl in taken]))
    if topics:
        _kafka_user(admin, user, password)
    else:
        _no_kafka_user(admin, user)
    if given:
        _wait(admin.create_acls(list(given)))
    told = {("right taken", acl.name) for acl in taken} | {("right", acl.name) for acl in given}
    return [Change(user, kind, topic) for kind, topic in sorted(told)]


def _topics(admin: AdminClient, pipeline: Pipeline, replication_factor: int) -> list[Change]:
    wanted = {topic.name: topic for topic in kafka.topics(pipeline, replication_factor)}
    there = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    missing = [topic for name, topic in wanted.items() if name not in there]
    if missing:
        _wait(
            admin.create_topics(
                [NewTopic(t.name, t.partitions, replication_factor, config=t.config) for t in missing],
                operation_timeout=TIMEOUT_SECONDS,
            )
        )
    changes = [Change(pipeline.name, "topic", topic.name) for topic in missing]
    present = [topic for name, topic in wanted.items() if name in there]
    for topic in present:
        changes += _partitions(admin, pipeline.name, topic, len(there[topic.name].partitions))
    return changes + _topic_config(admin, pipeline.name, present)


def _partitions(admin: AdminClient, pipeline: str, topic: kafka.Topic, now: int) -> list[Change]:
    if now == topic.partitions:
        return []
    if now > topic.partitions:
        raise HeadraceError(
            f"Topic {topic.name} has {now} partitions but {topic.partitions} are wanted: Kafka cannot take partitions "
            f"away; write {now} in pipelines/{pipeline}.yaml, or use a new topic."
        )
    _wait(admin.create_partitions([NewPartitions(topic.name, topic.partitions)], operation_timeout=TIMEOUT_SECONDS))
    return [Change(pipeline, "partitions", f"{topic.name} {now} -> {topic.partitions}")]


def _topic_config(admin: AdminClient, pipeline: str, topics: Sequence[kafka.Topic]) -> list[Change]:
    if not topics:
        return []
    found = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic.name) for topic in topics])
    now = {resource.name: future.result(TIMEOUT_SECONDS) for resource, future in found.items()}
    changes, resources = [], []
    for topic in topics:
        wrong = {k: v for k, v in topic.config.items() if k not in now[topic.name] or now[topic.name][k].value != v}
        if wrong:
            entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in wrong.items()]
            resources.append(ConfigResource(ConfigResource.Type.TOPIC, topic.name, incremental_configs=entries))
            changes.append(Change(pipeline, "topic settings", f"{topic.name}: {', '.join(sorted(wrong))}"))
    if resources:
        _wait(admin.incremental_alter_configs(resources))
    return changes


def _tables(session: Session, pipeline: Pipeline, replication_factor: int) -> list[Change]:
    changes = []
    for table in cassandra.tables(pipeline):
        existing = _existing(session, table)
        if existing is None:
            session.execute(cassandra.create_keyspace(table.keyspace, replication_factor))
            session.execute(cassandra.create_table(table))
            changes.append(Change(pipeline.name, "table", f"{table.keyspace}.{table.name}"))
            continue
        for statement in cassandra.alter(existing, table):
            session.execute(statement)
            changes.append(Change(pipeline.name, "column", statement))
    return changes


def _existing(session: Session, table: cassandra.Table) -> cassandra.Table | None:
    rows = session.execute(
        "SELECT column_name, type, kind, position FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s",
        (table.keyspace, table.name),
    ).all()
    if not rows:
        return None

    def key(kind: str) -> tuple[str, ...]:
        return tuple(r.column_name for r in sorted(rows, key=lambda r: r.position) if r.kind == kind)

    return cassandra.Table(
        table.keyspace,
        table.name,
        {row.column_name: row.type for row in rows},
        key("partition_key"),
        key("clustering"),
    )


def _logins(
    admin: AdminClient, session: Session, pipeline: Pipeline, admin_root: Path, bindings_root: Path
) -> list[Change]:
    """Make the pipeline's Kafka user and Cassandra role with one generated password each, kept in its bindings."""
    root, user = bindings_root / pipeline.name, names.principal(pipeline.name)
    known = (root / "kafka" / "password").exists() and (root / "cassandra" / "password").exists()
    passwords = {
        system: (root / system / "password").read_text().strip() if known else secrets.token_urlsafe(24)
        for system in ("kafka", "cassandra")
    }
    _kafka_user(admin, user, passwords["kafka"])
    _kafka_rights(admin, pipeline)
    _cassandra_role(session, pipeline, user, passwords["cassandra"], known=known)
    for system in ("kafka", "cassandra"):
        folder = admin_root / system
        shared = {f.name: f.read_text() for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")}
        bindings.write_binding(root / system, shared | {"username": user, "password": passwords[system]})
    return [] if known else [Change(pipeline.name, "login", user)]


def _kafka_user(admin: AdminClient, user: str, password: str) -> None:
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
    _wait(admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, scram, password.encode())]))


def _no_kafka_user(admin: AdminClient, user: str) -> None:
    try:
        _wait(admin.alter_user_scram_credentials([UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)]))
    except KafkaException as error:
        if error.args[0].code() != KafkaError.RESOURCE_NOT_FOUND:
            raise


def _kafka_rights(admin: AdminClient, pipeline: Pipeline) -> None:
    """Create the pipeline's ACLs; creating one that is there changes nothing (KIP-140)."""
    _wait(admin.create_acls([_binding(acl) for acl in kafka.acls(pipeline)]))


def _binding(acl: kafka.Acl) -> AclBinding:
    return AclBinding(
        ResourceType[acl.resource.upper()],
        acl.name,
        ResourcePatternType[acl.pattern.upper()],
        acl.principal,
        "*",
        AclOperation[acl.operation],
        AclPermissionType.ALLOW,
    )


def _exactly(acl: AclBinding) -> AclBindingFilter:
    """Return the filter that finds one rule and no other."""
    return AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
    )


def _cassandra_role(session: Session, pipeline: Pipeline, role: str, password: str, *, known: bool) -> None:
    """Create the role; a password that its binding already has is not set again (Cassandra allows one change in 5 s)."""
    there = session.execute("SELECT role FROM system_auth.roles WHERE role = %s", (role,)).one()
    if there is None:
        session.execute(f'CREATE ROLE IF NOT EXISTS "{role}" WITH PASSWORD = %s AND LOGIN = true', (password,))
    elif not known:
        for attempt in Retrying(
            retry=retry_if_exception_type(NoHostAvailable), wait=wait_fixed(2), stop=stop_after_delay(20)
        ):
            with attempt:
                session.execute(f'ALTER ROLE "{role}" WITH PASSWORD = %s AND LOGIN = true', (password,))
    for grant in cassandra.grants(pipeline):
        session.execute(grant.cql)


def _wait(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        future.result(TIMEOUT_SECONDS)
