"""Topics with transactions of two producers, on the real Kafka: what every reader of ours takes, and what it waits for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from headrace.local.settings import Settings
from headrace.operations import retention, topics
from headrace.operations.batch import job_runs, rebuild
from headrace.operations.clients import kafka_admin
from headrace.operations.dead_letters import reader as dead_letters
from headrace.operations.plans import Approval
from headrace.operations.quality import offsets
from headrace.operations.supervisor.observe import KafkaEnds, positions_of
from headrace.store import archive_notes
from headrace.store.job_reports import RebuildReport
from tests.support.batch import deployment_of, reconciled
from tests.support.drivers import Stage, make_stage
from tests.support.transactions import Transactions, hanging, make_topics

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

NOW = datetime.now(UTC)


def records(*values: str) -> list[tuple[str, bytes]]:
    return [(value, value.encode()) for value in values]


def given(bindings: Path, topic: str) -> list[str]:
    """What the tools read of a topic; they must not wait for offsets that hold no record."""
    return [message.value().decode() for message in dead_letters.records(bindings, topic)]


def ends(bindings: Path, topic: str) -> tuple[int, int, int]:
    """Where a topic ends: for the quality checks, for the supervisor, and all that was written."""
    with offsets.reader(bindings) as reader:
        (checked,) = reader.ends(topic).values()
    kafka = KafkaEnds(bindings)
    return checked, kafka([topic])[topic][0], kafka.written([topic])[topic][0]


def test_every_tool_reads_committed_records_and_waits_for_none_that_is_not_there(
    platform: Settings, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = platform.bindings()
    monkeypatch.setattr(topics, "TIMEOUT_SECONDS", 20.0)
    squeezed = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    of_this_try = uuid.uuid4().hex[:8]
    made = [f"tx_{kind}_{of_this_try}" for kind in ("committed", "aborted", "interleaved", "hanging")]
    committed, aborted, interleaved, open_ended = made
    compacted = f"tx_compacted_{of_this_try}"
    make_topics(bindings, made)
    make_topics(bindings, [compacted], **squeezed, **{"max.compaction.lag.ms": "100", "delete.retention.ms": "0"})
    one = {topic: Transactions(bindings, topic) for topic in (*made, compacted)}
    for number in range(3):
        one[compacted].committed([("k", f"v{number}".encode())])
    for topic in made:
        one[topic].committed(records("a", "b"))  # offsets 0 to 2
    one[aborted].aborted(records("x", "y"))
    other = Transactions(bindings, interleaved)
    first = one[interleaved]
    first.begin()
    other.begin()
    for producer, value in ((first, "c"), (other, "x"), (first, "d"), (other, "y")):
        producer.write(records(value))
    other.abort()
    first.commit()

    assert given(bindings, committed) == ["a", "b"]
    assert ends(bindings, committed) == (3, 3, 3)
    assert given(bindings, aborted) == ["a", "b"]
    assert ends(bindings, aborted) == (6, 6, 6)
    assert given(bindings, interleaved) == ["a", "b", "c", "d"]
    with hanging(bindings, open_ended, records("open")):
        one[open_ended].committed(records("behind"))
        assert given(bindings, open_ended) == ["a", "b"], "what is behind an open transaction is not there yet"
        assert ends(bindings, open_ended) == (3, 3, 6)
        sent = [m.value() for m in dead_letters.records(bindings, open_ended, uncommitted=True)]
        assert sent == [b"a", b"b", b"open", b"behind"], "a replay must find what it has sent"
    assert given(bindings, open_ended) == ["a", "b", "behind"]

    stage = make_stage(platform, project, tmp_path, "pos_sales", suffix="_ages", queries=["items"])
    ages = retention._Ages(stage.deployment)
    try:
        assert ages.seconds(aborted, 0, 0) is not None
        assert ages.seconds(aborted, 0, 2) is None, "only markers and aborted records follow"
    finally:
        ages.close()

    deadline = time.monotonic() + 300
    while (values := given(bindings, compacted))[:1] == ["v0"]:  # the cleaner comes every 15 s
        one[compacted].committed([("other", b"rolls the segment")])
        assert time.monotonic() < deadline
    assert "v2" in values, "the newest record of a key stays"


def sales(product: str, count: int) -> list[tuple[str, bytes]]:
    at = f"{NOW - timedelta(minutes=1):%Y-%m-%d %H:%M:%S}"
    return [(product, f'{{"product_id": "{product}", "amount": 10, "create_date": "{at}"}}'.encode())] * count


def totals(stage: Stage) -> dict[str, tuple[Decimal, int]]:
    rows = stage.table(stage.name, "product_totals")
    return {row["product_id"]: (row["total_amount"], row["sales"]) for row in rows}


def taken(stage: Stage, queries: Iterable[str]) -> dict[str, int]:
    """How many records the batches of each query have read, by the ledger."""
    return {query: sum(record["rows_in"] for record in stage.ledger(query)) for query in queries}


def test_sinks_archive_reconciliation_and_rebuild_are_exact_with_aborted_open_and_trailing_transactions(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    suffix = f"_tx_{uuid.uuid4().hex[:8]}"  # a second try reads no record of the first
    pos = f"pos{suffix}"
    stage = make_stage(
        platform, project, tmp_path, "pos_sales", suffix=suffix, queries=["product_totals"], trigger="1 second"
    )
    deployment, archive = deployment_of(stage, project), f"archive_{pos}"
    queries = ("product_totals", archive)
    first, second = (Transactions(stage.admin, pos) for _ in range(2))
    first.committed(sales("committed-1", 3))
    first.aborted(sales("aborted", 3))
    try:
        stage.start()
        stage.await_quiet()
        first.begin()
        second.begin()
        for producer, product in ((first, "aborted"), (second, "committed-2"), (first, "aborted")):
            producer.write(sales(product, 1))
        first.abort()
        second.commit()
        stage.await_quiet()
        with hanging(stage.admin, pos, sales("open", 1)):
            second.committed(sales("behind", 2))
            kafka = KafkaEnds(stage.admin)
            seen = positions_of(stage.root, stage.pipeline, kafka([pos]), kafka.written([pos]))["product_totals"]
            assert (seen.lag, seen.held) == (0, 4)
            assert set(totals(stage)) == {"committed-1", "committed-2"}
        stage.await_quiet()
        first.aborted(sales("aborted", 2))  # the last offsets hold no record
        stage.await_quiet()
        assert totals(stage) == {
            "committed-1": (Decimal("30.00"), 3), "committed-2": (Decimal("10.00"), 1), "behind": (Decimal("20.00"), 2)
        }  # fmt: skip
        assert taken(stage, queries) == dict.fromkeys(queries, 6)
        ends_now = {int(p): end for p, end in stage.ends(pos).items()}
        assert archive_notes.reached(stage.root, stage.name, pos) == ends_now
        accounts = reconciled(deployment, stage.name)
        for account in accounts.values():
            assert (account["differing"], account["note"]) == (0, ""), account
        assert accounts["product_totals table"]["compared"] == 3
        assert accounts[f"{archive} topic"]["compared"] == 6
        assert stage.stop() == 0
    finally:
        stage.kill()

    guarded = retention.guard(deployment, stage.name)
    assert (guarded.state, guarded.least_left_seconds) == ("OK", None)
    places = [TopicPartition(pos, partition, end) for partition, end in ends_now.items()]
    admin = kafka_admin(stage.admin)  # held while its answers are awaited
    for answer in admin.delete_records(places).values():
        answer.result(120)
    planned = rebuild.plan(deployment, stage.name, "product_totals")
    assert planned.blockers == ()
    assert planned.items[0].note.endswith("then 0 from Kafka")
    approval = Approval(planned.id, by="a test", reason="retention took it")
    report = job_runs.execute(
        deployment, rebuild.prepare(deployment, stage.name, "product_totals", approval), RebuildReport
    )
    rebuild.finish(deployment, report)
    before = totals(stage)
    second.committed(sales("committed-2", 1))
    try:
        stage.start()
        stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()
    assert totals(stage) == before | {"committed-2": (Decimal("20.00"), 2)}
    assert taken(stage, ["product_totals"]) == {"product_totals": 7}
