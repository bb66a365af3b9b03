"""How many rows a batch has, counted while they are written: no job of its own.

The streaming frame is observed (Spark guide, "Monitoring Streaming Queries": observable metrics). A task adds its count
when it succeeds, and the scheduler adds each task of a job's last stage once, so the count is there when the job ends.
It is read from the query's newest execution, which is the one that runs now: no listener, which could lose an event.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

NAME = "headrace_rows"
_QUERY_ID = "sql.streaming.queryId"  # Spark's own, in the thread of a query (StreamExecution.QUERY_ID_KEY)


def observed(frame: DataFrame) -> DataFrame:
    """Return a streaming frame whose batches count their rows. Its plan's state and its checkpoint are as without."""
    return frame.observe(NAME, F.count(F.lit(1)).alias("rows"))


def execution(spark: SparkSession) -> Any:  # noqa: ANN401 - a Java object
    """Return the execution of the batch that runs. To be called within foreachBatch, by its thread.

    `spark` is the session that started the query: the frame of a batch has a copy, which knows no queries.
    """
    query = spark.streams.get(str(spark.sparkContext.getLocalProperty(_QUERY_ID)))
    return query._jsq.streamingQuery().lastExecution()


def rows(running: Any) -> int:  # noqa: ANN401 - a Java object
    """Return how many rows the tasks of an observed execution have given by now, those of repeated jobs included.

    Raises KeyError where the frame was not observed.
    """
    found = running.observedMetrics().get(NAME)
    if found.isEmpty():
        raise KeyError(NAME)
    return int(found.get().getLong(0))
