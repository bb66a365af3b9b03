"""Replay: a query over known batches, without a broker and without waiting.

Each step of the input is one parquet file per topic, in the format of Spark's Kafka source, read by the file source one
file per batch. An empty file is a batch without rows, like a silent topic for the watermark. The steps between source and
sink use the driver's functions: `source.accepted`, `source.watermarked`, the transform, foreachBatch.
"""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from headrace.contract.model import Pipeline
from headrace.driver import source
from headrace.store import ledger
from headrace.store.checkpoint_log import BatchRange

Event = Mapping[str, Any]
"""The columns of one record: str, Decimal, datetime in UTC without zone, None."""
Step = Mapping[str, Sequence[Event | bytes]]
"""topic -> the records that arrive together; bytes stand for a value that the contract refuses."""

KAFKA_TIME = datetime(2200, 1, 1, tzinfo=UTC)  # later than every event, so none is refused as "future"
KAFKA_DDL = "key binary, value binary, topic string, partition int, offset bigint, timestamp timestamp"
_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True)
class Record:
    """One record of the input; `event` is None if the contract refuses it."""

    step: int
    topic: str
    partition: int
    offset: int
    event: Event | None


@dataclass
class Input:
    """The files of all topics of a pipeline, and their content. More steps can be added later."""

    folder: Path
    pipeline: Pipeline
    records: list[Record] = field(default_factory=list)
    steps: int = 0
    ends: Counter[tuple[str, int]] = field(default_factory=Counter)

    def lay(self, steps: Sequence[Step]) -> None:
        """Write one file per topic and step; partitions by key, offsets without gaps."""
        for step in steps:
            for topic in self.pipeline.sources:
                self._write(topic, step.get(topic, ()))
            self.steps += 1

    def archive(self, spark: SparkSession, topic: str) -> DataFrame:
        """Return everything that arrived, as in the archive."""
        return spark.read.schema(KAFKA_DDL).parquet(str(self.folder / topic))

    def _write(self, topic: str, events: Sequence[Event | bytes]) -> None:
        contract = self.pipeline.sources[topic]
        rows = []
        for event in events:
            key = b"?" if isinstance(event, bytes) else str(event[contract.key]).encode()
            partition = zlib.crc32(key) % contract.partitions
            offset = self.ends[topic, partition]
            self.ends[topic, partition] += 1
            value = event if isinstance(event, bytes) else encode(event)
            rows.append((key, value, topic, partition, offset, KAFKA_TIME))
            self.records.append(
                Record(self.steps, topic, partition, offset, None if isinstance(event, bytes) else event)
            )
        columns = [pa.array([row[i] for row in rows], kind.type) for i, kind in enumerate(_SCHEMA)]
        path = self.folder / topic / f"{self.steps:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), path)
        os.utime(path, (1_000_000_000 + self.steps * 10,) * 2)  # the file source sorts by age


@dataclass(frozen=True)
class Job:
    """One query to replay: its name in the pipeline file, its transform, and differences from the file."""

    query: str
    transform: Callable[..., DataFrame]
    mode: str | None = None
    dimensions: Mapping[str, DataFrame] = field(default_factory=dict)
    conf: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One batch as seen by the checkpoint and the sink. `rows` have timestamps in microseconds since 1970."""

    number: int
    watermark_ms: int
    late_watermark_ms: int
    steps: range
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Replayed:
    """All batches of a query since its checkpoint began, and the size of its state after each batch of the newest run."""

    batches: list[Batch]
    state_rows: list[int]
    columns: list[str]

    def batch_of(self, step: int) -> int:
        """Return the number of the batch that read a step."""
        return next(batch.number for batch in self.batches if step in batch.steps)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of all batches in the order of arrival at the sink."""
        return [row for batch in self.batches for row in batch.rows]


