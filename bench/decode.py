"""CPU per record of the decoder on `pos` records, in this process alone: no Kafka, no Spark, no transfer to the worker.

    python bench/decode.py [records per batch, 10000] [rounds, 40]

Prints the best round of each row, in microseconds of CPU per record. The best, because other processes cause everything
above it. Run it twice before you trust a difference below 5 %.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa

from headrace.contract.model import EventTime, Source, SourceColumn
from headrace.driver.decode import make_decoder

SOURCE = Source(
    key="product_id",
    columns={
        "product_id": SourceColumn(type="string", required=True),
        "amount": SourceColumn(type="decimal(12,2)", required=True),
        "create_date": SourceColumn(type="timestamp", required=True),
    },
    event_time=EventTime(column="create_date"),
)


def records(count: int, malformed: float, *, zone: str = "", quoted: bool = False) -> pa.RecordBatch:
    """Return seeded pos records of about 76 bytes; the share `malformed` (0 to 1) is truncated, mistyped or empty."""
    rng = random.Random(7)
    values: list[bytes | None] = []
    for _ in range(count):
        amount = f"{rng.uniform(1, 500):.2f}"
        date = (
            f"2026-03-{rng.randint(1, 28):02d} {rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}"
        )
        record = {"product_id": f"p{rng.randrange(10_000):04d}", "amount": amount, "create_date": date + zone}
        value = json.dumps(record).encode() if quoted else json.dumps(record | {"amount": float(amount)}).encode()
        bad = [value[:-5], value.replace(b"2026-", b"soon "), b"", None, value.replace(b'"p', b"7, 8")]
        values.append(rng.choice(bad) if rng.random() < malformed else value)
    stamps = [datetime(2026, 4, 1, tzinfo=UTC)] * count
    columns = {
        "key": pa.array([b"k"] * count, pa.binary()),
        "value": pa.array(values, pa.binary()),
        "topic": pa.array(["pos"] * count),
        "partition": pa.array([0] * count, pa.int32()),
        "offset": pa.array(range(count), pa.int64()),
        "timestamp": pa.array(stamps, pa.timestamp("us", "UTC")),
    }
    return pa.RecordBatch.from_pydict(columns)


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the CPU seconds of the fastest of `rounds` runs."""
    took = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def main(count: int, rounds: int) -> None:
    """Print one line per workload."""
    decoder = make_decoder(SOURCE)
    workloads = {
        "all good": records(count, 0),
        "0.1 % malformed": records(count, 0.001),
        "5 % malformed": records(count, 0.05),
        "times with Z": records(count, 0, zone="Z"),
        "amounts in strings": records(count, 0, quoted=True),
    }
    print(f"{'us of CPU per record':24}{'accepted':>10}{'judged':>10}")
    for name, batch in workloads.items():
        figures = [best(lambda f=f, b=batch: list(f([b])), rounds) for f in (decoder.accepted, decoder.judged)]  # type: ignore[misc]
        print(f"{name:24}" + "".join(f"{figure / count * 1e6:10.3f}" for figure in figures))


if __name__ == "__main__":
    main(*map(int, [*sys.argv[1:], *("10000", "40")[len(sys.argv) - 1 :]]))
