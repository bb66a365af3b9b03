"""Makes a deployment's CA, certificates, passwords and bindings as Secrets, inside the cluster: `python -m ...bootstrap`.

Nothing secret passes through Helm values, Terraform state or logs. What is there is never overwritten: the Job's account
has no right to, unless it was asked to renew. The same run twice changes nothing.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from headrace.contract import names
from headrace.contract.bindings import OBJECT_STORE, password_of
from headrace.contract.credentials import postgres_url, scram_record
from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError
from headrace.operations import pki
from headrace.operations.kubernetes_secrets import OPAQUE, PULL_SECRET, ClusterSecrets, Content

CONFIG_VARIABLE = "HEADRACE_BOOTSTRAP"
KAFKA_ADMIN, CASSANDRA_ADMIN, AIRFLOW_ADMIN = "admin", "headrace_admin", "admin"
DATACENTER = "datacenter1"
LOGINS = "pipeline-logins"
REFUSED = 3  # exit code of a refusal, after which the Job is not tried again; any other fault is 1

Action = Literal["ensure", "renew-certificates", "rotate-passwords"]


class System(BaseModel):
    """Where a system is: bundled in `namespace`, or external by the user's own admin binding Secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["bundled", "external"] = "bundled"
    namespace: str = ""
    binding: str = ""


class Producer(BaseModel):
    """A client that writes topics of ours from its own namespace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str
    topics: list[str]


class Config(BaseModel):
    """What the base chart mounts. `pipelines` is the folder of pipeline files in the image.

    `pull_secret` names the user's Secret in `namespace` by which nodes pull images; empty: they may without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str
    spark: str
    airflow: str
    kafka: System
    cassandra: System
    database: System = System()
    pull_secret: str = ""
    object_store: str = ""  # the user's own binding Secret, where an object store is the storage root
    pipelines: Path
    producers: dict[str, Producer] = {}
    allow_plaintext: bool = False


class Secrets(Protocol):
    """The cluster's Secrets: read (None if absent), their type, create, replace."""

    def read(self, namespace: str, name: str) -> Content | None:
        """Return a Secret's content, or None."""

    def kind(self, namespace: str, name: str) -> str:
        """Return a Secret's type, empty if there is none."""

    def create(self, namespace: str, name: str, content: Content, kind: str = OPAQUE) -> None:
        """Make a Secret that is not there."""

    def replace(self, namespace: str, name: str, content: Content) -> None:
        """Write a Secret that is there anew."""


