"""The first rows of each sink, to show that data arrives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, assert_never

from cassandra.cluster import Session
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from headrace.access.bindings import read_kafka
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Pipeline
from headrace.contract.names import cassandra_table, dead_letter_topic
from headrace.operations.clients import as_dicts, cassandra_session
from headrace.store import paths
from headrace.store.records import Row
from headrace.store.small_files import locate


def first_rows(root: Path, storage: str, pipelines: Iterable[Pipeline], limit: int = 2) -> dict[str, list[Row]]:
    """Return up to `limit` rows of each sink and dead-letter topic, read with the bindings at `root`."""
    rows_by_sink: dict[str, list[Row]] = {}
    with cassandra_session(root) as session:
        for pipeline in pipelines:
            for name, query in pipeline.queries.items():
                for sink in query.sinks:
                    match sink:
                        case CassandraSink():
                            keyspace, table = cassandra_table(pipeline.name, name, sink)
                            key = {*sink.partition_key, *sink.clustering_key}
                            rows = _table(session, keyspace, table, list(query.columns), key)
                            rows_by_sink[f"table {keyspace}.{table}"] = rows[:limit]
                        case KafkaSink():
                            rows_by_sink[f"topic {sink.topic}"] = _topic(root, sink.topic, limit)
                        case FilesSink():
                            rows_by_sink[f"files {pipeline.name}/{name}"] = _files(storage, pipeline.name, name, limit)
                        case _:
                            assert_never(sink)
            for topic in pipeline.sources:
                rows_by_sink[f"topic {dead_letter_topic(topic)}"] = _topic(root, dead_letter_topic(topic), limit)
    return rows_by_sink


def _table(session: Session, keyspace: str, table: str, columns: list[str], key: set[str]) -> list[Row]:
    """Return rows that a stream wrote: some column besides the key has a value."""
    names = ", ".join(f'"{name}"' for name in columns)
    text = f"SELECT {names} FROM {quoted(keyspace, table)} LIMIT 200"  # noqa: S608 - quoted names
    rows = session.execute(text, execution_profile=as_dicts(session))
    return [row for row in rows if any(value is not None for name, value in row.items() if name not in key)]


def _topic(root: Path, topic: str, limit: int) -> list[Row]:
    consumer = Consumer(read_kafka(root).reader_config("headrace.show"))
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        return [_record(message) for message in consumer.consume(limit, timeout=1.5) if message.error() is None]
    except KafkaException:
        return []
    finally:
        consumer.close()


def _record(message: Any) -> Row:  # noqa: ANN401 - a confluent_kafka.Message
    headers = dict(message.headers() or [])
    value = (message.value() or b"").decode(errors="replace")
    row: Row = {"value": value if len(value) <= 100 else value[:97] + "..."}
    if "headrace.reason" in headers:
        row = {"reason": headers["headrace.reason"].decode(errors="replace")} | row
    return row


def _files(storage: str, pipeline: str, query: str, limit: int) -> list[Row]:
    fs, folder = locate(paths.query_files(storage, pipeline, query))
    for path in sorted(fs.glob(f"{folder}/*/batch_id=*/part-*.json")):
        with fs.open(path, "rt") as handle:
            lines = [line for line, _ in zip(handle, range(limit), strict=False)]
        if lines:
            return [json.loads(line) for line in lines]
    return []
