"""A finite Spark job: its spec, its progress and its report are small files in the run's folder.

Whoever wants the job (a DAG, the command line) writes the spec (order.json), starts `spark_jobs/batch.py DUTY PIPELINE RUN`
by whatever means, and reads report.json. The arguments say nothing else: a job that was approved is the one that runs, and a
run that is repeated does the same again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pyspark.sql import SparkSession

from headrace.contract import paths, records, storage, submit
from headrace.contract.bindings import read_cassandra
from headrace.contract.job_files import JobProgress, JobSpec
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.streaming import queries, session
from headrace.streaming.queries import Transform

Spec = TypeVar("Spec", bound=JobSpec)

# The streams' settings, but plans that adapt and more partitions: a finite job has no state that they would bind.
BATCH_CONF = {"spark.sql.adaptive.enabled": "true", "spark.sql.shuffle.partitions": "4"}


@dataclass(frozen=True)
class Job:
    """What every finite job works with."""

    spark: SparkSession
    pipeline: Pipeline
    transforms: Mapping[str, Transform]
    root: str
    bindings: Path
    run: str

    def progress(self, done: int, of: int, stage: str) -> None:
        """Write how far the run is."""
        folder = paths.batch_run(self.root, self.pipeline.name, self.run)
        at_ms = time.time_ns() // 1_000_000
        records.write(f"{folder}/progress.json", JobProgress(done, of, stage, at_ms))


def spec(kind: type[Spec], root: str, pipeline: str, run: str) -> Spec:
    """Return the spec of a run. Raises HeadraceError if none was written."""
    written = records.read(kind, f"{paths.batch_run(root, pipeline, run)}/order.json")
    if written is None:
        raise HeadraceError(f"Run {run!r} of {pipeline} has no job spec: plan it first, the plan writes the spec.")
    return written


def report(root: str, pipeline: str, run: str, content: Mapping[str, Any]) -> None:
    """Write the report of a run in one piece; its being there says that the run has ended well."""
    storage.write_json(f"{paths.batch_run(root, pipeline, run)}/report.json", dict(content))


def start(pipeline: Pipeline, module: ModuleType, root: str, bindings: Path, run: str, conf: Mapping[str, str]) -> Job:
    """Start the session of a finite job and log its connector in by the bindings."""
    settings = submit.spark_conf(pipeline, paths.lake(root)) | BATCH_CONF | dict(conf)
    spark = session.start(f"{pipeline.name}-{run}", settings, read_cassandra(bindings))
    return Job(spark, pipeline, queries.transforms_of(pipeline, module), root, bindings, run)
