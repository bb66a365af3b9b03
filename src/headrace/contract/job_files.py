"""The job specs of finite Spark runs: order.json in the run's folder, one type for each kind of job. The rules of `records` hold.

A planner writes the spec, `spark_jobs/batch.py` reads it: a job that was approved is the one that runs, and a run that is
repeated does the same again. Times are milliseconds since 1970; offsets are those of the next record to read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Duty = Literal["views", "reconcile", "rebuild", "drill", "find", "upkeep"]

Ends = dict[str, dict[str, int]]
"""topic -> partition (text, as JSON has it) -> offset of the next record to read."""


@dataclass(frozen=True)
class JobSpec:
    """What every job spec has: when it was written."""

    given_ms: int = 0


@dataclass(frozen=True)
class ViewsSpec(JobSpec):
    """Compute days of all batch views of a pipeline.

    `closed_until`: the first day (ISO) that is not closed. `ends`: what the archive must have reached; `begins`: the first
    offsets that Kafka holds. `days`: ISO days to compute again; None: those that are new, touched or stale.
    """

    closed_until: str = ""
    begins: Ends = field(default_factory=dict)
    ends: Ends = field(default_factory=dict)
    days: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ReconcileSpec(JobSpec):
    """Compare the sinks with the archive.

    `queries`: short names; None: all. `since_ms`: windows, joined rows and batches of single rows that began before are left
    out, and so are running totals; 0: all. `tolerance`: a decimal, by how much a sum may differ. `only_new`: closed days and
    totals that an earlier run compared are not compared with the archive again, unless the sink's rows have changed.
    """

    queries: tuple[str, ...] | None = None
    since_ms: int = 0
    tolerance: str = "0"
    at_ms: int = 0
    only_new: bool = False


@dataclass(frozen=True)
class RebuildSpec(JobSpec):
    """Rebuild a query from the archive as generation `number`.

    `first`: where Kafka begins, for partitions that the archive lacks. `rows_each`: archived records per batch.
    """

    query: str = ""
    number: int = 0
    started_micros: int = 0
    first: Ends = field(default_factory=dict)
    rows_each: int = 1_000_000
    reason: str = ""
    by: str = ""
    at_ms: int = 0


@dataclass(frozen=True)
class DrillSpec(JobSpec):
    """Restore a snapshot ("": the newest) in a scratch folder and run its next batch."""

    query: str = ""
    snapshot: str = ""


@dataclass(frozen=True)
class FindSpec(JobSpec):
    """Find the records on which a query's transform fails, among those of its planned batch: [starts, ends).

    The search ends after `limit` records.
    """

    query: str = ""
    batch: int = 0
    starts: Ends = field(default_factory=dict)
    ends: Ends = field(default_factory=dict)
    limit: int = 20


@dataclass(frozen=True)
class UpkeepSpec(JobSpec):
    """Remove files of the pipeline's Iceberg tables that belong to no snapshot and are older than `orphan_days`.

    It must be longer than any write takes: until a write ends, its files belong to no snapshot.
    """

    orphan_days: float = 3.0


SPECS: dict[str, type[JobSpec]] = {
    "views": ViewsSpec,
    "reconcile": ReconcileSpec,
    "rebuild": RebuildSpec,
    "drill": DrillSpec,
    "find": FindSpec,
    "upkeep": UpkeepSpec,
}


@dataclass(frozen=True)
class JobProgress:
    """progress.json: how far a run is."""

    done: int = 0
    of: int = 0
    stage: str = ""
    at_ms: int = 0
