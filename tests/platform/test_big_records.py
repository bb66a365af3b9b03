"""Records whose size no bound of rows expects: they compress to nothing in Kafka, and fill a heap once they are read.

HEADRACE_BIG_RECORDS and HEADRACE_BIG_JUNK set the numbers of good and of bad records.
"""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.access.bindings import read_kafka
from headrace.contract.exit_codes import Exit
from headrace.local.settings import Settings
from headrace.store import pace
from tests.support.drivers import Stage, make_stage

GOOD = int(os.environ.get("HEADRACE_BIG_RECORDS", "2000"))  # a multiple of PRODUCTS
JUNK = int(os.environ.get("HEADRACE_BIG_JUNK", "1000"))
PRODUCTS = 50
MEGABYTE = 1_000_000
DEADLINE_SECONDS = 600
pytestmark = [
    pytest.mark.platform,
    pytest.mark.long(group="checkpoints"),
    pytest.mark.timeout(600 + len(pace.LEVELS) * DEADLINE_SECONDS),
]


def _send(stage: Stage, topic: str) -> None:
    """Send good sales with a field of 1 MB that no contract knows, and junk of 1 MB; some 100 bytes each on Kafka's disk."""
    config = {"compression.type": "zstd", "message.max.bytes": 16 * MEGABYTE, "queue.buffering.max.kbytes": 65_536}
    producer = Producer(read_kafka(stage.admin).client_config() | config)
    sale = {"amount": 1, "create_date": "2026-11-01 10:00:00", "note": "x" * MEGABYTE}
    values = [(f"p{n}", json.dumps({"product_id": f"p{n}"} | sale).encode()) for n in range(PRODUCTS)]
    for number in range(GOOD + JUNK):
        key, value = values[number % PRODUCTS] if number < GOOD else ("junk", b"x" * MEGABYTE)
        producer.produce(topic, value, key)
        producer.flush(120)


def test_thousands_of_records_of_a_megabyte_are_taken_with_the_default_heap(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    """The driver may run out of memory, each time with less taken at once, and no record is lost or counted twice (C05, AB7)."""
    stage = make_stage(platform, project, tmp_path, "pos_sales", suffix="_big", conf={"spark.driver.memory": "768m"})
    topic = "pos_big"
    ends: list[int] = []
    try:
        _send(stage, topic)
        while len(ends) < len(pace.LEVELS):
            stage.start()
            try:
                stage.await_quiet(seconds=DEADLINE_SECONDS)
                break
            except AssertionError:
                if stage.child is None or stage.child.poll() is None:
                    raise
            ends.append(stage.await_end())
            assert ends[-1] == Exit.OUT_OF_MEMORY, stage.log[-6000:]
            assert pace.level(stage.root, stage.name) == min(len(ends), len(pace.LEVELS) - 1)
        print(f"ends before the one that took all: {ends}")
        assert stage.stop() == Exit.FINISHED
        assert pace.level(stage.root, stage.name) == 0, "an operator's stop gives the usual bounds back"
        totals = stage.table("pos_sales_big", "product_totals")
        assert len(totals) == PRODUCTS
        assert {Decimal(row["total_amount"]) for row in totals} == {Decimal(GOOD // PRODUCTS)}
        letters = stage.read(f"{topic}_dead_letters")
        assert len({message.header("headrace.id") for message in letters}) == JUNK
    finally:
        stage.kill()
