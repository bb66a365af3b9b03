"""Reads what the platform wrote: topics, tables, ledgers and files. Shares no code with the product."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster
from cassandra.query import dict_factory
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

READ_SECONDS = 300


def bindings(folder: Path, system: str) -> dict[str, str]:
    """Return the entries of a binding, as the platform wrote them."""
    return {path.name: path.read_text().strip("\n") for path in (folder / system).iterdir() if path.is_file()}


def kafka_config(folder: Path) -> dict[str, str]:
    """Return a client configuration from the admin's binding."""
    entries = bindings(folder, "kafka")
    keys = {"bootstrapServers": "bootstrap.servers", "securityProtocol": "security.protocol", "saslMechanism": "sasl.mechanism",
            "username": "sasl.username", "password": "sasl.password"}  # fmt: skip
    return {name: entries[key] for key, name in keys.items() if key in entries}


def ledger(storage: Path, pipeline: str, query: str) -> list[dict[str, Any]]:
    """Return the records of all batches of a query's newest generation, in order, from single files and segments."""
    by_batch = {record["batch"]: record for path in _pieces(storage, pipeline, query) for record in _records(path)}
    return [by_batch[batch] for batch in sorted(by_batch)]


def reached(storage: Path, pipeline: str, query: str, topic: str) -> dict[int, int]:
    """Return partition -> offset up to which a query has read a topic. Called often, so it reads only the newest file."""
    newest = max(_pieces(storage, pipeline, query), key=lambda path: int(path.stem.rpartition("-")[2]), default=None)
    record = max(_records(newest), key=lambda entry: entry["batch"]) if newest else {"offsets": {}}
    return {int(partition): end for partition, (_, end) in record["offsets"].get(topic, {}).items()}


def lines(storage: Path, pipeline: str, query: str) -> list[str]:
    """Return the lines of a file sink: of its newest generation, and of those it was restored from, up to each cut.

    A directory inside the range of a wider one does not count.
    """
    newest = _generation(storage, pipeline, query)
    if newest is None:
        return []
    lineage = json.loads((newest / "manifest.json").read_text()).get("lineage", [])
    folder = storage / "files" / pipeline / query
    paths = [
        path
        for number, cut in [*lineage, (int(newest.name), None)]
        for path in _directories(folder / f"{number:04}", cut)
    ]
    return [line for path in paths for part in path.glob("part-*") for line in part.read_text().splitlines()]


def is_restored(storage: Path, pipeline: str, query: str) -> bool:
    """Return whether a query's newest generation was restored from another one."""
    newest = _generation(storage, pipeline, query)
    return newest is not None and bool(json.loads((newest / "manifest.json").read_text()).get("lineage"))


def messages(admin: Path, topic: str) -> Iterator[Message]:
    """Yield all committed records of a topic. Raises TimeoutError."""
    reader = consumer(admin)
    try:
        parts = reader.list_topics(topic, 120).topics[topic].partitions
        reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in parts])
        left = set(parts)
        while left:
            message = reader.poll(READ_SECONDS)
            if message is None:
                raise TimeoutError(f"{topic} could not be read to its end within {READ_SECONDS} s")
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
    finally:
        reader.close()


def consumer(admin: Path) -> Consumer:
    """Return a consumer of committed records that commits no offsets."""
    settings = {"group.id": "headrace.chaos", "enable.auto.commit": False, "enable.partition.eof": True}
    return Consumer(kafka_config(admin) | settings | {"isolation.level": "read_committed", "log_level": 2})


def rows(admin: Path, statement: str) -> list[Mapping[str, Any]]:
    """Return the rows of a CQL statement."""
    entries = bindings(admin, "cassandra")
    login = PlainTextAuthProvider(entries["username"], entries["password"])
    cluster = Cluster(
        entries["contactPoints"].split(","),
        port=int(entries["port"]),
        auth_provider=login,
        protocol_version=5,
        connect_timeout=60,
        control_connection_timeout=60,
    )
    try:
        session = cluster.connect()
        session.row_factory = dict_factory
        return list(session.execute(statement, timeout=READ_SECONDS))
    finally:
        cluster.shutdown()


def _generation(storage: Path, pipeline: str, query: str) -> Path | None:
    """Return the folder of a query's newest generation; one without a manifest is not finished."""
    manifests = (storage / "checkpoints" / pipeline / query).glob("[0-9]*/manifest.json")
    return max((path.parent for path in manifests), default=None)


def _directories(folder: Path, cut: int | None) -> list[Path]:
    """Return the directories of a generation of a file sink that count, up to batch `cut` (None: all)."""
    ranges = {}
    for path in folder.glob("batch_id=*"):
        first, _, last = path.name.removeprefix("batch_id=").partition("-")
        ranges[path] = (int(first), int(last or first))
    return [
        path
        for path, (a, b) in ranges.items()
        if (cut is None or b <= cut) and not any(p != path and c <= a and b <= d for p, (c, d) in ranges.items())
    ]


def _pieces(storage: Path, pipeline: str, query: str) -> list[Path]:
    """Return the ledger files of the newest generation: `<batch>.json` and `<first>-<last>.ndjson`."""
    generation = _generation(storage, pipeline, query)
    paths = (generation / "ledger").glob("[0-9]*") if generation else ()
    return [path for path in paths if path.suffix in {".json", ".ndjson"}]


def _records(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    return [json.loads(line) for line in (text.splitlines() if path.suffix == ".ndjson" else [text])]
