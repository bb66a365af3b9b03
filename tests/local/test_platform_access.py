"""The embedded platform with the real Kafka and Cassandra: who gets in, and what can be seen."""

from __future__ import annotations

import subprocess
from typing import Any

import psutil
import pytest
from cassandra.cluster import NoHostAvailable, Session
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from headrace.access.bindings import read_cassandra, read_kafka
from headrace.local import cassandra, jars, kafka, platform
from headrace.local.java import find_java
from headrace.local.settings import Settings
from headrace.operations.provision import run
from tests.support.servers import admin_session, login, new_topic, pids, read_all, refused, wait_until

pytestmark = pytest.mark.platform


def test_the_bindings_reach_both_systems_and_only_their_owner_reads_them(settings: Settings) -> None:
    root = settings.bindings()
    of_kafka = read_kafka(root)
    assert (of_kafka.username, of_kafka.sasl_mechanism) == ("admin", "SCRAM-SHA-512")
    assert AdminClient(of_kafka.client_config()).list_topics(timeout=120).brokers
    binding = read_cassandra(root)
    with login(settings, binding.username, binding.password) as session:
        assert session.execute("SELECT data_center FROM system.local").one().data_center == binding.local_datacenter
    modes = {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert settings.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("change", [{"sasl.password": "wrong"}, {"sasl.username": "nobody"}])
def test_kafka_refuses_a_wrong_password_and_an_unknown_user(settings: Settings, change: dict[str, str]) -> None:
    errors: list[KafkaError] = []
    config = kafka.binding(settings).client_config() | change | {"error_cb": errors.append, "log_level": 0}
    client = AdminClient(config)
    with pytest.raises(KafkaException):
        client.list_topics(timeout=5)

    def refused() -> bool:
        client.poll(0.1)
        return KafkaError._AUTHENTICATION in {error.code() for error in errors}

    wait_until(refused)


def test_kafka_refuses_a_client_without_a_login(settings: Settings) -> None:
    client = AdminClient({"bootstrap.servers": kafka.binding(settings).bootstrap_servers, "log_level": 0})
    with pytest.raises(KafkaException):
        client.list_topics(timeout=3)


def test_a_kafka_user_without_a_grant_may_not_write(settings: Settings) -> None:
    topic = new_topic(settings, "closed")
    admin = AdminClient(kafka.binding(settings).client_config())
    credential = UserScramCredentialUpsertion(
        "guest", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"guest"
    )
    admin.alter_user_scram_credentials([credential])["guest"].result(120)
    config = kafka.binding(settings).client_config() | {
        "sasl.username": "guest",
        "sasl.password": "guest",
        "log_level": 0,
    }
    producer, errors = Producer(config | {"message.timeout.ms": 120_000}), []
    producer.produce(topic, b"x", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(150)
    assert [error.code() for error in errors] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]


def test_a_producer_writes_its_topics_reads_none_and_is_shut_out_without_topics(settings: Settings) -> None:
    mine, foreign = new_topic(settings, "mine"), new_topic(settings, "foreign")

    def provisioned(topics: list[str]) -> set[tuple[str, str, str]]:
        changes = run.provision_producer(settings.bindings(), "producer-webshop", "a password", topics)
        return {(change.pipeline, change.kind, change.name) for change in changes}

    login = kafka.binding(settings).client_config() | {
        "sasl.username": "producer-webshop",
        "sasl.password": "a password",
        "log_level": 0,
    }

    def written(topic: str) -> list[int | None]:
        errors: list[int | None] = []
        producer = Producer(login | {"acks": "all", "enable.idempotence": True, "message.timeout.ms": 120_000})
        producer.produce(topic, b"x", on_delivery=lambda error, _message: errors.append(error and error.code()))
        producer.flush(150)
        return errors

    assert provisioned([mine]) == {("producer-webshop", "right", mine)}
    assert provisioned([mine]) == set()
    wait_until(lambda: written(mine) == [None])  # a credential is there when the broker has read it
    assert written(foreign) == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    consumer = Consumer(login | {"group.id": "webshop"})
    consumer.assign([TopicPartition(mine, 0, 0)])
    refusals: set[int | None] = set()  # the topic's; that of the group comes before or after it
    wait_until(lambda: KafkaError.TOPIC_AUTHORIZATION_FAILED in _polled(consumer, refusals))
    consumer.close()
    assert refusals <= {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
    assert provisioned([foreign]) == {
        ("producer-webshop", "right revoked", mine),
        ("producer-webshop", "right", foreign),
    }
    wait_until(lambda: written(foreign) == [None])
    assert written(mine) == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    assert provisioned([]) == {("producer-webshop", "right revoked", foreign)}
    assert provisioned([]) == set()
    wait_until(lambda: not _is_let_in(login))  # the broker knows that the user is gone, and then forgets the password


def _is_let_in(login: dict[str, Any]) -> bool:
    try:
        return bool(AdminClient(login).list_topics(timeout=5).brokers)
    except KafkaException:
        return False


def _polled(consumer: Consumer, codes: set[int | None]) -> set[int | None]:
    """Poll once and return `codes` with the code of the answer: of its error, or None of a record."""
    message = consumer.poll(1)
    if message is not None:
        codes.add(message.error() and message.error().code())
    return codes


@pytest.mark.parametrize(("username", "password"), [("cassandra", "cassandra"), ("headrace_admin", "wrong")])
def test_cassandra_refuses_its_default_user_and_a_wrong_password(
    settings: Settings, username: str, password: str
) -> None:
    with (
        pytest.raises(NoHostAvailable, match=r"(?i)authenticat|incorrect|not permitted"),
        login(settings, username, password),
    ):
        pass


def test_a_default_user_that_came_back_is_shut_out_by_the_next_up(settings: Settings) -> None:
    """The state of a break between our superuser's making and the default one's shutting out."""
    command = "ALTER ROLE cassandra WITH PASSWORD = 'cassandra' AND SUPERUSER = true AND LOGIN = true"
    with admin_session(settings) as session:
        wait_until(lambda: _accepted(session, command))
    wait_until(lambda: not refused(settings, "cassandra", "cassandra"))
    platform.up(settings)
    wait_until(lambda: refused(settings, "cassandra", "cassandra"))  # roles are cached for a second


def _accepted(session: Session, command: str) -> bool:
    """Cassandra lets a password be changed once in five seconds."""
    try:
        session.execute(command)
    except NoHostAvailable:
        return False
    return True


def test_jmx_asks_for_a_password(settings: Settings) -> None:
    java = find_java(settings)
    options = (settings.home / "etc" / "cassandra" / "java.args").read_text().splitlines()
    opened = [word.strip('"') for word in options if word.startswith('"--add-')]
    command = [
        str(java.binary),
        *opened,
        "-Xmx64m",
        "-cp",
        ":".join(map(str, jars.ensure("cassandra", settings, java))),
    ]
    tool = ["org.apache.cassandra.tools.NodeTool", "-p", str(settings.cassandra_jmx_port)]
    answer = subprocess.run([*command, *tool, "info"], capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    assert "authentication" in (answer.stdout + answer.stderr).lower()
    login = ["-u", cassandra.ADMIN, "-pwf", str(settings.home / "etc" / "cassandra" / "jmx.password")]
    answer = subprocess.run([*command, *tool, *login, "info"], capture_output=True, text=True, check=False)
    assert "Gossip active" in answer.stdout, answer.stderr


def test_every_port_is_open_on_loopback_alone(settings: Settings) -> None:
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for pid in pids(settings).values()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.laddr and connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_no_command_line_environment_or_log_ever_holds_a_secret(
    first_up: tuple[Settings, set[bytes]], settings: Settings
) -> None:
    _, seen = first_up
    words = [path.read_bytes() for path in (settings.home / "secrets").iterdir() if path.name != "kafka-cluster-id"]
    assert len(words) == 3
    assert any(b"/format.args" in text for text in seen), "the watch must have seen the storage being made"
    logs = [path.read_bytes() for path in settings.log_dir.iterdir()]
    assert len(logs) >= 4
    for word in words:
        assert len(word) > 30
        assert not [text for text in seen if word in text]
        assert not [text for text in logs if word in text]


def test_a_record_of_one_megabyte_passes(settings: Settings) -> None:
    topic = new_topic(settings, "large")
    producer = Producer(kafka.binding(settings).client_config() | {"message.max.bytes": kafka.MAX_MESSAGE_BYTES})
    producer.produce(topic, b"x" * 1_000_000)
    assert producer.flush(120) == 0
    assert [len(value) for value in read_all(settings, topic)] == [1_000_000]


def test_the_printed_console_line_shows_a_topic_and_no_password(settings: Settings) -> None:
    topic = new_topic(settings, "shown")
    producer = Producer(kafka.binding(settings).client_config())
    producer.produce(topic, b"hello")
    assert producer.flush(120) == 0
    java = find_java(settings)
    line = kafka.console_consumer(settings, java, jars.ensure("kafka", settings, java), topic)
    assert kafka.binding(settings).password not in line
    answer = subprocess.run(f"{line} --max-messages 1", shell=True, capture_output=True, text=True, check=False)
    assert answer.stdout.splitlines() == ["hello"], answer.stderr
