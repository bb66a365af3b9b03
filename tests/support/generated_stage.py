"""One generated pipeline on the real Kafka and Cassandra, run in this process by the functions of the driver."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml
from cassandra.cluster import Session
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from headrace.access.bindings import read_cassandra, read_kafka
from headrace.contract import cassandra as cassandra_tables
from headrace.contract import names
from headrace.contract.load import load_pipeline
from headrace.contract.model import CassandraSink, KafkaSink
from headrace.driver import compilation, consumer_groups, queries, runtime, session, writer
from headrace.local.settings import Settings
from headrace.operations.clients import kafka_admin
from headrace.operations.drivers.local import LocalLauncher
from headrace.operations.provision.run import provision
from headrace.operations.waiting import poll
from headrace.store import generation, ledger, paths, spark_conf
from headrace.store.checkpoint_log import newest_batch
from tests.support.drivers import DEADLINE_SECONDS, Stage, sources_of
from tests.support.generated_contract import Generated
from tests.support.generated_records import ends

Watermark = Callable[[str, Sequence[ledger.BatchRecord]], int]
"""The watermark that a query comes to after these batches."""


@dataclass
class Runner:
    """A stage and the parts of a driver that `runtime.run` would make: queries, gate, group committer."""

    spark: SparkSession
    stage: Stage
    generated: Generated
    cassandra: Session
    running: list[queries.Running] = field(default_factory=list)
    restarts: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """By query, the batches that were the first after a restart."""

    def __post_init__(self) -> None:
        self.client = read_kafka(self.stage.admin).client_config()
        self._gate = writer.Gate()
        self._groups: consumer_groups.GroupCommitter | None = None

    def start(self) -> None:
        """Start all queries, as a driver does."""
        pipeline = self.stage.pipeline
        kafka = read_kafka(self.stage.settings.home / "bindings" / pipeline.name)
        self._gate, self._groups = writer.Gate(), consumer_groups.GroupCommitter(self.spark, kafka)
        transforms = queries.transforms_of(pipeline, self.generated.module)
        driver = queries.DriverContext(
            self.spark, pipeline, transforms, self.stage.root, kafka, self._groups, self._gate
        )
        self.running = queries.start_all(driver)

    def stop(self) -> None:
        """Stop all queries, as a driver does on SIGTERM."""
        options = runtime.Options(root=self.stage.root, bindings=self.stage.admin, conf={})
        assert runtime._stop_all(self.running, self._gate, options), "a batch did not end"
        for entry in self.running:
            committed = newest_batch(entry.generation.paths(self.stage.root).checkpoint)
            self.restarts[entry.generation.query].add(0 if committed is None else committed + 1)
        self.close()

    def close(self) -> None:
        """End what still runs."""
        self._gate.closed.set()
        self._gate.ended.set()
        runtime._stop_queries([entry.query for entry in self.running if entry.query.isActive])
        self.running = []
        if self._groups:
            self._groups.close()
            self._groups = None

    def await_quiet(self, watermark: Watermark) -> None:
        """Wait until each query has taken all records and has come to its watermark (ms)."""
        pipeline = self.stage.pipeline
        wanted = {topic: ends(self.client, topic) for topic in pipeline.sources}
        deadline = time.monotonic() + 3 * DEADLINE_SECONDS
        waiting = set(names.query_names(pipeline))
        while waiting:
            for entry in self.running:
                assert entry.query.isActive, f"{entry.name} ended: {entry.query.exception()}"
            waiting = {query for query in waiting if not self._settled(query, wanted, watermark)}
            assert time.monotonic() < deadline, f"{waiting} did not take all records"
            time.sleep(0.2)

    def _settled(self, query: str, wanted: Mapping[str, Mapping[int, int]], watermark: Watermark) -> bool:
        topics = sources_of(self.stage.pipeline, query)
        if not any(end for topic in topics for end in wanted[topic].values()):
            return True
        chosen = generation.current(self.stage.root, self.stage.name, query)
        folder = chosen.paths(self.stage.root).ledger if chosen else ""
        newest = ledger.newest(folder) if chosen else None
        if newest is None or ledger.ends(newest) != {topic: dict(wanted[topic]) for topic in topics}:
            return False
        declared = self.stage.pipeline.queries.get(query)
        if declared is None or not declared.watermark:
            return True
        return bool(newest["watermark_ms"] >= watermark(query, ledger.read(folder)))


@contextlib.contextmanager
def connected(spark: SparkSession, settings: Settings) -> Iterator[None]:
    """Log the session's connector in, and let no archive wait, while the block runs."""
    conf = session.cassandra_conf(read_cassandra(settings.bindings())) | {spark_conf.ARCHIVE_DELAY: "0s"}
    with configured(spark, conf):
        yield


