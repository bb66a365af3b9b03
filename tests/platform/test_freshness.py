"""A query with a freshness takes few records together, and many at once (`headrace.contract.freshness`)."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from headrace.contract.freshness import waits
from headrace.local.settings import Settings
from headrace.store import generation, ledger, spark_conf
from tests.support.drivers import Content, make_stage

pytestmark = [pytest.mark.platform, pytest.mark.long(group="checkpoints"), pytest.mark.timeout(900)]

MANY = 2_100
EVENT = b'{"city": "Roma", "domain": "a.it", "event": "view"}'


def test_few_records_wait_for_more_and_many_make_a_batch_at_once(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    def fresh(content: Content) -> None:
        content["queries"]["topic"] |= {"trigger": "200 milliseconds", "freshness": "40 seconds"}

    stage = make_stage(platform, project, tmp_path, "web_events", suffix="_fresh", queries=["topic"], edit=fresh)
    # A batch counts from the time when Spark plans it, its ledger record from when it writes: so half of the wait decides.
    patience_ms = waits(stage.pipeline.queries["topic"]) / 2 // timedelta(milliseconds=1)
    try:
        stage.start_and_wait()
        for count in (1, 1, MANY):
            stage.send(("quickstart_fresh", b"a.it", EVENT) for _ in range(count))
            stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()
    chosen = generation.current(stage.root, stage.name, "topic")
    assert chosen is not None
    batches = ledger.read(chosen.paths(stage.root).ledger)
    assert sum(map(offsets_of, batches)) == MANY + 2
    at_once = 0
    for before, after in pairwise(batches):
        waited_ms, count = after["began_ms"] - before["began_ms"], offsets_of(after)
        assert count >= spark_conf.BATCH_OFFSETS or waited_ms >= patience_ms, f"{count} offsets waited {waited_ms} ms"
        at_once += waited_ms < patience_ms
    assert at_once, f"many records waited too: {batches}"


def offsets_of(record: ledger.BatchRecord) -> int:
    """Return how many offsets a batch took."""
    return sum(end - start for parts in record["offsets"].values() for start, end in parts.values())
