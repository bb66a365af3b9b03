"""A query whose records Kafka no longer has is rebuilt from the archive and goes on from Kafka, exact to the cent.

Two drivers' lives and two finite runs; the topic is emptied in between, as retention does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from headrace.access.bindings import read_kafka
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.batch import job_runs, rebuild
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval
from headrace.operations.produce.send import send
from headrace.store import contracts
from headrace.store.job_reports import RebuildReport
from tests.support import actual, events
from tests.support.batch import deployment_of
from tests.support.drivers import Message, Stage, make_stage
from tests.support.expected import FIVE_MINUTES, Oracle, final_watermark, require_whole_ledger

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

TOPIC = "pos_rebuilt"
QUERIES = ("product_totals", "tumbling")


def test_a_rebuilt_query_goes_on_from_kafka_and_is_exact(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    stage = make_stage(platform, project, tmp_path, "pos_sales", suffix="_rebuilt", queries=QUERIES)
    records = list(events.stream(seed, {"pos": 1500}, 24, "_rebuilt", products=20))
    deployment = deployment_of(stage, project)
    try:
        for part in (records[:500], records[500:1000]):
            send(part, read_kafka(stage.admin), {TOPIC}, paced=False)
            if stage.child is None:
                stage.start()
            stage.await_quiet()
        assert stage.stop() == 0
        before = stage.read(TOPIC)
        ends = {int(p): end for p, end in stage.ends(TOPIC).items()}
        empty(stage, ends)
        for query in QUERIES:
            rebuilt(deployment, stage, query, sum(ends.values()))
        send(records[1000:], read_kafka(stage.admin), {TOPIC}, paced=False)
        stage.start()
        oracle = Oracle(stage.pipeline.sources, {TOPIC: [*before, *read_from(stage, ends)]})
        source = stage.pipeline.sources[TOPIC]
        stage.await_quiet({"tumbling": final_watermark(source, oracle.rows[TOPIC], timedelta(minutes=10))})
        assert stage.stop() == 0
    finally:
        stage.kill()

    for query in QUERIES:
        assert stage.generation(query).number == 2
        assert stage.generation(query).reason == "retention took it"
        require_whole_ledger(stage.ledger(query), {TOPIC: stage.ends(TOPIC)})
        contract = contracts.digest(stage.pipeline, query)
        assert {record.get("contract") for record in stage.ledger(query)} == {contract}, "of rebuild and driver"
        assert contracts.read(stage.root, stage.name, contract) is not None
    actual.same(actual.totals(stage.table(stage.name, "product_totals")), oracle.totals(TOPIC), "product_totals")
    wanted = oracle.windows(TOPIC, stage.ledger("tumbling"), FIVE_MINUTES, FIVE_MINUTES)
    is_now = actual.windows(stage.table(stage.name, "tumbling"))
    # A window that only the first generation had in time stays as it was written: the others are the rebuilt ones.
    actual.same({key: is_now.get(key) for key in wanted}, wanted, "tumbling")

    send(records[:50], read_kafka(stage.admin), {TOPIC}, paced=False)
    empty(stage, {int(p): int(end) for p, end in stage.ends(TOPIC).items()})
    planned = rebuild.plan(deployment, stage.name, "tumbling")
    assert any("the archive ends at" in blocker for blocker in planned.blockers), planned
    with pytest.raises(HeadraceError, match=r"The rebuild of .* is blocked: .*what lies between is lost"):
        rebuild.prepare(deployment, stage.name, "tumbling", Approval(planned.id, by="a test", reason="none"))


def rebuilt(deployment: Deployment, stage: Stage, query: str, archived: int) -> None:
    planned = rebuild.plan(deployment, stage.name, query)
    assert planned.blockers == ()
    assert planned.items[0].target == "generation 2"
    assert planned.items[0].note == f"{archived:,} offsets from the archive, then 0 from Kafka"
    approval = Approval(planned.id, by="a test", reason="retention took it")
    assert rebuild.plan(deployment, stage.name, query).id == planned.id
    with pytest.raises(HeadraceError, match="The situation changed since plan 3f2a9c01"):
        rebuild.prepare(deployment, stage.name, query, replace(approval, plan="3f2a9c01"))
    given = rebuild.prepare(deployment, stage.name, query, approval, rows_each=300)
    report = job_runs.execute(deployment, given, RebuildReport)
    # Chunks are cut by broker time, which all records of one request share: two sends have two times at least.
    assert report.batches >= 2
    assert stage.generation(query).number == 1, "nothing runs on it before it is finished"
    done = rebuild.finish(deployment, report)
    assert (done.pipeline, done.query, done.generation) == (stage.name, query, 2)
    assert rebuild.finish(deployment, report) == done, "may be repeated"


def empty(stage: Stage, ends: dict[int, int]) -> None:
    """Take all records away, as retention does."""
    places = [TopicPartition(TOPIC, partition, end) for partition, end in ends.items()]
    admin = kafka_admin(stage.admin)  # held while its answers are awaited
    for answer in admin.delete_records(places).values():
        answer.result(120)


def read_from(stage: Stage, starts: dict[int, int]) -> list[Message]:
    """Return what Kafka still holds, from these offsets on."""
    from headrace.operations.dead_letters import reader

    return [
        Message(m.topic(), m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), tuple(m.headers() or ()))
        for m in reader.records(stage.admin, TOPIC, starts)
    ]
