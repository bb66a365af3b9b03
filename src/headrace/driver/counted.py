"""Count a batch's records and rows while they are written, without an extra job.

The streaming frame is observed (Spark guide, "Monitoring Streaming Queries": observable metrics). A task adds its count
when it succeeds, and the scheduler adds each task of a job's last stage once, so the count is complete when the job ends.
It is read from the query's newest execution, which is the running one; a listener could lose an event.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.driver import refusals

log = logging.getLogger(__name__)

NAME = "headrace_rows"
_QUERY_ID = "sql.streaming.queryId"  # set by Spark in the thread of a query (StreamExecution.QUERY_ID_KEY)


class Counts(NamedTuple):
    """How many rows the tasks of an execution have produced so far, and how many of them go to no sink."""

    rows: int
    refused: int


def observed(frame: DataFrame) -> DataFrame:
    """Return a streaming frame whose batches count their rows. State and checkpoint of its plan do not change."""
    refused = F.count(refusals.REASON) if refusals.REASON in frame.columns else F.count(F.lit(None))
    return frame.observe(NAME, F.count(F.lit(1)).alias("rows"), refused.alias("refused"))


def execution(spark: SparkSession) -> Any:  # noqa: ANN401 - a Java object
    """Return the execution of the running batch. Call it inside foreachBatch, in its thread.

    `spark` is the session that started the query: a batch's frame has a copy, which knows no queries.
    """
    query = spark.streams.get(str(spark.sparkContext.getLocalProperty(_QUERY_ID)))
    return query._jsq.streamingQuery().lastExecution()


def counts(running: Any) -> Counts:  # noqa: ANN401 - a Java object
    """Return what the tasks of an observed execution have produced so far, including repeated jobs.

    Raises KeyError if the frame is not observed.
    """
    metrics = running.observedMetrics().get(NAME)
    if metrics.isEmpty():
        raise KeyError(NAME)
    return Counts(int(metrics.get().getLong(0)), int(metrics.get().getLong(1)))


def records(running: Any) -> int | None:  # noqa: ANN401 - a Java object
    """Return how many records an execution has read from its topics so far; None if it reads none or does not report it.

    This is Spark's count of its Kafka scans, as in its progress (`numInputRows`). The batch's offsets would overcount, because
    some hold no record (ADR 0031). A topic that the plan scans twice counts once. A failed count never ends a query.
    """
    try:
        leaves = running.executedPlan().collectLeaves()
        by_topic: dict[int, int] = {}
        for number in range(leaves.size()):
            leaf = leaves.apply(number)
            if leaf.getClass().getSimpleName() == "MicroBatchScanExec":
                topic = int(leaf.stream().hashCode())
                by_topic[topic] = max(by_topic.get(topic, 0), int(leaf.metrics().apply("numOutputRows").value()))
    except Py4JError as error:
        log.warning(
            "the records of a batch could not be counted, using its offsets instead: %s", str(error).splitlines()[0]
        )
        return None
    return sum(by_topic.values()) if by_topic else None
