"""From where on a run compares: everything, some days, or what no earlier run compared (ADR 0015)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch.finite_job import Job
from headrace.batch.reconcile import bounds, kept_results, kinds, retained, sink_frames
from headrace.batch.reconcile.bounds import Firsts
from headrace.batch.reconcile.kept_results import DAY_MS, Days, Totals
from headrace.batch.reconcile.kinds import Cut
from headrace.contract.job_files import ReconcileSpec
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Query, Sink
from headrace.store import generation
from headrace.store.job_reports import Account

NEW_ROWS_DAYS = 2
"""A run of what is new compares the single rows of batches that began within this number of days."""


@dataclass
class Scope:
    """What one run compares. `late`: sink -> event time from which its windows or joined rows are compared (milliseconds).

    `rows_ms`: single rows of batches that began since then. `archive_ms` and `first`: which archive records the run needs.
    `days` and `totals`: what earlier runs compared. `even`: what this run may keep of the days.
    """

    spec: ReconcileSpec
    rows_ms: int
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
        """Note the closed days of a sink that was compared and matches; the account says how many were known already."""
        days = self.days.get(f"{account.query} {account.sink}")
        if days and account.compared and not account.differing:
            self.even.append(days)
            if days.known and not account.note:
                account.note = (
                    f"{days.known} closed days before have the rows that earlier runs compared with the archive"
                )


def of(
    job: Job, spec: ReconcileSpec, wanted: Mapping[str, Query], rows: Mapping[str, Mapping[str, DataFrame]],
    cuts: Mapping[str, Cut],
) -> Scope:  # fmt: skip
    """Return the scope of a run. `rows`: query -> sink's name -> its rows as read; `cuts`: for each of these queries."""
    scope = Scope(spec, rows_ms(spec))
    kept = kept_results.read(job) if scope.keeps else None
    needed = [scope.rows_ms]
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
                _widen(since, bounds.first_offsets([[r for r in cut.ledger if r["batch"] > totals.batch]], 0))
        elif kind == "lookups":
            needed.append(0)
    scope.archive_ms = min(needed) if scope.keeps else spec.since_ms
    single = [cuts[name].ledger for name in rows if kind_of(wanted[name]) == "rows"]
    _widen(since, bounds.first_offsets(single, scope.rows_ms))
    scope.first = since
    return scope


def rows_ms(spec: ReconcileSpec) -> int:
    """Return the time since which batches of single rows are compared; 0: all."""
    return max(0, spec.at_ms - NEW_ROWS_DAYS * DAY_MS) if spec.only_new else spec.since_ms


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
    if not isinstance(sink, KafkaSink):
        return rows.withColumn(kinds.OLD, F.coalesce(F.col(sink_frames.WRITTEN), F.lit(0)) < now.started_micros)
    records = sink_frames.rows_of(rows, query, sink)
    old = F.coalesce(F.col(sink_frames.GENERATION), F.lit(0)) < now.number
    return records.withColumn(kinds.OLD, old).select(*query.columns, kinds.OLD)


def complete_since(job: Job, sink: Sink, rows: DataFrame, since_ms: int) -> int:
    """Return the event time from which a sink is complete: retention and ttl delete older rows."""
    match sink:
        case KafkaSink():
            kept = retained.since_ms(job, sink.topic, rows)
            skews = [s.event_time.accepted_skew for s in job.pipeline.sources.values() if s.event_time]
            return max(since_ms, kept and kept + int(max(skews).total_seconds() * 1000))
        case CassandraSink():
            gone = sink.ttl and int((time.time() - sink.ttl.total_seconds()) * 1000)
            return max(since_ms, gone or 0)
        case FilesSink():
            return since_ms
        case _:
            assert_never(sink)


def _widen(firsts: Firsts, more: Firsts) -> None:
    for topic, parts in more.items():
        known = firsts.setdefault(topic, {})
        for partition, offset in parts.items():
            known[partition] = min(offset, known.get(partition, offset))
