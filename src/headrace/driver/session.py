"""The Spark session of a driver. Secrets are set once the JVM runs, so they are in no argv and no properties file."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pyspark import SparkContext
from pyspark.sql import SparkSession

from headrace.access import object_store, truststore
from headrace.access.bindings import CassandraBinding, KafkaBinding
from headrace.access.credentials import jaas
from headrace.contract.names import LAKE_CATALOG
from headrace.driver import java
from headrace.errors import HeadraceError

# They log a warning for every option of the other Kafka client, at each start of each query.
QUIET_LOGGERS = (
    "org.apache.kafka.clients.admin.AdminClientConfig",
    "org.apache.kafka.clients.consumer.ConsumerConfig",
    # mapInArrow reads its input in a separate thread; KAFKA-1894 (endless poll) is fixed by poll(Duration)
    "org.apache.spark.sql.kafka010.consumer.KafkaDataConsumer",
    # each query uses a scheduler pool that no file declares: it is created on first use, with suitable defaults
    "org.apache.spark.scheduler.FairSchedulableBuilder",
)

OUT_OF_MEMORY_CODE = 3
"""The exit code of a JVM with -XX:+ExitOnOutOfMemoryError (HotSpot, `vm_exit` in debug.cpp)."""

TRUST_STORE = "HEADRACE_CASSANDRA_TRUSTSTORE"


def start(name: str, conf: Mapping[str, str], cassandra: CassandraBinding | None = None) -> SparkSession:
    """Start (or get) the session with `conf` and configure the connector's login from the binding.

    Raises HeadraceError for an object store key that Hadoop would change.
    """
    builder = SparkSession.builder.appName(name)
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    java.keep_own(spark)
    logging_to, error = (
        java.named(spark, f"org.apache.logging.log4j.{name}") for name in ("core.config.Configurator", "Level")
    )
    for logger in QUIET_LOGGERS:
        logging_to.setLevel(logger, error.ERROR)
    if object_store.is_object(conf.get(f"spark.sql.catalog.{LAKE_CATALOG}.warehouse", "")):
        hadoop = spark.sparkContext._jsc.hadoopConfiguration()  # sent to the executors with each task's plan
        for key, value in object_store.hadoop_conf(object_store.binding()).items():
            hadoop.set(key, value)
            if hadoop.get(key) != value:  # Configuration.get substitutes variables, and has no escape
                raise HeadraceError(
                    f"The object store's {key} contains a ${{variable}} that Hadoop substitutes. Give the user another key."
                )
    if cassandra:
        if cassandra.ca_file:  # for this JVM; an executor's entry point creates its own
            truststore.write(Path(trust_store()), cassandra.ca_file.read_bytes())
        for key, value in cassandra_conf(cassandra).items():
            spark.conf.set(key, value)
    return spark


def abandon(spark: SparkSession, code: int) -> NoReturn:
    """End this process with `code`, and its JVM, at once: for a JVM that no longer responds.

    Correctness never depends on how a driver ends, but a driver that cannot end would never be restarted.
    """
    jvm = getattr(spark.sparkContext._gateway, "proc", None)
    if jvm is not None:  # under spark-submit on a cluster the JVM is the parent, and exits with this process
        jvm.kill()
    logging.shutdown()
    os._exit(code)


def jvm_pid(spark: SparkSession) -> int:
    """Return the process id of the session's JVM: our child, or under spark-submit on a cluster our parent."""
    jvm = getattr(spark.sparkContext._gateway, "proc", None)
    return int(jvm.pid) if jvm is not None else os.getppid()


def jvm_exit_code(patience_seconds: float = 0) -> int | None:
    """Return how this session's JVM ended, as `Popen.returncode`; None if it still runs or is not our child.

    A JVM that just closed its connections may still be exiting, so wait up to `patience_seconds`.
    """
    jvm = getattr(SparkContext._gateway, "proc", None)
    if jvm is None:
        return None
    try:
        return int(jvm.wait(patience_seconds))
    except subprocess.TimeoutExpired:
        return None


def oom_kills() -> int | None:
    """Return how many processes the kernel's OOM killer has killed in this cgroup, or else on this machine."""
    for place in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with contextlib.suppress(OSError):
            for line in Path(place).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return None


def trust_store() -> str:
    """Return the path of the Java trust store with Cassandra's CA, in every process that connects."""
    return os.environ.get(TRUST_STORE, "/tmp/cassandra-ca.p12")  # noqa: S108


def cassandra_conf(binding: CassandraBinding) -> dict[str, str]:
    """Return the connector's settings for a binding; Spark redacts the password by its key."""
    conf = {
        "spark.cassandra.connection.host": ",".join(binding.contact_points),
        "spark.cassandra.connection.port": str(binding.port),
        "spark.cassandra.connection.localDC": binding.local_datacenter,
        "spark.cassandra.auth.username": binding.username,
        "spark.cassandra.auth.password": binding.password,
    }
    if binding.ca_file:
        conf |= {
            "spark.cassandra.connection.ssl.enabled": "true",
            "spark.cassandra.connection.ssl.trustStore.path": trust_store(),
            "spark.cassandra.connection.ssl.trustStore.type": "PKCS12",
            "spark.cassandra.connection.ssl.trustStore.password": truststore.PASSWORD,
            # The default is two ciphers that Java 17 no longer offers.
            "spark.cassandra.connection.ssl.enabledAlgorithms": "TLS_AES_256_GCM_SHA384,TLS_AES_128_GCM_SHA256",
            "spark.cassandra.connection.ssl.protocol": "TLS",
        }
    return conf


def kafka_options(binding: KafkaBinding) -> dict[str, str]:
    """Return the options of Spark's Kafka source and sink for a binding (submit redacts `sasl.jaas.config`)."""
    options = {
        "kafka.bootstrap.servers": binding.bootstrap_servers,
        "kafka.security.protocol": binding.security_protocol,
    }
    if binding.security_protocol.startswith("SASL"):
        scram = binding.sasl_mechanism.startswith("SCRAM")
        options["kafka.sasl.mechanism"] = binding.sasl_mechanism
        module = "scram.ScramLoginModule" if scram else "plain.PlainLoginModule"
        options["kafka.sasl.jaas.config"] = jaas(module, username=binding.username, password=binding.password)
    if binding.ca_file:
        options |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.location": str(binding.ca_file)}
    return options
