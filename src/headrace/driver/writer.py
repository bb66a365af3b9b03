"""The single foreachBatch writer for every query.

For each batch, in this order, every step idempotent:
1. read the batch's entry in the checkpoint's offset log (Spark wrote it before the batch ran);
2. write the rows to the sinks;
3. write the ledger record next to the checkpoint;
4. publish the offsets as a Kafka consumer group.
Spark then writes its commit. If killed anywhere before that, Spark runs the same batch id over the same offsets again.

A batch that is read once is counted by the job that writes it. One that is read more often is persisted, and counted
first (ADR 0036).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import assert_never

from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import names
from headrace.contract.exit_codes import TOLD_TO_STOP
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Pipeline, Query
from headrace.driver import compilation, complete, counted, iceberg_maintenance, refusals, sinks
from headrace.driver.cassandra_guard import Link
from headrace.driver.consumer_groups import GroupCommitter
from headrace.driver.error_causes import reason_of, writing
from headrace.store import ledger, quarantine, topic_identity
from headrace.store.checkpoint_log import read_batch_range
from headrace.store.generation import Generation
from headrace.store.paths import GenerationPaths
from headrace.store.quarantine import Entries
from headrace.store.topic_identity import TopicIds

log = logging.getLogger(__name__)

ASKED_SECONDS = 10.0
"""Maximum age of an answer about topic ids before a batch; also how long to wait before asking a silent Kafka again."""
ANSWER_MS = 2_000

TASK_OFFSETS = 2_000
"""How many offsets one task of a stateless query reads at least: starting a task costs as much CPU as 1,000 records do."""

Write = Callable[[DataFrame, sinks.Batch], None]
"""Writes a batch. If called without a count (`Writer.often`), it reads all rows of the frame in one job."""

Passed = Callable[[sinks.Batch], int]
"""Writes the dead letters of the quarantined records of a batch and returns their number (ADR 0049)."""


@dataclass
class Counters:
    """Statistics of one query since its driver started. Written by the writer, read by heartbeat and metrics."""

    batches: int = 0
    reading_batches: int = 0  # those that took offsets: Spark also runs batches without, to move the watermark
    rows_in: int = 0
    rows_out: int = 0
    newest: ledger.BatchRecord | None = None
    running_batch: int | None = None
    waits: str = ""  # what the running batch waits for, as text
    maintaining: bool = False  # the running batch is written, and its table is being maintained


@dataclass
class Gate:
    """Lets batches through until the driver is to stop; then a new batch waits here, before it writes anything."""

    closed: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def enter(self) -> None:
        """Return at once while open. When closed, wait until the query is ended (its batch will be replayed)."""
        if self.closed.is_set():
            self.ended.wait()
            raise InterruptedError(TOLD_TO_STOP)

    def pause(self, seconds: float) -> None:
        """Wait inside a batch; the wait ends when the driver's grace period does."""
        if self.ended.wait(seconds):
            raise InterruptedError(TOLD_TO_STOP)


@dataclass
class Asked:
    """When one query's writer last asked Kafka for the ids of its topics, in seconds of the monotonic clock."""

    answered_s: float = float("-inf")
    silent_s: float = float("-inf")


