"""Provision what a pipeline needs: topics, user and rights in Kafka; keyspaces, tables, role and rights in Cassandra.

Safe to repeat: matching objects stay, differing ones are changed, and undeclared rights are revoked. Anything that may
lose data needs consent, and impossible changes are refused, both before anything is changed (ADR 0035). The pipeline's
bindings are written last, so a driver never has a login that does not work yet.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cassandra.cluster import Session
from confluent_kafka.admin import AdminClient

from headrace.access import bindings
from headrace.contract import kafka, names
from headrace.contract.model import Pipeline
from headrace.operations.clients import cassandra_session, kafka_admin
from headrace.operations.provision import cassandra as in_cassandra
from headrace.operations.provision import kafka as in_kafka
from headrace.operations.provision.changes import Change, ProvisionPlan, ProvisionStep

SYSTEMS = ("kafka", "cassandra")


def provision(
    pipelines: Sequence[Pipeline],
    admin_root: Path,
    bindings_root: Path,
    replication_factor: int = 1,
    consented: Collection[str] = (),
) -> list[Change]:
    """Provision pipelines as the admin of `admin_root`; logins go to `<bindings_root>/<pipeline>`.

    `consented` are names of topics that may lose data or be adopted. Returns the changes (none the second time).
    Raises RefusedError before anything is changed, and HeadraceError if a system does not answer.
    """
    with planned(pipelines, admin_root, bindings_root, replication_factor) as plan:
        return plan.carry_out(consented)


@contextmanager
def planned(
    pipelines: Sequence[Pipeline], admin_root: Path, bindings_root: Path, replication_factor: int = 1
) -> Iterator[ProvisionPlan]:
    """Yield the plan of what `provision` would do. It can be carried out while the context is open."""
    with in_kafka.administering(admin_root) as admin, cassandra_session(admin_root) as session:
        steps: list[ProvisionStep] = []
        for number, pipeline in enumerate(pipelines):
            steps += in_kafka.topic_steps(admin, pipeline, replication_factor, consentable(pipelines[:number]))
            steps += in_cassandra.table_steps(session, pipeline, replication_factor)
            steps += _login_steps(admin, session, pipeline, admin_root, bindings_root)
        yield ProvisionPlan(steps)


def consentable(pipelines: Sequence[Pipeline]) -> list[str]:
    """Return the names for which consent is possible: the topics of these pipelines."""
    return sorted({topic.name for pipeline in pipelines for topic in kafka.topics(pipeline)})


def provision_producer(admin_root: Path, user: str, password: str, topics: Sequence[str]) -> list[Change]:
    """Grant a producer its Kafka user and the right to write exactly these topics; without topics, revoke both.

    Returns the rights that were granted or revoked (none the second time).
    """
    admin = kafka_admin(admin_root)
    if topics:
        in_kafka.set_user(admin, user, password)
    else:
        in_kafka.drop_user(admin, user)
    return ProvisionPlan(in_kafka.right_steps(admin, user, user, kafka.producer_acls(user, topics))).carry_out()


def _login_steps(
    admin: AdminClient, session: Session, pipeline: Pipeline, admin_root: Path, bindings_root: Path
) -> list[ProvisionStep]:
    """Create the pipeline's Kafka user and Cassandra role, each with a generated password, stored in its bindings."""
    root, user = bindings_root / pipeline.name, names.principal(pipeline.name)
    known = all((root / system / "password").exists() for system in SYSTEMS)
    passwords = {
        system: bindings.read_password(root / system / "password") if known else secrets.token_urlsafe(24)
        for system in SYSTEMS
    }

    def make() -> None:
        in_kafka.set_user(admin, user, passwords["kafka"])
        in_cassandra.set_role(session, user, passwords["cassandra"], known=known)

    def write() -> None:
        for system in SYSTEMS:
            folder = admin_root / system
            shared = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
            for path in shared:
                if path.name not in ("username", "password"):
                    bindings.write_private(root / system / path.name, path.read_bytes())
            bindings.write_binding(root / system, {"username": user, "password": passwords[system]})

    complete = known and in_cassandra.has_role(session, user)
    return [
        ProvisionStep(None if complete else Change(pipeline.name, "login", user), make),
        *in_kafka.right_steps(admin, pipeline.name, user, kafka.acls(pipeline)),
        *in_cassandra.grant_steps(session, pipeline, user),
        ProvisionStep(None, write),
    ]
