"""Creates a deployment's CA, certificates, passwords and bindings as Secrets: `python -m headrace.cluster.bootstrap`, in a Job.

Nothing secret passes through Helm values, Terraform state or logs. Existing Secrets are never overwritten: the Job's
service account lacks the permission, except for the renew and rotate actions. Running it twice changes nothing.
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

from headrace.access.bindings import OBJECT_STORE, password_of
from headrace.access.credentials import postgres_url, scram_record
from headrace.cluster import pki
from headrace.cluster.kubernetes_secrets import OPAQUE, PULL_SECRET, ClusterSecrets, Content
from headrace.contract import names
from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError, exit_with

CONFIG_VARIABLE = "HEADRACE_BOOTSTRAP"
KAFKA_ADMIN, CASSANDRA_ADMIN, AIRFLOW_ADMIN = "admin", "headrace_admin", "admin"
DATACENTER = "datacenter1"
LOGINS = "pipeline-logins"
REFUSED = 3  # exit code of a refusal, after which the Job is not retried; any other fault is 1

Action = Literal["ensure", "renew-certificates", "rotate-passwords"]


class System(BaseModel):
    """A system's location: bundled in `namespace`, or external through the user's own admin binding Secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["bundled", "external"] = "bundled"
    namespace: str = ""
    binding: str = ""


class Producer(BaseModel):
    """A client that writes to the platform's topics from its own namespace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str
    topics: list[str]


class Config(BaseModel):
    """The mounted configuration of the base chart. `pipelines` is the folder of pipeline files in the image.

    `pull_secret` names the user's Secret in `namespace` with which nodes pull images; empty: no login is needed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str
    spark: str
    airflow: str
    kafka: System
    cassandra: System
    database: System = System()
    pull_secret: str = ""
    object_store: str = ""  # the user's own binding Secret, if an object store is the storage root
    pipelines: Path
    producers: dict[str, Producer] = {}
    allow_plaintext: bool = False


class Secrets(Protocol):
    """Access to the cluster's Secrets: read (None if absent), type, create, replace."""

    def read(self, namespace: str, name: str) -> Content | None:
        """Return a Secret's content, or None."""

    def kind(self, namespace: str, name: str) -> str:
        """Return a Secret's type, empty if there is none."""

    def create(self, namespace: str, name: str, content: Content, kind: str = OPAQUE) -> None:
        """Create a Secret that does not exist yet."""

    def replace(self, namespace: str, name: str, content: Content) -> None:
        """Replace the content of an existing Secret."""


