"""Find a batch that hangs outside of Spark's jobs: it runs and runs, and no job of its query does.

Seen with Cassandra killed under load, before batches waited for it (ADR 0025): the connector refreshes the schema before
each write, and the Java driver waits for that without a limit. Such a query neither ends nor goes on, so the driver must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyspark import StatusTracker

from headrace.streaming.queries import Running

STUCK_SECONDS = 180.0
"""Far beyond what a batch does between two jobs: an Iceberg commit, a ledger record; waits for Cassandra (`link`) end before."""


@dataclass
class StuckBatches:
    """Remembers since when each query's batch has had no job; seconds of the monotonic clock."""

    tracker: StatusTracker
    _idle: dict[str, tuple[int, float]] = field(default_factory=dict)

    def find(self, running: Sequence[Running], now: float) -> list[Running]:
        """Return the queries whose batch has run without a job for `STUCK_SECONDS`. To be called every few seconds."""
        return [each for each in running if self._idle_seconds(each, now) > STUCK_SECONDS]

    def _idle_seconds(self, each: Running, now: float) -> float:
        batch = each.counters.running_batch
        if batch is None or self._has_job(each):
            self._idle.pop(each.name, None)
            return 0.0
        known, since = self._idle.get(each.name, (batch, now))
        if known != batch:
            since = now
        self._idle[each.name] = (batch, since)
        return now - since

    def _has_job(self, each: Running) -> bool:
        """Return whether Spark runs a job of the query; a query's run id is its job group."""
        jobs = (self.tracker.getJobInfo(job) for job in self.tracker.getJobIdsForGroup(str(each.query.runId)))
        return any(job is not None and job.status == "RUNNING" for job in jobs)
