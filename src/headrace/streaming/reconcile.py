"""Reconciliation: what the streams wrote against what the archive says they should have, query by query.

Exact while the streams run. The order of reading is what makes it so: first the ledgers (what each sink must hold at
least), then the sinks, then the ledgers again, then an archive snapshot that has reached them. See `reconcile_kinds` and
`reconcile_rows` for the identities. Nothing is written but the report and two Iceberg tables.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.contract import generation, ledger, names, outputs
from headrace.contract.checkpoint import newest_batch
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.ledger import Record
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Query, Sink
from headrace.contract.outputs import Directory
from headrace.streaming import (
    batch,
    batch_archive,
    batch_tables,
    reconcile_bounds,
    reconcile_kinds,
    reconcile_lookups,
    reconcile_retained,
    reconcile_rows,
    reconcile_sinks,
    reconcile_views,
    refusals,
    source,
    tables,
    views,
)
from headrace.streaming.batch_archive import Archive
from headrace.streaming.batch_job import Job
from headrace.streaming.reconcile_kinds import Account, Cut

RUNS_DDL = (
    "run STRING, at TIMESTAMP, query STRING, sink STRING, kind STRING, generation INT, cut BIGINT, closed TIMESTAMP, "
    "compared BIGINT, late BIGINT, pending BIGINT, differing BIGINT, note STRING, status STRING"
)
DIFFERENCES_DDL = (
    "run STRING, at TIMESTAMP, query STRING, sink STRING, what STRING, key STRING, batches ARRAY<BIGINT>, "
    "offsets STRING, detail STRING"
)


@dataclass(frozen=True)
class Looked:
    """One query before the archive is read: its generation, its newest batch, and its sinks' rows."""

    name: str
    generation: generation.Generation
    seen: int
    rows: Mapping[str, DataFrame]
    directories: Sequence[Directory] = ()  # those whose rows were read
    all_directories: Sequence[Directory] = ()


def run(job: Job, spec: ReconcileSpec) -> dict[str, Any]:
    """Reconcile and return the report: one entry a query and sink, and one archive entry a topic.

    The spec bounds it (`contract.job_files`).
    """
    began = time.monotonic()
    chosen = spec.queries
    wanted = {n: q for n, q in job.pipeline.queries.items() if chosen is None or n in chosen}
    job.progress(0, 1, "reads the sinks")
    since_ms = spec.since_ms
    seen = {name: look(job, name, query, since_ms) for name, query in wanted.items()}
    looked = [found for found in seen.values() if found]
    now = {each.name: _ledger(job, each.generation) for each in looked}
    topics = sorted(job.pipeline.sources)
    ends = _ends(now.values())
    archives = views.await_archives(job, topics, ends)
    accounts: list[Account] = []
    single = [now[each.name] for each in looked if _kind(wanted[each.name]) == "rows"]
    first = reconcile_bounds.first_offsets(single, since_ms)
    typed = {topic: _typed(job, topic, archives[topic], since_ms, first.get(topic, {})) for topic in topics}
    steps = len(looked) + len(topics)
    for number, each in enumerate(looked):
        job.progress(number, steps, each.name)
        accounts += list(_compare(job, each, now[each.name], archives, typed, spec))
    accounts += [_unwritten(job, name, archives) for name, found in seen.items() if found is None]
    for number, topic in enumerate(topics):
        job.progress(len(looked) + number, steps, f"archive of {topic}")
        accounts.append(_archive(job, topic, archives[topic], typed[topic], ends.get(topic, {}), since_ms))
    accounts += reconcile_views.compare(job, wanted, archives, spec)
    at = datetime.fromtimestamp(spec.at_ms / 1000, UTC)
    _keep(job, accounts, at)
    job.progress(steps, steps, "done")
    return {
        "run": job.run,
        "pipeline": job.pipeline.name,
        "at_ms": spec.at_ms,
        "differing": sum(account.differing for account in accounts),
        "pending": sum(account.pending for account in accounts),
        "accounts": [_plain(asdict(account) | {"status": account.status}) for account in accounts],
        "seconds": round(time.monotonic() - began, 1),
    }


