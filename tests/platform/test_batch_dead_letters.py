"""Dead letters on a real Kafka: read, replayed after the contract was corrected, failed again. The accounts always balance.

One stateless pipeline, two drivers' lives, two reconciliations.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import TopicPartition

from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations import retention
from headrace.operations.clients import kafka_admin
from headrace.operations.dead_letters import reader, replay
from headrace.operations.dead_letters.reader import Filter
from headrace.operations.deployment import Deployment
from headrace.operations.lineage import graph, run_events
from headrace.operations.plans import Approval
from tests.support import lineage
from tests.support.batch import deployment_of, reconciled
from tests.support.drivers import Message, Stage, make_stage

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

TOPIC = "quickstart_letters"
GOOD, NO_EVENT, BROKEN = 60, 12, 5


@dataclass
class Place:
    """The stage and its deployment."""

    stage: Stage
    deployment: Deployment

    @property
    def where(self) -> tuple[str, Path]:
        """Storage root and bindings, as the functions take them."""
        return self.deployment.root, self.deployment.bindings


@pytest.fixture(scope="module")
def place(platform: Settings, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    stage = make_stage(platform, project, tmp_path_factory.mktemp("letters"), "web_events", suffix="_letters")
    good = [_record(n, event="view") for n in range(GOOD)]
    bad = [_record(n) for n in range(NO_EVENT)]
    broken = [(TOPIC, b"k", b"{broken %d" % n) for n in range(BROKEN)]
    try:
        stage.send([*good[:30], *bad, *good[30:], *broken])
        stage.start()
        stage.await_quiet()
        yield Place(stage, deployment_of(stage, project))
    finally:
        stage.kill()


def _record(number: int, **more: str) -> tuple[str, bytes, bytes]:
    value = {"city": f"City {number}", "domain": f"d{number % 7}.example"} | more
    return TOPIC, value["domain"].encode(), json.dumps(value).encode()


def _headers(message: Message) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in message.headers}


def test_letters_are_listed_by_reason_place_and_time(place: Place) -> None:
    _, bindings = place.where
    letters = reader.read(bindings, TOPIC)
    assert Counter(letter.word for letter in letters) == {"missing": NO_EVENT, "not_json": BROKEN}
    first = letters[0]
    here = Filter(partition=first.partition, offsets=(first.offset, first.offset))
    assert reader.read(bindings, TOPIC, here) == [first]
    assert reader.read(bindings, TOPIC, Filter(since_ms=letters[-1].at_ms + 1)) == []
    assert len(reader.read(bindings, TOPIC, Filter(reason="missing: event"))) == NO_EVENT
    (source,) = [m for m in place.stage.read(TOPIC) if (m.partition, m.offset) == (first.partition, first.offset)]
    assert (first.key, first.value) == (source.key, source.value)
    assert {group.reason: group.letters for group in reader.summary(letters)} == {
        "missing": NO_EVENT,
        "not_json": BROKEN,
    }


def test_a_replay_after_a_corrected_contract_is_accepted_and_one_that_fails_again_does_not_loop(place: Place) -> None:
    stage, (root, bindings) = place.stage, place.where
    assert stage.stop() == 0
    path = stage.launcher.project / "pipelines" / f"{stage.name}.yaml"
    content = yaml.safe_load(path.read_text())
    content["sources"][TOPIC]["columns"]["event"]["required"] = False
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    stage.start_and_wait()

    planned = replay.plan(root, bindings, TOPIC, readers=())
    assert len(planned.items) == NO_EVENT + BROKEN
    assert replay.plan(root, bindings, TOPIC, readers=()).id == planned.id
    before = len(stage.read(TOPIC))
    with pytest.raises(HeadraceError, match="There is no plan 3f2a9c01 of a replay"):
        replay.act(root, bindings, TOPIC, Approval("3f2a9c01", by="a test"), readers=())
    assert len(stage.read(TOPIC)) == before, "nothing is sent before it is approved"
    approval = Approval(planned.id, by="a test", approved_by="mia")
    done = replay.act(root, bindings, TOPIC, approval, readers=())
    assert done.sent == NO_EVENT + BROKEN
    assert replay.act(root, bindings, TOPIC, approval, readers=()) == done, "a repeat sends nothing"
    _lose_the_word(place, planned.id)
    assert replay.act(root, bindings, TOPIC, approval, readers=()) == done
    stage.await_quiet()

    messages = stage.read(TOPIC)
    replays = [m for m in messages if "headrace.replay_of" in _headers(m)]
    assert len(messages) - before == len(replays) == NO_EVENT + BROKEN
    assert len({_headers(m)["headrace.replay_of"] for m in replays}) == len(replays), "each letter once"
    letters = reader.read(bindings, TOPIC)
    assert Counter(letter.word for letter in letters) == {"missing": NO_EVENT, "not_json": 2 * BROKEN}

    again = replay.plan(root, bindings, TOPIC, readers=())
    assert again.items == ()
    assert again.notes == (
        f"{BROKEN} letters failed again after a replay (--again includes them): they are left out.",
        f"{NO_EVENT + BROKEN} letters were replayed before (--again includes them): they are left out.",
    )
    insisted = replay.plan(root, bindings, TOPIC, Filter(reason="not_json"), again=True, readers=())
    journal = next(j for j in replay.journals(root, TOPIC) if j.run == insisted.id)
    originals = {letter.id for letter in letters if letter.word == "not_json"} - set(
        replay.history(root, TOPIC).replays
    )
    assert set(journal.first.values()) == originals, "the header goes on naming the first coordinates"


def _lose_the_word(place: Place, run: str) -> None:
    """Make it look as if the replay had been killed after sending and before it could say so."""
    root, _ = place.where
    (journal,) = [candidate for candidate in replay.journals(root, TOPIC) if candidate.run == run]
    replay._write(root, replace(journal, state="running", sent={}))


def test_replays_are_in_the_account_and_a_lost_directory_is_named_with_its_batch(place: Place) -> None:
    stage = place.stage
    accounts = reconciled(place.deployment, stage.name)
    assert {name: (a["differing"], a["compared"]) for name, a in accounts.items()} == {
        "files files": (0, GOOD + NO_EVENT),
        "topic topic": (0, GOOD + NO_EVENT),
        f"archive_{TOPIC} topic": (0, GOOD + 2 * (NO_EVENT + BROKEN)),
    }, accounts
    folder = Path(stage.generation("files").paths(stage.root).files)
    lost = sorted(folder.glob("batch_id=*"))[0]
    rows = sum(len(part.read_text().splitlines()) for part in lost.glob("part-*"))
    shutil.rmtree(lost)
    (account,) = (reconciled(place.deployment, stage.name, queries=["files"])["files files"],)
    (difference,) = account["differences"]
    assert difference["what"] == "missing in the sink"
    assert difference["batches"] == [int(lost.name.removeprefix("batch_id="))]
    assert difference["batch"]["rows"] == rows
    record = stage.ledger("files")[0]
    assert difference["offsets"] == _inclusive(record)


def test_letters_and_rows_that_retention_took_are_no_differences_and_what_came_later_is_compared(place: Place) -> None:
    """B3: topics without any record were taken for topics that never lost one. Kafka says where they begin."""
    letters, rows = f"{TOPIC}_dead_letters", "transformed_letters"
    admin = kafka_admin(place.deployment.bindings)
    places = [
        TopicPartition(topic, partition, -1)
        for topic in (letters, rows)
        for partition in admin.list_topics(topic).topics[topic].partitions
    ]
    for answer in admin.delete_records(places).values():
        answer.result(120)
    accounts = reconciled(place.deployment, place.stage.name)
    archive, topic = accounts[f"archive_{TOPIC} topic"], accounts["topic topic"]
    assert (archive["status"], archive["differing"]) == ("PASSED", 0), archive["differences"]
    assert (topic["status"], topic["differing"], topic["compared"]) == ("EMPTY", 0, 0), topic
    assert "retention deleted it" in topic["note"]

    place.stage.send([_record(n, event="view") for n in range(4)])
    place.stage.await_quiet()
    again = reconciled(place.deployment, place.stage.name, queries=["topic"])["topic topic"]
    assert (again["status"], again["differing"], again["compared"]) == ("PASSED", 0, 4), again


def _inclusive(record: Any) -> dict[str, list[int]]:
    return {
        f"{topic}/{p}": [start, end - 1]
        for topic, parts in record["offsets"].items()
        for p, (start, end) in parts.items()
        if end > start
    }


def test_lineage_leads_from_the_topic_through_every_query_to_its_sinks(place: Place) -> None:
    stage, deployment = place.stage, place.deployment
    run_events.emit_streams(deployment, stage.name)
    lineage_events = graph.events(deployment.root)
    assert len(lineage_events) == 3
    for event in lineage_events:
        (run,) = graph.runs(deployment.root, event["job"]["name"])
        assert [run_event["eventType"] for run_event in run][:2] == ["START", "RUNNING"]
    where = graph.places(deployment)
    reached = lineage.downstream(lineage.graph(lineage_events), f"{where.kafka}/{TOPIC}")
    assert f"{where.kafka}/transformed_letters" in reached
    assert any(name.endswith("files/web_events_letters/files") for name in reached)
    assert any(name.endswith(f"web_events_letters.archive_{TOPIC}") for name in reached)
    run_events.emit_streams(deployment, stage.name)
    assert len(graph.events(deployment.root)) == 3, "an endless stream leaves one event"


def test_the_retention_guard_knows_where_every_query_stands(place: Place) -> None:
    report = retention.guard(place.deployment, place.stage.name)
    assert report == retention.RetentionReport(place.stage.name, "OK")
    place.stage.stop()
    place.stage.send([_record(1, event="view")])
    behind = retention.guard(place.deployment, place.stage.name, warn_below=1.0)
    assert behind.state == "AT_RISK"
    assert {behind_place.query for behind_place in behind.places} == {"files", "topic", f"archive_{TOPIC}"}
    with pytest.raises(HeadraceError, match=r"files at quickstart_letters/\d offset \d+ loses records in"):
        retention.require_kept(behind)
