"""Records whose size no bound of rows expects: they compress to nothing in Kafka, and fill a heap once they are read."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.access.bindings import read_kafka
from headrace.contract.exit_codes import Exit
from headrace.local.settings import Settings
from headrace.store import pace
from tests.support.drivers import Stage, make_stage

pytestmark = [pytest.mark.platform, pytest.mark.long(group="checkpoints")]

GOOD, JUNK = 200, 100
MEGABYTE = 1_000_000


def _send(stage: Stage, topic: str) -> None:
    """Send good sales with a field of 1 MB that no contract knows, and junk of 1 MB; some 100 bytes each on Kafka's disk."""
    config = {"compression.type": "zstd", "message.max.bytes": 16 * MEGABYTE, "queue.buffering.max.kbytes": 65_536}
    producer = Producer(read_kafka(stage.admin).client_config() | config)
    sale = {"amount": 1, "create_date": "2026-11-01 10:00:00", "note": "x" * MEGABYTE}
    values = [(f"p{n % 50}", json.dumps({"product_id": f"p{n % 50}"} | sale).encode()) for n in range(50)]
    for number in range(GOOD + JUNK):
        key, value = values[number % 50] if number < GOOD else ("junk", b"x" * MEGABYTE)
        producer.produce(topic, value, key)
        producer.flush(120)


def test_three_hundred_records_of_a_megabyte_are_taken_with_the_default_heap(
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
                stage.await_quiet()
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
        assert len(totals) == 50
        assert {Decimal(row["total_amount"]) for row in totals} == {Decimal(GOOD // 50)}
        letters = stage.read(f"{topic}_dead_letters")
        assert len({message.header("headrace.id") for message in letters}) == JUNK
    finally:
        stage.kill()
