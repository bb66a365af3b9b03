"""What Spark really shows of a batch that runs: tasks, records, and processor time of threads and Python workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from headrace.driver.session import jvm_pid
from headrace.driver.work import SparkStore, busy_of

pytestmark = pytest.mark.spark

DEADLINE_SECONDS = 300.0


def _await(fact: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@contextmanager
def _job(spark: SparkSession, group: str, rows: int, expression: str) -> Iterator[None]:
    """Run a job of two tasks in a JVM thread; it is cancelled at the end.

    A task that computes ends with its rows alone, cancelled or not: a few rows, or it takes the cores from every test after it.
    """
    spark.sparkContext.setJobGroup(group, group, interruptOnCancel=True)
    frame = spark.range(0, rows, 1, 2).withColumn("x", F.expr(expression)).where("x IS NULL OR x > -1")
    running = frame._jdf.toJavaRDD().countAsync()
    for name in (
        "spark.jobGroup.id",
        "spark.job.description",
        "spark.job.interruptOnCancel",
    ):  # not of later tests' jobs
        spark.sparkContext.setLocalProperty(name, None)
    try:
        yield
    finally:
        spark.sparkContext.cancelJobGroup(group)
        _await(running.isDone, "the job is cancelled")


def test_records_move_while_a_long_task_runs_and_a_sleeping_one_uses_no_processor(spark: SparkSession) -> None:
    pid = jvm_pid(spark)
    store = SparkStore(spark.sparkContext, pid)
    with _job(spark, "sleeps", 200, "reflect('java.lang.Thread', 'sleep', 3000L)"):
        _await(lambda: any(store.jobs("sleeps").values()), "the job runs")
        jobs = set(store.jobs("sleeps"))
        _await(lambda: store.done(jobs).tasks == 2, "its stage is known")
        assert store.done(jobs).tasks_done == 0
        before = busy_of(pid)
        time.sleep(3)
        after = busy_of(pid)
        assert before is not None
        assert after is not None
        slept = after.tasks - before.tasks
    _await(lambda: not any(store.jobs("sleeps").values()), "the end of the cancelled job is in the status store")
    with _job(spark, "computes", 4, "size(transform(sequence(1, 2000000), i -> md5(string(i))))"):
        observed = [busy_of(pid)]

        def spent() -> float:
            """Between observations: an idle thread of Spark's pool ends after a minute, and its time is no longer counted."""
            observed.append(busy_of(pid))
            times = [busy.tasks for busy in observed if busy is not None]
            return sum(max(0.0, now - before) for before, now in pairwise(times))

        _await(lambda: spent() > slept + 1, "its threads are seen to work")
    assert SparkStore(spark.sparkContext, None).busy() is None
