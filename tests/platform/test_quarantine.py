"""A record on which a transform fails is found, and passed over after an approval; every other row is exact all the time.

One pipeline on real servers: `product_totals` fails on one value, `items` takes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from headrace.contract.names import dead_letter_topic
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.batch import job_runs, rebuild
from headrace.operations.checkpoints import drill, snapshots
from headrace.operations.dead_letters import find, quarantine, reader, replay
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import control
from headrace.operations.plans import Approval
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.store.job_reports import RebuildReport
from headrace.store.quarantine import OffsetRange
from tests.support import actual
from tests.support.batch import deployment_of, reconciled, viewed
from tests.support.drivers import Message, Stage, make_stage
from tests.support.supervised import Supervised

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

TOPIC = "pos_apart"
PIPELINE = "pos_sales_apart"
QUERY = f"{PIPELINE}.product_totals"
GOOD, BEFORE, POISON = 40, 25, "poison"
FAILS = 'if product_id == "poison":\n        raise ValueError("cannot take " + product_id)'
TRANSFORMS = f"""

def _checked(product_id: str) -> str:
    {FAILS}
    return product_id


def product_totals(pos: DataFrame) -> DataFrame:
    checked = F.udf(_checked, "string")
    return pos.groupBy(checked("product_id").alias("product_id")).agg(*_sums())
