"""From where on a run compares: everything, some days, or what no earlier run compared (ADR 0015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import assert_never

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.batch.reconcile import bounds, kept_results, kinds, quarantined, retained, sink_frames, time_to_live
from headrace.batch.reconcile.bounds import Firsts
from headrace.batch.reconcile.kept_results import DAY_MS, Days, Rows, Totals
from headrace.batch.reconcile.kinds import Cut
from headrace.contract import names
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Query, Sink
from headrace.store import generation, ledger
from headrace.store.job_reports import Account

NEW_ROWS_DAYS = 2
"""A run of what is new compares the single rows of batches of this number of days, and of all that no run compared."""


@dataclass
class Scope:
    """What one run compares. `late`: sink -> event time from which its windows or joined rows are compared (milliseconds).

    `rows_ms`: query -> single rows of batches that began since then (milliseconds; 0: all). `ends`: archive query -> offsets
    before which an earlier run compared the dead letters. `archive_ms` and `first`: which archive records the run needs.
    `days` and `totals`: what earlier runs compared. `even`: what this run may keep of the days.
    """

    spec: ReconcileSpec
    rows_ms: dict[str, int]
    ends: dict[str, Mapping[str, int]] = field(default_factory=dict)
    archive_ms: int = 0
    first: Firsts = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    days: dict[str, Days] = field(default_factory=dict)
    totals: dict[str, Totals] = field(default_factory=dict)
    even: list[Days] = field(default_factory=list)

    @property
    def keeps(self) -> bool:
        """Return whether the run uses and keeps results."""
        return self.spec.only_new and self.spec.tolerance == "0"

    def note(self, account: Account) -> None:
        """Count the rows of closed days that are as an earlier run compared them, and keep the days of a sink that matches."""
        days = self.days.get(f"{account.query} {account.sink}")
        if days is None or account.blocked or account.differing:
            return
        self.even.append(days)
        if days.known:
            account.compared += days.known_rows
            known = f"{days.known_rows} rows of {days.known} closed days are as an earlier run compared them"
            account.note = account.note or known


def of_rows(job: Job, spec: ReconcileSpec) -> Scope:
    """Return the scope of a run as far as it is known before the sinks are read: that of single rows and dead letters."""
    archives = [names.archive_query(topic) for topic in job.pipeline.sources]
    if not spec.only_new:
        return Scope(spec, dict.fromkeys([*job.pipeline.queries, *archives], spec.since_ms))
    kept, recent = kept_results.rows_of(job), max(0, spec.at_ms - NEW_ROWS_DAYS * DAY_MS)
    scope = Scope(spec, {})
    for name in (*job.pipeline.queries, *archives):
        now = generation.current(job.root, job.pipeline.name, name)
        done = kept.get((name, now.number), Rows()) if now else Rows()
        scope.rows_ms[name] = min(recent, done.began_ms)
        if now and done.ends:
            batches = bounds.first_offsets([ledger.read(now.paths(job.root).ledger)], recent)
            begun = batches.get(names.archived_topic(job.pipeline, name), {})
            scope.ends[name] = {part: min(end, begun.get(int(part), end)) for part, end in done.ends.items()}
    return scope


def widen(
    scope: Scope, job: Job, wanted: Mapping[str, Query], rows: Mapping[str, Mapping[str, DataFrame]],
    cuts: Mapping[str, Cut],
) -> None:  # fmt: skip
    """Complete the scope of a run. `rows`: query -> sink's name -> its rows as read; `cuts`: for each of these queries."""
    spec = scope.spec
    kept = kept_results.read(job) if scope.keeps else None
    needed = [scope.rows_ms[name] for name in rows if kind_of(wanted[name]) == "rows"]
    since: Firsts = {}
    for name, by_sink in rows.items():
        query, cut, kind = wanted[name], cuts[name], kind_of(wanted[name])
        if kind in ("windows", "joined rows"):
            for sink in query.sinks:
                where = sink_frames.sink_name(job, name, sink)
                late = complete_since(job, sink, by_sink[where], spec.since_ms)
                if scope.keeps and cut.certain:
                    account = f"{name} {where}"
                    aged = with_age(query, sink, by_sink[where], cut.generation)
                    scope.days[account] = kept_results.days_of(kept, account, query, aged, cut, late)
                    needed.append(scope.days[account].since_ms)
                    late = max(late, scope.days[account].since_ms)
                scope.late[where] = late
        elif kind == "running totals" and scope.keeps:
            totals = kept_results.totals_of(job, name, query, cut)
            if totals is None:
                needed.append(0)
            else:
                scope.totals[name] = totals
                left = [time_to_live.left_since(s, cut) for s in query.sinks if time_to_live.left_since_ms(s)]
                first = min([totals.batch + 1, *left])
                _widen(since, bounds.first_offsets([[r for r in cut.ledger if r["batch"] >= first]], 0))
        elif kind == "lookups" or (kind == "rows" and any(isinstance(sink, CassandraSink) for sink in query.sinks)):
            needed.append(0)  # a row of a table may be changed at any time, and has no batch
    scope.archive_ms = min(needed, default=spec.at_ms) if scope.keeps else spec.since_ms
    for name in rows:
        if kind_of(wanted[name]) == "rows":
            _widen(since, bounds.first_offsets([cuts[name].ledger], scope.rows_ms[name]))
    scope.first = since


