"""What a run must give, by DuckDB over the generated events, and the comparison that refuses a wrong run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bench import events
from headrace.access.bindings import KafkaBinding

READ_SECONDS = 60.0


class WrongOutputError(Exception):
    """An engine's output differs from the oracle's. Its figures do not count."""


def table(count: int, *, closing: bool = True) -> pa.Table:
    """Return the events of a load: product, cents, seconds. The closing events come last."""
    parts = [pa.table({"product": p, "cents": c, "seconds": s}) for p, c, s in events.blocks(count)]
    if closing:
        parts.append(pa.table(events.closing(count)))
    return pa.concat_tables([part.cast(parts[0].schema) for part in parts])


def totals(loaded: pa.Table) -> dict[str, int]:
    """Return count, sum of cents and sum of event times (epoch seconds) of all events."""
    row = _row("SELECT count(*), sum(cents)::BIGINT, sum(seconds)::BIGINT FROM loaded", loaded)
    return dict(zip(("events", "cents", "seconds"), row, strict=True))


def windows(loaded: pa.Table) -> int:
    """Return how many windows and products a load has, without the closing events."""
    return int(_row(f"SELECT count(*) FROM ({WINDOWS})", loaded)[0])


def _row(sql: str, loaded: pa.Table) -> tuple[Any, ...]:
    """Return the one row of a query over `loaded`, on a connection that nothing else uses."""
    with duckdb.connect() as connection:
        connection.register("loaded", loaded)
        (row,) = connection.execute(sql).fetchall()
    return row


def require_totals(report: Mapping[str, Any], loaded: pa.Table) -> str:
    """Compare the sums that a process reports, those that it has; `events` is required. Raises WrongOutputError."""
    expected = totals(loaded)
    actual = {name: report[name] for name in expected if name in report}
    if "events" not in actual or actual != {name: expected[name] for name in actual}:
        raise WrongOutputError(f"The report has {actual}, the oracle {expected}.")
    return f"{', '.join(actual)} equal"


WINDOWS = (
    "SELECT seconds // 300 * 300 AS started, printf('p%05d', product) AS product_id, sum(cents)::BIGINT AS cents "
    f"FROM loaded WHERE product < {events.PRODUCTS} GROUP BY ALL"
)
_ITEMS = "SELECT printf('p%05d', product) AS product_id, cents FROM loaded"
_CENTS = "((value->>'{}')::DECIMAL(18,2) * 100)::BIGINT AS cents"
_OUTPUT_ITEMS = f"SELECT value->>'product_id' AS product_id, {_CENTS.format('amount')} FROM output"
_OUTPUT_SUMS = (
    "SELECT epoch((value->>'window_start')::TIMESTAMP)::BIGINT AS started, value->>'product_id' AS product_id, "
    f"{_CENTS.format('total_amount')}, partition_, offset_ FROM output"
)
# An engine may revise a sum: the newest record of a window and product counts. One product is in one partition.
_OUTPUT_WINDOWS = (
    "SELECT started, product_id, arg_max(cents, offset_) AS cents "
    f"FROM ({_OUTPUT_SUMS}) WHERE product_id < 'p{events.PRODUCTS}' GROUP BY started, product_id, partition_"
)


def require_items(output: pa.Table, loaded: pa.Table) -> str:
    """Compare a projection, row by row with duplicates, with the events. Raises WrongOutputError."""
    return _require_same(_OUTPUT_ITEMS, _ITEMS, output, loaded, "rows")


def require_windows(output: pa.Table, loaded: pa.Table) -> str:
    """Compare the newest sum of each window and product with the oracle's. Raises WrongOutputError."""
    return _require_same(_OUTPUT_WINDOWS, WINDOWS, output, loaded, "window sums")


def _require_same(actual: str, expected: str, output: pa.Table, loaded: pa.Table, what: str) -> str:
    connection = duckdb.connect()
    connection.register("output", output)
    connection.register("loaded", loaded)
    connection.execute(f"CREATE TABLE actual AS {actual}")
    connection.execute(f"CREATE TABLE expected AS {expected}")
    missing, extra, rows = connection.execute(
        "SELECT (SELECT count(*) FROM (FROM expected EXCEPT ALL FROM actual)), "
        "(SELECT count(*) FROM (FROM actual EXCEPT ALL FROM expected)), (SELECT count(*) FROM actual)"
    ).fetchall()[0]
    if missing or extra:
        raise WrongOutputError(f"{missing} {what} of the oracle are missing, and {extra} are not the oracle's.")
    return f"{rows} {what} equal"


def ends(topic: str, binding: KafkaBinding) -> dict[int, int]:
    """Return the end offset of each partition of a topic."""
    consumer = Consumer(binding.reader_config("bench"))
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in partitions}
    finally:
        consumer.close()


def read(topic: str, starts: Mapping[int, int], binding: KafkaBinding) -> pa.Table:
    """Return the records of a topic from `starts` to its present end: partition_, offset_, value (text)."""
    stops = ends(topic, binding)
    left = {p: stop for p, stop in stops.items() if stop > starts.get(p, 0)}
    consumer = Consumer(binding.reader_config("bench") | {"enable.partition.eof": "true"})
    rows: list[tuple[int, int, str]] = []
    silent_s = 0.0
    try:
        consumer.assign([TopicPartition(topic, p, starts.get(p, 0)) for p in left])
        while left:
            messages = consumer.consume(10_000, 0.5)  # returns early only when it has as many
            silent_s = 0.0 if messages else silent_s + 0.5
            if silent_s > READ_SECONDS:
                raise WrongOutputError(
                    f"{topic} gives no more records and {len(left)} partitions are not read to their end."
                )
            for message in messages:
                partition, offset, error = message.partition(), message.offset(), message.error()
                if error and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if not error and offset < stops[partition] and message.value() is not None:
                    rows.append((partition, offset, message.value().decode()))
                if error or offset + 1 >= stops[partition]:  # transaction markers have offsets and no record
                    left.pop(partition, None)
    finally:
        consumer.close()
    partitions, offsets, values = zip(*rows, strict=True) if rows else ((), (), ())
    columns = [pa.array(partitions, pa.int64()), pa.array(offsets, pa.int64()), pa.array(values, pa.string())]
    return pa.table(columns, ["partition_", "offset_", "value"])
