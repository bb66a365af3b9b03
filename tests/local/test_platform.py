"""The embedded platform with the real Kafka and Cassandra: started, adopted, killed, started again, ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError, Message, Producer

from headrace.errors import HeadraceError
from headrace.local import cassandra, kafka, platform
from headrace.local.settings import Settings
from headrace.operations import processes
from tests.support.platform import local_settings
from tests.support.servers import admin_session, is_of, kill, new_topic, pids, read_all, refused, states, wait_until

pytestmark = pytest.mark.platform


def test_status_tells_pid_port_memory_and_age_of_every_part(settings: Settings) -> None:
    for part in platform.status(settings):
        assert part.state == "RUNNING"
        assert part.pid
        assert (part.rss or 0) > 50_000_000
        assert (part.uptime or 0) > 0


def test_a_second_up_adopts_what_runs(settings: Settings) -> None:
    before = pids(settings)
    platform.up(settings)
    assert pids(settings) == before


@pytest.mark.long(group="outages")
def test_two_ups_at_once_start_each_part_once(settings: Settings) -> None:
    platform.down(settings)
    code = (
        "import os; from headrace.local.settings import Settings; from headrace.local import platform; "
        f"platform.up(Settings.load(**{settings.model_dump(mode='json')!r}))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    ours = [process for process in psutil.process_iter() if is_of(process, settings)]
    assert sorted(process.pid for process in ours) == sorted(pid or 0 for pid in pids(settings).values())


@pytest.mark.parametrize("name", ["kafka", "cassandra"])
def test_a_killed_part_is_shown_by_status_and_started_again_by_up(settings: Settings, name: str) -> None:
    before = pids(settings)
    kill(settings, name)
    assert states(settings) == {"kafka": "RUNNING", "cassandra": "RUNNING"} | {name: "CRASHED"}
    platform.up(settings)
    after = pids(settings)
    assert set(states(settings).values()) == {"RUNNING"}
    assert {part for part in after if after[part] != before[part]} == {name}


def test_a_killed_kafka_has_every_record_that_it_acknowledged(settings: Settings) -> None:
    topic = new_topic(settings, "acknowledged")
    acknowledged = []
    producer = Producer(
        kafka.binding(settings).client_config()
        | {"acks": "all", "linger.ms": 1, "message.timeout.ms": 5000, "log_level": 0}
    )

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            acknowledged.append(message.value())

    sent = 0
    while len(acknowledged) < 20_000:
        try:
            producer.produce(topic, b"%d" % sent, on_delivery=delivered)
            sent += 1
        except BufferError:  # Kafka is slower than this loop
            producer.poll(1)
        producer.poll(0.01 if sent % 1000 == 0 else 0)
    kill(settings, "kafka")
    producer.flush(30)
    platform.up(settings)
    assert len(acknowledged) >= 20_000
    assert set(acknowledged) - set(read_all(settings, topic)) == set()


def test_a_killed_cassandra_has_every_row_that_it_acknowledged(settings: Settings) -> None:
    with admin_session(settings) as session:
        session.execute(
            "CREATE KEYSPACE IF NOT EXISTS kill WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
        )
        session.execute("CREATE TABLE IF NOT EXISTS kill.rows (id int PRIMARY KEY, text text)")
        insert = session.prepare("INSERT INTO kill.rows (id, text) VALUES (?, ?)")
        acknowledged, lock, killed = [], threading.Lock(), threading.Event()

        def write(worker: int) -> None:
            for number in range(worker, 10_000_000, 8):
                try:
                    session.execute(insert, (number, "x" * 100), timeout=60)
                except Exception:
                    if killed.wait(0.1):
                        return
                    continue
                with lock:
                    acknowledged.append(number)

        workers = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for worker in workers:
            worker.start()
        wait_until(lambda: len(acknowledged) > 3000)
        kill(settings, "cassandra")
        killed.set()
        for worker in workers:
            worker.join()
    platform.up(settings)
    with admin_session(settings) as session:
        kept = {row.id for row in session.execute("SELECT id FROM kill.rows", timeout=120)}
    assert set(acknowledged) - kept == set()


@pytest.mark.long(group="outages")
def test_an_up_that_is_killed_half_way_is_completed_by_the_next(tmp_path: Path) -> None:
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
        # Cassandra keeps a login that it has checked for credentials_validity, 2 s, also after the password's change.
        wait_until(lambda: refused(settings, "cassandra", "cassandra"))
    finally:
        platform.down(settings)


@pytest.mark.long(group="outages")
def test_an_up_that_is_interrupted_stops_what_it_started(tmp_path: Path) -> None:
    settings = local_settings(tmp_path / "home")
    # A runner that itself was started in the background ignores SIGINT, and so would its children.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from headrace.local.settings import Settings; from headrace.local import platform; "
        f"platform.up(Settings.load(**{settings.model_dump(mode='json')!r}))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: pids(settings)["cassandra"] is not None)
    os.killpg(command.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in command.communicate()[1]
    assert set(states(settings).values()) == {"STOPPED"}
    assert [process.pid for process in psutil.process_iter() if is_of(process, settings)] == []


@pytest.mark.long(group="outages")
def test_a_part_that_ends_while_up_takes_it_for_running_is_started(tmp_path: Path) -> None:
    settings = local_settings(tmp_path / "home")
    (part,) = [part for part in platform.parts(settings) if part.name == "cassandra"]
    dying = [sys.executable, "-c", "import time; time.sleep(4)", part.mark]
    old = processes.spawn(part.name, settings.run_dir, dying, part.mark, os.environ, settings.log_dir / "dying.out")
    try:
        platform.up(settings)
        assert set(states(settings).values()) == {"RUNNING"}
        assert pids(settings)["cassandra"] != old.pid
    finally:
        platform.down(settings)


def test_a_part_that_cannot_start_is_reported_with_its_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    settings = local_settings(tmp_path / "home", cassandra_heap="1m")
    with pytest.raises(HeadraceError, match=r"cassandra exited during its start\. Its log .* says: .*[Tt]oo small"):
        platform.up(settings)
    assert set(states(settings).values()) == {"STOPPED"}
    assert [process.pid for process in psutil.process_iter() if is_of(process, settings)] == []
    platform.clean(settings)
    assert not settings.home.exists()


def test_down_leaves_no_process_and_no_port_and_clean_no_file(settings: Settings) -> None:
    with pytest.raises(HeadraceError, match=r"kafka.* still runs\. Run `headrace down`"):
        platform.clean(settings)
    platform.down(settings)
    assert set(states(settings).values()) == {"STOPPED"}
    assert [process.pid for process in psutil.process_iter() if is_of(process, settings)] == []
    assert not list(processes.records(settings.run_dir))
    ports = {*kafka.ports(settings).values(), *cassandra.ports(settings).values()}
    assert not [
        item
        for item in psutil.net_connections("tcp")
        if item.status == "LISTEN" and item.laddr and item.laddr.port in ports
    ]
    platform.clean(settings)
    assert list(settings.home.parent.iterdir()) == []


def test_log_files_are_where_logs_says(settings: Settings) -> None:
    for name in ("kafka", "cassandra"):
        assert re.search(r"INFO", platform.logs(settings, name).read_text())
    with pytest.raises(HeadraceError, match=r"Unknown part 'zookeeper'\. Known parts: kafka, cassandra"):
        platform.logs(settings, "zookeeper")
