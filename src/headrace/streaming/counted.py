"""How many records a batch has read and how many rows it has, counted while they are written: no job of its own.

The streaming frame is observed (Spark guide, "Monitoring Streaming Queries": observable metrics). A task adds its count
when it succeeds, and the scheduler adds each task of a job's last stage once, so the count is there when the job ends.
It is read from the query's newest execution, which is the one that runs now: no listener, which could lose an event.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.streaming import refusals

log = logging.getLogger(__name__)

NAME = "headrace_rows"
_QUERY_ID = "sql.streaming.queryId"  # Spark's own, in the thread of a query (StreamExecution.QUERY_ID_KEY)


class Counts(NamedTuple):
    """How many rows the tasks of an execution have given by now, and how many of them no sink gets."""

    rows: int
    refused: int


def observed(frame: DataFrame) -> DataFrame:
    """Return a streaming frame whose batches count their rows. Its plan's state and its checkpoint are as without."""
    refused = F.count(refusals.REASON) if refusals.REASON in frame.columns else F.count(F.lit(None))
    return frame.observe(NAME, F.count(F.lit(1)).alias("rows"), refused.alias("refused"))


def execution(spark: SparkSession) -> Any:  # noqa: ANN401 - a Java object
    """Return the execution of the batch that runs. To be called within foreachBatch, by its thread.

    `spark` is the session that started the query: the frame of a batch has a copy, which knows no queries.
    """
    query = spark.streams.get(str(spark.sparkContext.getLocalProperty(_QUERY_ID)))
    return query._jsq.streamingQuery().lastExecution()


def counts(running: Any) -> Counts:  # noqa: ANN401 - a Java object
    """Return what the tasks of an observed execution have given by now, those of repeated jobs included.

    Raises KeyError where the frame was not observed.
    """
    found = running.observedMetrics().get(NAME)
    if found.isEmpty():
        raise KeyError(NAME)
    return Counts(int(found.get().getLong(0)), int(found.get().getLong(1)))


def records(running: Any) -> int | None:  # noqa: ANN401 - a Java object
    """Return how many records an execution has read from its topics by now; None where it reads none or does not say.

    Spark's own count of its Kafka scans, as in its progress (`numInputRows`): the batch's offsets say more than that, for
    some hold no record (ADR 0031). A topic that the plan scans twice counts once. A count is no reason to end a query.
    """
    try:
        leaves = running.executedPlan().collectLeaves()
        found: dict[int, int] = {}
        for number in range(leaves.size()):
            leaf = leaves.apply(number)
            if leaf.getClass().getSimpleName() == "MicroBatchScanExec":
                topic = int(leaf.stream().hashCode())
                found[topic] = max(found.get(topic, 0), int(leaf.metrics().apply("numOutputRows").value()))
    except Py4JError as error:
        log.warning("the records of a batch were not counted, its offsets are: %s", str(error).splitlines()[0])
        return None
    return sum(found.values()) if found else None
