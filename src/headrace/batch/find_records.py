"""Find the records on which a query's transform fails, among those of a batch that was planned and never committed.

The records of the batch are read from Kafka once. Then decoding and the transform run over parts of them as finite Spark
jobs, by bisection (`batch.bisection`), and every column that the query writes is computed. No state is read, and nothing is
written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from headrace.access.bindings import read_kafka
from headrace.batch import bisection
from headrace.batch.finite_job import Job
from headrace.contract import names
from headrace.contract.exit_codes import Exit
from headrace.contract.job_files import FindSpec
from headrace.driver import error_causes, lookup_keys, queries, refusals, source
from headrace.driver.declared import transformed
from headrace.driver.session import kafka_options
from headrace.errors import HeadraceError
from headrace.store import quarantine
from headrace.store.job_reports import FailingRecord, FindReport
from headrace.store.quarantine import OffsetRange

NOT_OF_A_RECORD = (Exit.STORE_AWAY, Exit.DISK_FULL)


def run(job: Job, spec: FindSpec) -> FindReport:
    """Search the batch that the job spec names, and return the report.

    Raises HeadraceError if a store does not answer: no record is to blame for that.
    """
    began = time.monotonic()
    ranges = [
        OffsetRange(topic, int(partition), start, spec.ends[topic][partition] - 1)
        for topic, parts in sorted(spec.starts.items())
        for partition, start in sorted(parts.items())
        if start < spec.ends[topic][partition]
    ]
    kafka = kafka_options(read_kafka(job.bindings))
    job.progress(0, 1, f"reading batch {spec.batch}")
    raw = {
        topic: source.between(job.spark, job.pipeline, kafka, topic, parts).persist(StorageLevel.MEMORY_AND_DISK)
        for topic in job.pipeline.queries[spec.query].sources
        if (parts := [part for part in ranges if part.topic == topic])
    }
    offsets = sum(part.size for part in ranges)
    most, runs = 2 * math.ceil(math.log2(max(2, offsets))) + 2, 0

    error_of = _errors(job, spec.query, raw)

    def evaluate(parts: Sequence[OffsetRange]) -> str | None:
        nonlocal runs
        runs += 1
        job.progress(min(runs, most), most, f"run {runs}: {sum(part.size for part in parts)} of {offsets} offsets")
        return error_of(parts)

    failing = bisection.find(ranges, evaluate, spec.limit)
    return FindReport(
        query=names.query_name(job.pipeline.name, spec.query),
        batch=spec.batch,
        offsets=offsets,
        runs=runs,
        records=tuple(FailingRecord(part.topic, part.partition, part.first, error) for part, error in failing.alone),
        together=failing.together,
        complete=failing.complete,
        seconds=round(time.monotonic() - began, 1),
    )


def _errors(job: Job, name: str, raw: dict[str, DataFrame]) -> Callable[[Sequence[OffsetRange]], str | None]:
    """Return a function from some records to the error of the transform over them; None if it succeeds."""
    query = job.pipeline.queries[name]
    passed = quarantine.passed_by_query(job.root, job.pipeline.name, name)
    dimensions = queries.dimension_frames(job.spark, job.pipeline, query)

    def error_of(parts: Sequence[OffsetRange]) -> str | None:
        frames = dict(dimensions)
        for topic in query.sources:
            contract = job.pipeline.sources[topic]
            records = raw[topic] if topic in raw else next(iter(raw.values()))  # a topic without records in the batch
            chosen = [part for part in parts if part.topic == topic]
            added = source.added_columns(query, contract)
            frames[topic] = source.accepted(records.where(source.among(chosen)), contract, added, passed)
        frame = transformed(job.transforms[name], frames, names.query_name(job.pipeline.name, name))
        rows = refusals.judged(lookup_keys.guarded(frame, job.pipeline, query), job.pipeline, query)
        try:
            rows.select(*query.columns, refusals.REASON).write.format("noop").mode("overwrite").save()
        except (PySparkException, Py4JJavaError) as error:  # others: the JVM is gone, and no record is to blame
            if error_causes.class_of([str(error)]) in NOT_OF_A_RECORD:
                raise HeadraceError(f"The search was ended: {error_causes.reason_of(error)}. Repeat it.") from error
            return error_causes.reason_of(error)
        return None

    return error_of
