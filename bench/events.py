"""The events to drain: seeded, about 75 bytes each, and their expected window sums."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain

import duckdb
import numpy as np
import pyarrow as pa
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.access.bindings import KafkaBinding

PARTITIONS = 8
PRODUCTS = 10_000
EVENTS_A_SECOND = 2_000  # of event time: a window of 5 minutes has 60 events of each product
JITTER_SECONDS = 30  # out of order, well within the watermark of 10 minutes
BLOCK = 100_000
START = int(datetime(2026, 1, 5, 8, tzinfo=UTC).timestamp())


def blocks(count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (product number, amount in cents, event time in epoch seconds) in blocks; a short plan is a prefix of a long one."""
    rng = np.random.default_rng(7)
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        product = rng.integers(0, PRODUCTS, BLOCK)[:size]
        cents = rng.integers(100, 50_000, BLOCK)[:size]
        late = rng.integers(0, JITTER_SECONDS, BLOCK)[:size]
        yield product, cents, START + (first + np.arange(size)) // EVENTS_A_SECOND - late


def closing(count: int) -> dict[str, np.ndarray]:
    """Return one event for each partition, two hours behind the load: watermarks pass the end of its last window."""
    seconds = np.full(PARTITIONS, START + count // EVENTS_A_SECOND + 7_200)
    return {"product": np.full(PARTITIONS, PRODUCTS), "cents": np.full(PARTITIONS, 100), "seconds": seconds}


def load(topic: str, count: int, binding: KafkaBinding, *, close: bool = False) -> int:
    """Make the topic and fill it, lz4; `close` adds the closing events.

    Returns the bytes of all values. Raises RuntimeError if one is not acknowledged.
    """
    admin = AdminClient(binding.client_config())
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    failed: list[str] = []
    producer = Producer(
        binding.client_config()
        | {
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
            "batch.size": 262_144,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _: failed.append(str(error)) if error else None,
        }
    )
    size = 0
    parts = chain(blocks(count), [tuple(closing(count).values())] if close else [])
    for product, cents, seconds in parts:
        texts = np.datetime_as_string(seconds.astype("datetime64[s]"), unit="s").tolist()
        for number, (which, money, time) in enumerate(zip(product.tolist(), cents.tolist(), texts, strict=True)):
            name = f"p{which:05d}"
            value = f'{{"product_id":"{name}","amount":{money / 100:.2f},"create_date":"{time.replace("T", " ")}"}}'
            size += len(value)
            producer.produce(topic, value, name, partition=number % PARTITIONS)
        producer.poll(0)
        while len(producer) > 500_000:
            producer.poll(0.1)
    left = producer.flush(120)
    if left or failed:
        raise RuntimeError(f"{left + len(failed)} events did not reach Kafka: {failed[:1]}")
    return size


def expected(count: int) -> pa.Table:
    """Return the expected result: (window_start epoch seconds, product_id, total in cents, sales), computed by DuckDB."""
    parts = [
        pa.table({"product": product, "cents": cents, "seconds": seconds}) for product, cents, seconds in blocks(count)
    ]
    sums = duckdb.from_arrow(pa.concat_tables(parts)).query(
        "events",
        "SELECT seconds // 300 * 300 AS started, printf('p%05d', product) AS product_id, sum(cents)::BIGINT AS cents, "
        "count(*) AS sales FROM events GROUP BY ALL",
    )
    assert sums is not None
    return sums.to_arrow_table()