@dataclass
class Bootstrap:
    """One run; `changed` names what was made or written anew."""

    config: Config
    secrets: Secrets
    action: Action = "ensure"
    only: frozenset[str] = frozenset()  # pipelines and producers whose passwords are rotated; none: all
    changed: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Make what is missing and return its names. Raises HeadraceError where a user's own Secret does not serve."""
        own = self.config
        authority = self._authority()
        if own.kafka.mode == "bundled":
            self._leaf(own.kafka.namespace, "kafka", authority)
        if own.cassandra.mode == "bundled":
            self._leaf(own.cassandra.namespace, "cassandra", authority)
        kafka = self._admin("kafka", own.kafka, lambda: self._bundled_kafka(authority))
        cassandra = self._admin("cassandra", own.cassandra, lambda: self._bundled_cassandra(authority))
        if own.kafka.mode == "bundled":
            record = scram_record(KAFKA_ADMIN, password_of(kafka["password"]))
            self._ensure(
                own.kafka.namespace, "kafka-admin", lambda: {"admin-scram": record, "cluster-id": cluster_id()}
            )
        if own.cassandra.mode == "bundled":
            self._ensure(own.cassandra.namespace, "cassandra-admin", lambda: cassandra)
        self._pipelines({"kafka": kafka, "cassandra": cassandra})
        if own.object_store:
            self._object_store()
        database = self._database()
        self._ensure(own.airflow, "airflow", lambda: airflow_secrets(database))
        if own.pull_secret:
            self._copy_pull_secret()
        return self.changed

    def _authority(self) -> pki.Authority:
        made = self._ensure(self.config.namespace, "headrace-ca", _new_authority)
        return pki.Authority(made["ca.key"], made["ca.crt"])

    def _leaf(self, namespace: str, name: str, authority: pki.Authority) -> None:
        def make() -> Content:
            leaf = pki.make_leaf(authority, name, hosts(name, namespace))
            return {"server.pem": leaf, "ca.crt": authority.certificate}

        made = self._ensure(namespace, f"{name}-tls", make)
        if self.action == "renew-certificates" and f"{namespace}/{name}-tls" not in self.changed and made:
            self._write(namespace, f"{name}-tls", make())

    def _admin(self, system: str, own: System, bundled: Callable[[], Content]) -> Content:
        if own.mode == "bundled":
            return self._ensure(self.config.airflow, f"{system}-admin", bundled)
        given = self._given(system, own.binding)
        plain = given.get("securityProtocol", "").endswith("PLAINTEXT") or (
            system == "cassandra" and "ca.crt" not in given
        )
        if plain and not self.config.allow_plaintext:
            raise HeadraceError(
                f"Secret {own.binding} would send passwords in plain text: use TLS, or set allowPlaintext if that is wanted."
            )
        return self._ensure(self.config.airflow, f"{system}-admin", lambda: given)

    def _object_store(self) -> None:
        """Give the user's own binding to the namespaces that use the store, with every key that is mounted there."""
        given = self._given(OBJECT_STORE, self.config.object_store)
        content = {"type": "s3"} | {key: given.get(key, "") for key in ("endpoint", "region", "accessKey", "secretKey")}
        for namespace in (self.config.spark, self.config.airflow):
            there = self._ensure(namespace, OBJECT_STORE, lambda: content)
            if self.action == "rotate-passwords" and there != content:
                self._write(namespace, OBJECT_STORE, content)

    def _given(self, system: str, secret: str) -> Content:
        """Return the user's own Secret with the binding of a system. Raises HeadraceError where it does not serve."""
        given = self.secrets.read(self.config.namespace, secret)
        if given is None:
            raise HeadraceError(
                f"There is no Secret {secret} in namespace {self.config.namespace}: make the binding of your {system} "
                "there, with the keys that docs/howto/deploy.md lists."
            )
        missing = [key for key in REQUIRED[system] if not given.get(key)]
        if missing:
            raise HeadraceError(f"Secret {secret} lacks {', '.join(missing)}: add the key(s) to your {system} binding.")
        return given

    def _bundled_kafka(self, authority: pki.Authority) -> Content:
        return {
            "type": "kafka",
            "bootstrapServers": f"kafka.{self.config.kafka.namespace}.svc.cluster.local:9092",
            "securityProtocol": "SASL_SSL",
            "saslMechanism": "SCRAM-SHA-512",
            "username": KAFKA_ADMIN,
            "password": password(),
            "ca.crt": authority.certificate,
        }

    def _bundled_cassandra(self, authority: pki.Authority) -> Content:
        return {
            "type": "cassandra",
            "contactPoints": f"cassandra.{self.config.cassandra.namespace}.svc.cluster.local",
            "port": "9042",
            "localDatacenter": DATACENTER,
            "username": CASSANDRA_ADMIN,
            "password": password(),
            "ca.crt": authority.certificate,
        }

    def _pipelines(self, admins: Mapping[str, Content]) -> None:
        """Make each pipeline's bindings in the spark namespace, and all their logins in one Secret for provisioning."""
        logins: Content = {}
        pipelines = load_pipelines(self.config.pipelines)
        for pipeline in pipelines:
            for system, admin in admins.items():
                name = names.binding_secret(system, pipeline)
                user = names.principal(pipeline)

                def make(admin: Content = admin, user: str = user) -> Content:
                    return admin | {"username": user, "password": password()}

                made = self._ensure(self.config.spark, name, make)
                if self._rotates(pipeline):
                    made = made | {"password": password()}
                    self._write(self.config.spark, name, made)
                logins |= {f"{pipeline}.{system}.{key}": made[key] for key in ("username", "password")}
        topics = {topic for pipeline in pipelines.values() for topic in pipeline.sources}
        logins |= self._producers(admins["kafka"], topics)
        there = self._ensure(self.config.airflow, LOGINS, lambda: logins)
        logins = _producers_users(there) | logins
        if there != logins:
            self._write(self.config.airflow, LOGINS, logins)

    def _producers(self, admin: Content, topics: set[str]) -> Content:
        """Fill the Secret that the chart made for each producer beside it, and return their logins.

        `topics` are those that pipelines read: a producer writes no others.
        """
        logins: Content = {}
        for name, producer in self.config.producers.items():
            if strange := sorted({*producer.topics} - topics):
                raise HeadraceError(
                    f"Producer {name} would write {', '.join(strange)}, which no pipeline reads: name topics of "
                    f"{', '.join(sorted(topics))}."
                )
            place = (producer.namespace, names.producer_secret(name))
            content = self.secrets.read(*place) or {}
            if self._rotates(name) or not content.get("password"):
                content = admin | {"username": names.producer(name), "password": password()}
                self._write(*place, content)
            logins |= {f"{names.producer(name)}.kafka.{key}": content[key] for key in ("username", "password")}
        return logins

    def _database(self) -> str:
        """Return the address of Airflow's database, the bundled one's or that of the user's own Secret."""
        own = self.config.database
        if own.mode == "bundled":
            made = self._ensure(self.config.airflow, "airflow-postgres", lambda: {"password": password()})
            return postgres_url("airflow", password_of(made["password"]), "airflow-postgres:5432/airflow")
        given = self.secrets.read(self.config.namespace, own.binding) or {}
        address = given.get("sql-alchemy-conn", "")
        if not address.startswith("postgresql"):
            raise HeadraceError(
                f"Secret {own.binding} in namespace {self.config.namespace} has no key sql-alchemy-conn with a PostgreSQL "
                "address: add postgresql+psycopg2://user:password@host/database."
            )
        return address

    def _copy_pull_secret(self) -> None:
        """Put the registry's login, which the user made in the first namespace, into every other that has pods."""
        own, name = self.config, self.config.pull_secret
        found = self.secrets.kind(own.namespace, name)
        if found != PULL_SECRET:
            raise HeadraceError(
                f"Secret {name} in namespace {own.namespace} {f'is of type {found}' if found else 'is not there'}, and nodes "
                f"pull by one of type {PULL_SECRET}: make it with kubectl create secret docker-registry."
            )
        given = self.secrets.read(own.namespace, name) or {}
        stores = [each.namespace for each in (own.kafka, own.cassandra) if each.mode == "bundled"]
        for namespace in (*stores, own.spark, own.airflow):
            there = self._ensure(namespace, name, lambda: given, PULL_SECRET)
            if self.secrets.kind(namespace, name) != PULL_SECRET:
                raise HeadraceError(
                    f"Secret {name} in namespace {namespace} is there and is no pull secret: give yours another name."
                )
            if self.action == "rotate-passwords" and there != given:
                self._write(namespace, name, given)

    def _rotates(self, name: str) -> bool:
        """Return whether the password of this pipeline or producer is to be another one."""
        return self.action == "rotate-passwords" and (not self.only or name in self.only)

    def _ensure(self, namespace: str, name: str, make: Callable[[], Content], kind: str = OPAQUE) -> Content:
        there = self.secrets.read(namespace, name)
        if there is not None:
            return there
        content = make()
        self.secrets.create(namespace, name, content, kind)
        self.changed.append(f"{namespace}/{name}")
        return content

    def _write(self, namespace: str, name: str, content: Content) -> None:
        self.secrets.replace(namespace, name, content)
        self.changed.append(f"{namespace}/{name}")


