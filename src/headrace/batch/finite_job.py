"""A finite Spark job. Its job spec, progress and report are small files in the run's folder.

The caller (a DAG, the command line) writes order.json (the job spec), starts `spark_jobs/batch.py DUTY PIPELINE RUN`,
and reads report.json. The arguments carry nothing else, so the job runs exactly as approved, and a repeated run does the
same again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pyspark.sql import SparkSession

from headrace.access.bindings import read_cassandra
from headrace.contract.job_files import JobProgress, JobSpec
from headrace.contract.model import Pipeline
from headrace.driver import queries, session
from headrace.driver.queries import Transform
from headrace.errors import HeadraceError
from headrace.store import paths, records, spark_conf

Spec = TypeVar("Spec", bound=JobSpec)

# The streams' settings, but with adaptive plans and more partitions: a finite job has no state that depends on them.
BATCH_CONF = {"spark.sql.adaptive.enabled": "true", "spark.sql.shuffle.partitions": "4"}


@dataclass(frozen=True)
class Job:
    """The session, pipeline and folders of a finite job."""

    spark: SparkSession
    pipeline: Pipeline
    transforms: Mapping[str, Transform]
    root: str
    bindings: Path
    run: str

    def progress(self, done: int, of: int, stage: str) -> None:
        """Write the progress of the run: `done` of `of` steps, and the current stage."""
        folder = paths.batch_run(self.root, self.pipeline.name, self.run)
        at_ms = time.time_ns() // 1_000_000
        records.write(f"{folder}/progress.json", JobProgress(done, of, stage, at_ms))


def job_spec(kind: type[Spec], root: str, pipeline: str, run: str) -> Spec:
    """Return the job spec of a run. Raises HeadraceError if there is none."""
    written = records.read(kind, f"{paths.batch_run(root, pipeline, run)}/order.json")
    if written is None:
        raise HeadraceError(
            f"There is no job spec for run {run!r} of {pipeline}. Plan the run first: the plan writes it."
        )
    return written


def report(root: str, pipeline: str, run: str, content: object) -> None:
    """Write the report of a run (`store.job_reports`) atomically; its existence means that the run succeeded."""
    records.write(f"{paths.batch_run(root, pipeline, run)}/report.json", content)


def start(pipeline: Pipeline, module: ModuleType, root: str, bindings: Path, run: str, conf: Mapping[str, str]) -> Job:
    """Start the session of a finite job and configure its connector's login from the bindings."""
    settings = spark_conf.spark_conf(pipeline, paths.lake(root)) | BATCH_CONF | dict(conf)
    spark = session.start(f"{pipeline.name}-{run}", settings, read_cassandra(bindings))
    return Job(spark, pipeline, queries.transforms_of(pipeline, module), root, bindings, run)
