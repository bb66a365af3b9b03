"""Reconciliation: compare, query by query, what the streams wrote with what they should have according to the archive.

Exact while the streams run, because of the order of reading: first the ledgers (what each sink must hold at least), then
the sinks, then the ledgers again, then an archive snapshot that has reached them. See `kinds`, `single_rows`
and `newest_cells` for the identities. Writes only the report and two Iceberg tables.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, assert_never

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader, views
from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.batch.reconcile import (
    archived,
    bounds,
    kept_results,
    kinds,
    lookups,
    newest_cells,
    quarantined,
    retained,
    single_rows,
    sink_frames,
    time_to_live,
    view_days,
)
from headrace.batch.reconcile import scope as scope_
from headrace.batch.reconcile.kept_results import Totals
from headrace.batch.reconcile.kinds import Cut
from headrace.batch.reconcile.scope import Scope
from headrace.contract import names
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Query, Sink
from headrace.contract.platform_columns import SOURCE
from headrace.driver import refusals
from headrace.driver.queries import Transform
from headrace.store import file_sink, generation, ledger
from headrace.store.checkpoint_log import newest_batch
from headrace.store.file_sink import Directory
from headrace.store.job_reports import Account, ReconcileReport
from headrace.store.ledger import BatchRecord
from headrace.store.records import to_json

RUNS_DDL = (
    "run STRING, at TIMESTAMP, query STRING, sink STRING, kind STRING, generation INT, cut BIGINT, closed TIMESTAMP, "
    "compared BIGINT, late BIGINT, pending BIGINT, differing BIGINT, note STRING, status STRING"
)
DIFFERENCES_DDL = (
    "run STRING, at TIMESTAMP, query STRING, sink STRING, what STRING, key STRING, batches ARRAY<BIGINT>, "
    "offsets STRING, detail STRING"
)


@dataclass(frozen=True)
class Observed:
    """The state of one query before the archive is read: its generation, its newest batch, and its sinks' rows."""

    name: str
    generation: generation.Generation
    seen: int
    rows: Mapping[str, DataFrame]
    directories: Sequence[Directory] = ()  # those whose rows were read
    all_directories: Sequence[Directory] = ()


def run(job: Job, spec: ReconcileSpec) -> ReconcileReport:
    """Reconcile and return the report: one entry per query and sink, and one archive entry per topic.

    The job spec bounds it (`contract.job_files`).
    """
    began = time.monotonic()
    chosen = spec.queries
    wanted = {n: q for n, q in job.pipeline.queries.items() if chosen is None or n in chosen}
    job.progress(0, 1, "reading the sinks")
    scope = scope_.of_rows(job, spec)
    observed_by_query = {name: observe(job, name, query, scope.rows_ms[name]) for name, query in wanted.items()}
    with_batches = [observed for observed in observed_by_query.values() if observed]
    now = {query.name: _ledger(job, query.generation) for query in with_batches}
    topics = sorted(job.pipeline.sources)
    ends = _ends(now.values())
    archives = views.await_archives(job, topics, ends)
    accounts: list[Account] = []
    cuts = {query.name: cut_of(job, query, now[query.name], archives) for query in with_batches}
    scope_.widen(scope, job, wanted, {query.name: query.rows for query in with_batches}, cuts)
    since_ms, first = scope.archive_ms, scope.first
    records = {topic: archived.read(job, topic, archives[topic], since_ms, first.get(topic, {})) for topic in topics}
    steps = len(with_batches) + len(topics)
    for number, query in enumerate(with_batches):
        job.progress(number, steps, query.name)
        accounts += list(_compare(job, query, cuts[query.name], archives, records, scope))
        accounts += quarantined.compare(job, query.name, cuts[query.name], archives, scope.rows_ms[query.name])
    accounts += [_unwritten(job, name, archives) for name, observed in observed_by_query.items() if observed is None]
    for number, topic in enumerate(topics):
        job.progress(len(with_batches) + number, steps, f"archive of {topic}")
        accounts.append(_archive(job, topic, archives[topic], records[topic].typed, ends.get(topic, {}), scope))
    accounts += view_days.compare(job, wanted, archives, spec)
    at = datetime.fromtimestamp(spec.at_ms / 1000, UTC)
    for account in accounts:
        scope.note(account)
        account.judge()
    kept_results.keep_days(job, scope.even, at)
    if scope.keeps:
        kept_results.keep_rows(job, scope_.compared_rows(job, accounts, cuts, archives), at)
    _keep(job, accounts, at)
    job.progress(steps, steps, "done")
    return ReconcileReport(
        run=job.run,
        pipeline=job.pipeline.name,
        at_ms=spec.at_ms,
        differing=sum(account.differing for account in accounts),
        pending=sum(account.pending for account in accounts),
        accounts=tuple(accounts),
        seconds=round(time.monotonic() - began, 1),
    )


