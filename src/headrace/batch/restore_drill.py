"""The restore drill: proves that Spark can continue from a snapshot.

In a scratch folder, it copies the snapshot's checkpoint and verifies each hash. Then the query's plan runs the batch
after the cut, over exactly the offsets that the log or ledger of the stream has for it. Its rows go to a scratch folder,
never to a sink; no ledger, consumer group or checkpoint of the stream is written. The result is compared with what the
stream wrote.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from headrace.access.bindings import read_kafka
from headrace.batch import accounting
from headrace.batch.finite_job import Job
from headrace.contract import names
from headrace.contract.job_files import DrillSpec
from headrace.contract.model import FilesSink
from headrace.driver import lookup_keys, queries, refusals, sinks, writer
from headrace.driver.consumer_groups import GroupCommitter
from headrace.driver.error_causes import reason_of
from headrace.errors import HeadraceError
from headrace.store import checkpoint_log, file_sink, generation, ledger, paths, quarantine, small_files, trees
from headrace.store import snapshot as kept
from headrace.store.checkpoint_log import Offsets
from headrace.store.job_reports import DrillReport
from headrace.store.snapshot import Snapshot

TIMEOUT_SECONDS = 600.0
OFFSETS_EACH = 20_000
"""Maximum offsets per partition if the stream has not planned the batch yet."""


@dataclass
class DrillOutcome:
    """The result of the drilled batch, counted inside foreachBatch."""

    rows_out: int | None = None


@dataclass(frozen=True)
class Drill:
    """One drill: its folders, and what it may compare with."""

    spark: SparkSession
    chosen: Snapshot
    scratch: str
    recorded: ledger.BatchRecord | None
    outcome: DrillOutcome = field(default_factory=DrillOutcome)


def run(job: Job, spec: DrillSpec) -> DrillReport:
    """Drill the snapshot that the job spec names (query, snapshot; "" is the newest) and return the report.

    Raises HeadraceError if the
    snapshot is damaged or Spark cannot continue from it.
    """
    began = time.monotonic()
    pipeline, query = job.pipeline.name, spec.query
    chosen = _choose(job.root, pipeline, query, spec.snapshot)
    scratch = paths.scratch(job.root, f"drill-{uuid.uuid4().hex}")
    try:
        kafka = read_kafka(job.bindings)
        groups = GroupCommitter(job.spark, kafka)
        try:
            drill = _prepare(job, chosen, scratch, groups)
            driver = queries.DriverContext(
                job.spark, job.pipeline, job.transforms, job.root, kafka, groups, writer.Gate()
            )
            progress = _run_batch(drill, driver)
        finally:
            groups.close()
        result = _compare(drill, job, progress)
    finally:
        trees.remove(scratch)
    return replace(result, seconds=round(time.monotonic() - began, 1))


def _choose(root: str, pipeline: str, query: str, snapshot: str) -> Snapshot:
    name = names.query_name(pipeline, query)
    known = kept.listed(root, pipeline, query)
    matching = [candidate for candidate in known if snapshot in ("", candidate.id)]
    if not matching:
        raise HeadraceError(f"{name} has no snapshot {snapshot}. Take one with `headrace checkpoint snapshot {name}`.")
    wrong = kept.damaged(root, matching[-1])
    if wrong:
        raise HeadraceError(
            f"Snapshot {matching[-1].id} of {name} is damaged: {wrong[0]} has another hash. Take a new one."
        )
    return matching[-1]


def _prepare(job: Job, chosen: Snapshot, scratch: str, groups: GroupCommitter) -> Drill:
    """Copy the snapshot's checkpoint and plan the batch after its cut."""
    source, folder = chosen.paths(job.root), f"{scratch}/copy"
    for path in trees.files(source.checkpoint):
        trees.copy(f"{source.checkpoint}/{path}", f"{folder}/{path}")
    old = paths.generation_paths(job.root, chosen.pipeline, chosen.query, chosen.generation)
    batch = chosen.batch + 1
    recorded = ledger.record(old.ledger, batch)
    text = small_files.read_text(checkpoint_log.offsets_entry(old.checkpoint, batch))
    if not text and recorded:
        text = checkpoint_log.planned_entry(folder, batch, ledger.ends(recorded), recorded["watermark_ms"])
    if not text:
        ends = _present_ends(folder, chosen.batch, groups)
        text = checkpoint_log.planned_entry(folder, batch, ends, checkpoint_log.next_watermark_ms(folder, chosen.batch))
    small_files.write_text(checkpoint_log.offsets_entry(folder, batch), text)
    return Drill(job.spark, chosen, scratch, recorded)


def _present_ends(folder: str, batch: int, groups: GroupCommitter) -> Offsets:
    start = checkpoint_log.ends(folder, batch)
    now = groups.end_offsets(start)
    return {
        topic: {partition: min(now[topic][partition], offset + OFFSETS_EACH) for partition, offset in parts.items()}
        for topic, parts in start.items()
    }


