"""Which rows the ttl of a table has certainly left: those that were written less than a ttl ago.

Cassandra counts a ttl in seconds from the moment of the write, by its own clock, whatever the writetime says. So the ledger
tells when a row was written, not the row. A row that was written about a ttl ago may be there or not: neither is a fault.
"""

from __future__ import annotations

import time

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.batch import accounting
from headrace.batch.reconcile.kinds import Cut
from headrace.contract.model import CassandraSink, Query, Sink
from headrace.driver.queries import Transform

CLOCKS_MS = 60_000
"""How far the clocks of a driver, of Cassandra and of a batch run may be apart."""


def left_since_ms(sink: Sink) -> int:
    """Return the time (milliseconds since 1970) since which no written row can have expired; 0: the sink has no ttl.

    Ask after the sink was read: rows that expired in between are due otherwise.
    """
    if not isinstance(sink, CassandraSink) or sink.ttl is None:
        return 0
    return int((time.time() - sink.ttl.total_seconds()) * 1000) + CLOCKS_MS


def left_since(sink: Sink, cut: Cut) -> int:
    """Return the first batch since which no written row can have expired; 0: the sink has no ttl."""
    since_ms = left_since_ms(sink)
    first = next((record["batch"] for record in cut.ledger if record["began_ms"] >= since_ms), cut.batch + 1)
    return first if since_ms else 0


def keys_left(query: Query, sink: Sink, transform: Transform, records: DataFrame, cut: Cut) -> DataFrame | None:
    """Return the keys of running totals whose rows cannot have expired; None if the sink has no ttl.

    `records` are those of the cut, at least of the batches since `left_since`. In complete mode each batch writes all rows.
    """
    if not left_since_ms(sink):
        return None
    assert query.aggregate is not None
    first = left_since(sink, cut)
    if query.mode == "complete" and first <= cut.seen:
        first = 0
    return transform(records.where(F.col(accounting.BATCH).between(first, cut.seen))).select(*query.aggregate.keys)
