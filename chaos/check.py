"""Compares every sink with the bytes in Kafka, in DuckDB. Shares no code with the product, only its files and tables.

The header `chaos` of each record says whether the contract accepts it. What Spark drops as late follows from the ledger
files: a row of batch n counts for a window whose end is after the batch's `late_watermark_ms` (Spark guide, "Handling Late
Data and Watermarking"; SPARK-42376). Topics are written at least once, so they may repeat a row with the same content.
Of rows with one identity, those of the newest generation count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from confluent_kafka import TopicPartition
from pyiceberg.table import StaticTable

from chaos import read, sinks
from chaos.ground import PIPELINES


@dataclass(frozen=True)
class Difference:
    """Rows of one sink that are missing, duplicated, or wrong; up to three examples."""

    sink: str
    lost: int
    doubled: int
    wrong: int
    examples: str


class Checker:
    """State shared by all checks of one platform."""

    def __init__(self, admin: Path, storage: Path, pipelines: Sequence[str]) -> None:
        self._admin, self.storage = admin, storage
        self._topics = {topic: name for name in pipelines for topic in PIPELINES[name]}
        self._pipelines = pipelines
        self.db = duckdb.connect()
        self.db.execute("SET TimeZone = 'UTC'")
        self._due: dict[str, str] = {}  # sink -> table with the rows of its last comparison
        self._kept: dict[str, str] = {}  # sink -> table with the rows that stay until their key is written again

    def ends(self) -> dict[str, dict[int, int]]:
        """Return topic -> partition -> end of the committed records."""
        consumer = read.consumer(self._admin)
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
            self.load(topic)
            self.load(f"{topic}_dead_letters")
        differences = [*self._letters(), *self._archives()]
        for pipeline in self._pipelines:
            differences += sinks.SINKS[pipeline](self)
        ((records,),) = self.db.execute(
            "SELECT " + " + ".join(f"(SELECT count(*) FROM {topic} WHERE kind = 'good')" for topic in self._topics)
        ).fetchall()
        return [
            difference for difference in differences if difference.lost or difference.doubled or difference.wrong
        ], int(records)

    def begin_again(self, pipeline: str) -> None:
        """Note that every query of a pipeline begins a new generation and that the rows of its sinks stay.

        From now on, each row that the last comparison expected is due until the new generation writes its key. Files and
        archives begin empty.
        """
        for sink, table in self._due.items():
            if sink.startswith(f"{pipeline} "):
                kept = self._kept.setdefault(sink, f"kept_{len(self._kept)}")
                self.db.execute(f"CREATE OR REPLACE TABLE {kept} AS SELECT * FROM {table}")

    # The sides of a comparison

    def compare(
        self, sink: str, wanted: str, present: str, *, repeats: bool = False, stays: str = "value"
    ) -> Difference:
        """Compare two queries of (k, v).

        `sink` begins with its pipeline. `repeats`: a row may occur more than once if its content is always the same.
        `stays`: what becomes of the rows of an older generation. "value": a key has the value of the new generation if
        that writes it; "greatest": the greater value; "": no row stays.
        """
        rows = f"SELECT DISTINCT k, v FROM ({present})" if repeats else f"SELECT k, v FROM ({present})"
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT k, v::VARCHAR AS v FROM ({wanted})")
        if sink in self._kept:
            kept, value = self._kept[sink], "greatest(w.v, o.v)" if stays == "greatest" else "coalesce(w.v, o.v)"
            both = f"SELECT k, {value} AS v FROM wanted w FULL JOIN {kept} o USING (k)"
            self.db.execute(f"CREATE OR REPLACE TEMP TABLE wanted AS {both}")
        if stays:
            due = self._due.setdefault(sink, f"due_{len(self._due)}")
            self.db.execute(f"CREATE OR REPLACE TABLE {due} AS SELECT k, v FROM wanted")
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE present AS {rows}")
        query = """
            WITH w AS (SELECT k, any_value(v) AS v FROM wanted GROUP BY k),
                 p AS (SELECT k, count(*) AS n, any_value(v) AS v, count(DISTINCT v) AS kinds FROM present GROUP BY k)
            SELECT coalesce(w.k, p.k) AS k, w.k IS NOT NULL AND p.k IS NULL AS lost,
                   coalesce(p.n > 1 AND p.kinds = 1, false) AS doubled,
                   p.k IS NOT NULL AND (w.k IS NULL OR p.kinds > 1 OR w.v IS DISTINCT FROM p.v) AS wrong, p.v, w.v AS due
            FROM w FULL JOIN p USING (k)"""
        bad = self.db.execute(f"SELECT * FROM ({query}) WHERE lost OR doubled OR wrong ORDER BY k").fetchall()
        lost, doubled, wrong = (sum(row[place] for row in bad) for place in (1, 2, 3))
        examples = "; ".join(f"{key}: {value} instead of {due}" for key, *_, value, due in bad[:3])
        return Difference(sink, lost, doubled, wrong, examples)

    def _letters(self) -> Iterator[Difference]:
        for topic, pipeline in self._topics.items():
            refused = f"SELECT '{topic}/' || part || '/' || off AS k, md5(value) AS v FROM {topic} WHERE kind = 'bad'"
            letters = f"SELECT id AS k, md5(value) AS v FROM {topic}_dead_letters"
            yield self.compare(f"{pipeline} {topic}_dead_letters", refused, letters, repeats=True)

    def _archives(self) -> Iterator[Difference]:
        for topic, pipeline in self._topics.items():
            metadata = self.storage / "lake" / pipeline / f"archive_{topic}" / "metadata"
            versions = sorted(metadata.glob("v*.metadata.json"), key=lambda path: int(path.name[1:].split(".")[0]))
            rows = (
                StaticTable.from_metadata(str(versions[-1]))
                .scan(selected_fields=("partition", "offset", "value"))
                .to_arrow()
            )
            self.keep("archived", rows)
            wanted = f"SELECT part || '/' || off AS k, md5(value) AS v FROM {topic}"
            yield self.compare(
                f"{pipeline} archive of {topic}",
                wanted,
                'SELECT "partition" || \'/\' || "offset" AS k, md5(value) AS v FROM archived',
                stays="",
            )

    # Reading the sinks

    def taken(self, pipeline: str, query: str) -> int:
        """Create a table `taken` of the offsets that each batch of a query has read: topic, part, first, past, late_ms.

        A row that is not newer than late_ms was dropped as late. Returns the watermark of the newest batch (milliseconds).
        """
        records = read.ledger(self.storage, pipeline, query)
        rows = [
            (topic, int(partition), first, past, record["late_watermark_ms"])
            for record in records
            for topic, partitions in record["offsets"].items()
            for partition, (first, past) in partitions.items()
        ]
        kinds = {"topic": pa.string(), **dict.fromkeys(("part", "first", "past", "late_ms"), pa.int64())}
        columns = {name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())}
        self.keep("taken", pa.table(columns))
        return max((record["watermark_ms"] for record in records), default=0)

    def load(self, topic: str) -> None:
        """Create a table of a topic: part, off, value (bytes), text (valid JSON only), kind, id, generation.

        Of the records with one id, it contains those of the newest generation.
        """
        named = ("chaos", "headrace.id", "headrace.generation")
        rows = [
            (m.partition(), m.offset(), m.value(), *map(headers.get, named))
            for m in read.messages(self._admin, topic)
            if (headers := {key: (value or b"").decode() for key, value in m.headers() or ()}) is not None
        ]
        kinds = {"part": pa.int64(), "off": pa.int64(), "value": pa.binary()}
        kinds |= dict.fromkeys(("kind", "id", "generation"), pa.string())
        self.keep(
            "raw",
            pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())}),
        )
        text = "CASE WHEN kind = 'bad' THEN NULL ELSE decode(value) END"
        text = "NULL" if topic.endswith("_dead_letters") else text
        newest = "id IS NULL OR generation::INT = max(generation::INT) OVER (PARTITION BY id)"
        self.db.execute(f"CREATE OR REPLACE TABLE {topic} AS SELECT *, {text} AS text FROM raw QUALIFY {newest}")

    def table(self, name: str, statement: str, columns: tuple[str, ...]) -> None:
        """Create a table from Cassandra's answer, with all columns as text."""
        rows = read.rows(self._admin, statement)
        self.keep(name + "_", pa.table({c: pa.array([_text(row[c]) for row in rows], pa.string()) for c in columns}))
        self.db.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM {name}_")

    def keep(self, name: str, table: pa.Table) -> None:
        """Let queries read a table by a name."""
        self.db.register(name, table)


def _text(value: object) -> str:
    return value.isoformat(" ", "milliseconds") if isinstance(value, datetime) else str(value)