def _run_batch(drill: Drill, driver: queries.DriverContext) -> Mapping[str, Any]:
    """Run the planned batch and return Spark's progress report."""
    name = drill.chosen.query
    declared = driver.pipeline.queries.get(name)
    if declared:
        passed = quarantine.passed_by(driver.root, generation.read(drill.chosen.paths(driver.root).manifest))
        made = queries.build(driver, name, declared, streaming=True, passed=passed)
        result = lookup_keys.guarded(made, driver.pipeline, declared)
        frame = refusals.judged(result, driver.pipeline, declared).where(f"NOT ({refusals.REFUSED})")
        mode = declared.mode
        columns = list(declared.columns)
    else:
        frame, mode = queries.archive_frame(driver, names.archived_topic(driver.pipeline, name)), "append"
        columns = ["topic", "partition", "offset", "reason"]
    query = (
        frame.writeStream.queryName(f"drill of {names.query_name(driver.pipeline.name, name)}")
        .outputMode(mode)
        .trigger(once=True)  # runs the planned batch and no other
        .option("checkpointLocation", f"{drill.scratch}/copy")
        .foreachBatch(_keep(drill, columns))
        .start()
    )
    try:
        ended = query.awaitTermination(int(TIMEOUT_SECONDS))
    except Exception as error:
        raise HeadraceError(
            f"Spark cannot continue from snapshot {drill.chosen.id} of {drill.chosen.pipeline}.{name}: {reason_of(error)}"
        ) from error
    finally:
        query.stop()
    if not ended:
        raise HeadraceError(
            f"The drill of {drill.chosen.pipeline}.{name} did not finish within {TIMEOUT_SECONDS:.0f} s."
        )
    return query.lastProgress or {}


def _keep(drill: Drill, columns: list[str]) -> Callable[[DataFrame, int], None]:
    """Return the drill's foreachBatch: it writes the rows as JSON lines into the scratch folder and counts them."""

    def write(frame: DataFrame, number: int) -> None:
        if number != drill.chosen.batch + 1:
            raise HeadraceError(f"Spark ran batch {number} instead of {drill.chosen.batch + 1}.")
        with accounting.persisted(frame) as kept:
            drill.outcome.rows_out = kept.count()
            rows = kept.select(*columns).write.mode("overwrite")
            rows.option("timestampFormat", sinks.JSON_TIMESTAMP).json(f"{drill.scratch}/rows")

    return write


def _compare(drill: Drill, job: Job, progress: Mapping[str, Any]) -> DrillReport:
    chosen, recorded = drill.chosen, drill.recorded
    batch = checkpoint_log.read_batch_range(f"{drill.scratch}/copy", chosen.batch + 1)
    committed = checkpoint_log.newest_batch(f"{drill.scratch}/copy")
    compared: list[str] = []
    differences: list[str] = []

    def same(what: str, ours: object, theirs: object) -> None:
        compared.append(what)
        if ours != theirs:
            differences.append(f"{what}: {ours} here, {theirs} in the stream")

    if committed != batch.batch:
        differences.append(f"batch {batch.batch} was not committed")
    if recorded:
        same("offsets", batch.offsets, ledger.offsets_taken(recorded))
        same("watermark", batch.watermark_ms, recorded["watermark_ms"])
        declared = job.pipeline.queries.get(chosen.query)
        # a dimension's rows may have changed since the stream joined it
        if not (declared and declared.dimensions):
            same("rows out", drill.outcome.rows_out, recorded["rows_out"])
        if declared and any(isinstance(sink, FilesSink) for sink in declared.sinks):
            differing = _differing_lines(drill, job.root)
            if differing is not None:
                same("lines of the output files that differ", differing, 0)
    operators = progress.get("stateOperators", [])
    return DrillReport(
        query=names.query_name(chosen.pipeline, chosen.query),
        snapshot=chosen.id,
        generation=chosen.generation,
        batch=batch.batch,
        rows_in=int(progress.get("numInputRows", 0)),
        rows_out=drill.outcome.rows_out,
        watermark_ms=batch.watermark_ms,
        state_rows=sum(int(operator["numRowsTotal"]) for operator in operators),
        compared=tuple(compared),
        differences=tuple(differences),
        ok=drill.outcome.rows_out is not None and not differences,
    )


def _differing_lines(drill: Drill, root: str) -> int | None:
    """Return how many lines differ from the stream's directory of this batch; None if it has no separate one."""
    number, batch = drill.chosen.generation, drill.chosen.batch + 1
    if (
        generation.read(paths.generation_paths(root, drill.chosen.pipeline, drill.chosen.query, number).manifest)
        is None
    ):
        return None
    directories = file_sink.directories(root, drill.chosen.pipeline, drill.chosen.query, number)
    single_paths = [directory.path for directory in directories if directory.first == directory.last == batch]
    if not single_paths:
        return None
    ours, theirs = (drill.spark.read.text(path) for path in (f"{drill.scratch}/rows", single_paths[0]))
    return int(ours.exceptAll(theirs).count() + theirs.exceptAll(ours).count())