def _producers_users(logins: Content) -> Content:
    """Return the users of all producers that ever had one: provisioning shuts out those that are declared no more."""
    return {key: user for key, user in logins.items() if key.endswith(".username") and names.is_producer(user)}


REQUIRED: Mapping[str, Sequence[str]] = {
    "kafka": ("bootstrapServers", "securityProtocol", "username", "password"),
    "cassandra": ("contactPoints", "port", "localDatacenter", "username", "password"),
    OBJECT_STORE: ("accessKey", "secretKey"),
}


def hosts(service: str, namespace: str) -> list[str]:
    """Return the names that a StatefulSet's pods are called by, through their headless service."""
    domain = f"{service}.{namespace}.svc.cluster.local"
    controllers = f"{service}-controller.{namespace}.svc.cluster.local"
    return [domain, f"*.{domain}", f"*.{controllers}", f"{service}.{namespace}.svc", service, "localhost"]


def password() -> str:
    """Return 256 random bits in 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def cluster_id() -> str:
    """Return a new Kafka cluster id: a UUID in 22 characters of base64 that does not begin with a dash."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")


def airflow_secrets(database: str) -> Content:
    """Return the secret part of Airflow's configuration as its file, and the admin's password as the UI's login reads it."""
    admin = password()
    fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    sections = {
        "core": {"fernet_key": fernet},
        "database": {"sql_alchemy_conn": database},
        "api": {"secret_key": password()},
        "api_auth": {"jwt_secret": password()},
    }
    lines = [
        f"[{name}]\n{key} = {value.replace('%', '%%')}\n"
        for name, each in sections.items()
        for key, value in each.items()
    ]
    return {
        "airflow.cfg": "".join(lines),
        "admin-password": admin,
        "passwords.json": json.dumps({AIRFLOW_ADMIN: admin}),
    }


def _new_authority() -> Content:
    made = pki.make_authority("headrace CA")
    return {"ca.key": made.key, "ca.crt": made.certificate}


def main(arguments: Sequence[str]) -> int:
    """Run the action that the arguments name (default: ensure) and print the names of what changed, no content."""
    action, *only = arguments or ["ensure"]
    if action not in ("ensure", "renew-certificates", "rotate-passwords"):
        raise HeadraceError(
            f"{action} is no action: use ensure, renew-certificates, or rotate-passwords [PIPELINE or PRODUCER...]."
        )
    config = Config.model_validate_json(Path(os.environ[CONFIG_VARIABLE]).read_text())
    for name in Bootstrap(config, ClusterSecrets(), action, frozenset(only)).run():  # type: ignore[arg-type]
        sys.stdout.write(f"made {name}\n")
    sys.stdout.write("done\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HeadraceError as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(REFUSED)
