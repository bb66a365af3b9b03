"""The steps of a refresh, in order, as functions whose arguments and results are dataclasses.

pick, stage, check, plan, (approval if the difference needs it), apply, verify, record. `prepare` runs them up to the plan (ADR
48), `refresh` all of them.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.contract.names import stage_name
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.deployment import Deployment
from headrace.operations.dimensions.documents import RefreshRecord, Staged
from headrace.operations.dimensions.kept import history, remove_old, rows_before
from headrace.operations.dimensions.snapshot import DirectorySnapshot, applied, in_drop, settings
from headrace.operations.dimensions.snapshot import pick as pick_snapshot
from headrace.operations.lineage import run_events
from headrace.operations.plans import Approval, Plan

if TYPE_CHECKING:
    from headrace.operations.dimensions.diff import DirectoryDifference
    from headrace.operations.quality.summary import Summary


def dimensions(deployment: Deployment) -> list[tuple[str, str]]:
    """Return (pipeline, dimension) of every dimension with a refresh."""
    return [
        (pipeline.name, name)
        for pipeline in deployment.pipelines().values()
        for name, dimension in pipeline.dimensions.items()
        if dimension.refresh
    ]


def pick(deployment: Deployment, pipeline: str, dimension: str) -> DirectorySnapshot | str:
    """Return the snapshot to refresh from, or the reason if none is newer than the applied one.

    First removes staged rows that are older than the dimension's `keep`.
    """
    remove_old(deployment.root, deployment.pipeline(pipeline), dimension)
    return pick_snapshot(deployment.root, deployment.pipeline(pipeline), dimension)


def stage(deployment: Deployment, pipeline: str, dimension: str, snapshot: DirectorySnapshot) -> Staged:
    """Read the snapshot into the stage. Raises HeadraceError for an invalid snapshot."""
    from headrace.operations.dimensions import stage as stages

    spec = deployment.pipeline(pipeline)
    staged = stages.stage(deployment.root, deployment.bindings, spec, dimension, snapshot)
    run_events.emit_refresh(deployment, pipeline, dimension, staged.version, "START")
    return staged


def check(deployment: Deployment, pipeline: str, dimension: str, staged: Staged) -> Summary:
    """Run the stage's suite. Returns its summary; raises HeadraceError if a critical expectation failed."""
    from headrace.operations.dimensions import live
    from headrace.operations.dimensions.stage import read_parquet
    from headrace.operations.quality import store
    from headrace.operations.quality.plan import Check
    from headrace.operations.quality.suites import suite_of
    from headrace.operations.quality.summary import Summary, failures, gate, status_of
    from headrace.operations.quality.validate import validate
    from headrace.operations.quality.windows import StageVersion

    spec, name = deployment.pipeline(pipeline), stage_name(pipeline, dimension)
    before = rows_before(history(deployment.root, pipeline, dimension))
    before = before or applied(deployment.root, pipeline, dimension).rows
    before = before or sum(1 for _ in live.read(deployment.bindings, spec, dimension))
    least = math.ceil(before * settings(spec, dimension).min_rows_percent / 100)
    key = tuple(spec.dimensions[dimension].key)
    frame = read_parquet(staged.stage).to_pandas()
    window = StageVersion(name=f"version {staged.version}", version=staged.version)
    parameters: dict[str, float] = {"rows_min": max(1, least), "now_ms": staged.extract_ms}
    task = Check(name, pipeline, dimension, window, parameters)
    outcomes, result = validate(suite_of(spec, name), frame, key, task.parameters)
    rows = store.quarantine_rows(task, outcomes, key)
    summary = Summary(
        sink=name,
        pipeline=pipeline,
        query=dimension,
        status=status_of(outcomes),
        window=window,
        checked_at_ms=staged.extract_ms,
        rows=len(frame),
        expectations=len(outcomes),
        quarantined=len(rows),
        failed=failures(outcomes),
        report=store.report_path(deployment.root, task),
    )
    store.record(deployment.bindings, summary, rows)
    store.write_report(deployment.root, summary, result)
    with run_events.refreshing(deployment, pipeline, dimension, staged.version):
        gate(summary)
    return summary


def plan(deployment: Deployment, pipeline: str, dimension: str, staged: Staged) -> DirectoryDifference:
    """Compare the stage with the table. Returns what a refresh would write."""
    from headrace.operations.dimensions.diff import diff

    spec = deployment.pipeline(pipeline)
    with run_events.refreshing(deployment, pipeline, dimension, staged.version):
        return diff(deployment.root, deployment.bindings, spec, dimension, staged)


