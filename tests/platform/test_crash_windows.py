"""A driver that is killed (SIGKILL, Python and JVM) in every window of a batch, again and again under load: exact.

One storage root and one stream of events for all rounds: each round kills the driver once, at a point drawn from the
seed, and starts it again. What one round broke would show in the sums of all that follow. `HEADRACE_CRASH_ROUNDS` sets the
number of rounds (default 20), `HEADRACE_TEST_SEED` repeats a run. Slow because each round starts Spark anew.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from cassandra import OperationTimedOut, ReadTimeout
from cassandra.cluster import NoHostAvailable

from headrace.access.bindings import read_kafka
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session
from headrace.operations.produce.send import send
from tests.support import actual, crash
from tests.support.crashing import ENTRY_POINT, run_into, variables
from tests.support.drivers import DEADLINE_SECONDS, Content, Stage, make_stage
from tests.support.events import Feeder, stream
from tests.support.expected import FIVE_MINUTES, Oracle, final_watermark

pytestmark = [pytest.mark.platform, pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("HEADRACE_CRASH_ROUNDS", "20"))  # of the long form
STATEFUL = ("product_totals", "tumbling", "final_windows")
# Which queries come by a point; the archive's dead letters and its table are two writes.
QUERIES = {
    crash.STATE_COMMIT: STATEFUL,
    crash.MID_FILES: ("files",),
    crash.MID_ARCHIVE: ("archive_pos_crash",),
}
ALL = (*STATEFUL, "items", "files", "archive_pos_crash")


def _with_files(content: Content) -> None:
    """Give the copy a file sink: one pipeline with every kind of sink needs one driver."""
    items = content["queries"]["items"]
    content["queries"]["files"] = items | {"sinks": [{"kind": "files"}]}


def _plans(dice: random.Random, rounds: int) -> list[dict[str, Any]]:
    """Draw one plan a round: every point in turn, in a drawn order, with a drawn query and moment."""
    points: list[str] = []
    while len(points) < rounds:
        points += dice.sample(crash.POINTS, len(crash.POINTS))
    return [
        {
            "point": point,
            "query": dice.choice(QUERIES.get(point, ALL)),
            "skip": dice.randrange(3),
            "delay_ms": dice.randrange(120),
        }
        for point in points[:rounds]
    ]


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(len(crash.POINTS), id="each window once"),
        pytest.param(ROUNDS, id="many rounds", marks=pytest.mark.long(group="platform")),
    ],
)
def test_a_driver_killed_in_any_window_of_a_batch_loses_and_doubles_nothing(
    platform: Settings, project: Path, tmp_path: Path, seed: int, rounds: int
) -> None:
    plan = tmp_path / "plan.json"
    stage = make_stage(
        platform,
        project,
        tmp_path,
        "pos_sales",
        suffix="_crash",
        queries=("items", *STATEFUL),
        trigger="200 milliseconds",
        edit=_with_files,
        transforms="\n\nfiles = items\n",
        main=ENTRY_POINT,
        environment=variables(plan),
    )
    events = stream(seed, {"pos": 60_000}, hours=24, suffix="_crash", products=30)
    # sent last, after the watermark has passed them: on a slow machine a batch holds hours of events, and nothing else is late
    belated = list(islice(events, 30))
    watch = Totals(stage)
    try:
        with Feeder(stage.admin, events, burst=12) as feeder, watch:
            for number, wanted in enumerate(_plans(random.Random(seed), rounds)):
                print(f"round {number}: {wanted}, {feeder.sent} records sent")
                run_into(stage, plan, wanted)
            stage.start()
            stage.await_until(lambda: watch.seen > 0, "totals are seen")
        _await_quiet(stage)  # else they share a batch with what makes them late
        send(belated, read_kafka(stage.admin), {"pos_crash"}, paced=False)
        topics, oracle = _await_quiet(stage)
        assert stage.stop() == 0
    finally:
        stage.kill()
    assert len(topics["pos_crash"]) == feeder.sent + len(belated)
    repeats = _require_exact(stage, oracle, topics)
    if rounds >= 20:
        assert repeats > 0, "no record was ever written twice: the kills missed their windows"


def _await_quiet(stage: Stage) -> tuple[dict[str, Any], Oracle]:
    """Wait until every query has taken all records, and its watermark is the last one; return the records and their oracle."""
    topics = {"pos_crash": stage.read("pos_crash")}
    oracle = Oracle(stage.pipeline.sources, topics)
    rows = oracle.rows["pos_crash"]
    stage.await_quiet(
        {
            name: final_watermark(stage.pipeline.sources["pos_crash"], rows, query.watermark["pos_crash"])
            for name, query in stage.pipeline.queries.items()
            if query.watermark
        }
    )
    return topics, oracle


def _require_exact(stage: Stage, oracle: Oracle, topics: dict[str, Any]) -> int:
    """Compare every sink with the oracle, and return how many records of topics the headers took out as repeats."""
    ledgers = actual.require_ledgers(stage)
    rows = oracle.rows["pos_crash"]
    repeats = Counter(dead_letters=actual.require_archive(stage, "pos_crash", topics["pos_crash"], rows))
    wanted = {actual.coordinates("pos_crash", place): (row["product_id"], row["amount"]) for place, row in rows.items()}
    items, repeats["items"] = actual.distinct(stage.read("pos_items_crash"))
    query = stage.pipeline.queries["items"]
    actual.same({name: actual.row_of(query, actual.parse(m.value)) for name, m in items.items()}, wanted, "items")
    files = [actual.row_of(query, row) for row in actual.files(stage, "files")]
    actual.same(sorted(files), sorted(wanted.values()), "files")
    actual.same(
        actual.totals(stage.table("pos_sales_crash", "product_totals")), oracle.totals("pos_crash"), "product_totals"
    )
    speed = oracle.windows("pos_crash", ledgers["tumbling"], FIVE_MINUTES, FIVE_MINUTES)
    actual.same(actual.windows(stage.table("pos_sales_crash", "tumbling")), speed, "tumbling")
    late = oracle.windows("pos_crash", ledgers["tumbling"], FIVE_MINUTES, FIVE_MINUTES, late=True)
    assert late, "no record was late: the test tells nothing of the late rule"
    closed_us = ledgers["final_windows"][-1]["watermark_ms"] * 1000
    closed = {
        key: sums
        for key, sums in oracle.windows("pos_crash", ledgers["final_windows"], FIVE_MINUTES, FIVE_MINUTES).items()
        if key[1] <= closed_us
    }
    finals, repeats["final_windows"] = actual.distinct(stage.read("pos_final_windows_crash"))
    actual.same(actual.windows(actual.parse(m.value) for m in finals.values()), closed, "final_windows")
    print(f"repeats that the headers took out: {dict(repeats)}")
    return sum(repeats.values())


class Totals:
    """Reads the running totals again and again: a product's number of sales may never go back."""

    def __init__(self, stage: Stage) -> None:
        self.seen = 0
        self._stage = stage
        self._fell: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Totals:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_SECONDS)
        assert kind or not self._fell, self._fell[:5]

    def _run(self) -> None:
        newest: dict[str, int] = {}
        while not self._stop.is_set():
            # A busy Cassandra that answers too late is asked again.
            with contextlib.suppress(HeadraceError, OperationTimedOut, ReadTimeout, NoHostAvailable):
                self._read(newest)
            self._stop.wait(1)

    def _read(self, newest: dict[str, int]) -> None:
        """Read until the end of the test or an error of Cassandra; `newest` is what each product had last."""
        with cassandra_session(self._stage.admin) as session:
            while not self._stop.is_set():
                for row in session.execute("SELECT product_id, sales FROM pos_sales_crash.product_totals"):
                    if row.sales < newest.get(row.product_id, 0):
                        self._fell.append(f"{row.product_id} fell from {newest[row.product_id]} to {row.sales}")
                    newest[row.product_id] = row.sales
                self.seen += len(newest)
                time.sleep(0.1)