"""
DAY = datetime.now(UTC) - timedelta(days=2)


@dataclass
class Place:
    """The stage, its deployment, the record that its query cannot take, as a consumer reads it, and a snapshot before it."""

    stage: Stage
    deployment: Deployment
    poison: Message
    snapshot: str

    @property
    def range(self) -> OffsetRange:
        return OffsetRange(TOPIC, self.poison.partition, self.poison.offset, self.poison.offset)

    def approve(self, plan: str) -> Approval:
        return Approval(plan, by="the test", approved_by="ada")


@pytest.fixture(scope="module")
def place(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    stage = make_stage(
        platform, project, tmp_path_factory.mktemp("apart"), "pos_sales", suffix="_apart",
        queries=["items", "product_totals"], trigger="500 milliseconds", transforms=TRANSFORMS,
    )  # fmt: skip
    good = [_record(f"p{n % 7}") for n in range(GOOD)]
    try:
        stage.send(good[:BEFORE])
        stage.start()
        stage.await_quiet()
        assert stage.stop() == 0
        snapshot = snapshots.take(stage.root, PIPELINE, "product_totals").id
        stage.send([(TOPIC, b"\xff key", _record(POISON)[2]), *good[BEFORE:]])
        (poison,) = [message for message in stage.read(TOPIC) if message.key == b"\xff key"]
        yield Place(stage, deployment_of(stage, project), poison, snapshot)
    finally:
        stage.kill()
        stage.launcher.stop(stage.name, 0)


def _record(product: str) -> tuple[str, bytes, bytes]:
    value = {"product_id": product, "amount": "1.25", "create_date": f"{DAY:%Y-%m-%d %H:%M:%S}"}
    return TOPIC, product.encode(), json.dumps(value).encode()


def _totals(stage: Stage) -> dict[str, int]:
    return {row["product_id"]: row["sales"] for row in stage.table(PIPELINE, "product_totals")}


def _expected(extra: int = 0, poison: int = 0) -> dict[str, int]:
    sales = [f"p{n % 7}" for n in range(GOOD)] + ["p0"] * extra + [POISON] * poison
    return {product: sales.count(product) for product in sales}


def test_a_crash_loop_names_the_command_that_finds_the_record(place: Place) -> None:
    stage = place.stage
    with Supervised(stage, every=1.0, limits=replace(LIMITS, restarts=1, head_start=0, first_wait=0)) as keeper:
        control.start(stage.launcher, stage.name, by="the test")
        seen = keeper.await_look(lambda look: look["verdict"] == "CRASH_LOOP", "it gives up")
    assert "cannot take poison" in seen["reason"]
    assert f"headrace dead-letters find {PIPELINE}" in seen["reason"]
    planned = quarantine.plan(place.deployment, stage.pipeline, "product_totals", [place.range])
    assert planned.blockers, "the supervisor could start a driver"
    control.stop(stage.launcher, stage.name, by="the test")


def test_the_search_names_exactly_the_record_and_the_command_that_passes_over_it(place: Place) -> None:
    stages: list[str] = []
    result = find.find(
        place.deployment, place.stage.pipeline, "product_totals", report=lambda stage, _: stages.append(stage)
    )
    (record,) = result.records
    assert (record.topic, record.partition, record.offset) == (
        TOPIC,
        place.poison.partition,
        place.poison.offset,
    )
    assert "ValueError: cannot take poison" in record.error
    assert result.offsets == GOOD - BEFORE + 1, "of the batch that fails"
    assert result.runs <= 14
    assert stages
    assert find.quarantine_command(PIPELINE, result) == (
        f"headrace dead-letters quarantine {PIPELINE} --query product_totals --offsets {place.range}"
    )


def test_what_is_not_exactly_approved_or_cannot_be_passed_over_is_refused(place: Place) -> None:
    stage, here = place.stage, place.range
    beyond = replace(here, first=here.first, last=10_000)
    assert (
        "Kafka holds the offsets"
        in quarantine.plan(place.deployment, stage.pipeline, "product_totals", [beyond]).blockers[0]
    )
    nowhere = replace(here, partition=99)
    assert (
        "has no partition 99"
        in quarantine.plan(place.deployment, stage.pipeline, "product_totals", [nowhere]).blockers[0]
    )
    with pytest.raises(HeadraceError, match="product_totals does not read topic 'other'"):
        quarantine.plan(place.deployment, stage.pipeline, "product_totals", [replace(here, topic="other")])
    with pytest.raises(HeadraceError, match="The situation changed since plan 123"):
        quarantine.act(place.deployment, stage.pipeline, "product_totals", [here], "it is poison", place.approve("123"))


def test_the_query_passes_over_the_record_and_every_other_row_is_exact(place: Place) -> None:
    stage, ranges = place.stage, [place.range]
    reason = "it is poison"
    planned = quarantine.plan(place.deployment, stage.pipeline, "product_totals", ranges, reason)
    assert not planned.blockers
    quarantine.act(place.deployment, stage.pipeline, "product_totals", ranges, reason, place.approve(planned.id))
    stage.start()
    stage.send([_record("p0"), _record("p0")])
    stage.await_quiet()
    assert stage.stop() == 0

    assert _totals(stage) == _expected(extra=2)
    rows, _ = actual.distinct(stage.read("pos_items_apart"))
    assert len(rows) == GOOD + 3, "the other query processes the record"
    letters, _ = actual.distinct(stage.read(dead_letter_topic(TOPIC)))
    (letter,) = letters.values()
    assert (letter.key, letter.value) == (place.poison.key, place.poison.value)
    assert letter.header("headrace.query") == QUERY
    assert letter.header("headrace.reason") == f"quarantined: {reason}"
    assert letter.header("headrace.id") == f"{TOPIC}/{place.poison.partition}/{place.poison.offset}"
    assert sum(record.get("quarantined", 0) for record in stage.ledger("product_totals")) == 1
    assert sum(record["rows_in"] for record in stage.ledger("product_totals")) == GOOD + 3

    again = quarantine.plan(place.deployment, stage.pipeline, "product_totals", ranges, reason)
    assert "the query has committed its records" in again.blockers[0]


def test_reconciliation_and_batch_views_count_it(place: Place) -> None:
    views = viewed(place.deployment, PIPELINE)
    assert views.rows == {"product_totals": 7}
    accounts = reconciled(place.deployment, PIPELINE)
    assert {account["status"] for account in accounts.values()} <= {"PASSED", "EXEMPT", "EMPTY"}, accounts
    held = accounts["product_totals topic"]
    assert (held["kind"], held["compared"], held["status"]) == ("quarantine", 1, "PASSED")
    assert accounts["product_totals table"]["compared"] == 7
    assert accounts["items topic"]["compared"] == GOOD + 3


def test_a_drill_of_the_batch_with_the_record_leaves_it_out_as_the_driver_did(place: Place) -> None:
    report = drill.drill(place.deployment, PIPELINE, "product_totals", place.snapshot)
    (recorded,) = [record for record in place.stage.ledger("product_totals") if record["batch"] == report.batch]
    assert recorded.get("quarantined") == 1, "the drilled batch is the one that has passed over the record"
    assert report.ok
    assert "rows out" in report.compared
    assert (report.rows_in, report.rows_out) == (recorded["rows_in"], recorded["rows_out"]) == (GOOD - BEFORE + 1, 7)
    assert report.state_rows == 7, "poison is no group"


def test_a_rebuild_from_the_archive_leaves_the_record_out_and_counts_it(place: Place) -> None:
    stage = place.stage
    planned = rebuild.plan(place.deployment, PIPELINE, "product_totals")
    given = rebuild.prepare(place.deployment, PIPELINE, "product_totals", place.approve(planned.id))
    report = job_runs.execute(place.deployment, given, RebuildReport)
    assert rebuild.finish(place.deployment, report).generation == 2
    assert report.records == GOOD + 3
    assert sum(record["rows_in"] for record in stage.ledger("product_totals")) == GOOD + 3
    assert sum(record.get("quarantined", 0) for record in stage.ledger("product_totals")) == 1
    assert _totals(stage) == _expected(extra=2)
    letters, _ = actual.distinct(stage.read(dead_letter_topic(TOPIC)))
    assert len(letters) == 1, "a repeat has the same id"
    accounts = reconciled(place.deployment, PIPELINE)
    assert {account["status"] for account in accounts.values()} <= {"PASSED", "EXEMPT", "EMPTY"}, accounts
    assert [accounts[f"product_totals {kind}"]["compared"] for kind in ("topic", "table")] == [1, 7]


def test_after_the_transform_was_corrected_a_new_generation_reads_the_record(place: Place) -> None:
    stage, ranges = place.stage, [place.range]
    letters = reader.read(place.deployment.bindings, TOPIC)
    taken = replay.taken_by(letters, replay.readers_of([stage.pipeline], TOPIC))
    assert list(taken.values()) == [[f"{PIPELINE}.items"]], "a replay would count it twice there"
    path = stage.launcher.project / "spark_jobs" / f"{PIPELINE}.py"
    path.write_text(path.read_text().replace(FAILS, "pass"))
    planned = quarantine.plan_release(place.deployment, stage.pipeline, "product_totals", ranges)
    assert planned.items[0].detail == "from generation 3 on"
    quarantine.release(place.deployment, stage.pipeline, "product_totals", ranges, place.approve(planned.id))
    before = reconciled(place.deployment, PIPELINE)
    assert before["product_totals table"]["status"] == "PASSED", "generation 2 has passed over it"
    stage.start_and_wait("product_totals")
    stage.await_quiet()
    assert stage.stop() == 0
    assert _totals(stage) == _expected(extra=2, poison=1)
    viewed(place.deployment, PIPELINE)
    accounts = reconciled(place.deployment, PIPELINE)
    assert {account["status"] for account in accounts.values()} <= {"PASSED", "EXEMPT", "EMPTY"}, accounts
    assert accounts["product_totals table"]["compared"] == 8
    (row,) = [r for r in stage.table(PIPELINE, "product_totals") if r["product_id"] == POISON]
    assert row["total_amount"] == Decimal("1.25")
