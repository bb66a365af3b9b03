"""Bindings: a folder of small files that describes how to reach one system (Service Binding for Kubernetes).

A binding root holds one folder per system (`kafka`, `cassandra`). Endpoints and secrets are read from nowhere else.
`SERVICE_BINDING_ROOT` names the root; locally each principal has its own root under `<home>/bindings/`.

Files are UTF-8. Leading and trailing white space of a value is ignored. In a password only trailing line ends are
ignored: blanks belong to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import HeadraceError

ROOT_VARIABLE = "SERVICE_BINDING_ROOT"
OBJECT_STORE = "object-store"
READ_COMMITTED = "read_committed"
"""Kafka's `isolation.level` for every reader in this project (KIP-98)."""


@dataclass(frozen=True)
class KafkaBinding:
    """How to reach Kafka. The password never shows in a repr."""

    bootstrap_servers: str
    security_protocol: str
    sasl_mechanism: str
    username: str
    password: str = field(repr=False)
    ca_file: Path | None = None

    def client_config(self) -> dict[str, str]:
        """Return the librdkafka configuration (confluent-kafka) that logs in as this binding's user.

        Errors are reported as exceptions and delivery reports. librdkafka's own log bypasses Python and goes to stderr, so
        it is limited to critical messages (2): it reports the early end of a short-lived client as an error, and would
        garble tables and progress bars.
        """
        config = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "log_level": "2",
        }
        if self.security_protocol.startswith("SASL"):
            config |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password,
            }
        if self.ca_file:
            config["ssl.ca.location"] = str(self.ca_file)
        return config

    def reader_config(self, group: str) -> dict[str, str]:
        """Return the configuration of a librdkafka consumer that commits nothing; `group` is its group id.

        It reads as the drivers do (ADR 0031): no records of aborted or open transactions, and `get_watermark_offsets`
        returns the last stable offset as the end.
        """
        return self.client_config() | {
            "group.id": group,
            "enable.auto.commit": "false",
            "isolation.level": READ_COMMITTED,
        }


@dataclass(frozen=True)
class CassandraBinding:
    """How to reach Cassandra. The password never shows in a repr."""

    contact_points: tuple[str, ...]
    port: int
    local_datacenter: str
    username: str
    password: str = field(repr=False)
    ca_file: Path | None = None


@dataclass(frozen=True)
class DatabaseBinding:
    """How to reach a SQL database. `driver` is SQLAlchemy's name for it. The password never appears in a repr."""

    driver: str
    database: str
    host: str = ""
    port: int | None = None
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """Return the host, port and database, without the login."""
        return f"{self.host}:{self.port}/{self.database}" if self.host else self.database


@dataclass(frozen=True)
class ObjectStoreBinding:
    """How to reach an S3-compatible object store. An empty field means the cloud default: its endpoint, the process's role.

    The secret key never appears in a repr.
    """

    region: str = ""
    endpoint: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)


def binding_root() -> Path:
    """Return the binding root of this process. Raises HeadraceError if `SERVICE_BINDING_ROOT` is not set."""
    value = os.environ.get(ROOT_VARIABLE)
    if not value:
        raise HeadraceError(f"{ROOT_VARIABLE} is not set. Set it to a folder with kafka/ and cassandra/ bindings.")
    return Path(value)


def read_kafka(root: Path) -> KafkaBinding:
    """Read `root/kafka`. Raises HeadraceError if a file is missing or the password begins with white space.

    librdkafka strips leading white space from settings, so its clients would log in with a different password.
    """
    values = _read(root / "kafka", "bootstrapServers", "securityProtocol")
    if values.get("password", "")[:1].isspace():
        raise HeadraceError(
            f"The password in {root / 'kafka' / 'password'} begins with white space, which librdkafka strips. "
            "Give the Kafka user a password that begins with another character."
        )
    return KafkaBinding(
        bootstrap_servers=values["bootstrapServers"],
        security_protocol=values["securityProtocol"],
        sasl_mechanism=values.get("saslMechanism", ""),
        username=values.get("username", ""),
        password=values.get("password", ""),
        ca_file=_ca_file(root / "kafka"),
    )


def read_cassandra(root: Path) -> CassandraBinding:
    """Read `root/cassandra`. Raises HeadraceError, naming the file, if one is missing."""
    values = _read(root / "cassandra", "contactPoints", "port", "localDatacenter", "username", "password")
    return CassandraBinding(
        contact_points=tuple(point.strip() for point in values["contactPoints"].split(",")),
        port=int(values["port"]),
        local_datacenter=values["localDatacenter"],
        username=values["username"],
        password=values["password"],
        ca_file=_ca_file(root / "cassandra"),
    )


def read_database(root: Path, name: str) -> DatabaseBinding:
    """Read `root/<name>`, a SQL database. Raises HeadraceError, naming the file, if one is missing."""
    values = _read(root / name, "database")
    return DatabaseBinding(
        driver=values.get("driver", "postgresql+psycopg2"),
        database=values["database"],
        host=values.get("host", ""),
        port=int(values["port"]) if values.get("port") else None,
        username=values.get("username", ""),
        password=values.get("password", ""),
    )


def read_object_store(root: Path | None) -> ObjectStoreBinding:
    """Read `root/object-store`; without it return an empty binding. Raises HeadraceError if only half of a login is there."""
    folder = root / OBJECT_STORE if root else None
    if folder is None or not folder.is_dir():
        return ObjectStoreBinding()
    values = _read(folder)
    if bool(values.get("accessKey")) != bool(values.get("secretKey")):
        raise HeadraceError(
            f"The binding at {folder} has only one of accessKey and secretKey. Add the other, or remove it."
        )
    endpoint = values.get("endpoint", "")
    return ObjectStoreBinding(
        # Self-hosted stores often have no region, but a signature needs one: without one each client asks the cloud's metadata.
        region=values.get("region") or ("us-east-1" if endpoint else ""),
        endpoint=endpoint,
        access_key=values.get("accessKey", ""),
        secret_key=values.get("secretKey", ""),
    )


def write_binding(folder: Path, values: Mapping[str, str]) -> None:
    """Write one binding: a 0700 folder of 0600 files, each replaced atomically, so a reader never sees a partial value."""
    for key, value in values.items():
        write_private(folder / key, value)


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner can read, atomically; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content if isinstance(content, bytes) else content.encode())
    aside.replace(path)


def read_password(path: Path) -> str:
    """Return the password in a file. Raises HeadraceError if the file is not text."""
    return password_of(_text(path))


def password_of(content: str) -> str:
    """Return the password in the content of a file or Secret key: everything except trailing line ends."""
    return content.rstrip("\r\n")


def _read(folder: Path, *required: str) -> dict[str, str]:
    if not folder.is_dir():
        raise HeadraceError(
            f"No binding at {folder}. Run `headrace up`, then `headrace provision`, or mount the binding Secret there."
        )
    values = {
        entry.name: password_of(_text(entry)) if entry.name == "password" else _text(entry).strip()
        for entry in folder.iterdir()
        if entry.is_file() and not entry.name.startswith(".") and entry.suffix != ".crt"
    }
    missing = [key for key in required if not values.get(key, "").strip()]
    if missing:
        raise HeadraceError(
            f"The binding at {folder} lacks {', '.join(missing)}. Add the missing file(s) to the folder."
        )
    return values


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # not read_text: that translates carriage returns and depends on the locale
    except UnicodeDecodeError as error:
        raise HeadraceError(f"{path} is not UTF-8 text. Write it as UTF-8.") from error


def _ca_file(folder: Path) -> Path | None:
    path = folder / "ca.crt"
    return path if path.exists() else None
