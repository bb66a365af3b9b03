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
from typing import Any

from pyspark.sql import SparkSession

from headrace.contract import paths, storage, submit
from headrace.contract.bindings import read_cassandra
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.streaming import queries, session
from headrace.streaming.queries import Transform

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
        storage.write_json(f"{folder}/progress.json", {"done": done, "of": of, "stage": stage, "at_ms": at_ms})


def job_spec(root: str, pipeline: str, run: str) -> dict[str, Any]:
    """Return the job spec of a run. Raises HeadraceError if there is none."""
    content: dict[str, Any] | None = storage.read_json(f"{paths.batch_run(root, pipeline, run)}/order.json")
    if content is None:
        raise HeadraceError(
            f"There is no job spec for run {run!r} of {pipeline}. Plan the run first: the plan writes it."
        )
    return content


def report(root: str, pipeline: str, run: str, content: Mapping[str, Any]) -> None:
    """Write the report of a run atomically; its existence means that the run succeeded."""
    storage.write_json(f"{paths.batch_run(root, pipeline, run)}/report.json", dict(content))


def start(pipeline: Pipeline, module: ModuleType, root: str, bindings: Path, run: str, conf: Mapping[str, str]) -> Job:
    """Start the session of a finite job and configure its connector's login from the bindings."""
    settings = submit.spark_conf(pipeline, paths.lake(root)) | BATCH_CONF | dict(conf)
    spark = session.start(f"{pipeline.name}-{run}", settings, read_cassandra(bindings))
    return Job(spark, pipeline, queries.transforms_of(pipeline, module), root, bindings, run)