def replay(spark: SparkSession, given: Input, jobs: Mapping[str, Job], folder: Path) -> dict[str, Replayed]:
    """Run all jobs at once over the input until nothing is left to do; a second call goes on from the first's checkpoints.

    `folder` holds a checkpoint a job. Returns the batches of each job, by the names of `jobs`.
    """
    running = {}
    for name, job in jobs.items():
        rows = folder / name / "rows"
        rows.mkdir(parents=True, exist_ok=True)
        frame = frame_of(spark, given, job)
        writer = (
            frame.writeStream.outputMode(job.mode or given.pipeline.queries[job.query].mode)
            .option("checkpointLocation", str(folder / name / "checkpoint"))
            .trigger(availableNow=True)
            .foreachBatch(_keep(rows))
        )
        for key, value in job.conf.items():
            spark.conf.set(key, value)  # a query keeps the settings with which it was started
        running[name] = frame, writer.start()
        for key in job.conf:
            spark.conf.unset(key)
    result = {}
    for name, (frame, query) in running.items():
        query.awaitTermination()
        state = [sum(op["numRowsTotal"] for op in p["stateOperators"]) for p in query.recentProgress]
        result[name] = Replayed(_batches(folder / name), state, frame.columns)
    return result


def frame_of(spark: SparkSession, given: Input, job: Job, *, streaming: bool = True) -> DataFrame:
    """Return the job's frame over the input: as a stream with its watermarks, or over all of it as a batch."""
    query = given.pipeline.queries[job.query]
    frames = {}
    for topic in query.sources:
        contract = given.pipeline.sources[topic]
        if streaming:
            read = spark.readStream.schema(KAFKA_DDL).option("maxFilesPerTrigger", 1)
            raw = read.parquet(str(given.folder / topic))
        else:
            raw = given.archive(spark, topic)
        typed = source.accepted(raw, contract, source.added_columns(query, contract))
        frames[topic] = source.watermarked(typed, topic, query, contract) if streaming else typed
    return job.transform(**frames, **job.dimensions)


def plain(frame: DataFrame) -> list[tuple[Any, ...]]:
    """Return the rows with timestamps as microseconds since 1970, independent of the machine's time zone."""
    columns = [
        F.unix_micros(f.name).alias(f.name) if isinstance(f.dataType, TimestampType) else F.col(f.name)
        for f in frame.schema
    ]
    return [tuple(row) for row in frame.select(*columns).collect()]


def ledger_of(given: Input, replayed: Replayed, query: str) -> list[ledger.BatchRecord]:
    """Return the ledger that the driver's writer would have written for these batches."""
    records, ends = [], {t: dict.fromkeys(range(s.partitions), 0) for t, s in given.pipeline.sources.items()}
    for batch in replayed.batches:
        start = {topic: dict(parts) for topic, parts in ends.items()}
        for record in given.records:
            if record.step in batch.steps:
                ends[record.topic][record.partition] += 1
        end = {topic: dict(parts) for topic, parts in ends.items()}
        taken = BatchRange(batch.number, start, end, batch.watermark_ms, batch.late_watermark_ms)
        records.append(ledger.make_record(query, 1, taken, rows_out=len(batch.rows), began_ms=0, written_ms=0))
    return records


def encode(event: Event) -> bytes:
    """Encode an event as its producer does; an amount is a JSON number with all its digits."""
    parts = []
    for name, value in event.items():
        text = str(value) if isinstance(value, Decimal) else json.dumps(value, default=str)
        parts.append(f"{json.dumps(name)}: {text}")
    return f"{{{', '.join(parts)}}}".encode()


def micros(moment: datetime) -> int:
    """Return microseconds since 1970 of a UTC time without zone."""
    span = moment - datetime(1970, 1, 1)
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def _keep(folder: Path) -> Callable[[DataFrame, int], None]:
    def write(frame: DataFrame, number: int) -> None:
        (folder / str(number)).write_bytes(pickle.dumps(plain(frame)))

    return write


def _batches(folder: Path) -> list[Batch]:
    batches: list[Batch] = []
    checkpoint, next_step, late = folder / "checkpoint", 0, 0
    for number in sorted(int(path.name) for path in (checkpoint / "offsets").iterdir() if path.name.isdigit()):
        _, metadata, *offsets = (checkpoint / "offsets" / str(number)).read_text().splitlines()
        (end,) = {json.loads(line)["logOffset"] + 1 for line in offsets}  # all topics read the same step
        watermark = json.loads(metadata)["batchWatermarkMs"]
        rows = pickle.loads((folder / "rows" / str(number)).read_bytes())
        batches.append(Batch(number, watermark, late, range(next_step, end), rows))
        next_step, late = end, watermark
    return batches