def look(job: Job, name: str, query: Query, since_ms: int = 0) -> Looked | None:
    """Read a query's ledger, then its sinks into memory; None where it never wrote a batch.

    Of files only the directories of batches that began since a time (milliseconds since 1970).
    """
    chosen = generation.current(job.root, job.pipeline.name, name)
    records = _ledger(job, chosen) if chosen else []
    if chosen is None or not records:
        return None
    rows = {}
    every = outputs.directories(job.root, job.pipeline.name, name, chosen.number, chosen.lineage)
    first = reconcile_bounds.first_batch(records, every, since_ms) if since_ms else 0
    directories = [each for each in every if each.first >= first]
    for sink in query.sinks:
        frame = _rows(job, name, query, sink, directories).persist(StorageLevel.MEMORY_AND_DISK)
        frame.count()
        rows[sink_name(job, name, sink)] = frame
    return Looked(name, chosen, records[-1]["batch"], rows, directories, every)


def sink_name(job: Job, name: str, sink: Sink) -> str:
    """Return how a report names a sink."""
    if isinstance(sink, CassandraSink):
        return f"table {'.'.join(names.cassandra_table(job.pipeline.name, name, sink))}"
    return f"topic {sink.topic}" if isinstance(sink, KafkaSink) else f"files {job.pipeline.name}/{name}"


def cut_of(job: Job, each: Looked, records: Sequence[Record], archives: Mapping[str, Archive]) -> Cut:
    """Return the newest batch whose records are all in the archive, with what the checkpoint has planned beyond."""
    inside = [r for r in records if all(_reached(archives.get(t), parts) for t, parts in r["offsets"].items())]
    planned = newest_batch(each.generation.paths(job.root).checkpoint, "offsets")
    return Cut(each.generation, inside, each.seen, max(planned or 0, records[-1]["batch"]))


def _compare(
    job: Job, each: Looked, records: Sequence[Record], archives: Mapping[str, Archive],
    typed: Mapping[str, DataFrame], spec: ReconcileSpec,
) -> Iterator[Account]:  # fmt: skip
    query, cut = job.pipeline.queries[each.name], cut_of(job, each, records, archives)
    transform = refusals.taken(job.transforms[each.name], job.pipeline, query)
    since_ms, tolerance = spec.since_ms, Decimal(spec.tolerance)
    sides = {
        topic: batch.batch_of(typed[topic], cut.ledger)
        .where(F.col(batch.BATCH).isNotNull())
        .persist(StorageLevel.MEMORY_AND_DISK)
        for topic in query.sources
    }
    (first, *_) = query.sources
    try:
        for sink in query.sinks:
            where = sink_name(job, each.name, sink)
            account = Account(each.name, where, _kind(query), each.generation.number, cut.batch)
            speed = each.rows[where]
            if not cut.surely:
                account.block("the archive has reached none of its batches yet: nothing could be compared")
            elif account.kind == "windows":
                speed = _with_age(query, sink, speed, each.generation)
                late = _whole_since(job, sink, each.rows[where], since_ms)
                reconcile_kinds.windows(account, query, transform, sides[first], speed, cut, late, tolerance)
            elif account.kind == "running totals" and since_ms:
                account.exempt, account.note = True, "a total is of all days: not compared with a bound of days"
            elif account.kind == "running totals":
                speed = _with_age(query, sink, speed, each.generation)
                reconcile_kinds.running(account, query, transform, sides[first], speed, cut, tolerance)
            elif account.kind == "joined rows":
                times = {topic: views.time_of(job.pipeline.sources[topic]) for topic in query.sources}
                cassandra = isinstance(sink, CassandraSink)
                speed = _with_age(query, sink, speed, each.generation)
                late = _whole_since(job, sink, each.rows[where], since_ms)
                reconcile_kinds.joined(
                    account, query, transform, sides, times, speed, cut, late, milliseconds=cassandra
                )
            elif account.kind == "rows":
                _compare_rows(job, query, sink, account, transform(sides[first]), each, cut, since_ms)
            elif account.kind == "lookups" and isinstance(sink, CassandraSink) and sink.writetime != "batch":
                _compare_lookups(job, query, sink, account, sides[first], speed, cut)
            else:
                account.exempt = True
                account.note = f"{account.kind} have no state of the past to be compared with: not compared"
            yield account
    finally:
        for side in sides.values():
            side.unpersist()


def _compare_rows(
    job: Job, query: Query, sink: Sink, account: Account, made: DataFrame, each: Looked, cut: Cut, since_ms: int
) -> None:
    speed = each.rows[account.sink]
    if isinstance(sink, KafkaSink):
        kept = _kept(cut.surely, max(since_ms, reconcile_retained.since_ms(job, sink.topic, speed)))
        sent = reconcile_sinks.placed_by_id(speed, query.sources[0])
        if not kept:
            account.note = f"{sink.topic} holds no batch of that time: retention took it, or there was none"
        else:
            reconcile_rows.in_topic(account, query, made, sent, kept)
    elif isinstance(sink, FilesSink):
        placed = batch.batch_of(made, cut.ledger)
        low = reconcile_bounds.first_batch(cut.surely, each.all_directories, since_ms) if since_ms else 0
        kept = [record for record in cut.surely if record["batch"] >= low]
        if kept:
            reconcile_rows.in_files(account, query, placed, speed, kept, each.directories)
        else:
            account.note = "no batch of that time"
    else:
        account.exempt = True
        account.note = "a table of single rows has no account yet: not compared"