@dataclass(frozen=True)
class Writer:
    """Everything that writes one query's batches."""

    spark: SparkSession
    generation: Generation
    paths: GenerationPaths
    write: Write
    groups: GroupCommitter
    gate: Gate
    counters: Counters
    link: Link | None = None  # set if the batch needs Cassandra
    often: bool = False  # whether `write` reads the frame more than once
    refused: str = "false"  # SQL: which rows go to the dead letters, for a frame that is read more than once
    letters: Write | None = None  # writes those rows to the dead letters, for a frame that is read once
    topics: TopicIds = field(default_factory=dict)  # the ids of the topics that the query reads
    passed: Passed | None = None  # writes the letters of the records that the query passes over, if it does
    stateless: bool = False  # whether one task may read several partitions: none of them has a state
    contract: str = ""  # the contract under which it takes its records (`store.contracts`)
    asked: Asked = field(default_factory=Asked)
    complete: bool = False  # whether a batch without rows is written too: the sink loses its rows
    compilation: compilation.Compilation = field(default_factory=compilation.Compilation)

    @property
    def query(self) -> str:
        """Return `<pipeline>.<query>`."""
        return names.query_name(self.generation.pipeline, self.generation.query)

    def __call__(self, frame: DataFrame, number: int) -> None:
        """Write one batch (Spark calls this as foreachBatch)."""
        self.gate.enter()
        self.counters.running_batch = number
        try:
            self._write_batch(frame, number)
        finally:
            self.counters.running_batch = None

    def _require_same_topics(self, *, age_s: float = 0) -> None:
        """Raise HeadraceError if a topic was replaced since the start; an answer up to `age_s` seconds old is accepted.

        If Kafka does not answer, the batch continues: its own reads decide. Kafka is not asked again for a while.
        """
        now_s = time.monotonic()
        if not self.topics or now_s < max(self.asked.answered_s + age_s, self.asked.silent_s + ASKED_SECONDS):
            return
        try:
            now = self.groups.topic_ids(self.topics, wait_ms=ANSWER_MS)
        except Py4JError as error:
            self.asked.silent_s = time.monotonic()
            log.warning("%s: the ids of its topics are currently unknown: %s", self.query, reason_of(error))
            return
        self.asked.answered_s = now_s
        topic_identity.refuse(self.topics, now, self.generation.pipeline)

    def _write_batch(self, frame: DataFrame, number: int) -> None:
        began_ms = _now_ms()
        batch_range = read_batch_range(self.paths.checkpoint, number)
        self._require_same_topics(age_s=ASKED_SECONDS)  # before anything of a replaced topic is written
        self.compilation.follow(frame.sparkSession, batch_range.offsets)
        batch = sinks.Batch(self.query, self.generation, number, batch_range.start, batch_range.end)
        quarantined = self.passed(batch) if self.passed else 0
        running = counted.execution(self.spark)
        if self.stateless:
            frame = frame.coalesce(tasks_for(batch_range.offsets))
        read: int | None = None

        def work() -> counted.Counts:
            nonlocal read
            result = (self._count_and_write if self.often else self._write_once)(frame, batch)
            read = counted.records(running)
            if self.letters and result.refused and not self.often:
                self.letters(frame, batch)  # such rows are rare, so the plan and its scan run again for them
            return result

        if self.often:
            frame.persist(StorageLevel.MEMORY_AND_DISK)  # without it the plan runs again for each action
        try:
            result = self.link.run_when_available(work) if self.link else work()
        finally:
            if self.often:
                frame.unpersist()
        self._require_same_topics()  # rows are read while they are written, and count only once the ledger has them
        # If Cassandra's outage ended a try, the scan runs again in part, or not at all if a shuffle has its rows. The count over
        # all tries is at least the number of records, and there are never more records than offsets.
        rows_in = batch_range.offsets if read is None else min(read, batch_range.offsets)
        refused = result.refused if self.letters else 0  # an archive keeps refused records too
        rows_out = result.rows - refused
        record = ledger.make_record(
            self.query,
            self.generation.number,
            batch_range,
            rows_in=rows_in,
            rows_out=rows_out,
            began_ms=began_ms,
            written_ms=_now_ms(),
            refused=refused,
            quarantined=quarantined,
            contract=self.contract,
        )
        ledger.write(self.paths.ledger, record)
        self.groups.commit(names.consumer_group(self.generation.pipeline, self.generation.query), batch_range.end)
        self.counters.batches += 1
        self.counters.reading_batches += batch_range.offsets > 0
        self.counters.rows_in += rows_in
        self.counters.rows_out += rows_out
        self.counters.newest = record
        log.info("%s batch %d: %d in, %d out, %d ms", self.query, number, rows_in, rows_out, _now_ms() - began_ms)

    def _write_once(self, frame: DataFrame, batch: sinks.Batch) -> counted.Counts:
        """Write a frame in one job and return its counts."""
        running = counted.execution(self.spark)
        before = counted.counts(running)  # of a try that Cassandra's outage ended
        self.write(frame, batch)
        now = counted.counts(running)
        return counted.Counts(now.rows - before.rows, now.refused - before.refused)

    def _count_and_write(self, frame: DataFrame, batch: sinks.Batch) -> counted.Counts:
        """Count a persisted frame, then write it, if it has rows or is a complete result; return its counts."""
        counts = frame.agg(F.count(F.lit(1)), F.count_if(F.expr(self.refused))).first()
        assert counts is not None
        rows, refused = map(int, counts)
        if rows or self.complete:
            self.write(frame, replace(batch, refused=refused))
        return counted.Counts(rows, refused)