def observe(job: Job, name: str, query: Query, since_ms: int = 0) -> Observed | None:
    """Read a query's ledger, then its sinks into memory; None if it never wrote a batch.

    Of files only the directories of batches that began since `since_ms` (milliseconds since 1970) are read.
    """
    chosen = generation.current(job.root, job.pipeline.name, name)
    records = _ledger(job, chosen) if chosen else []
    if chosen is None or not records:
        return None
    rows = {}
    every = file_sink.directories(job.root, job.pipeline.name, name, chosen.number, chosen.lineage)
    first = bounds.first_batch(records, every, since_ms) if since_ms else 0
    directories = [directory for directory in every if directory.first >= first]
    for sink in query.sinks:
        frame = sink_frames.rows(job, name, query, sink, directories).persist(StorageLevel.MEMORY_AND_DISK)
        frame.count()
        rows[sink_frames.sink_name(job, name, sink)] = frame
    return Observed(name, chosen, records[-1]["batch"], rows, directories, every)


def cut_of(job: Job, observed: Observed, records: Sequence[BatchRecord], archives: Mapping[str, Archive]) -> Cut:
    """Return the newest batch whose records are all in the archive, and the newest one planned in the checkpoint."""
    inside = [r for r in records if all(_reached(archives.get(t), parts) for t, parts in r["offsets"].items())]
    planned = newest_batch(observed.generation.paths(job.root).checkpoint, "offsets")
    return Cut(observed.generation, inside, observed.seen, max(planned or 0, records[-1]["batch"]))


def _compare(
    job: Job, observed: Observed, cut: Cut, archives: Mapping[str, Archive], records: Mapping[str, archived.Records],
    scope: Scope,
) -> Iterator[Account]:  # fmt: skip
    query, spec = job.pipeline.queries[observed.name], scope.spec
    made_by = job.transforms[observed.name]
    transform = refusals.taken(made_by, job.pipeline, query)
    tolerance = Decimal(spec.tolerance)
    (first, *_) = query.sources
    with ExitStack() as stack:
        sides = {
            topic: stack.enter_context(accounting.persisted(archived.placed(job, records[topic], cut)))
            for topic in query.sources
        }
        for sink in query.sinks:
            where = sink_frames.sink_name(job, observed.name, sink)
            account = Account(observed.name, where, scope_.kind_of(query), observed.generation.number, cut.batch)
            speed = observed.rows[where]
            if not cut.certain:
                account.block("the archive has not reached any of its batches yet: nothing could be compared")
            elif account.kind == "windows":
                speed = scope_.with_age(query, sink, speed, observed.generation)
                kinds.windows(account, query, transform, sides[first], speed, cut, scope.late[where], tolerance)
            elif account.kind == "running totals" and spec.since_ms:
                account.exempt, account.note = True, "a total covers all days: not compared with a limit on days"
            elif account.kind == "running totals":
                speed = scope_.with_age(query, sink, speed, observed.generation)
                account = _compare_totals(job, account, sink, made_by, sides[first], speed, cut, scope, archives)
            elif account.kind == "joined rows":
                times = {topic: views.time_of(job.pipeline.sources[topic]) for topic in query.sources}
                cassandra, late = isinstance(sink, CassandraSink), scope.late[where]
                speed = scope_.with_age(query, sink, speed, observed.generation)
                kinds.joined(account, query, transform, sides, times, speed, cut, late, milliseconds=cassandra)
            elif account.kind == "rows":
                # A row of a table may be changed at any time, so only a limit on days leaves rows out.
                since_ms = spec.since_ms if isinstance(sink, CassandraSink) else scope.rows_ms[observed.name]
                _compare_rows(job, query, sink, account, transform, sides[first], observed, cut, since_ms)
            elif account.kind == "lookups" and isinstance(sink, CassandraSink) and sink.writetime != "batch":
                lookups.compare(job, query, sink, account, sides[first], speed, cut, spec.since_ms)
            else:
                account.exempt = True
                account.note = f"{account.kind} keep no past state to compare with: not compared"
            yield account


