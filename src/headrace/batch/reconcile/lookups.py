"""The rows that are looked up in a table and written back by event time: the newest known cells of each key.

The table's past content is gone, but the misses are on record: an unmatched record is a dead letter. All other accepted
records were matched. Keys that are no longer in the table are left out: the refresh deleted them.

Two things limit this record. Dead letters expire: for a batch from before the first letter, the matches are unknown.
And a deletion covers everything older, even if the key returns: a cell from before its row was entered may be gone. Such
a cell is not due, but if the sink has a cell with its time, that is compared.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch import accounting
from headrace.batch.finite_job import Job
from headrace.batch.reconcile import bounds, newest_cells, retained, sink_frames, time_to_live
from headrace.batch.reconcile.kinds import Cut
from headrace.batch.reconcile.sink_frames import OFFSET, PARTITION
from headrace.contract import names
from headrace.contract.model import CassandraSink, Query
from headrace.contract.platform_columns import SOURCE
from headrace.driver import lookup_keys, queries, refusals
from headrace.store.job_reports import Account


def compare(
    job: Job, query: Query, sink: CassandraSink, account: Account, records: DataFrame, speed: DataFrame, cut: Cut,
    since_ms: int,
) -> None:  # fmt: skip
    """Compare a query's table with the rows over the cut's records and today's dimensions; `records` are of its topic.

    Only the rows of batches that began since `since_ms` (milliseconds since 1970; 0: of all) are compared.
    """
    (topic,) = query.sources
    kept = bounds.begun_since(cut.certain, since_ms)
    letters_topic = names.dead_letter_topic(topic)
    with accounting.persisted(sink_frames.topic(job, letters_topic)) as every:
        every.count()
        since = retained.since_ms(job, letters_topic, every)
        sure_from = max((record["batch"] + 1 for record in cut.certain if record["began_ms"] < since), default=0)
        letters = every.where(F.col("_query") == names.query_name(job.pipeline.name, account.query))
        dimensions = queries.dimension_frames(job.spark, job.pipeline, query)
        transform = refusals.taken(job.transforms[account.query], job.pipeline, query)
        made = lookup_keys.guarded(transform(**{topic: records}, **dimensions), job.pipeline, query)
        rows = accounting.batch_of(made, kept).where(F.col(accounting.BATCH).isNotNull())
        rows = matched(query, rows, sink_frames.placed_by_id(letters, topic))
        left = time_to_live.left_since(sink, cut)
        newest_cells.compare(account, query, sink, rows, speed, sure_from, left, complete=not since_ms)


def matched(query: Query, rows: DataFrame, letters: DataFrame) -> DataFrame:
    """Return the rows (with SOURCE) that match today and of which no letter, from `sink_frames.placed_by_id`, says otherwise."""
    assert query.matched is not None
    unmatched = letters.select(PARTITION, OFFSET).distinct()
    at = (F.col(f"{SOURCE}.partition") == F.col(PARTITION)) & (F.col(f"{SOURCE}.offset") == F.col(OFFSET))
    return rows.where(F.col(query.matched)).join(unmatched, at, "left_anti")
