"""Kafka on loopback: one KRaft node (broker and controller), SCRAM for clients, authentication on every listener.

`admin` and the broker itself are super users; all others need ACLs, which `provision` creates.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.access.bindings import KafkaBinding, write_binding, write_private
from headrace.access.credentials import jaas, properties, scram_record
from headrace.errors import HeadraceError
from headrace.local.java import Java, child_environment, write_argfile
from headrace.local.passwords import cluster_id, secret
from headrace.local.settings import Settings

NAME = "kafka"
ADMIN = "admin"
_BROKER = "broker"  # the node's user on the controller listener and between brokers
MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # allows a record of 1 MB with its headers and its dead-letter envelope

_SILENT = logging.getLogger("headrace.local.kafka.client")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def mark(settings: Settings) -> str:
    """Return the argument that identifies a process as this platform's Kafka."""
    return f"@{settings.home / 'etc' / NAME / 'java.args'}"


def ports(settings: Settings) -> dict[str, int]:
    """Return setting -> port for the ports that Kafka listens on."""
    return {"kafka_port": settings.kafka_port, "kafka_controller_port": settings.kafka_controller_port}


def binding(settings: Settings) -> KafkaBinding:
    """Return the admin's binding to this Kafka."""
    return KafkaBinding(
        bootstrap_servers=f"{settings.host}:{settings.kafka_port}",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        username=ADMIN,
        password=secret("kafka-admin", settings),
    )


def write_bindings(settings: Settings) -> None:
    """Write the admin's binding."""
    admin = binding(settings)
    values = {
        "type": "kafka",
        "bootstrapServers": admin.bootstrap_servers,
        "securityProtocol": admin.security_protocol,
        "saslMechanism": admin.sasl_mechanism,
        "username": admin.username,
        "password": admin.password,
    }
    write_binding(settings.bindings() / NAME, values)


def prepare(settings: Settings, java: Java, jars: list[Path]) -> list[str]:
    """Write the configuration, format the storage of a new platform and return the command that starts Kafka."""
    etc = settings.home / "etc" / NAME
    data = settings.home / "data" / NAME
    write_private(etc / "server.properties", properties(server_config(settings, data)))
    write_private(etc / "log4j2.properties", _log4j2(settings))
    for leftover in data.parent.glob(f"{NAME}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if not data.exists():
        _format(settings, java, jars, data)
    options = [
        *_base_options(settings, jars),
        f"-Xms{settings.kafka_heap}",
        f"-Xmx{settings.kafka_heap}",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={settings.log_dir}/kafka-hs_err.log",
        f"-Dlog4j2.configurationFile={etc / 'log4j2.properties'}",
        "kafka.Kafka",
        str(etc / "server.properties"),
    ]
    return [str(java.binary), write_argfile(etc / "java.args", options)]


def server_config(settings: Settings, data: Path) -> dict[str, str]:
    """Return server.properties. It contains the node's password: write it readable only by its owner."""
    host, client, controller = settings.host, settings.kafka_port, settings.kafka_controller_port
    password = secret("kafka-broker", settings)
    login = {"username": _BROKER, "password": password}
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{host}:{controller}",
        "listeners": f"CLIENT://{host}:{client},CONTROLLER://{host}:{controller}",
        "advertised.listeners": f"CLIENT://{host}:{client}",
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": jaas("scram.ScramLoginModule", **login),
        # SCRAM credentials are stored in the metadata log, which the controller listener must serve first, so it uses PLAIN.
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": jaas(
            "plain.PlainLoginModule", **login, **{f"user_{_BROKER}": password}
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN};User:{_BROKER}",
        "allow.everyone.if.no.acl.found": "false",
        "auto.create.topics.enable": "false",
        "log.dirs": str(data),
        "message.max.bytes": str(MAX_MESSAGE_BYTES),
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        # A single node: internal topics have one replica, and one partition because fewer start faster.
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # After a kill -9 the node waits for its old session to expire: 4 s in total with these settings, 14 s by default.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }


def usable(settings: Settings, timeout: float = 5) -> bool:
    """Return whether the admin can log in and see a broker."""
    config = binding(settings).client_config() | {"client.id": "headrace-local", "log_level": "0"}
    try:
        client = AdminClient(config, logger=_SILENT)
        return bool(client.list_topics(timeout=timeout).brokers)
    except KafkaException:
        return False


