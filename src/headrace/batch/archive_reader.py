"""The archive as the batch layer reads it: one fixed snapshot, each record once, refused records separated.

Whether a record counts was decided by the archive query on arrival (`reason`), not by today's contract: a record that
was refused, repaired and replayed is in the archive twice, and counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.driver import source
from headrace.errors import HeadraceError
from headrace.store import gaps, generation, ledger
from headrace.store.gaps import Loss

COORDINATES = ("topic", "partition", "offset")

Ends = Mapping[str, Mapping[str, int]]
"""topic -> partition (as text, as in the ledger) -> offset of the next record."""


@dataclass(frozen=True)
class Partition:
    """Statistics of one partition's records in the archive: [first, end), number of rows, number of distinct offsets."""

    first: int
    end: int
    rows: int
    distinct: int
    newest_ms: int  # broker time of the newest record, milliseconds since 1970

    @property
    def gaps(self) -> int:
        """Return the number of missing offsets between the first and the last; `store.gaps` says which were lost."""
        return self.end - self.first - self.distinct


@dataclass(frozen=True)
class Archive:
    """One snapshot of one topic's archive; `snapshot` is None while nothing is archived.

    `reached` maps each partition to the offset up to which the archive has everything that Kafka delivered, even if the
    last offsets hold no record (`store.archive_notes.reached`, read before the snapshot was chosen).
    """

    pipeline: str
    topic: str
    snapshot: int | None
    partitions: Mapping[int, Partition]
    reached: Mapping[int, int] = field(default_factory=dict)

    @property
    def ends(self) -> dict[str, int]:
        """Return partition -> offset up to which the archive has everything that Kafka delivered."""
        return {str(number): end for number, end in sorted(self._ends.items())}

    @cached_property
    def _ends(self) -> dict[int, int]:
        ends = {number: part.end for number, part in self.partitions.items()}
        return {p: max(ends.get(p, 0), self.reached.get(p, 0)) for p in {*ends, *self.reached}}

    @property
    def repeats(self) -> int:
        """Return the number of duplicate rows."""
        return sum(part.rows - part.distinct for part in self.partitions.values())

    def covers(self, ends: Mapping[str, int]) -> bool:
        """Return whether every record before these ends is in the archive."""
        return covers(self._ends, ends)


def covers(reached: Mapping[int, int], ends: Mapping[str, int]) -> bool:
    """Return whether the reached offsets are at or beyond the ends of all partitions."""
    return all(reached.get(int(partition), 0) >= end for partition, end in ends.items())


def pin(spark: SparkSession, pipeline: str, topic: str, reached: Mapping[int, int] | None = None) -> Archive:
    """Return the newest snapshot of a topic's archive. Raises HeadraceError if there is no archive table yet.

    `reached` is the earlier result of `store.archive_notes.reached`.
    """
    table = names.archive_table(pipeline, topic)
    if not spark.catalog.tableExists(table):
        raise HeadraceError(
            f"There is no table {table} yet. Start pipeline {pipeline} once: its archive query creates it."
        )
    row = spark.sql(f"SELECT snapshot_id FROM {table}.refs WHERE name = 'main'").first()  # noqa: S608 - a name of ours
    snapshot = int(row[0]) if row else None
    if snapshot is None:
        return Archive(pipeline, topic, None, {}, reached or {})
    rows = (
        _snapshot(spark, pipeline, topic, snapshot)
        .groupBy("partition")
        .agg(
            F.min("offset").alias("first"),
            F.max("offset").alias("last"),
            F.count(F.lit(1)).alias("rows"),
            F.countDistinct("offset").alias("distinct"),
            F.max(F.unix_millis("timestamp")).alias("newest_ms"),
        )
        .collect()
    )
    parts = {r.partition: Partition(r["first"], r["last"] + 1, r["rows"], r["distinct"], r.newest_ms) for r in rows}
    return Archive(pipeline, topic, snapshot, parts, reached or {})


def losses(spark: SparkSession, archive: Archive, root: str) -> list[Loss]:
    """Return the records that an archive lacks although Kafka delivered them, or that no batch ever read (`store.gaps`).

    Costs nothing if there is no gap; otherwise it sorts the archive's offsets and reads the ledgers of all generations.
    """
    parts = archive.partitions
    tails = {p: (parts[p].end if p in parts else 0, end) for p, end in archive.reached.items()}
    tails = {p: span for p, span in tails.items() if span[0] < span[1]}
    if archive.snapshot is None or not (tails or any(part.gaps for part in parts.values())):
        return []
    rows = _snapshot(spark, archive.pipeline, archive.topic, archive.snapshot).select("partition", "offset").distinct()
    following = F.lead("offset").over(Window.partitionBy("partition").orderBy("offset"))
    between = rows.withColumn("next", following).where(F.col("next") > F.col("offset") + 1)
    spans: dict[int, list[gaps.Span]] = {p: [] for p in {*parts, *tails}}
    for row in between.orderBy("partition", "offset").collect():
        spans[row.partition].append((row.offset + 1, row.next))
    for partition, span in tails.items():
        spans[partition].append(span)
    query = names.archive_query(archive.topic)
    every = reversed(generation.all_of(root, archive.pipeline, query))
    claims = gaps.claims((ledger.read(begun.paths(root).ledger) for begun in every), archive.topic, archive.reached)
    seen = {number: (part.first, part.end) for number, part in parts.items()}
    return gaps.losses({p: gaps.Absent(absent) for p, absent in spans.items()}, seen, claims)


def records(spark: SparkSession, archive: Archive, since: datetime | None = None) -> DataFrame:
    """Return the archive's rows, each offset once; `since` (timezone-aware) skips records with an earlier broker time.

    Rows can be duplicated after an archive query was restored; only this function handles that.
    """
    if archive.snapshot is None:
        raise HeadraceError(f"The archive of {archive.topic} is empty. There is nothing to compute from.")
    rows = _snapshot(spark, archive.pipeline, archive.topic, archive.snapshot)
    if since is not None:
        rows = rows.where(F.col("timestamp") >= F.lit(since))
    return rows.dropDuplicates(list(COORDINATES)) if archive.repeats else rows


def accepted(pipeline: Pipeline, topic: str, rows: DataFrame, added: tuple[str, ...]) -> DataFrame:
    """Return the records that were accepted on arrival, typed by the contract, with the columns `added`."""
    return source.accepted(rows.where("reason IS NULL"), pipeline.sources[topic], added)


def before(
    frame: DataFrame, ends: Mapping[str, int], offset: str = "offset", partition: str = "partition"
) -> DataFrame:
    """Return the rows whose offset is before the end of their partition."""
    return frame.where(_bounds(ends, partition, offset))


def beyond(
    frame: DataFrame, ends: Mapping[str, int], offset: str = "offset", partition: str = "partition"
) -> DataFrame:
    """Return the rows at or after the end of their partition; for a partition without an end, all."""
    return frame.where(~_bounds(ends, partition, offset))


def _bounds(ends: Mapping[str, int], partition: str, offset: str) -> Column:
    condition = F.lit(False)
    for number, end in ends.items():
        condition = condition | ((F.col(partition) == int(number)) & (F.col(offset) < end))
    return condition


def _snapshot(spark: SparkSession, pipeline: str, topic: str, snapshot: int) -> DataFrame:
    return spark.sql(f"SELECT * FROM {names.archive_table(pipeline, topic)} VERSION AS OF {snapshot}")  # noqa: S608