def _compare_lookups(
    job: Job, query: Query, sink: CassandraSink, account: Account, records: DataFrame, speed: DataFrame, cut: Cut
) -> None:
    topic = query.sources[0]
    full = names.query_name(job.pipeline.name, account.query)
    every = reconcile_sinks.topic(job, names.dead_letter_topic(topic)).persist(StorageLevel.MEMORY_AND_DISK)
    every.count()
    since = reconcile_retained.since_ms(job, names.dead_letter_topic(topic), every)
    sure_from = max((record["batch"] + 1 for record in cut.surely if record["began_ms"] < since), default=0)
    letters = every.where(F.col("_query") == full)
    tables = {name: job.pipeline.dimensions[name] for name in query.dimensions}
    dimensions = {
        name: job.spark.table(f"{names.CASSANDRA_CATALOG}.{t.keyspace}.{t.table}") for name, t in tables.items()
    }
    transform = refusals.taken(job.transforms[account.query], job.pipeline, query)
    rows = transform(**{topic: records}, **dimensions)
    placed = batch.batch_of(rows, cut.surely).where(F.col(batch.BATCH).isNotNull())
    unmatched = reconcile_sinks.placed_by_id(letters, topic)
    reconcile_lookups.newest(account, query, sink, placed, unmatched, speed, sure_from)
    every.unpersist()


def _kind(query: Query) -> str:
    if query.dimensions:
        return "lookups" if query.matched else "lookups without a matched column"
    if query.join:
        return "joined rows"
    if query.aggregate:
        if query.aggregate.window:
            return "windows" if query.watermark and query.mode != "complete" else "open windows"
        return "running totals"
    return "rows"


def _rows(job: Job, name: str, query: Query, sink: Sink, directories: Sequence[Directory]) -> DataFrame:
    if isinstance(sink, CassandraSink):
        return reconcile_sinks.cassandra(job, name, query, sink)
    if isinstance(sink, KafkaSink):
        return reconcile_sinks.topic(job, sink.topic)
    return reconcile_sinks.files(job, query, directories)


def _with_age(query: Query, sink: Sink, rows: DataFrame, now: generation.Generation) -> DataFrame:
    """Return the sink's rows with OLD, whether an earlier generation wrote them; of a topic the newest record an id."""
    if not isinstance(sink, KafkaSink):
        return rows.withColumn(
            reconcile_kinds.OLD, F.coalesce(F.col(reconcile_sinks.WRITTEN), F.lit(0)) < now.started_micros
        )
    records = reconcile_sinks.rows_of(rows, query, sink)
    old = F.coalesce(F.col(reconcile_sinks.GENERATION), F.lit(0)) < now.number
    return records.withColumn(reconcile_kinds.OLD, old).select(*query.columns, reconcile_kinds.OLD)


def _whole_since(job: Job, sink: Sink, rows: DataFrame, since_ms: int) -> int:
    """Return from which event time on a sink is whole: retention and ttl take the old rows away."""
    if isinstance(sink, KafkaSink):
        kept = reconcile_retained.since_ms(job, sink.topic, rows)
        skews = [s.event_time.accepted_skew for s in job.pipeline.sources.values() if s.event_time]
        return max(since_ms, kept and kept + int(max(skews).total_seconds() * 1000))
    if isinstance(sink, CassandraSink) and sink.ttl is not None:
        return max(since_ms, int((time.time() - sink.ttl.total_seconds()) * 1000))
    return since_ms


def _kept(records: Sequence[Record], since_ms: int) -> list[Record]:
    return [record for record in records if record["began_ms"] >= since_ms]


def _unwritten(job: Job, name: str, archives: Mapping[str, Archive]) -> Account:
    """Account for a query that has written no batch: with records in the archive it should have."""
    query = job.pipeline.queries[name]
    account = Account(name, sink_name(job, name, query.sinks[0]), _kind(query))
    account.note = "it has written no batch yet"
    account.blocked = any(archives[topic].partitions for topic in query.sources)
    return account