def tasks_for(offsets: int) -> int:
    """Return how many tasks at most share a batch of so many offsets; Spark starts one for each partition otherwise."""
    return max(1, -(-offsets // TASK_OFFSETS))


def reads_often(query: Query) -> bool:
    """Return whether the write of a batch reads its frame more than once."""
    return bool(query.matched) or len(query.sinks) > 1 or query.mode == "complete"


def letters_write(query: Query, kafka: dict[str, str], records: refusals.Records) -> Write:
    """Return the write of a query's refused rows to the dead letters of its first source; `records` finds their records."""
    topic = query.sources[0]

    def write(frame: DataFrame, batch: sinks.Batch) -> None:
        with writing(f"Kafka topic {names.dead_letter_topic(topic)}"):
            sinks.write_dead_letters(refusals.letters(frame, query, batch, records), topic, batch, kafka)

    return write


def passed_write(passed: Entries, kafka: dict[str, str], records: Callable[[str, Entries], DataFrame]) -> Passed:
    """Return the write of a query's quarantined records to the dead letters of their topics.

    `records` finds the records of a topic, and possibly others. A repeated batch writes letters with the same ids.
    """

    def write(batch: sinks.Batch) -> int:
        here = quarantine.inside(passed, batch.starts, batch.ends)
        count = 0
        for topic in sorted({entry.topic for entry in here}):
            entries = tuple(entry for entry in here if entry.topic == topic)
            letters = refusals.quarantined(records(topic, entries), entries)
            with writing(f"Kafka topic {names.dead_letter_topic(topic)}"):
                sinks.write_dead_letters(letters, topic, batch, kafka)
            count += letters.count()
        return count

    return write


def declared_write(
    pipeline: Pipeline, name: str, query: Query, paths: GenerationPaths, kafka: dict[str, str], letters: Write
) -> Write:
    """Return the write step of a declared query: rows with a reason to the dead letters, the others to every sink.

    The frame comes from `refusals.judged`. Refused rows that were not counted are left to the caller.
    """
    results = complete.results(pipeline, name, query)

    def write(frame: DataFrame, batch: sinks.Batch) -> None:
        rows = frame
        if batch.refused:
            letters(frame, batch)
        if batch.refused != 0:
            rows = frame.where(F.col(refusals.REASON).isNull())
        for sink in query.sinks:
            match sink:
                case CassandraSink():
                    with writing(f"Cassandra table {'.'.join(names.cassandra_table(pipeline.name, name, sink))}"):
                        sinks.write_cassandra(rows.select(*query.columns), pipeline, name, sink, batch)
                        for result in results:
                            if result.sink is sink:
                                result.settle(rows, batch.writetime_micros)
                case KafkaSink():
                    with writing(f"Kafka topic {sink.topic}"):
                        sinks.write_kafka(rows, query, sink, batch, kafka)
                case FilesSink():
                    with writing(f"Folder {paths.files}"):
                        sinks.write_files(rows, paths.files, query, batch.number)
                case _:
                    assert_never(sink)

    return write


def archive_write(
    pipeline: Pipeline, topic: str, root: str, kafka: dict[str, str], topic_id: str, counters: Counters
) -> Write:
    """Return the write step of an archive query: refused records to the dead letters, then everything to Iceberg.

    In this order, because the Iceberg snapshot marks the offsets as done: a replay that finds them may skip both. Every few
    batches the table is maintained, also in a replay: if the driver was killed during it, it is not done.
    """
    table = names.archive_table(pipeline.name, topic)

    def write(frame: DataFrame, batch: sinks.Batch) -> None:
        append(frame, batch)
        if batch.number % iceberg_maintenance.MAINTENANCE_BATCHES == iceberg_maintenance.MAINTENANCE_BATCHES - 1:
            counters.maintaining = True
            try:
                iceberg_maintenance.maintain_own(frame.sparkSession, root, table)
            finally:
                counters.maintaining = False

    def append(frame: DataFrame, batch: sinks.Batch) -> None:
        fresh = sinks.not_archived(frame, sinks.newest_note(frame.sparkSession, table).ends, batch)
        if fresh is None:
            return
        if batch.refused != 0:
            refused = fresh.where(F.col("reason").isNotNull()).withColumn("id", sinks.coordinates())
            with writing(f"Kafka topic {names.dead_letter_topic(topic)}"):
                sinks.write_dead_letters(refused, topic, batch, kafka)
        with writing(f"Iceberg table {table}"):
            sinks.append_archive(fresh, table, batch, topic_id)

    return write


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