def console_consumer(settings: Settings, java: Java, jars: list[Path], topic: str) -> str:
    """Return a shell line that prints a topic from its start; the password is in a file that only the admin can read."""
    etc = settings.home / "etc" / NAME
    admin = binding(settings)
    client = {
        "security.protocol": admin.security_protocol,
        "sasl.mechanism": admin.sasl_mechanism,
        "sasl.jaas.config": jaas("scram.ScramLoginModule", username=admin.username, password=admin.password),
    }
    write_private(etc / "client.properties", properties(client))
    options = [*_base_options(settings, jars), "-Xmx128m", f"-Dlog4j2.configurationFile={_tool_log4j2(settings)}"]
    tools = write_argfile(etc / "tools.args", options)
    tool = [str(java.binary), tools, "org.apache.kafka.tools.consumer.ConsoleConsumer"]
    where = ["--bootstrap-server", admin.bootstrap_servers, "--command-config", str(etc / "client.properties")]
    return shlex.join([*tool, *where, "--topic", topic, "--from-beginning"])


def _format(settings: Settings, java: Java, jars: list[Path], data: Path) -> None:
    """Create the storage with the first two users, in a temporary folder, so an interruption leaves no partial storage."""
    # A folder for this process only: the tool of a killed `up` may still be writing to its own.
    work = data.with_name(f"{NAME}.new-{os.getpid()}")
    aside, config, arguments = work / "log", work / "format.properties", work / "format.args"
    write_private(config, properties(server_config(settings, aside)))
    users = {ADMIN: secret("kafka-admin", settings), _BROKER: secret("kafka-broker", settings)}
    scram = [f"--add-scram={scram_record(name, password)}" for name, password in users.items()]
    options = [*_base_options(settings, jars), f"-Dlog4j2.configurationFile={_tool_log4j2(settings)}"]
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id(settings), "-c", str(config), *scram]
    try:
        # The salted passwords are in the @argfile, never in argv, which all users of the machine can read.
        command = [str(java.binary), write_argfile(arguments, [*options, *tool])]
        answer = subprocess.run(command, env=child_environment(java), capture_output=True, text=True, check=False)
        if answer.returncode:
            reason = (answer.stderr or answer.stdout).strip().splitlines()[-1:]
            raise HeadraceError(f"Kafka's storage at {data} cannot be created: {' '.join(reason)[:300]}")
        aside.rename(data)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _base_options(settings: Settings, jars: list[Path]) -> list[str]:
    return [
        "-cp",
        ":".join(map(str, jars)),
        "-XX:+UseSerialGC",
        # The second compiler takes half of the processor time of a start, with no measurable gain in steady writes.
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        f"-Djava.io.tmpdir={settings.tmp_dir}",
        "-Djava.awt.headless=true",
    ]


def _log4j2(settings: Settings) -> str:
    return f"""status = warn
appender.f.type = RollingFile
appender.f.name = F
appender.f.fileName = {settings.log_dir}/kafka.log
appender.f.filePattern = {settings.log_dir}/kafka.log.%i
appender.f.layout.type = PatternLayout
appender.f.layout.pattern = %d %p %c{{1}} %m%n
appender.f.policies.type = Policies
appender.f.policies.size.type = SizeBasedTriggeringPolicy
appender.f.policies.size.size = 10MB
appender.f.strategy.type = DefaultRolloverStrategy
appender.f.strategy.max = 2
rootLogger.level = info
rootLogger.appenderRef.f.ref = F
"""


def _tool_log4j2(settings: Settings) -> Path:
    path = settings.home / "etc" / NAME / "tools-log4j2.properties"
    lines = ["status = error", "appender.c.type = Console", "appender.c.name = C", "appender.c.target = SYSTEM_ERR"]
    lines += ["appender.c.layout.type = PatternLayout", "appender.c.layout.pattern = %p %m%n"]
    write_private(path, "\n".join([*lines, "rootLogger.level = warn", "rootLogger.appenderRef.c.ref = C"]) + "\n")
    return path
