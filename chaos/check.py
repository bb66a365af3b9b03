"""Compares every sink with the bytes in Kafka, in DuckDB. Shares no code with the product, only its files and tables.

The header `chaos` of each record says whether the contract accepts it. What Spark drops as late follows from the ledger
files: a row of batch n counts for a window whose end is after the batch's `late_watermark_ms` (Spark guide, "Handling Late
Data and Watermarking"; SPARK-42376). Topics are written at least once, so they may repeat a row with the same content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster
from cassandra.query import dict_factory
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition
from pyiceberg.table import StaticTable

from chaos.ground import PIPELINES

MICROS = 1_000_000
READ_SECONDS = 300


@dataclass(frozen=True)
class Difference:
    """Rows of one sink that are missing, duplicated, or wrong; up to three examples."""

    sink: str
    lost: int
    doubled: int
    wrong: int
    examples: str


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


def _pieces(storage: Path, pipeline: str, query: str) -> list[Path]:
    """Return the ledger files of the newest generation: `<batch>.json` and `<first>-<last>.ndjson`."""
    generation = max((storage / "checkpoints" / pipeline / query).glob("[0-9]*"), default=None)
    paths = (generation / "ledger").glob("[0-9]*") if generation else ()
    return [path for path in paths if path.suffix in {".json", ".ndjson"}]


def _records(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    return [json.loads(line) for line in (text.splitlines() if path.suffix == ".ndjson" else [text])]


class Checker:
    """State shared by all checks of one platform."""

    def __init__(self, admin: Path, storage: Path, pipelines: Sequence[str]) -> None:
        self._admin, self._storage = admin, storage
        self._topics = {PIPELINES[name]: name for name in pipelines}
        self._db = duckdb.connect()
        self._db.execute("SET TimeZone = 'UTC'")

    def ends(self) -> dict[str, dict[int, int]]:
        """Return topic -> partition -> end of the committed records."""
        consumer = self._consumer()
        try:
            ends_by_topic = {}
            for topic in self._topics:
                parts = consumer.list_topics(topic, 120).topics[topic].partitions
                ends_by_topic[topic] = {
                    p: consumer.get_watermark_offsets(TopicPartition(topic, p), 120)[1] for p in parts
                }
            return ends_by_topic
        finally:
            consumer.close()

    def run(self) -> tuple[list[Difference], int]:
        """Compare every sink; return the differences and the number of accepted records."""
        for topic in self._topics:
            self._load(topic)
            self._load(f"{topic}_dead_letters")
        for topic in ("pos_items", "pos_final_windows", "transformed"):
            self._load(topic)
        self._typed()
        differences = [*self._stateless(), *self._sums(), *self._windows(), *self._archives()]
        ((records,),) = self._db.execute(
            "SELECT " + " + ".join(f"(SELECT count(*) FROM {topic} WHERE kind = 'good')" for topic in self._topics)
        ).fetchall()
        return [
            difference for difference in differences if difference.lost or difference.doubled or difference.wrong
        ], int(records)

    # The sides of a comparison

    def _compare(self, sink: str, wanted: str, present: str, *, repeats: bool = False) -> Difference:
        """Compare two queries of (k, v). `repeats`: a row may occur more than once if its content is always the same."""
        rows = f"SELECT DISTINCT k, v FROM ({present})" if repeats else f"SELECT k, v FROM ({present})"
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE wanted AS {wanted}")
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE present AS {rows}")
        query = """
            WITH w AS (SELECT k, any_value(v) AS v FROM wanted GROUP BY k),
                 p AS (SELECT k, count(*) AS n, any_value(v) AS v, count(DISTINCT v) AS kinds FROM present GROUP BY k)
            SELECT coalesce(w.k, p.k) AS k, w.k IS NOT NULL AND p.k IS NULL AS lost,
                   coalesce(p.n > 1 AND p.kinds = 1, false) AS doubled,
                   p.k IS NOT NULL AND (w.k IS NULL OR p.kinds > 1 OR w.v IS DISTINCT FROM p.v) AS wrong, p.v, w.v AS due
            FROM w FULL JOIN p USING (k)"""
        bad = self._db.execute(f"SELECT * FROM ({query}) WHERE lost OR doubled OR wrong ORDER BY k").fetchall()
        lost, doubled, wrong = (sum(row[place] for row in bad) for place in (1, 2, 3))
        examples = "; ".join(f"{key}: {value} instead of {due}" for key, *_, value, due in bad[:3])
        return Difference(sink, lost, doubled, wrong, examples)

    def _stateless(self) -> Iterator[Difference]:
        coordinates = "'{0}/' || part || '/' || off"
        yield self._compare(
            "pos_items",
            f"SELECT {coordinates.format('pos')} AS k, product || ' ' || amount AS v FROM sales",
            """SELECT id AS k, json_extract_string(text, '$.product_id') || ' ' ||
            json_extract_string(text, '$.amount')::DECIMAL(12,2) AS v FROM pos_items""",
            repeats=True,
        )
        domain, what = (f"json_extract_string(text, '$.{name}')" for name in ("domain", "event"))
        event = f"lower(json_extract_string(text, '$.city')) || ' ' || {domain} || ':' || {what}"
        row = "json_extract_string(text, '$.lower_city') || ' ' || json_extract_string(text, '$.behavior')"
        wanted = f"SELECT {coordinates.format('quickstart')} AS k, {event} AS v FROM quickstart WHERE kind = 'good'"
        yield self._compare("transformed", wanted, f"SELECT id AS k, {row} AS v FROM transformed", repeats=True)
        by_city = f"SELECT v AS k, 1 AS v FROM ({wanted})"  # the city contains the record's number, so it is unique
        yield self._compare("web_events files", by_city, f"SELECT {row} AS k, 1 AS v FROM ({self._files()})")
        for topic in self._topics:
            refused = f"SELECT {coordinates.format(topic)} AS k, md5(value) AS v FROM {topic} WHERE kind = 'bad'"
            letters = f"SELECT id AS k, md5(value) AS v FROM {topic}_dead_letters"
            yield self._compare(f"{topic}_dead_letters", refused, letters, repeats=True)
        if "sensor_readings" in self._topics:
            yield self._readings()

    def _readings(self) -> Difference:
        self._table(
            "readings", "SELECT sensor_id, read_at, celsius FROM sensors.history", ("sensor_id", "read_at", "celsius")
        )
        return self._compare(
            "sensors.history",
            """SELECT json_extract_string(text, '$.sensor_id') || ' ' ||
            strftime(json_extract_string(text, '$.read_at')::TIMESTAMP, '%Y-%m-%d %H:%M:%S.%g') AS k,
            json_extract_string(text, '$.celsius')::DECIMAL(5,2)::VARCHAR AS v FROM sensor_readings WHERE kind = 'good'""",
            "SELECT sensor_id || ' ' || left(read_at, 23) AS k, celsius::DECIMAL(5,2)::VARCHAR AS v FROM readings",
        )

    def _sums(self) -> Iterator[Difference]:
        wanted = "SELECT product AS k, sum(amount)::DECIMAL(22,2) || ' ' || count(*) AS v FROM sales GROUP BY product"
        columns = ("product_id", "total_amount", "sales")
        for name in ("product_totals", "leaderboard"):
            self._table(name, f"SELECT {', '.join(columns)} FROM pos_sales.{name}", columns)
            present = f"SELECT product_id AS k, total_amount::DECIMAL(22,2) || ' ' || sales AS v FROM {name}"
            yield self._compare(f"pos_sales.{name}", wanted, present)

    def _windows(self) -> Iterator[Difference]:
        columns = ("window_start", "product_id", "total_amount", "sales")
        present = "left(window_start, 19) || ' ' || product_id AS k, total_amount::DECIMAL(22,2) || ' ' || sales AS v"
        for name, size in (("tumbling", 5), ("sliding", 10)):
            self._table(name, f"SELECT {', '.join(columns)} FROM pos_sales.{name}", columns)
            yield self._compare(f"pos_sales.{name}", self._window_sums(name, size), f"SELECT {present} FROM {name}")
        records = ledger(self._storage, "pos_sales", "final_windows")
        closed = max((record["watermark_ms"] for record in records), default=0)
        final = """SELECT strftime(json_extract_string(text, '$.window_start')::TIMESTAMP, '%Y-%m-%d %H:%M:%S') || ' ' ||
            json_extract_string(text, '$.product_id') AS k, json_extract_string(text, '$.total_amount')::DECIMAL(22,2) || ' ' ||
            json_extract_string(text, '$.sales') AS v FROM pos_final_windows"""
        yield self._compare(
            "pos_final_windows", self._window_sums("final_windows", 5, closed * 1000), final, repeats=True
        )

    def _window_sums(self, query: str, size: int, closed: int | None = None) -> str:
        """Return the query of the rows due in a window; `closed`: only windows that end at or before it (microseconds)."""
        span, slide = size * 60 * MICROS, 5 * 60 * MICROS
        taken = [
            (record["batch"], record["late_watermark_ms"], int(partition), first, past)
            for record in ledger(self._storage, "pos_sales", query)
            for partition, (first, past) in record["offsets"].get("pos", {}).items()
        ]
        names = ("batch", "late_ms", "part", "first", "past")
        self._keep(
            "taken", pa.table({name: pa.array([row[i] for row in taken], pa.int64()) for i, name in enumerate(names)})
        )
        only = "" if closed is None else f"WHERE start + {span} <= {closed}"
        return f"""
            WITH pairs AS (
              SELECT s.*, (sold_us // {slide} - back) * {slide} AS start, t.late_ms FROM sales s
              JOIN taken t ON s.part = t.part AND s.off >= t.first AND s.off < t.past, range({size // 5}) AS r(back))
            SELECT strftime(make_timestamp(start), '%Y-%m-%d %H:%M:%S') || ' ' || product AS k,
                   sum(amount)::DECIMAL(22,2) || ' ' || count(*) AS v
            FROM (SELECT * FROM pairs WHERE start + {span} > late_ms * 1000) {only} GROUP BY start, product"""

    def _archives(self) -> Iterator[Difference]:
        for topic, pipeline in self._topics.items():
            metadata = self._storage / "lake" / pipeline / f"archive_{topic}" / "metadata"
            versions = sorted(metadata.glob("v*.metadata.json"), key=lambda path: int(path.name[1:].split(".")[0]))
            rows = (
                StaticTable.from_metadata(str(versions[-1]))
                .scan(selected_fields=("partition", "offset", "value"))
                .to_arrow()
            )
            self._keep("archived", rows)
            wanted = f"SELECT part || '/' || off AS k, md5(value) AS v FROM {topic}"
            yield self._compare(
                f"archive of {topic}",
                wanted,
                'SELECT "partition" || \'/\' || "offset" AS k, md5(value) AS v FROM archived',
            )

    # Reading the sinks

    def _typed(self) -> None:
        self._db.execute(
            """CREATE OR REPLACE TABLE sales AS SELECT part, off, json_extract_string(text, '$.product_id') AS product,
            json_extract_string(text, '$.amount')::DECIMAL(12,2) AS amount,
            epoch_us(json_extract_string(text, '$.create_date')::TIMESTAMP) AS sold_us FROM pos WHERE kind = 'good'"""
        )

    def _files(self) -> str:
        """Return a query of the lines of the file sink; a directory inside the range of a wider one does not count."""
        folder = max((self._storage / "files" / "web_events" / "files").glob("[0-9]*"))
        ranges = {}
        for path in folder.glob("batch_id=*"):
            first, _, last = path.name.removeprefix("batch_id=").partition("-")
            ranges[path] = (int(first), int(last or first))
        valid = [
            p for p, (a, b) in ranges.items() if not any(q != p and c <= a and b <= d for q, (c, d) in ranges.items())
        ]
        lines = [line for path in valid for part in path.glob("part-*") for line in part.read_text().splitlines()]
        self._keep("lines", pa.table({"text": pa.array(lines, pa.string())}))
        return "SELECT text FROM lines"

    def _load(self, topic: str) -> None:
        """Create a table of a topic: part, off, value (bytes), text (valid JSON only), kind, id."""
        rows = [
            (m.partition(), m.offset(), m.value(), headers.get("chaos"), headers.get("headrace.id"))
            for m in self._read(topic)
            if (headers := {key: (value or b"").decode() for key, value in m.headers() or ()}) is not None
        ]
        kinds = {"part": pa.int64(), "off": pa.int64(), "value": pa.binary(), "kind": pa.string(), "id": pa.string()}
        self._keep(
            "raw",
            pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())}),
        )
        text = "CASE WHEN kind = 'bad' THEN NULL ELSE decode(value) END"
        text = "NULL" if topic.endswith("_dead_letters") else text
        self._db.execute(f"CREATE OR REPLACE TABLE {topic} AS SELECT *, {text} AS text FROM raw")

    def _read(self, topic: str) -> Iterator[Message]:
        consumer = self._consumer()
        try:
            parts = consumer.list_topics(topic, 120).topics[topic].partitions
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in parts])
            left = set(parts)
            while left:
                message = consumer.poll(READ_SECONDS)
                if message is None:
                    raise TimeoutError(f"{topic} could not be read to its end within {READ_SECONDS} s")
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        settings = {"group.id": "headrace.chaos", "enable.auto.commit": False, "enable.partition.eof": True}
        return Consumer(kafka_config(self._admin) | settings | {"isolation.level": "read_committed", "log_level": 2})

    def _table(self, name: str, statement: str, columns: tuple[str, ...]) -> None:
        """Create a table from Cassandra's answer, with all columns as text."""
        rows = self._cassandra(statement)
        self._keep(name + "_", pa.table({c: pa.array([_text(row[c]) for row in rows], pa.string()) for c in columns}))
        self._db.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM {name}_")

    def _cassandra(self, statement: str) -> list[Mapping[str, Any]]:
        entries = bindings(self._admin, "cassandra")
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

    def _keep(self, name: str, table: pa.Table) -> None:
        self._db.register(name, table)


def _text(value: object) -> str:
    return value.isoformat(" ", "milliseconds") if isinstance(value, datetime) else str(value)