def await_known(spark: SparkSession, keyspace: str, table: str) -> None:
    """Wait until the session's connector, which another test may have opened, has heard of a new table of Cassandra."""

    def known() -> bool:
        try:
            spark.read.format("org.apache.spark.sql.cassandra").options(keyspace=keyspace, table=table).load()
        except AnalysisException:
            return False
        return True

    assert poll(known, 120, 0.5), f"the connector does not know {keyspace}.{table}"


@contextlib.contextmanager
def configured(spark: SparkSession, conf: Mapping[str, str]) -> Iterator[None]:
    """Give the session these settings while the block runs."""
    before = {key: spark.conf.get(key, None) for key in conf}
    for key, value in conf.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, was in before.items():
            if was is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, was)


@contextlib.contextmanager
def staged(
    spark: SparkSession, settings: Settings, cassandra: Session, folder: Path, generated: Generated, *, compiled: bool
) -> Iterator[Runner]:
    """Write, check and provision a generated pipeline; drop its topics, tables and files afterwards.

    Spark interprets its plans, as a driver does for small batches, unless they are to be `compiled`: then all but the first.
    """
    path = folder / f"{generated.content['name']}.yaml"
    path.write_text(yaml.safe_dump(generated.content, sort_keys=False, allow_unicode=True))
    pipeline = load_pipeline(path)
    provision([pipeline], settings.bindings(), settings.home / "bindings")
    for table in cassandra_tables.tables(pipeline):
        await_known(spark, table.keyspace, table.name)
    root = str(Path(spark.conf.get("spark.sql.catalog.lake.warehouse", "")).parent)
    assert paths.lake(root) == spark.conf.get("spark.sql.catalog.lake.warehouse", "")
    stage = Stage(settings, pipeline, cast(LocalLauncher, SimpleNamespace(root=root)))
    runner = Runner(spark, stage, generated, cassandra)
    conf = {"spark.sql.shuffle.partitions": str(pipeline.driver.state_partitions)} | compilation.INTERPRETED
    with configured(spark, conf), pytest.MonkeyPatch.context() as patched:
        if compiled:
            patched.setattr(compilation, "LARGE_OFFSETS", 0)
        try:
            yield runner
        finally:
            runner.close()
            _drop(runner)


def _drop(runner: Runner) -> None:
    stage, pipeline = runner.stage, runner.stage.pipeline
    sinks = [sink for query in pipeline.queries.values() for sink in query.sinks]
    topics = [*pipeline.sources, *map(names.dead_letter_topic, pipeline.sources)]
    topics += [sink.topic for sink in sinks if isinstance(sink, KafkaSink)]
    admin = kafka_admin(stage.admin)  # it ends with its last reference
    for done in admin.delete_topics(topics).values():
        done.result(DEADLINE_SECONDS)
    if pipeline.dimensions or any(isinstance(sink, CassandraSink) for sink in sinks):
        runner.cassandra.execute(f'DROP KEYSPACE IF EXISTS "{pipeline.name}"', timeout=DEADLINE_SECONDS)
    runner.cassandra.execute(f'DROP ROLE IF EXISTS "{pipeline.name}"', timeout=DEADLINE_SECONDS)
    for kind in ("checkpoints", "files", "lake"):
        shutil.rmtree(Path(stage.root) / kind / pipeline.name, ignore_errors=True)
