"""The archive's records as a query took them: those of a cut's batches that the contract of the batch accepted.

A query takes a record if the archive query accepted it on arrival and the contract of its own driver accepts it. If the contract
was narrowed later, earlier batches still count the records that it refuses now. The ledger names each batch's contract
(`store.contracts`). A batch whose release recorded no contract gets that of the next batch with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader
from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.batch.reconcile import bounds
from headrace.batch.reconcile.kinds import Cut
from headrace.contract import names
from headrace.contract.model import Source
from headrace.contract.platform_columns import SOURCE
from headrace.driver import decode, source
from headrace.store import contracts, quarantine
from headrace.store.ledger import BatchRecord


@dataclass(frozen=True)
class Records:
    """The records of a topic. `raw`: all of the archive. `typed`: those that today's contract accepts; all queries share them.

    `added` are the columns that `typed` has besides the contract's.
    """

    topic: str
    raw: DataFrame
    typed: DataFrame
    added: tuple[str, ...]


def read(
    job: Job, topic: str, pinned: Archive, since_ms: int = 0, first: Mapping[int, int] = MappingProxyType({})
) -> Records:
    """Return the records of a topic's archive, decoded once for all queries (see `bounds.recent`)."""
    if pinned.snapshot is None:
        table = job.spark.table(names.archive_table(job.pipeline.name, topic))
        return Records(topic, table, archive_reader.accepted(job.pipeline, topic, table, decode.USUAL), decode.USUAL)
    contract = job.pipeline.sources[topic]
    used = [query for query in job.pipeline.queries.values() if topic in query.sources]
    wanted = {name for query in used for name in source.added_columns(query, contract)} | {SOURCE}
    added = tuple(name for name in decode.ADDED_COLUMNS if name in wanted)
    raw = bounds.recent(archive_reader.records(job.spark, pinned), contract, since_ms, first)
    typed = archive_reader.accepted(job.pipeline, topic, raw, added).persist(StorageLevel.MEMORY_AND_DISK)
    return Records(topic, raw, typed, added)


def placed(job: Job, records: Records, cut: Cut) -> DataFrame:
    """Return the records that the cut's batches have taken, with their batch, in the columns of `typed`."""
    passed = quarantine.passed_by(job.root, cut.generation)
    today, former = by_contract(job, cut)
    parts = [(records.typed, today)]
    for name, ledger in former.items():
        contract = contracts.read(job.root, job.pipeline.name, name)
        # The former contract's file is missing, so today's contract is used.
        parts.append((_decoded(records, contract[records.topic], ledger) if contract else records.typed, ledger))
    frames = [accounting.batch_of(source.without(typed, passed, f"{SOURCE}."), ledger) for typed, ledger in parts]
    return reduce(DataFrame.unionByName, frames).where(F.col(accounting.BATCH).isNotNull())


def by_contract(job: Job, cut: Cut) -> tuple[list[BatchRecord], dict[str, list[BatchRecord]]]:
    """Return the cut's batches under today's contract, and name -> those under each other contract."""
    now = contracts.digest(job.pipeline, cut.generation.query)
    today: list[BatchRecord] = []
    former: dict[str, list[BatchRecord]] = {}
    name = now
    for record in reversed(cut.ledger):
        name = record.get("contract", name)
        (today if name == now else former.setdefault(name, [])).append(record)
    return today[::-1], {known: ledger[::-1] for known, ledger in former.items()}


def _decoded(records: Records, contract: Source, ledger: Sequence[BatchRecord]) -> DataFrame:
    """Return the records of some batches as a former contract accepts them, in the columns of today's.

    A column whose type has changed since is null here. Every query that reads it has begun a new generation, so no query of these
    batches needs it.
    """
    first, past = bounds.span(ledger, records.topic)
    rows = archive_reader.beyond(archive_reader.before(records.raw, past), first).where("reason IS NULL")
    decoded = source.accepted(rows, contract, records.added)
    types = {field.name: field.dataType for field in decoded.schema}
    return decoded.select(
        *(
            F.col(field.name)
            if types.get(field.name) == field.dataType
            else F.lit(None).cast(field.dataType).alias(field.name)
            for field in records.typed.schema
        )
    )