def apply(
    deployment: Deployment,
    pipeline: str,
    dimension: str,
    difference: DirectoryDifference,
    approval: Approval,
    *,
    holder: str,
    report: Any = None,  # noqa: ANN401 - an apply.Report
) -> dict[str, int]:
    """Check the plan again and write it; returns {"upserted", "deleted"}. Repeating it after a failure writes the same.

    `holder` identifies the run: no other one may write the dimension until `record`.
    """
    from headrace.operations.dimensions import apply as writes

    target = (deployment.root, deployment.bindings, deployment.pipeline(pipeline), dimension)
    with run_events.refreshing(deployment, pipeline, dimension, difference.version):
        return writes.apply(*target, difference, approval, holder=holder, report=report)


def verify(
    deployment: Deployment, pipeline: str, dimension: str, staged: Staged, *, holder: str, by: str
) -> dict[str, int]:
    """Compare the table with the stage again; returns {"rows", "newer"}. Raises HeadraceError if they differ."""
    from headrace.operations.dimensions import apply as writes

    spec = deployment.pipeline(pipeline)
    with run_events.refreshing(deployment, pipeline, dimension, staged.version):
        return writes.verify(deployment.root, deployment.bindings, spec, dimension, staged, holder=holder, by=by)


def record(
    deployment: Deployment,
    pipeline: str,
    dimension: str,
    staged: Staged,
    difference: DirectoryDifference,
    written: Mapping[str, int],
    approval: Approval,
    *,
    holder: str,
) -> RefreshRecord:
    """Record the version as applied, release the lease, and return the record."""
    from headrace.operations.dimensions import apply as writes

    target = (deployment.root, deployment.bindings, deployment.pipeline(pipeline), dimension, staged)
    entry = writes.record(*target, difference, dict(written), approval, holder=holder)
    run_events.emit_refresh(deployment, pipeline, dimension, entry.version, "COMPLETE", rows=sum(written.values()))
    return entry


@dataclass(frozen=True)
class Prepared:
    """A refresh before its first write. Without a snapshot to refresh from, the plan has no items, and a note says why."""

    plan: Plan
    staged: Staged | None = None
    difference: DirectoryDifference | None = None


def prepare(deployment: Deployment, pipeline: str, dimension: str) -> Prepared:
    """Pick, stage, check and compare, for the command line. Writes nothing to the table."""
    snapshot = pick(deployment, pipeline, dimension)
    if isinstance(snapshot, str):
        return Prepared(Plan("refresh", f"{pipeline}.{dimension}", (), notes=(snapshot,)))
    staged = stage(deployment, pipeline, dimension, snapshot)
    check(deployment, pipeline, dimension, staged)
    difference = plan(deployment, pipeline, dimension, staged)
    return Prepared(difference.plan(f"{pipeline}.{dimension}"), staged, difference)


def refresh(
    deployment: Deployment,
    pipeline: str,
    dimension: str,
    approval: Approval,
    *,
    report: Any = None,  # noqa: ANN401 - an apply.Report
) -> RefreshRecord:
    """Run all steps in order, for the command line, and return the record. Raises HeadraceError if the plan has changed."""
    prepared = prepare(deployment, pipeline, dimension)
    plans.require(prepared.plan, approval.plan)
    staged, difference = prepared.staged, prepared.difference
    if staged is None or difference is None:
        raise HeadraceError(" ".join(prepared.plan.notes))
    holder = f"command {uuid.uuid4().hex}"
    try:
        written = apply(deployment, pipeline, dimension, difference, approval, holder=holder, report=report)
        verify(deployment, pipeline, dimension, staged, holder=holder, by=approval.by)
        return record(deployment, pipeline, dimension, staged, difference, written, approval, holder=holder)
    except BaseException:  # this process ends, so nothing else would use its lease
        from cassandra import DriverException

        from headrace.operations.dimensions.apply import release

        with suppress(HeadraceError, DriverException):  # the first error matters more; the lease expires by itself
            release(deployment.bindings, pipeline, dimension, holder)
        raise


@dataclass(frozen=True)
class RefreshStatus:
    """The newest applied version, the complete snapshots in the drop folder, and those still being written."""

    applied: RefreshRecord
    complete: tuple[str, ...]
    unfinished: tuple[str, ...]


def status(deployment: Deployment, pipeline: str, dimension: str) -> RefreshStatus:
    """Return the state of a dimension's refreshes."""
    complete, waiting = in_drop(deployment.root, pipeline, dimension)
    record = applied(deployment.root, pipeline, dimension)
    return RefreshStatus(record, tuple(snapshot.place for snapshot in complete), tuple(waiting))
