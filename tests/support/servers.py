"""A real Kafka and Cassandra in a test's own folder: kill, wait, read, and observe the machine meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Self

import psutil
from cassandra.cluster import NoHostAvailable, Session
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.local import cassandra, kafka, platform
from headrace.local.settings import Settings
from headrace.operations.clients import log_in


class Watch:
    """Observes all command lines and environments of the machine while it runs, for words that must not appear."""

    def __init__(self) -> None:
        self.texts: set[bytes] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.01):
            for folder in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        self.texts.add((folder / name).read_bytes())
                    except OSError:
                        continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def is_running(process: psutil.Process) -> bool:
    """Return whether a process still runs. A process that ends during the check counts as ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def words_of(process: psutil.Process) -> list[bytes]:
    """Return the arguments and the environment of a process, or nothing if it ended before they were read."""
    try:
        return [(Path("/proc") / str(process.pid) / name).read_bytes() for name in ("cmdline", "environ")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_of(process: psutil.Process, settings: Settings) -> bool:
    try:
        return any(str(settings.home) in word for word in process.cmdline())
    except psutil.Error:
        return False


def pids(settings: Settings) -> dict[str, int | None]:
    return {part.name: part.pid for part in platform.status(settings)}


def kill(settings: Settings, name: str) -> None:
    pid = pids(settings)[name]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: states(settings)[name] == "CRASHED")


def states(settings: Settings) -> dict[str, str]:
    return {part.name: part.state for part in platform.status(settings)}


def refused(settings: Settings, username: str, password: str) -> bool:
    """Return whether Cassandra refuses this name and password."""
    try:
        with login(settings, username, password):
            return False
    except NoHostAvailable:
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def new_topic(settings: Settings, name: str) -> str:
    """Make a topic whose name begins with `name`, also where a first run of the test has made one; return its name."""
    name = f"{name}_{uuid.uuid4().hex[:8]}"
    admin = AdminClient(kafka.binding(settings).client_config())
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(120)
    wait_until(lambda: name in admin.list_topics(timeout=120).topics)  # the controller answers before the broker has it
    return name


def read_all(settings: Settings, topic: str) -> list[bytes]:
    consumer = Consumer(kafka.binding(settings).client_config() | {"group.id": "reader", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=120)
        consumer.assign([TopicPartition(topic, 0, 0)])
        values: list[bytes] = []
        while len(values) < end:
            message = consumer.poll(300)
            assert message is not None
            assert message.error() is None
            values.append(message.value())
        return values
    finally:
        consumer.close()


def login(settings: Settings, username: str, password: str) -> AbstractContextManager[Session]:
    """Open a session of a Cassandra user; raises NoHostAvailable for a refused password."""
    return log_in(replace(cassandra.binding(settings), username=username, password=password))


def admin_session(settings: Settings) -> AbstractContextManager[Session]:
    return log_in(cassandra.binding(settings))
