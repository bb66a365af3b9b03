"""The expected output of a query, computed by DuckDB from the events and their batches. Shares no code with the product.

The rules are Spark's, applied batch by batch (guide, "Handling Late Data and Watermarking"; tests verify them on Spark):
- W(n), the watermark of batch n: the newest event time of all batches before n, truncated to milliseconds, minus the
  delay; with several topics the minimum; never below 0 and never decreasing. Refused records do not count.
- a row of batch n is late by W(n - 1), not by W(n) (SPARK-42376); before the first batch that is 0.
  A window is late for a row if its end <= W(n - 1), judged for each of a row's windows; a row of a join if its time is.
- append mode emits a window once, in the first batch n with end <= W(n).
- an unmatched left row is emitted in the first batch n, not before its own, with time + upper bound <= W(n) - 1 ms
  (state is cut in milliseconds, and the range includes both its bounds).
All times are microseconds since 1970 outside and TIMESTAMP inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb

Row = tuple[Any, ...]


class Oracle:
    """Events of one or two topics in a separate database."""

    def __init__(self, delays: Mapping[str, timedelta], times: Mapping[str, str], batches: int) -> None:
        """Store the watermark delay and the event-time column of each topic, and the number of batches."""
        self._db = duckdb.connect(":memory:")
        self._db.execute("SET TimeZone = 'UTC'")
        self._db.execute("CREATE TABLE batches AS SELECT unnest(range(?)) AS batch", [batches])
        self._delays, self._times = delays, times

    def add(self, topic: str, columns: Mapping[str, str], events: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Create the table of a topic: its columns with DuckDB types, and for each event the batch that read it."""
        names = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        self._db.execute(f"CREATE TABLE {topic} (batch BIGINT, {names})")
        marks = ", ".join("?" * (len(columns) + 1))
        if events:
            rows = [(batch, *(event[name] for name in columns)) for batch, event in events]
            self._db.executemany(f"INSERT INTO {topic} VALUES ({marks})", rows)

    def watermarks(self) -> list[tuple[int, int]]:
        """Return (W(n), W(n - 1)) in milliseconds for each batch n; the other methods depend on it."""
        marks_of_topics = " UNION ALL ".join(
            f"SELECT b.batch, coalesce(max(epoch_us(t.{self._times[topic]})) // 1000 - {delay // timedelta(milliseconds=1)}"
            f", 0) AS highest FROM batches b LEFT JOIN {topic} t ON t.batch < b.batch GROUP BY b.batch"
            for topic, delay in self._delays.items()
        )
        self._db.execute(
            f"""CREATE OR REPLACE TABLE marks AS
            WITH least AS (SELECT batch, greatest(min(highest), 0) AS highest FROM ({marks_of_topics}) GROUP BY batch),
                 risen AS (SELECT batch, max(highest) OVER (ORDER BY batch) AS watermark FROM least)
            SELECT batch, watermark, lag(watermark, 1, 0) OVER (ORDER BY batch) AS late FROM risen"""
        )
        return self._rows("SELECT watermark, late FROM marks ORDER BY batch")

    def totals_update(self) -> dict[int, list[Row]]:
        """Return for each batch the products it touched: product_id, total_amount, sales since the beginning."""
        return self._by_batch(
            """SELECT t.batch, t.product_id, sum(p.amount), count(*)
            FROM (SELECT DISTINCT batch, product_id FROM pos) t JOIN pos p ON p.product_id = t.product_id AND p.batch <= t.batch
            GROUP BY ALL"""
        )

    def totals_complete(self) -> dict[int, list[Row]]:
        """Return for each batch all products so far: product_id, total_amount, sales."""
        return self._by_batch(
            "SELECT b.batch, product_id, sum(amount), count(*) FROM batches b JOIN pos p ON p.batch <= b.batch GROUP BY ALL"
        )

    def windows_update(self, size: timedelta, slide: timedelta) -> dict[int, list[Row]]:
        """Return for each batch the windows that it changed: window_start, window_end, product_id, total_amount, sales."""
        self._windows(size, slide)
        return self._by_batch(
            """SELECT t.batch, epoch_us(k.opens), epoch_us(k.closes), k.product_id, sum(k.amount), count(*)
            FROM (SELECT DISTINCT batch, opens, product_id FROM kept) t
            JOIN kept k ON k.opens = t.opens AND k.product_id = t.product_id AND k.batch <= t.batch GROUP BY ALL"""
        )

    def windows_append(self, size: timedelta, slide: timedelta) -> dict[int, list[Row]]:
        """Return for each batch the windows that it closed, in the columns of `windows_update`."""
        self._windows(size, slide)
        return self._by_batch(
            """SELECT batch, opens, closes, product_id, total, sales FROM (
                SELECT (SELECT min(m.batch) FROM marks m WHERE m.watermark * 1000 >= epoch_us(k.closes)) AS batch,
                       epoch_us(opens) AS opens, epoch_us(closes) AS closes, product_id, sum(amount) AS total, count(*) AS sales
                FROM kept k GROUP BY ALL) WHERE batch IS NOT NULL"""
        )

    def windows_complete(self, size: timedelta, slide: timedelta) -> dict[int, list[Row]]:
        """Return for each batch all windows so far, in the columns of `windows_update`: complete mode drops nothing."""
        self._windows(size, slide)
        return self._by_batch(
            """SELECT b.batch, epoch_us(opens), epoch_us(closes), product_id, sum(amount), count(*)
            FROM batches b JOIN pairs p ON p.batch <= b.batch GROUP BY ALL"""
        )

    def window_sums(self, size: timedelta, slide: timedelta, *, late: bool) -> list[Row]:
        """Return the sums over all late pairs of row and window, or over all pairs that are not."""
        self._windows(size, slide)
        table = "(SELECT * FROM pairs EXCEPT ALL SELECT * FROM kept)" if late else "kept"
        return self._rows(
            f"""SELECT epoch_us(opens), epoch_us(closes), product_id, sum(amount), count(*) FROM {table} GROUP BY ALL"""
        )

    def attributed(self, upper: timedelta) -> dict[int, list[Row]]:
        """Return for each batch: impr_uuid, impr_date, ad_id, click_date (null: no click came in time)."""
        self.watermarks()
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE shown AS
            SELECT row_number() OVER () AS id, i.* FROM impressions i JOIN marks m USING (batch)
            WHERE epoch_us(i.create_date) > m.late * 1000;
            CREATE OR REPLACE TEMP TABLE clicked AS
            SELECT c.* FROM clicks c JOIN marks m USING (batch) WHERE epoch_us(c.create_date) > m.late * 1000;
            CREATE OR REPLACE TEMP TABLE matched AS
            SELECT greatest(i.batch, c.batch) AS batch, i.id, i.uuid, i.create_date AS shown_at, i.ad_id,
                   c.create_date AS clicked_at
            FROM shown i JOIN clicked c ON c.uuid = i.uuid
            AND c.create_date BETWEEN i.create_date AND i.create_date + INTERVAL {_micros(upper)} MICROSECOND"""
        )
        return self._by_batch(
            f"""SELECT batch, uuid, epoch_us(shown_at), ad_id, epoch_us(clicked_at) FROM matched
            UNION ALL
            SELECT batch, uuid, shown_at, ad_id, NULL FROM (
                SELECT (SELECT min(m.batch) FROM marks m WHERE m.batch >= i.batch
                        AND (m.watermark - 1) * 1000 >= epoch_us(i.create_date) + {_micros(upper)}) AS batch,
                       uuid, epoch_us(create_date) AS shown_at, ad_id
                FROM shown i WHERE id NOT IN (SELECT id FROM matched)) WHERE batch IS NOT NULL"""
        )

    def _windows(self, size: timedelta, slide: timedelta) -> None:
        """Create `pairs` (each row with each of its windows) and `kept` (the pairs that were not late)."""
        self.watermarks()
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE pairs AS
            SELECT batch, product_id, amount, create_date, opens, opens + INTERVAL {_micros(size)} MICROSECOND AS closes
            FROM (SELECT *, make_timestamp((epoch_us(create_date) // {_micros(slide)} - back) * {_micros(slide)}) AS opens
                  FROM pos, (SELECT unnest(range({-(-_micros(size) // _micros(slide))})) AS back))
            WHERE closes > create_date;
            CREATE OR REPLACE TEMP TABLE kept AS
            SELECT p.* FROM pairs p JOIN marks m USING (batch) WHERE epoch_us(p.closes) > m.late * 1000"""
        )

    def _by_batch(self, query: str) -> dict[int, list[Row]]:
        rows: dict[int, list[Row]] = {}
        for batch, *row in self._rows(query):
            rows.setdefault(batch, []).append(tuple(row))
        return rows

    def _rows(self, query: str) -> list[Row]:
        return self._db.execute(query).fetchall()


def at(micros: int) -> datetime:
    """Return the UTC time without zone of microseconds since 1970."""
    return datetime(1970, 1, 1) + timedelta(microseconds=micros)


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
