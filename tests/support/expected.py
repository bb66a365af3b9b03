"""The expected content of the sinks, computed by DuckDB from the records as a consumer reads them.

It shares no code with the product: the test's own reader decodes the records (stdlib json, one at a time), SQL sums
them, and the rule for late rows is applied batch by batch from the ledger's offset ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from headrace.contract.model import Source
from headrace.store import ledger
from tests.driver import decode_data
from tests.support.drivers import Message

Row = dict[str, Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIVE_MINUTES = 5 * 60_000_000  # microseconds, as all times here
TEN_MINUTES = 2 * FIVE_MINUTES

_ARROW = {"string": pa.string(), "timestamp": pa.int64(), "decimal(12,2)": pa.decimal128(12, 2)}


def accepted(source: Source, messages: Iterable[Message]) -> dict[tuple[int, int], Row]:
    """Return (partition, offset) -> columns of the records that the contract accepts, times in microseconds."""
    timeless = source.model_copy(update={"event_time": None})
    rows: dict[tuple[int, int], Row] = {}
    for message in messages:
        row = decode_data.oracle(timeless, message.value)
        if row is None or _future(source, row, message.at_ms):
            continue
        rows[message.partition, message.offset] = {
            name: micros(value) if isinstance(value, datetime) else value for name, value in row.items()
        }
    return rows


def _future(source: Source, row: Row, at_ms: int) -> bool:
    if source.event_time is None:
        return False
    at = EPOCH + timedelta(milliseconds=at_ms)
    return bool(row[source.event_time.column] > at + source.event_time.accepted_skew)


def micros(moment: datetime) -> int:
    """Return microseconds since 1970; a time without zone (Cassandra's driver) is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def final_watermark(source: Source, rows: Mapping[Any, Row], delay: timedelta) -> int:
    """Return the final watermark of a query, in milliseconds, after it has read all rows."""
    assert source.event_time is not None
    newest = max(row[source.event_time.column] for row in rows.values())
    return int(newest // 1000 - delay // timedelta(milliseconds=1))


class Oracle:
    """One DuckDB with a table for each source: its accepted records with `part`, `off` and its columns."""

    def __init__(self, sources: Mapping[str, Source], topics: Mapping[str, Sequence[Message]]) -> None:
        self.connection = duckdb.connect()
        self.rows = {topic: accepted(source, topics[topic]) for topic, source in sources.items()}
        for topic, source in sources.items():
            self._add(topic, source)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query).fetchall()

    def totals(self, topic: str) -> dict[str, tuple[Decimal, int]]:
        """Return product -> (total_amount, sales)."""
        rows = self.sql(f'SELECT product_id, sum(amount)::decimal(22,2), count(*) FROM "{topic}" GROUP BY 1')
        return {product: (total, sales) for product, total, sales in rows}

    def windows(
        self, topic: str, ranges: Sequence[ledger.BatchRecord], size: int, slide: int, *, late: bool = False
    ) -> dict[tuple[int, int, str], tuple[Decimal, int]]:
        """Return (start, end, product) -> (total_amount, sales) of the rows that count, or of the late ones.

        A row is late for a window that ends at or before the watermark of the batch before the row's batch.
        """
        self.place(topic, ranges)
        comparison = "<=" if late else ">"
        rows = self.sql(
            f"""
            WITH windowed AS (
              SELECT *, (create_date // {slide} - k) * {slide} AS start
              FROM "{topic}_placed", generate_series(0, {size // slide - 1}) AS s(k)
            )
            SELECT start, start + {size}, product_id, sum(amount)::decimal(22,2), count(*)
            FROM windowed WHERE start + {size} {comparison} late_ms * 1000 GROUP BY ALL"""
        )
        return {(start, end, product): (total, sales) for start, end, product, total, sales in rows}

    def all_windows(self, topic: str, size: int, slide: int) -> dict[tuple[int, int, str], tuple[Decimal, int]]:
        """Return (start, end, product) -> (total_amount, sales) of all rows, as the batch layer computes them."""
        rows = self.sql(
            f"""
            WITH windowed AS (
              SELECT *, (create_date // {slide} - k) * {slide} AS start
              FROM "{topic}", generate_series(0, {size // slide - 1}) AS s(k)
            )
            SELECT start, start + {size}, product_id, sum(amount)::decimal(22,2), count(*) FROM windowed GROUP BY ALL"""
        )
        return {(start, end, product): (total, sales) for start, end, product, total, sales in rows}

    def place(self, topic: str, ranges: Sequence[ledger.BatchRecord]) -> None:
        """Create the table `<topic>_placed`: each accepted record with the batch that read it and its late watermark."""
        taken = [
            (record["batch"], record["late_watermark_ms"], int(partition), start, end)
            for record in ranges
            for partition, (start, end) in record["offsets"].get(topic, {}).items()
        ]
        columns = ("batch", "late_ms", "part", "first", "past")
        table = pa.table({name: pa.array([row[i] for row in taken], pa.int64()) for i, name in enumerate(columns)})
        self.connection.register("ranges", table)
        self.connection.execute(
            f"""CREATE OR REPLACE TABLE "{topic}_placed" AS
            SELECT t.*, r.batch, r.late_ms FROM "{topic}" t
            JOIN ranges r ON t.part = r.part AND t.off >= r.first AND t.off < r.past"""
        )
        ((placed, all_rows),) = self.sql(
            f'SELECT (SELECT count(*) FROM "{topic}_placed"), (SELECT count(*) FROM "{topic}")'
        )
        assert placed == all_rows, f"the ledger has {placed} places for {all_rows} records of {topic}"

    def _add(self, topic: str, source: Source) -> None:
        rows = self.rows[topic]
        columns = {
            "part": pa.array([p for p, _ in rows], pa.int32()),
            "off": pa.array([o for _, o in rows], pa.int64()),
        }
        for name, column in source.columns.items():
            columns[name] = pa.array([row[name] for row in rows.values()], _ARROW[column.type])
        self.connection.register("added", pa.table(columns))
        self.connection.execute(f'CREATE TABLE "{topic}" AS SELECT * FROM added')
        self.connection.unregister("added")


def require_whole_ledger(records: Sequence[ledger.BatchRecord], ends: Mapping[str, Mapping[str, int]]) -> None:
    """Assert that a ledger has no gap: batches are consecutive, each begins where the previous ended, the last at the end."""
    assert [record["batch"] for record in records] == list(range(len(records)))
    position: dict[tuple[str, str], int] = {}
    for record in records:
        taken = 0
        for topic, partitions in record["offsets"].items():
            for partition, (start, end) in partitions.items():
                assert start == position.get((topic, partition), 0), (record, position)
                position[topic, partition] = end
                taken += end - start
        assert record["rows_in"] == taken
        assert record["late_watermark_ms"] <= record["watermark_ms"]
    assert position == {(topic, p): end for topic, parts in ends.items() for p, end in parts.items()}