def compared_rows(
    job: Job, accounts: Sequence[Account], cuts: Mapping[str, Cut], archives: Mapping[str, Archive]
) -> dict[tuple[str, int], Rows]:
    """Return how far this run compared the single rows of each query and the dead letters of each archive that match."""
    single = [account for account in accounts if account.kind in ("rows", quarantined.KIND, "archive")]
    uneven = {account.query for account in single if account.differing or account.blocked}
    compared = {}
    for account in (account for account in single if account.query not in uneven):
        cut = cuts.get(account.query)
        if cut and cut.certain:
            compared[account.query, account.generation] = Rows(cut.certain[-1]["began_ms"])
        elif account.kind == "archive":
            archive = archives[names.archived_topic(job.pipeline, account.query)]
            compared[account.query, account.generation] = Rows(ends=archive.ends)
    return compared


def kind_of(query: Query) -> str:
    """Return which identity a query is compared by."""
    if query.dimensions:
        return "lookups" if query.matched else "lookups without a matched column"
    if query.join:
        return "joined rows"
    if query.aggregate:
        if query.aggregate.window:
            return "windows" if query.watermark and query.mode != "complete" else "open windows"
        return "running totals"
    return "rows"


def with_age(query: Query, sink: Sink, rows: DataFrame, now: generation.Generation) -> DataFrame:
    """Return the sink's rows with OLD, whether an earlier generation wrote them; for a topic the newest record per id."""
    match sink:
        case KafkaSink():
            records = sink_frames.rows_of(rows, query, sink)
            old = F.coalesce(F.col(sink_frames.GENERATION), F.lit(0)) < now.number
            return records.withColumn(kinds.OLD, old).select(*query.columns, kinds.OLD)
        case CassandraSink() | FilesSink():
            return rows.withColumn(kinds.OLD, F.coalesce(F.col(sink_frames.WRITTEN), F.lit(0)) < now.started_micros)
        case _:
            assert_never(sink)


def complete_since(job: Job, sink: Sink, rows: DataFrame, since_ms: int) -> int:
    """Return the event time from which a sink is complete: retention and ttl delete rows according to their write time.

    That may be before the event time, by the accepted skew.
    """
    skews = [source.event_time.accepted_skew for source in job.pipeline.sources.values() if source.event_time]
    skew_ms = max(skews, default=timedelta(0)) // timedelta(milliseconds=1)
    match sink:
        case KafkaSink():
            kept = retained.since_ms(job, sink.topic, rows)
            return max(since_ms, kept and kept + skew_ms)
        case CassandraSink():
            left = time_to_live.left_since_ms(sink)
            return max(since_ms, left and left + skew_ms)
        case FilesSink():
            return since_ms
        case _:
            assert_never(sink)


def _widen(firsts: Firsts, more: Firsts) -> None:
    for topic, parts in more.items():
        known = firsts.setdefault(topic, {})
        for partition, offset in parts.items():
            known[partition] = min(offset, known.get(partition, offset))