def _compare_rows(
    job: Job, query: Query, sink: Sink, account: Account, transform: Transform, records: DataFrame, observed: Observed,
    cut: Cut, since_ms: int,
) -> None:  # fmt: skip
    """Compare single rows with a sink."""
    speed = observed.rows[account.sink]
    match sink:
        case KafkaSink():
            kept = bounds.begun_since(cut.certain, max(since_ms, retained.since_ms(job, sink.topic, speed)))
            if not kept:
                account.note = f"{sink.topic} has no batch of that time: retention deleted it, or there was none"
            elif sink.identity == "source":
                sent = sink_frames.placed_by_id(speed, query.sources[0])
                single_rows.in_topic(account, query, transform(records), sent, kept)
            else:
                made = single_rows.placed(transform, records, [kept])
                single_rows.by_identity(account, query, sink, made, speed, kept, observed.generation.number)
        case FilesSink():
            low = bounds.first_batch(cut.certain, observed.all_directories, since_ms) if since_ms else 0
            kept = [record for record in cut.certain if record["batch"] >= low]
            if kept:
                made, directories = single_rows.placed(transform, records, [kept]), observed.directories
                if SOURCE not in made.columns:
                    speed, directories = single_rows.as_one(speed, kept, directories)
                single_rows.in_files(account, query, made, speed, kept, directories)
            else:
                account.note = "no batch of that time"
        case CassandraSink():
            left, kept = time_to_live.left_since(sink, cut), bounds.begun_since(cut.certain, since_ms)
            if kept:
                portions = [r for r in kept if r["batch"] < left], [r for r in kept if r["batch"] >= left]
                made = single_rows.placed(transform, records, portions)
                newest_cells.compare(account, query, sink, made, speed, left_since=left, complete=not since_ms)
        case _:
            assert_never(sink)


def _compare_totals(
    job: Job, account: Account, sink: Sink, transform: Transform, records: DataFrame, speed: DataFrame, cut: Cut,
    scope: Scope, archives: Mapping[str, Archive],
) -> Account:  # fmt: skip
    """Compare running totals with those that an earlier run kept and the records since, or with all records.

    If they differ from the kept ones all records are read, so that the account names batches and offsets. Totals that no sink
    takes are left out once all parts are added: a part of such a total may be one that a sink would take.
    """
    query, tolerance = job.pipeline.queries[account.query], Decimal(scope.spec.tolerance)
    accepted = partial(refusals.accepted, pipeline=job.pipeline, query=query)
    alive = time_to_live.keys_left(query, sink, transform, records, cut)

    def compared(account: Account, records: DataFrame, before: Totals | None) -> Account:
        def settled(due: DataFrame) -> DataFrame:
            return kept_results.added(query, before.rows, due) if before else due

        known = records.where(F.col(accounting.BATCH) <= cut.seen)
        with accounting.persisted(settled(transform(known))) as newest:
            kinds.running(
                account, query, transform, records, speed, cut, tolerance, lambda due: accepted(settled(due)), alive,
                accepted(newest),
            )  # fmt: skip
            equal = not account.differing and not account.blocked
            others = kept_results.others(query)
            if scope.keeps and equal and (before or views.are_sums(query, known, transform, newest, others)):
                kept_results.keep_totals(job, account.query, query, newest, cut)
        return account

    earlier = scope.totals.get(account.query)
    if earlier is not None:
        since = records.where(F.col(accounting.BATCH) > earlier.batch)
        account_since = compared(replace(account, differences=[]), since, earlier)
        if not account_since.differing:
            return account_since
        (topic,) = query.sources
        records = archived.placed(job, archived.read(job, topic, archives[topic]), cut)
    return compared(account, records, None)