def _archive(job: Job, topic: str, found: Archive, typed: DataFrame, ends: Mapping[str, int], since_ms: int) -> Account:
    """Account for a topic; `ends` is how far its queries have read.

    A refused record is a dead letter first and archived then: so the letters are read last.
    """
    account = Account(names.archive_query(topic), f"topic {names.dead_letter_topic(topic)}", "archive")
    chosen = generation.current(job.root, job.pipeline.name, account.query)
    account.generation = chosen.number if chosen else 0
    if found.snapshot is None:
        account.note, account.blocked = "nothing is archived yet", any(ends.values())
        return account
    letters = reconcile_sinks.topic(job, names.dead_letter_topic(topic)).persist(StorageLevel.MEMORY_AND_DISK)
    letters.count()
    # What a query refused was accepted by the contract: it is no part of this account.
    own = letters.where(~refusals.by_a_query(F.coalesce(F.col("_reason"), F.lit(""))))
    placed = reconcile_sinks.placed_by_id(own, topic)
    since = max(since_ms, reconcile_retained.since_ms(job, names.dead_letter_topic(topic), letters))
    rows = batch_archive.records(job.spark, found)
    lost = batch_archive.losses(job.spark, found, job.root)
    reconcile_rows.archive(account, found, rows, placed, since, None if since_ms else typed.count(), lost)
    letters.unpersist()
    return account


def _typed(
    job: Job, topic: str, found: Archive, since_ms: int = 0, first: Mapping[int, int] = MappingProxyType({})
) -> DataFrame:
    """Return the accepted records with their coordinates, decoded once for all queries (see `reconcile_bounds.recent`)."""
    if found.snapshot is None:
        table = job.spark.table(names.archive_table(job.pipeline.name, topic))
        return batch_archive.accepted(job.pipeline, topic, table, ("source", "kafka_timestamp"))
    used = [q for q in job.pipeline.queries.values() if topic in q.sources]
    added = {name for query in used for name in source.added_columns(query, job.pipeline.sources[topic])}
    rows = reconcile_bounds.recent(
        batch_archive.records(job.spark, found), job.pipeline.sources[topic], since_ms, first
    )
    columns = tuple(name for name in ("source", "kafka_timestamp", "raw") if name in added | {"source"})
    return batch_archive.accepted(job.pipeline, topic, rows, columns).persist(StorageLevel.MEMORY_AND_DISK)


def _ledger(job: Job, chosen: generation.Generation) -> list[Record]:
    return ledger.read(chosen.paths(job.root).ledger)


def _ends(ledgers: Any) -> dict[str, dict[str, int]]:  # noqa: ANN401 - an iterable of ledgers
    """Return the highest end of each topic partition that any of the ledgers has."""
    ends: dict[str, dict[str, int]] = {}
    for records in ledgers:
        for topic, parts in records[-1]["offsets"].items():
            for partition, (_, end) in parts.items():
                known = ends.setdefault(topic, {})
                known[partition] = max(known.get(partition, 0), end)
    return ends


def _reached(found: Archive | None, parts: Mapping[str, Sequence[int]]) -> bool:
    return found is not None and found.covers({partition: end for partition, (_, end) in parts.items()})


def _keep(job: Job, accounts: Sequence[Account], at: datetime) -> None:
    """Write the run into the two report tables; a run that is repeated replaces itself."""
    summary = [
        (job.run, at, a.query, a.sink, a.kind, a.generation, a.cut, _moment(a.closed_ms), a.compared, a.late, a.pending,
         a.differing, a.note, a.status)
        for a in accounts
    ]  # fmt: skip
    rest = ("what", "key", "batches", "offsets")
    named = [
        (job.run, at, a.query, a.sink, d["what"], _json(d["key"]), d["batches"], _json(d["offsets"]),
         _json({name: value for name, value in d.items() if name not in rest}))
        for a in accounts
        for d in a.differences
    ]  # fmt: skip
    for kind, ddl, rows in (("runs", RUNS_DDL, summary), ("differences", DIFFERENCES_DDL, named)):
        table = names.reconcile_table(job.pipeline.name, kind)
        batch_tables.ensure(job.spark, table, ddl, "run")
        job.spark.createDataFrame(rows, ddl).coalesce(1).writeTo(table).overwrite(F.col("run") == job.run)
        tables.tend_own(job.spark, job.root, table)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def _json(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """Return JSON-safe values: decimals and times as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()  # a collected time is in this process's zone
    return str(value) if isinstance(value, (Decimal, date)) else value
