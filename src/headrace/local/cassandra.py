"""Cassandra on loopback: one node, authentication and authorization on, our own superuser, the default one disabled."""

from __future__ import annotations

import logging
from pathlib import Path
from xml.sax.saxutils import escape

import yaml

from headrace.access.bindings import CassandraBinding, write_binding, write_private
from headrace.local.java import Java, write_argfile
from headrace.local.passwords import secret
from headrace.local.settings import Settings
from headrace.operations.provision.superuser import set_up

NAME = "cassandra"
ADMIN = "headrace_admin"
DATACENTER = "datacenter1"  # the datacenter name of SimpleSnitch

# The packages that Cassandra 5.0's conf/jvm17-server.options opens for Java 17.
_EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/java.lang.ref",
    "java.management/com.sun.jmx.remote.security",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
)
_OPENS = (
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.math",
    "java.base/java.io",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
)


def mark(settings: Settings) -> str:
    """Return the argument that identifies a process as this platform's Cassandra."""
    return f"@{settings.home / 'etc' / NAME / 'java.args'}"


def ports(settings: Settings) -> dict[str, int]:
    """Return setting -> port for the ports that Cassandra listens on."""
    return {
        "cassandra_port": settings.cassandra_port,
        "cassandra_storage_port": settings.cassandra_storage_port,
        "cassandra_jmx_port": settings.cassandra_jmx_port,
    }


def binding(settings: Settings) -> CassandraBinding:
    """Return the admin's binding to this Cassandra."""
    password = secret("cassandra-admin", settings)
    return CassandraBinding((settings.host,), settings.cassandra_port, DATACENTER, ADMIN, password)


def write_bindings(settings: Settings) -> None:
    """Write the admin's binding."""
    admin = binding(settings)
    values = {
        "type": "cassandra",
        "contactPoints": ",".join(admin.contact_points),
        "port": str(admin.port),
        "localDatacenter": admin.local_datacenter,
        "username": admin.username,
        "password": admin.password,
    }
    write_binding(settings.bindings() / NAME, values)


def prepare(settings: Settings, java: Java, jars: list[Path]) -> list[str]:
    """Write the configuration and return the command that starts Cassandra."""
    etc = settings.home / "etc" / NAME
    data = settings.home / "data" / NAME
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(etc / "cassandra.yaml", _server_yaml(settings, data))
    write_private(etc / "logback.xml", _logback(settings))
    write_private(etc / "jmx.password", f"{ADMIN} {secret('cassandra-admin', settings)}\n")
    write_private(etc / "jmx.access", f"{ADMIN} readwrite\n")
    agent = next(path for path in jars if path.name.startswith("jamm-"))
    options = [
        "-cp",
        ":".join([str(etc), *map(str, jars)]),
        f"-javaagent:{agent}",
        f"-Xms{settings.cassandra_heap}",
        f"-Xmx{settings.cassandra_heap}",
        "-XX:+UseSerialGC",
        # The second compiler takes half of the processor time of a start, with no measurable gain in steady writes.
        "-XX:TieredStopAtLevel=1",
        "-Xss512k",
        "-XX:MaxDirectMemorySize=128m",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={settings.log_dir}/cassandra-hs_err.log",
        f"-Djava.io.tmpdir={settings.tmp_dir}",
        f"-Djna.tmpdir={settings.tmp_dir}",
        "-Djava.awt.headless=true",
        "-Djdk.attach.allowAttachSelf=true",
        *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
        *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
        f"-Dcassandra.config={(etc / 'cassandra.yaml').as_uri()}",
        f"-Dcassandra.storagedir={data}",
        f"-Dcassandra.logdir={settings.log_dir}",
        f"-Dlogback.configurationFile={etc / 'logback.xml'}",
        "-Dcassandra-foreground=yes",
        f"-Dcassandra.jmx.local.port={settings.cassandra_jmx_port}",
        # JMX can do everything, so it requires the admin's password even on loopback.
        "-Dcom.sun.management.jmxremote.authenticate=true",
        f"-Dcom.sun.management.jmxremote.password.file={etc / 'jmx.password'}",
        f"-Dcom.sun.management.jmxremote.access.file={etc / 'jmx.access'}",
        # A single node need not wait for others.
        "-Dcassandra.skip_wait_for_gossip_to_settle=0",
        "-Dcassandra.ring_delay_ms=0",
        "-Dcassandra.superuser_setup_delay_ms=0",
        "-Dcassandra.shutdown_announce_in_ms=0",
        "org.apache.cassandra.service.CassandraDaemon",
    ]
    return [str(java.binary), write_argfile(etc / "java.args", options)]


def _server_yaml(settings: Settings, data: Path) -> str:
    """Return the text of cassandra.yaml."""
    seeds = {"seeds": f"{settings.host}:{settings.cassandra_storage_port}"}
    config = {
        "cluster_name": "headrace",
        "num_tokens": 1,
        "initial_token": "0",
        "auto_bootstrap": False,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        "seed_provider": [
            {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": [seeds]},
        ],
        "listen_address": settings.host,
        "rpc_address": settings.host,
        "storage_port": settings.cassandra_storage_port,
        "start_native_transport": True,
        "native_transport_port": settings.cassandra_port,
        "data_file_directories": [str(data / "data")],
        "commitlog_directory": str(data / "commitlog"),
        "cdc_raw_directory": str(data / "cdc_raw"),
        "hints_directory": str(data / "hints"),
        "saved_caches_directory": str(data / "saved_caches"),
        # Not `periodic`: it acknowledges before it writes, so a kill -9 loses acknowledged rows.
        # `group` was no faster with 100 concurrent writes, and took 7 ms instead of 3 for a single one.
        "commitlog_sync": "batch",
        "commitlog_segment_size": "8MiB",
        "commitlog_total_space": "64MiB",
        "disk_failure_policy": "stop",
        "commit_failure_policy": "stop",
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "role_manager": "CassandraRoleManager",
        # Grants and new passwords take effect within a second.
        "roles_validity": "1s",
        "permissions_validity": "1s",
        "credentials_validity": "1s",
        "user_defined_functions_enabled": False,
        "materialized_views_enabled": False,
        "hinted_handoff_enabled": False,
        "concurrent_reads": 8,
        "concurrent_writes": 8,
        "memtable_allocation_type": "heap_buffers",
        "memtable_heap_space": "64MiB",
        "key_cache_size": "8MiB",
        "file_cache_size": "32MiB",
        "networking_cache_size": "16MiB",
        "dynamic_snitch": False,
        "auto_snapshot": False,
        "storage_compatibility_mode": "NONE",
    }
    return yaml.safe_dump(config, sort_keys=False)


def usable(settings: Settings) -> bool:
    """Return whether our superuser can log in and the default one cannot; sets both up on a new system."""
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    return set_up(binding(settings))


def _logback(settings: Settings) -> str:
    log = escape(str(settings.log_dir / "cassandra.log"))
    trigger = "ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy"
    return f"""<configuration>
<appender name="F" class="ch.qos.logback.core.rolling.RollingFileAppender">
<file>{log}</file>
<rollingPolicy class="ch.qos.logback.core.rolling.FixedWindowRollingPolicy">
<fileNamePattern>{log}.%i</fileNamePattern><maxIndex>2</maxIndex></rollingPolicy>
<triggeringPolicy class="{trigger}"><maxFileSize>10MB</maxFileSize></triggeringPolicy>
<encoder><pattern>%d %-5level %logger{{0}} - %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="F"/></root></configuration>
"""