def _unwritten(job: Job, name: str, archives: Mapping[str, Archive]) -> Account:
    """Account for a query that has written no batch: it should have, if there are records in the archive."""
    query = job.pipeline.queries[name]
    account = Account(name, sink_frames.sink_name(job, name, query.sinks[0]), scope_.kind_of(query))
    account.note = "it has written no batch yet"
    account.blocked = any(archives[topic].partitions for topic in query.sources)
    return account


def _archive(job: Job, topic: str, pinned: Archive, typed: DataFrame, ends: Mapping[str, int], scope: Scope) -> Account:
    """Account for a topic; `ends` is how far its queries have read.

    A refused record becomes a dead letter first and is archived afterwards, so the letters are read last.
    """
    account = Account(names.archive_query(topic), f"topic {names.dead_letter_topic(topic)}", "archive")
    chosen = generation.current(job.root, job.pipeline.name, account.query)
    account.generation = chosen.number if chosen else 0
    if pinned.snapshot is None:
        account.note, account.blocked = "nothing is archived yet", any(ends.values())
        return account
    with accounting.persisted(sink_frames.topic(job, names.dead_letter_topic(topic))) as letters:
        letters.count()
        # Records that a query refused were accepted by the contract, so they are not part of this account.
        by_contract = letters.where(~refusals.by_a_query(F.coalesce(F.col("_reason"), F.lit(""))))
        placed = sink_frames.placed_by_id(by_contract, topic)
        since = max(scope.spec.since_ms, retained.since_ms(job, names.dead_letter_topic(topic), letters))
        decoded = None if scope.archive_ms else typed.count()
        rows = archive_reader.records(job.spark, pinned)
        lost = archive_reader.losses(job.spark, pinned, job.root)
        single_rows.archive(account, pinned, rows, placed, since, decoded, lost, scope.ends.get(account.query, {}))
    return account


def _ledger(job: Job, chosen: generation.Generation) -> list[BatchRecord]:
    return ledger.read(chosen.paths(job.root).ledger)


def _ends(ledgers: Any) -> dict[str, dict[str, int]]:  # noqa: ANN401 - an iterable of ledgers
    """Return the highest end of each topic partition over all ledgers."""
    ends: dict[str, dict[str, int]] = {}
    for records in ledgers:
        for topic, parts in records[-1]["offsets"].items():
            for partition, (_, end) in parts.items():
                known = ends.setdefault(topic, {})
                known[partition] = max(known.get(partition, 0), end)
    return ends


def _reached(pinned: Archive | None, parts: Mapping[str, Sequence[int]]) -> bool:
    return pinned is not None and pinned.covers({partition: end for partition, (_, end) in parts.items()})


def _keep(job: Job, accounts: Sequence[Account], at: datetime) -> None:
    """Write the run into the two report tables; a repeated run replaces its earlier rows."""
    summary = [
        (job.run, at, a.query, a.sink, a.kind, a.generation, a.cut, _moment(a.closed_ms), a.compared, a.late, a.pending,
         a.differing, a.note, a.status)
        for a in accounts
    ]  # fmt: skip
    rest = ("what", "key", "batches", "offsets")
    named = [
        (job.run, at, a.query, a.sink, d.what, _json(d.key), list(d.batches), _json(d.offsets),
         _json({name: value for name, value in to_json(d).items() if name not in rest}))
        for a in accounts
        for d in a.differences
    ]  # fmt: skip
    for kind, ddl, rows in (("runs", RUNS_DDL, summary), ("differences", DIFFERENCES_DDL, named)):
        kept_results.replace_rows(job, kind, ddl, "run", [job.run], rows)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
