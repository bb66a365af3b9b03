"""The embedded platform with the real Kafka and Cassandra: started, adopted, killed, mended, ended."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cassandra.cluster import NoHostAvailable
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from headrace.contract.bindings import read_cassandra, read_kafka
from headrace.errors import HeadraceError
from headrace.local import cassandra, jars, kafka, platform, processes
from headrace.local.java import find_java
from tests.support.platform import local_settings

pytestmark = pytest.mark.platform


class Watch:
    """Looks at all command lines and environments of the machine while it runs, for words that must not be there."""

    def __init__(self):
        self.texts = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._end.wait(0.01):
            for folder in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        self.texts.add((folder / name).read_bytes())
                    except OSError:
                        continue

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def first_up(tmp_path_factory):
    """A platform in a folder with a blank in its name, and what was seen while it came up from nothing."""
    settings = local_settings(tmp_path_factory.mktemp("platform") / "a home")
    with Watch() as watch:
        platform.up(settings)
    yield settings, watch.texts
    platform.down(settings)
    left = [process.pid for process in psutil.process_iter() if _is_of(process, settings)]
    assert left == []


@pytest.fixture
def settings(first_up):
    """A platform that runs, whatever the test before did to it."""
    platform.up(first_up[0])
    return first_up[0]


def _is_of(process, settings):
    try:
        return any(str(settings.home) in word for word in process.cmdline())
    except psutil.Error:
        return False


def pids(settings):
    return {part.name: part.pid for part in platform.status(settings)}


def kill(settings, name):
    pid = pids(settings)[name]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: states(settings)[name] == "CRASHED")


def states(settings):
    return {part.name: part.state for part in platform.status(settings)}


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def new_topic(settings, name):
    admin = AdminClient(kafka.binding(settings).client_config())
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    return name


def read_all(settings, topic):
    consumer = Consumer(kafka.binding(settings).client_config() | {"group.id": "reader", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=60)
        consumer.assign([TopicPartition(topic, 0, 0)])
        values = []
        while len(values) < end:
            message = consumer.poll(60)
            assert message is not None
            assert message.error() is None
            values.append(message.value())
        return values
    finally:
        consumer.close()


@contextmanager
def admin_session(settings):
    own = cassandra.binding(settings)
    with cassandra.login(settings, own.username, own.password) as session:
        yield session


def test_status_tells_pid_port_memory_and_age_of_every_part(settings):
    for part in platform.status(settings):
        assert part.state == "RUNNING"
        assert part.pid
        assert part.rss > 50_000_000
        assert part.uptime > 0


def test_a_second_up_adopts_what_runs(settings):
    before = pids(settings)
    platform.up(settings)
    assert pids(settings) == before


def test_two_ups_at_once_start_each_part_once(settings):
    platform.down(settings)
    code = (
        "import os; from headrace.local.settings import Settings; from headrace.local import platform; "
        f"platform.up(Settings.load(**{settings.model_dump(mode='json')!r}))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [each.communicate()[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], outputs
    ours = [process for process in psutil.process_iter() if _is_of(process, settings)]
    assert sorted(process.pid for process in ours) == sorted(pids(settings).values())


@pytest.mark.parametrize("name", ["kafka", "cassandra"])
def test_a_killed_part_is_shown_by_status_and_mended_by_up(settings, name):
    before = pids(settings)
    kill(settings, name)
    assert states(settings) == {"kafka": "RUNNING", "cassandra": "RUNNING"} | {name: "CRASHED"}
    platform.up(settings)
    after = pids(settings)
    assert set(states(settings).values()) == {"RUNNING"}
    assert {part for part in after if after[part] != before[part]} == {name}


def test_a_killed_kafka_has_every_record_that_it_acknowledged(settings):
    topic = new_topic(settings, "acknowledged")
    acknowledged = []
    producer = Producer(
        kafka.binding(settings).client_config()
        | {"acks": "all", "linger.ms": 1, "message.timeout.ms": 5000, "log_level": 0}
    )

    def delivered(error, message):
        if error is None:
            acknowledged.append(message.value())

    sent = 0
    while len(acknowledged) < 20_000:
        producer.produce(topic, b"%d" % sent, on_delivery=delivered)
        sent += 1
        producer.poll(0.01 if sent % 1000 == 0 else 0)
    kill(settings, "kafka")
    producer.flush(30)
    platform.up(settings)
    assert len(acknowledged) >= 20_000
    assert set(acknowledged) - set(read_all(settings, topic)) == set()


def test_a_killed_cassandra_has_every_row_that_it_acknowledged(settings):
    with admin_session(settings) as session:
        session.execute(
            "CREATE KEYSPACE IF NOT EXISTS kill WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
        )
        session.execute("CREATE TABLE IF NOT EXISTS kill.rows (id int PRIMARY KEY, text text)")
        insert = session.prepare("INSERT INTO kill.rows (id, text) VALUES (?, ?)")
        acknowledged, lock = [], threading.Lock()

        def write(worker):
            for number in range(worker, 10_000_000, 8):
                try:
                    session.execute(insert, (number, "x" * 100), timeout=5)
                except Exception:
                    return
                with lock:
                    acknowledged.append(number)

        workers = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for worker in workers:
            worker.start()
        wait_until(lambda: len(acknowledged) > 3000)
        kill(settings, "cassandra")
        for worker in workers:
            worker.join()
    platform.up(settings)
    with admin_session(settings) as session:
        found = {row.id for row in session.execute("SELECT id FROM kill.rows")}
    assert set(acknowledged) - found == set()


def test_an_up_that_is_killed_half_way_is_completed_by_the_next(tmp_path):
    settings = local_settings(tmp_path / "home")
    code = (
        "from headrace.local.settings import Settings; from headrace.local import platform; "
        f"platform.up(Settings.load(**{settings.model_dump(mode='json')!r}))"
    )
    first = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: pids(settings)["cassandra"] is not None)
    finally:
        first.kill()
        first.wait()
    started = pids(settings)["cassandra"]
    try:
        platform.up(settings)
        assert pids(settings)["cassandra"] == started
        with pytest.raises(NoHostAvailable), cassandra.login(settings, "cassandra", "cassandra"):
            pass
    finally:
        platform.down(settings)


def test_an_up_that_is_interrupted_stops_what_it_started(tmp_path):
    settings = local_settings(tmp_path / "home")
    code = (
        "from headrace.local.settings import Settings; from headrace.local import platform; "
        f"platform.up(Settings.load(**{settings.model_dump(mode='json')!r}))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: pids(settings)["cassandra"] is not None)
    os.killpg(command.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in command.communicate()[1]
    assert set(states(settings).values()) == {"STOPPED"}
    assert [process.pid for process in psutil.process_iter() if _is_of(process, settings)] == []


def test_a_part_that_cannot_start_is_told_with_its_log_and_leaves_nothing_running(tmp_path):
    settings = local_settings(tmp_path / "home", cassandra_heap="1m")
    with pytest.raises(HeadraceError, match=r"cassandra ended while it started; its log .* says: .*[Tt]oo small"):
        platform.up(settings)
    assert set(states(settings).values()) == {"STOPPED"}
    assert [process.pid for process in psutil.process_iter() if _is_of(process, settings)] == []
    platform.clean(settings)
    assert not settings.home.exists()


def test_the_bindings_reach_both_systems_and_only_their_owner_reads_them(settings):
    root = settings.bindings()
    own = read_kafka(root)
    assert (own.username, own.sasl_mechanism) == ("admin", "SCRAM-SHA-512")
    assert AdminClient(own.client_config()).list_topics(timeout=30).brokers
    own = read_cassandra(root)
    with cassandra.login(settings, own.username, own.password) as session:
        assert session.execute("SELECT data_center FROM system.local").one().data_center == own.local_datacenter
    modes = {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert settings.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("change", [{"sasl.password": "wrong"}, {"sasl.username": "nobody"}])
def test_kafka_refuses_a_wrong_password_and_an_unknown_user(settings, change):
    errors = []
    config = kafka.binding(settings).client_config() | change | {"error_cb": errors.append, "log_level": 0}
    client = AdminClient(config)
    with pytest.raises(KafkaException):
        client.list_topics(timeout=5)
    client.poll(1)
    assert KafkaError._AUTHENTICATION in {error.code() for error in errors}


def test_kafka_refuses_a_client_without_a_login(settings):
    client = AdminClient({"bootstrap.servers": kafka.binding(settings).bootstrap_servers, "log_level": 0})
    with pytest.raises(KafkaException):
        client.list_topics(timeout=3)


def test_a_kafka_user_without_a_grant_may_not_write(settings):
    topic = new_topic(settings, "closed")
    admin = AdminClient(kafka.binding(settings).client_config())
    credential = UserScramCredentialUpsertion(
        "guest", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"guest"
    )
    admin.alter_user_scram_credentials([credential])["guest"].result(30)
    config = kafka.binding(settings).client_config() | {
        "sasl.username": "guest",
        "sasl.password": "guest",
        "log_level": 0,
    }
    producer, errors = Producer(config | {"message.timeout.ms": 20_000}), []
    producer.produce(topic, b"x", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(30)
    assert [error.code() for error in errors] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]


@pytest.mark.parametrize(("username", "password"), [("cassandra", "cassandra"), ("headrace_admin", "wrong")])
def test_cassandra_refuses_its_default_user_and_a_wrong_password(settings, username, password):
    with (
        pytest.raises(NoHostAvailable, match=r"(?i)authenticat|incorrect|not permitted"),
        cassandra.login(settings, username, password),
    ):
        pass


def test_a_default_user_that_came_back_is_shut_out_by_the_next_up(settings):
    """The state of a break between our superuser's making and the default one's shutting out."""
    command = "ALTER ROLE cassandra WITH PASSWORD = 'cassandra' AND SUPERUSER = true AND LOGIN = true"
    with admin_session(settings) as session:
        wait_until(lambda: _accepted(session, command))
    wait_until(lambda: not _refused(settings, "cassandra", "cassandra"), 30)
    platform.up(settings)
    wait_until(lambda: _refused(settings, "cassandra", "cassandra"), 30)  # roles are cached for a second


def _accepted(session, command):
    """Cassandra lets a password be changed once in five seconds."""
    try:
        session.execute(command)
    except NoHostAvailable:
        return False
    return True


def _refused(settings, username, password):
    try:
        with cassandra.login(settings, username, password):
            return False
    except NoHostAvailable:
        return True


def test_jmx_asks_for_a_password(settings):
    java = find_java(settings)
    options = (settings.home / "etc" / "cassandra" / "java.args").read_text().splitlines()
    opened = [word.strip('"') for word in options if word.startswith('"--add-')]
    command = [java.binary, *opened, "-Xmx64m", "-cp", ":".join(map(str, jars.ensure("cassandra", settings, java)))]
    tool = ["org.apache.cassandra.tools.NodeTool", "-p", str(settings.cassandra_jmx_port)]
    answer = subprocess.run([*command, *tool, "info"], capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    assert "authentication" in (answer.stdout + answer.stderr).lower()
    login = ["-u", cassandra.ADMIN, "-pwf", str(settings.home / "etc" / "cassandra" / "jmx.password")]
    answer = subprocess.run([*command, *tool, *login, "info"], capture_output=True, text=True, check=False)
    assert "Gossip active" in answer.stdout, answer.stderr


def test_every_port_is_open_on_loopback_alone(settings):
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for pid in pids(settings).values()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_no_command_line_environment_or_log_ever_holds_a_secret(first_up, settings):
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


def test_a_record_of_one_megabyte_passes(settings):
    topic = new_topic(settings, "large")
    producer = Producer(kafka.binding(settings).client_config() | {"message.max.bytes": kafka.MAX_MESSAGE_BYTES})
    producer.produce(topic, b"x" * 1_000_000)
    assert producer.flush(60) == 0
    assert [len(value) for value in read_all(settings, topic)] == [1_000_000]


def test_the_printed_console_line_shows_a_topic_and_no_password(settings):
    topic = new_topic(settings, "shown")
    producer = Producer(kafka.binding(settings).client_config())
    producer.produce(topic, b"hello")
    assert producer.flush(60) == 0
    java = find_java(settings)
    line = kafka.console_consumer(settings, java, jars.ensure("kafka", settings, java), topic)
    assert kafka.binding(settings).password not in line
    answer = subprocess.run(f"{line} --max-messages 1", shell=True, capture_output=True, text=True, check=False)
    assert answer.stdout.splitlines() == ["hello"], answer.stderr


def test_down_leaves_no_process_and_no_port_and_clean_no_file(settings):
    with pytest.raises(HeadraceError, match=r"kafka.* still runs: stop it with `headrace down`"):
        platform.clean(settings)
    platform.down(settings)
    assert set(states(settings).values()) == {"STOPPED"}
    assert [process.pid for process in psutil.process_iter() if _is_of(process, settings)] == []
    assert not list(processes.records(settings.run_dir))
    ports = {*kafka.ports(settings).values(), *cassandra.ports(settings).values()}
    assert not [item for item in psutil.net_connections("tcp") if item.status == "LISTEN" and item.laddr.port in ports]
    platform.clean(settings)
    assert list(settings.home.parent.iterdir()) == []


def test_log_files_are_where_logs_says(settings):
    for name in ("kafka", "cassandra"):
        assert re.search(r"INFO", platform.logs(settings, name).read_text())
    with pytest.raises(HeadraceError, match="There is no part 'zookeeper': the parts are kafka, cassandra"):
        platform.logs(settings, "zookeeper")
