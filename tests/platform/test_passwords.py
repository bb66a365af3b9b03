"""Passwords of any characters against the real servers, by every client that we use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pyspark.sql import SparkSession

from headrace.access import bindings
from headrace.driver import session
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session, kafka_admin, log_in
from tests.support.servers import new_topic, wait_until

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

USER = "odd_password"
PASSWORD = "pa\"ss\\word; $x %s 'ä€ "


def _is_let_in(kafka: bindings.KafkaBinding, topic: str) -> bool:
    """Return whether the broker knows the login, its right and the topic: the controller answers before it does."""
    consumer = Consumer(kafka.client_config() | {"group.id": USER, "log_level": 0})
    try:
        return consumer.list_topics(topic, timeout=30).topics[topic].error is None
    except KafkaException:
        return False
    finally:
        consumer.close()


def test_spark_and_python_log_in_with_a_password_of_any_characters(
    platform: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    admin = kafka_admin(platform.bindings())
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    topic = new_topic(platform, USER)
    made = [
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, scram, PASSWORD.encode())]),
        admin.create_acls(
            [
                AclBinding(kind, name, pattern, f"User:{USER}", "*", AclOperation.ALL, AclPermissionType.ALLOW)
                for kind, name, pattern in (
                    (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL),
                    (ResourceType.GROUP, USER, ResourcePatternType.LITERAL),
                )
            ]
        ),
    ]
    for futures in made:
        for future in futures.values():
            future.result(120)
    with cassandra_session(platform.bindings()) as cassandra:
        cassandra.execute(f'CREATE ROLE IF NOT EXISTS "{USER}" WITH LOGIN = true')
        cassandra.execute(f'ALTER ROLE "{USER}" WITH PASSWORD = %s', (PASSWORD,))
        cassandra.execute(f'GRANT SELECT ON TABLE test_db.users TO "{USER}"')
    for system in ("kafka", "cassandra"):
        folder = platform.bindings() / system
        values = {path.name: path.read_text() for path in folder.iterdir()}
        bindings.write_binding(tmp_path / system, values | {"username": USER, "password": f"{PASSWORD}\n"})

    kafka = bindings.read_kafka(tmp_path)
    wait_until(lambda: _is_let_in(kafka, topic))
    spark.createDataFrame([("sent",)], "value string").write.format("kafka").options(
        **session.kafka_options(kafka), topic=topic
    ).save()
    consumer = Consumer(kafka.client_config() | {"group.id": USER})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(300)
        assert message is not None
        assert message.value() == b"sent"
    finally:
        consumer.close()

    login = bindings.read_cassandra(tmp_path)
    with log_in(login) as reader:
        reader.execute("SELECT login_id FROM test_db.users LIMIT 1")
    options = session.cassandra_conf(login) | {"keyspace": "test_db", "table": "users"}
    users = spark.read.format("org.apache.spark.sql.cassandra").options(**options)
    assert "login_id" in users.load().columns
    wrong = session.cassandra_conf(replace(login, password=PASSWORD.strip())) | {
        "keyspace": "test_db",
        "table": "users",
    }
    with pytest.raises(Exception, match="Failed to open native connection"):
        spark.read.format("org.apache.spark.sql.cassandra").options(**wrong).load()
