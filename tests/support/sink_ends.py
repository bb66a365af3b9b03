"""One batch of one query through the real writer, with the connectors replaced by lists: no broker, no Cassandra."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.driver import counted, refusals, sinks, source, writer
from headrace.store.checkpoint_log import BatchRange
from headrace.store.generation import Generation

RECORD_DDL = (
    "key binary, value binary, topic string, partition int, offset bigint, timestamp timestamp, "
    "headers array<struct<key:string,value:binary>>"
)
Record = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""Key, value and headers of a Kafka record."""
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Letter:
    """A record that was written to a topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    def header(self, name: str) -> str:
        """Return the text of a header that occurs once."""
        (value,) = [value for key, value in self.headers if key == name]
        assert value is not None
        return value.decode()


@dataclass
class Ends:
    """The output of the stubs: topic -> records, table -> rows (with the write time as `writetime`)."""

    topics: dict[str, list[Letter]] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def send(self, rows: DataFrame, topic: str, kafka: Mapping[str, str]) -> None:
        """Replaces `sinks._send`."""
        sent = self.topics.setdefault(topic, [])
        for row in rows.collect():
            key, value = (None if part is None else part.encode() if isinstance(part, str) else bytes(part)
                          for part in (row.key, row.value))  # fmt: skip
            headers = [(h["key"], None if h["value"] is None else bytes(h["value"])) for h in row["headers"]]
            sent.append(Letter(key, value, headers))

    def upsert(self, rows: DataFrame, options: Mapping[str, str]) -> None:
        """Replaces `sinks._upsert`."""
        stored = self.tables.setdefault(f"{options['keyspace']}.{options['table']}", [])
        written = options["writetime"]
        for row in rows.collect():
            cells = row.asDict()
            stored.append(cells | {"writetime": int(written) if written.isdigit() else cells.pop(written)})


def load(folder: Path, text: str) -> Pipeline:
    """Return the pipeline of a file's text, checked like every file."""
    content = yaml.safe_load(text)
    path = folder / f"{content['name']}.yaml"
    path.write_text(text)
    return load_pipeline(path)


def records_frame(spark: SparkSession, topic: str, records: Sequence[Record]) -> DataFrame:
    """Return records in the form of Spark's Kafka source, all of partition 0."""
    rows = [(key, value, topic, 0, offset, NOW, list(headers)) for offset, (key, value, headers) in enumerate(records)]
    return spark.createDataFrame(rows, RECORD_DDL)


def record(headers: Sequence[tuple[str, bytes | None]] = (), key: bytes | None = None, /, **columns: Any) -> Record:
    """Return a record with a JSON object of these columns."""
    return key, json.dumps(columns).encode(), headers


def write_batch(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, folder: Path, pipeline: Pipeline, name: str,
    transform: Callable[..., DataFrame], records: Sequence[Record],
    dimensions: Mapping[str, DataFrame] | None = None, ends: Ends | None = None, number: int = 0,
) -> Ends:  # fmt: skip
    """Write one batch of a query over records of its first source, and return the output of the stubs."""
    ends = ends or Ends()
    monkeypatch.setattr(sinks, "_send", ends.send)
    monkeypatch.setattr(sinks, "_upsert", ends.upsert)
    query = pipeline.queries[name]
    (topic,) = query.sources
    contract = pipeline.sources[topic]
    raw = records_frame(spark, topic, records)
    frame = transform(
        **{topic: source.accepted(raw, contract, source.added_columns(query, contract))}, **(dimensions or {})
    )
    taken = BatchRange(number, {topic: {0: 0}}, {topic: {0: len(records)}}, 0, 0)
    monkeypatch.setattr(writer, "read_batch_range", lambda *_: taken)
    monkeypatch.setattr(counted, "execution", lambda _: None)  # there is no stream whose scan could be counted
    monkeypatch.setattr(counted, "records", lambda _: len(records))
    chosen = Generation(pipeline.name, name, 1, 1_000_000, {})
    paths = chosen.paths(str(folder))
    # A rebuild finds the records in the archive, which has a reason for each, or null.
    archived = raw.withColumn("reason", F.lit(None).cast("string"))
    letters = writer.letters_write(query, {}, lambda _: archived)
    writer.Writer(
        spark=spark,
        generation=chosen,
        paths=paths,
        write=writer.declared_write(pipeline, name, query, paths, {}, letters),
        groups=SimpleNamespace(commit=lambda *_: None),  # type: ignore[arg-type]
        gate=writer.Gate(),
        counters=writer.Counters(),
        often=True,
        refused=refusals.REFUSED,
        letters=letters,
    )(refusals.judged(frame, pipeline, query), number)
    return ends
