"""A stage: one pipeline on the real platform with its own project tree, topics, tables, logs and storage root.

The tree is a copy of the shipped files. With a suffix, every name that would be shared (pipeline, topics, tables) gets
it, in the file and in the transforms; all other names derive from the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.access.bindings import read_kafka
from headrace.contract import names
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.local.launcher import starting_launcher
from headrace.local.settings import Settings
from headrace.operations import processes
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers import interface as drivers
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import send
from headrace.operations.produce.summary import SendSummary
from headrace.operations.provision.run import provision
from headrace.store import driver_files, generation, ledger, small_files, spark_conf
from headrace.store.checkpoint_log import newest_batch
from headrace.store.records import to_json

Content = dict[str, Any]
DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.2
SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # or an entry point finds its folder's platform.py in place of Python's
SMALL = {  # these drivers run for a minute: the JVM's second compiler would never pay off
    "spark.master": "local[2]",
    "spark.driver.memory": "512m",
    "spark.driver.extraJavaOptions": f"{spark_conf.JAVA_OPTIONS} -XX:TieredStopAtLevel=1",
    "spark.ui.enabled": "false",
    spark_conf.ARCHIVE_DELAY: "0s",  # do not wait for more records
}


@dataclass(frozen=True)
class Message:
    """A record as a consumer sees it; `at_ms` is the broker's time."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def header(self, name: str) -> str:
        """Return the text of a header that must occur once."""
        (value,) = [value for key, value in self.headers if key == name]
        return (value or b"").decode()