@dataclass
class Bootstrap:
    """One run; `changed` lists what was created or replaced."""

    config: Config
    secrets: Secrets
    action: Action = "ensure"
    only: frozenset[str] = frozenset()  # pipelines and producers whose passwords are rotated; empty: all
    changed: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Create what is missing and return its names. Raises HeadraceError if a user's own Secret is unusable."""
        config = self.config
        authority = self._authority()
        if config.kafka.mode == "bundled":
            self._leaf(config.kafka.namespace, "kafka", authority)
        if config.cassandra.mode == "bundled":
            self._leaf(config.cassandra.namespace, "cassandra", authority)
        kafka = self._admin("kafka", config.kafka, lambda: self._bundled_kafka(authority))
        cassandra = self._admin("cassandra", config.cassandra, lambda: self._bundled_cassandra(authority))
        if config.kafka.mode == "bundled":
            record = scram_record(KAFKA_ADMIN, password_of(kafka["password"]))
            self._ensure(
                config.kafka.namespace, "kafka-admin", lambda: {"admin-scram": record, "cluster-id": cluster_id()}
            )
        if config.cassandra.mode == "bundled":
            self._ensure(config.cassandra.namespace, "cassandra-admin", lambda: cassandra)
        self._pipelines({"kafka": kafka, "cassandra": cassandra})
        if config.object_store:
            self._object_store()
        database = self._database()
        self._ensure(config.airflow, "airflow", lambda: airflow_secrets(database))
        if config.pull_secret:
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

    def _admin(self, system: str, system_config: System, bundled: Callable[[], Content]) -> Content:
        if system_config.mode == "bundled":
            return self._ensure(self.config.airflow, f"{system}-admin", bundled)
        given = self._given(system, system_config.binding)
        plain = given.get("securityProtocol", "").endswith("PLAINTEXT") or (
            system == "cassandra" and "ca.crt" not in given
        )
        if plain and not self.config.allow_plaintext:
            raise HeadraceError(
                f"Secret {system_config.binding} would send passwords in plain text. Use TLS, or set allowPlaintext."
            )
        return self._ensure(self.config.airflow, f"{system}-admin", lambda: given)

    def _object_store(self) -> None:
        """Copy the user's own binding to the namespaces that use the store, with every key that is mounted there."""
        given = self._given(OBJECT_STORE, self.config.object_store)
        content = {"type": "s3"} | {key: given.get(key, "") for key in ("endpoint", "region", "accessKey", "secretKey")}
        for namespace in (self.config.spark, self.config.airflow):
            stored = self._ensure(namespace, OBJECT_STORE, lambda: content)
            if self.action == "rotate-passwords" and stored != content:
                self._write(namespace, OBJECT_STORE, content)

    def _given(self, system: str, secret: str) -> Content:
        """Return the content of the user's own binding Secret. Raises HeadraceError if it is unusable."""
        given = self.secrets.read(self.config.namespace, secret)
        if given is None:
            raise HeadraceError(
                f"There is no Secret {secret} in namespace {self.config.namespace}. Create the binding of your {system} "
                "there, with the keys listed in docs/howto/deploy.md."
            )
        missing = [key for key in REQUIRED[system] if not given.get(key)]
        if missing:
            raise HeadraceError(f"Secret {secret} lacks {', '.join(missing)}. Add the key(s) to your {system} binding.")
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
        """Create each pipeline's bindings in the spark namespace, and one Secret with all their logins for provisioning."""
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
        stored = self._ensure(self.config.airflow, LOGINS, lambda: logins)
        logins = _producers_users(stored) | logins
        if stored != logins:
            self._write(self.config.airflow, LOGINS, logins)

    def _producers(self, admin: Content, topics: set[str]) -> Content:
        """Fill the Secret that the chart created for each producer, and return their logins.

        `topics` are those that pipelines read: a producer may write no others.
        """
        logins: Content = {}
        for name, producer in self.config.producers.items():
            if strange := sorted({*producer.topics} - topics):
                raise HeadraceError(
                    f"Producer {name} would write {', '.join(strange)}, which no pipeline reads. Allowed topics: "
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
        """Return the URL of Airflow's database: the bundled one, or from the user's own Secret."""
        database = self.config.database
        if database.mode == "bundled":
            made = self._ensure(self.config.airflow, "airflow-postgres", lambda: {"password": password()})
            return postgres_url("airflow", password_of(made["password"]), "airflow-postgres:5432/airflow")
        given = self.secrets.read(self.config.namespace, database.binding) or {}
        address = given.get("sql-alchemy-conn", "")
        if not address.startswith("postgresql"):
            raise HeadraceError(
                f"Secret {database.binding} in namespace {self.config.namespace} has no key sql-alchemy-conn with a PostgreSQL "
                "URL. Add postgresql+psycopg2://user:password@host/database."
            )
        return address

    def _copy_pull_secret(self) -> None:
        """Copy the registry login from the base namespace, where the user created it, to all others that have pods."""
        config, name = self.config, self.config.pull_secret
        kind = self.secrets.kind(config.namespace, name)
        if kind != PULL_SECRET:
            raise HeadraceError(
                f"Secret {name} in namespace {config.namespace} {f'has type {kind}' if kind else 'does not exist'}, but nodes "
                f"need one of type {PULL_SECRET}. Create it with kubectl create secret docker-registry."
            )
        given = self.secrets.read(config.namespace, name) or {}
        stores = [system.namespace for system in (config.kafka, config.cassandra) if system.mode == "bundled"]
        for namespace in (*stores, config.spark, config.airflow):
            stored = self._ensure(namespace, name, lambda: given, PULL_SECRET)
            if self.secrets.kind(namespace, name) != PULL_SECRET:
                raise HeadraceError(
                    f"Secret {name} in namespace {namespace} already exists and is not a pull secret. Give yours another name."
                )
            if self.action == "rotate-passwords" and stored != given:
                self._write(namespace, name, given)

    def _rotates(self, name: str) -> bool:
        """Return whether the password of this pipeline or producer is to be rotated."""
        return self.action == "rotate-passwords" and (not self.only or name in self.only)

    def _ensure(self, namespace: str, name: str, make: Callable[[], Content], kind: str = OPAQUE) -> Content:
        stored = self.secrets.read(namespace, name)
        if stored is not None:
            return stored
        content = make()
        self.secrets.create(namespace, name, content, kind)
        self.changed.append(f"{namespace}/{name}")
        return content

    def _write(self, namespace: str, name: str, content: Content) -> None:
        self.secrets.replace(namespace, name, content)
        self.changed.append(f"{namespace}/{name}")


def _producers_users(logins: Content) -> Content:
    """Return the users of all producers, past and present. Provisioning removes those that are no longer declared."""
    return {key: user for key, user in logins.items() if key.endswith(".username") and names.is_producer(user)}


REQUIRED: Mapping[str, Sequence[str]] = {
    "kafka": ("bootstrapServers", "securityProtocol", "username", "password"),
    "cassandra": ("contactPoints", "port", "localDatacenter", "username", "password"),
    OBJECT_STORE: ("accessKey", "secretKey"),
}


def hosts(service: str, namespace: str) -> list[str]:
    """Return the DNS names of a StatefulSet's pods, through their headless service."""
    domain = f"{service}.{namespace}.svc.cluster.local"
    controllers = f"{service}-controller.{namespace}.svc.cluster.local"
    return [domain, f"*.{domain}", f"*.{controllers}", f"{service}.{namespace}.svc", service, "localhost"]


def password() -> str:
    """Return 256 random bits in 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def cluster_id() -> str:
    """Return a new Kafka cluster id: a UUID in 22 characters of base64 without a leading dash."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")


def airflow_secrets(database: str) -> Content:
    """Return the secret part of Airflow's configuration file, and the admin's password in the form that its login reads."""
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
        for name, section in sections.items()
        for key, value in section.items()
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
    """Run the action given in the arguments (default: ensure) and print the names of what changed, without content."""
    action, *only = arguments or ["ensure"]
    if action not in ("ensure", "renew-certificates", "rotate-passwords"):
        raise HeadraceError(
            f"Unknown action {action}. Use ensure, renew-certificates, or rotate-passwords [PIPELINE or PRODUCER...]."
        )
    config = Config.model_validate_json(Path(os.environ[CONFIG_VARIABLE]).read_text())
    for name in Bootstrap(config, ClusterSecrets(), action, frozenset(only)).run():  # type: ignore[arg-type]
        sys.stdout.write(f"wrote Secret {name}\n")
    sys.stdout.write("done\n")
    return 0


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]), REFUSED)