@dataclass
class Stage:
    """A pipeline, its launcher, and the most recently started driver."""

    settings: Settings
    pipeline: Pipeline
    launcher: LocalLauncher
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return self.pipeline.name

    @property
    def root(self) -> str:
        return self.launcher.root

    @property
    def admin(self) -> Path:
        """The admin's binding root."""
        return self.settings.bindings()

    @property
    def deployment(self) -> Deployment:
        """Return what a DAG's task would load."""
        drivers = LocalDrivers.of(self.launcher)
        return Deployment(project=self.launcher.project, root=self.root, bindings=self.admin, drivers=drivers)

    @property
    def log(self) -> str:
        """Return everything that the drivers of this stage have logged."""
        path = self.launcher.log_file(self.name)
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *new_generations: str) -> int:
        """Submit the driver; returns its process id."""
        self._submit(new_generations)
        assert self.child is not None
        return self.child.pid

    def start_and_wait(self, *new_generations: str) -> Content:
        """Start the driver and return its first heartbeat, which shows that all its queries run."""
        driver = self._submit(new_generations)
        return to_json(drivers.await_first_heartbeat(self.launcher, driver, DEADLINE_SECONDS))

    def _submit(self, new_generations: Sequence[str]) -> drivers.Driver:
        driver, started = self.launcher.submit(self.name, drivers.StartSpec(tuple(new_generations)))
        assert started, f"a driver of {self.name} is already running"
        pid = int(driver.identity.partition("@")[0])
        (self.child,) = [child for child in processes._children if child.pid == pid]
        return driver

    def await_end(self) -> int:
        """Wait until the driver has exited by itself, including its JVM (a new start would find it); return its exit code."""
        assert self.child is not None
        code = self.child.wait(DEADLINE_SECONDS)
        left = group_of(self.child.pid)  # after its end: before, the JVM may not have started
        assert not psutil.wait_procs(left, DEADLINE_SECONDS)[1], "its JVM still runs"
        return code

    def stop(self) -> int:
        """Stop the driver and return its exit code. A later wait is not for this driver: a supervisor may start another."""
        assert self.launcher.stop(self.name) is not None, self.log[-3000:]
        code = self.await_end()
        self.child = None
        return code

    def kill(self) -> None:
        """Send SIGKILL to the driver's entire group at once: Python and JVM."""
        if self.child is None:
            return
        members = group_of(self.child.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(DEADLINE_SECONDS)
        psutil.wait_procs(members, DEADLINE_SECONDS)

    def heartbeat(self) -> Content:
        """Return the newest heartbeat."""
        heartbeat = driver_files.heartbeat(self.root, self.name)
        assert heartbeat is not None
        return to_json(heartbeat)

    def send(self, records: Iterable[tuple[str, bytes | None, bytes | None]]) -> SendSummary:
        """Send (topic, key, value) as the admin and wait until Kafka has all of them."""
        made = [Record(topic, key, value, 0.0) for topic, key, value in records]
        return send(made, read_kafka(self.admin), {record.topic for record in made}, paced=False)

    def read(self, topic: str) -> list[Message]:
        """Return the current content of a topic."""
        return read_topic(self.admin, topic)

    def table(self, keyspace: str, table: str, columns: str = "*") -> list[Content]:
        """Return all rows of a Cassandra table."""
        return self.cql(f'SELECT {columns} FROM "{keyspace}"."{table}"')

    def cql(self, statement: str, values: Sequence[Any] = ()) -> list[Content]:
        """Run one statement as Cassandra's superuser."""
        with cassandra_session(self.admin) as session:
            return [row._asdict() for row in session.execute(statement, values, timeout=120)]

    def generation(self, query: str) -> generation.Generation:
        """Return the query's newest generation."""
        newest = generation.current(self.root, self.name, query)
        assert newest is not None, f"{query} never ran: {self.log[-3000:]}"
        return newest

    def ledger(self, query: str) -> list[ledger.BatchRecord]:
        """Return the ledger of the query's newest generation."""
        return ledger.read(self.generation(query).paths(self.root).ledger)

    def ends(self, topic: str) -> dict[str, int]:
        """Return partition -> end offset of a topic."""
        return end_offsets(self.admin, topic)

    def await_until(self, fact: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Poll until a condition holds. Fails with the end of the log if the driver ends first or the deadline passes."""
        deadline = time.monotonic() + seconds
        while not fact():
            ended = self.child is not None and self.child.poll() is not None
            if ended or time.monotonic() > deadline:
                why = f"the driver ended with {self.child.returncode}" if ended and self.child else "deadline passed"
                raise AssertionError(f"{why} while waiting until {what}\n{self.log[-6000:]}")
            time.sleep(POLL_SECONDS)

    def await_quiet(self, watermarks: Mapping[str, int] | None = None, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until every query has committed the entire content of its topics, and has reached its watermark (ms)."""
        wanted = {topic: self.ends(topic) for topic in self.pipeline.sources}
        for query in names.query_names(self.pipeline):
            self.await_until(
                partial(self._settled, query, wanted, (watermarks or {}).get(query)),
                f"{query} is at {wanted}, watermark {(watermarks or {}).get(query)}",
                seconds,
            )

    def _settled(self, query: str, wanted: Mapping[str, Mapping[str, int]], watermark: int | None) -> bool:
        topics = sources_of(self.pipeline, query)
        if not any(end for topic in topics for end in wanted[topic].values()):
            return True
        chosen = generation.current(self.root, self.name, query)
        if chosen is None:
            return False
        paths = chosen.paths(self.root)
        newest = newest_batch(paths.checkpoint)
        if newest is None:
            return False
        record = ledger_record(paths.ledger, newest)
        if record is None or (watermark is not None and record["watermark_ms"] != watermark):
            return False
        return all(
            {partition: end for partition, (_, end) in record["offsets"].get(topic, {}).items()} == wanted[topic]
            for topic in topics
        )


def ledger_record(folder: str, batch: int) -> ledger.BatchRecord | None:
    """Return one record of a ledger, if it exists."""
    record: ledger.BatchRecord | None = small_files.read_json(f"{folder}/{ledger.record_name(batch)}")
    return record


def sources_of(pipeline: Pipeline, query: str) -> list[str]:
    """Return the topics of a query, declared or archive."""
    declared = pipeline.queries.get(query)
    return list(declared.sources) if declared else [names.archived_topic(pipeline, query)]


def make_stage(
    settings: Settings,
    project: Path,
    folder: Path,
    pipeline: str,
    *,
    suffix: str = "",
    queries: Sequence[str] = (),
    trigger: str | None = None,
    edit: Callable[[Content], None] | None = None,
    transforms: str = "",
    **changes: Any,
) -> Stage:
    """Copy a pipeline into `folder`, provision it and return its stage.

    `queries`: the ones to keep (empty: all). `edit` changes the file's content, `transforms` is appended to the
    transforms, `changes` are fields of the launcher (`environment` and `conf` are added to its own).
    """
    tree, name = folder / "tree", pipeline + suffix
    write_tree(project, tree, pipeline, suffix, queries, trigger, edit, transforms)
    made = load_pipeline(tree / "pipelines" / f"{name}.yaml")
    provision([made], settings.bindings(), settings.home / "bindings")
    standard = starting_launcher(settings, tree)
    folders = {"run_dir": folder / "run", "log_dir": folder / "logs", "tmp_dir": folder / "tmp"}
    options: dict[str, Any] = {"root": str(folder / "storage")} | folders | changes
    options["environment"] = dict(standard.environment) | dict(changes.get("environment", {}))
    options["conf"] = dict(standard.conf) | SMALL | dict(changes.get("conf", {}))
    return Stage(settings, made, replace(standard, **options))


def write_tree(
    project: Path,
    tree: Path,
    pipeline: str,
    suffix: str = "",
    queries: Sequence[str] = (),
    trigger: str | None = None,
    edit: Callable[[Content], None] | None = None,
    transforms: str = "",
) -> None:
    """Write pipelines/<name>.yaml, spark_jobs/<name>.py and spark_jobs/main.py of a stage."""
    content = yaml.safe_load((project / "pipelines" / f"{pipeline}.yaml").read_text())
    code = (project / "spark_jobs" / f"{pipeline}.py").read_text() + transforms
    words = {pipeline, *content["sources"], *content.get("dimensions", {})}
    words |= {sink["topic"] for query in content["queries"].values() for sink in query["sinks"] if "topic" in sink}
    content = _renamed(content, {word: word + suffix for word in words})
    code = re.sub(rf"\b({'|'.join(sorted(words))})\b", rf"\1{suffix}", code)
    if queries:
        content["queries"] = {name: content["queries"][name] for name in queries}
    for query in content["queries"].values():
        query.pop("freshness", None)  # batches do not wait for more records than a test sends
    if edit:
        edit(content)
    for query in content["queries"].values():
        if trigger:
            query["trigger"] = trigger
    for name in ("pipelines", "spark_jobs"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "pipelines" / f"{pipeline}{suffix}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tree / "spark_jobs" / f"{pipeline}{suffix}.py").write_text(code)
    (tree / "spark_jobs" / "main.py").write_text((project / "spark_jobs" / "main.py").read_text())


def _renamed(value: Any, new_names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {new_names.get(key, key): _renamed(inner, new_names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, new_names) for inner in value]
    return new_names.get(value, value) if isinstance(value, str) else value


def group_of(leader: int) -> list[psutil.Process]:
    """Return the running processes of a process group."""
    running = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
        except (OSError, psutil.Error):
            continue
    return running


def jvm_of(leader: int) -> psutil.Process:
    """Return the JVM of the driver whose process group is `leader`. What it starts has its name for a moment."""
    javas = {}
    for process in group_of(leader):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "java":
                javas[process.pid] = process, process.ppid()
    (jvm,) = [process for process, parent in javas.values() if parent not in javas]
    return jvm


def end_offsets(admin: Path, topic: str) -> dict[str, int]:
    """Return partition -> end offset of a topic."""
    consumer = _consumer(admin)
    try:
        partitions = consumer.list_topics(topic, timeout=120).topics[topic].partitions
        return {
            str(p): consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=120)[1] for p in sorted(partitions)
        }
    finally:
        consumer.close()


def read_topic(admin: Path, topic: str) -> list[Message]:
    """Return the current content of a topic, by partition and offset."""
    ends = {int(partition): end for partition, end in end_offsets(admin, topic).items() if end}
    consumer = _consumer(admin)
    messages: list[Message] = []
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        missing, deadline = sum(ends.values()), time.monotonic() + DEADLINE_SECONDS
        while len(messages) < missing:
            assert time.monotonic() < deadline, f"{topic} returned {len(messages)} of {missing} records"
            for message in consumer.consume(5_000, timeout=1):
                assert message.error() is None, message.error()
                messages.append(_message(message))
    finally:
        consumer.close()
    return sorted(messages, key=lambda m: (m.partition, m.offset))


def group_offsets(admin: Path, group: str) -> dict[str, dict[str, int]]:
    """Return topic -> partition -> offset that a consumer group has committed."""
    from confluent_kafka import ConsumerGroupTopicPartitions

    client = AdminClient(read_kafka(admin).client_config() | {"log_level": 3})
    (future,) = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    offsets: dict[str, dict[str, int]] = {}
    for partition in future.result(120).topic_partitions:
        offsets.setdefault(partition.topic, {})[str(partition.partition)] = partition.offset
    return offsets


def _consumer(admin: Path) -> Consumer:
    config = {"group.id": "headrace.tests", "enable.auto.commit": False, "log_level": 2}
    return Consumer(read_kafka(admin).client_config() | config)


def _message(message: Any) -> Message:
    return Message(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )
