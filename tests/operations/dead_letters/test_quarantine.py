"""The plans of the quarantine on files alone: what is refused, what is written, and how an entry is taken out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.job_files import FindSpec
from headrace.errors import HeadraceError
from headrace.operations.dead_letters import find, quarantine
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Driver
from headrace.operations.plans import Approval, Plan
from headrace.store import generation, small_files
from headrace.store import quarantine as kept
from headrace.store.job_reports import FailingRecord, FindReport
from headrace.store.quarantine import OffsetRange
from tests.support.checkpoints import FakeLauncher, begin, plan_batch, pos_sales, run

POS = pos_sales()
QUERY = "tumbling"
RUNS = Driver("pos_sales", "4711@1", 0.0, "process 4711")


class Deployed:
    """A deployment of one launcher; Kafka is not there."""

    def __init__(self, root: str) -> None:
        self.root, self.bindings, self.local = root, Path("nowhere"), FakeLauncher(root)

    def launcher(self) -> FakeLauncher:
        return self.local


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A query that committed batches 0 to 2 (30 offsets of each partition) and crashed in batch 3; Kafka holds 5 to 99."""
    monkeypatch.setattr(quarantine, "kafka_admin", lambda _: None)
    monkeypatch.setattr(quarantine, "kafka_ranges", lambda _, wanted: {
        (topic, number): (5, 100) for topic, parts in wanted.items() for number in parts if number < 2
    })  # fmt: skip
    root = str(tmp_path)
    made = begin(root)
    run(root, made, range(3))
    plan_batch(root, made, 3)
    desired_state.write(root, "pos_sales", "STOPPED", "ada", "it crashed")
    return Deployed(root)


def at(text: str) -> list[OffsetRange]:
    return [kept.parse_range(text)]


def approve(plan: Plan) -> Approval:
    assert not plan.blockers
    return Approval(plan.id, by="bob", approved_by="ada")


def put(deployed: Any, text: str = "pos:1:33-34", reason: str = "poison") -> None:
    planned = quarantine.plan(deployed, POS, QUERY, at(text), reason)
    quarantine.act(deployed, POS, QUERY, at(text), reason, approve(planned))


def take_out(deployed: Any, text: str = "pos:1:33-34") -> Plan:
    planned = quarantine.plan_release(deployed, POS, QUERY, at(text))
    quarantine.release(deployed, POS, QUERY, at(text), approve(planned))
    return planned


def test_an_approved_range_is_kept_with_its_reason_its_approver_and_the_present_line(deployed: Any) -> None:
    small_files.write_json(
        generation.all_of(deployed.root, "pos_sales", QUERY)[0].paths(deployed.root).topics, {"pos": "X"}
    )
    put(deployed)
    (entry,) = kept.passed_by_query(deployed.root, "pos_sales", QUERY)
    assert (str(entry), entry.reason, entry.by, entry.topic_id, entry.since) == ("pos:1:33-34", "poison", "ada", "X", 1)
    assert kept.passed_by_query(deployed.root, "pos_sales", "items") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pos:1:29-30", "has committed its records before offset 30: name offsets from there on"),
        ("pos:1:99-100", "Kafka holds the offsets 5 to 99 of pos/1"),
        ("pos:2:40-40", "topic pos has no partition 2"),
        ("pos:0:40-20000", "at most 10000 are allowed"),
    ],
)
def test_offsets_that_cannot_be_passed_over_block_the_plan(deployed: Any, text: str, why: str) -> None:
    planned = quarantine.plan(deployed, POS, QUERY, at(text))
    assert any(why in blocker for blocker in planned.blockers), planned.blockers
    with pytest.raises(HeadraceError, match="is blocked"):
        quarantine.act(deployed, POS, QUERY, at(text), quarantine.REASON, Approval(planned.id, by="bob"))
    assert kept.read(deployed.root, "pos_sales").entries == ()


def test_a_range_is_put_in_once(deployed: Any) -> None:
    put(deployed)
    assert "is in the quarantine already" in quarantine.plan(deployed, POS, QUERY, at("pos:1:34-40")).blockers[0]
    assert not quarantine.plan(deployed, POS, QUERY, at("pos:1:35-35")).blockers


def test_neither_direction_is_planned_while_a_driver_can_run(deployed: Any) -> None:
    put(deployed)
    deployed.local.living.append(RUNS)
    desired_state.write(deployed.root, "pos_sales", "RUNNING", "ada", "start")
    into = quarantine.plan(deployed, POS, QUERY, at("pos:1:40"))
    out = quarantine.plan_release(deployed, POS, QUERY, at("pos:1:33-34"))
    for planned in (into, out):
        assert len(planned.blockers) == 2
        assert all("headrace stream stop pos_sales" in blocker for blocker in planned.blockers)


def test_another_plan_than_the_approved_one_is_not_carried_out(deployed: Any) -> None:
    planned = quarantine.plan(deployed, POS, QUERY, at("pos:1:33"), "poison")
    with pytest.raises(HeadraceError, match="The situation changed"):
        quarantine.act(deployed, POS, QUERY, at("pos:1:33"), "another reason", approve(planned))


def test_a_query_that_does_not_exist_or_a_topic_that_it_does_not_read_is_refused(deployed: Any) -> None:
    with pytest.raises(HeadraceError, match="Unknown query 'archive_pos'"):
        quarantine.plan(deployed, POS, "archive_pos", at("pos:1:33"))
    with pytest.raises(HeadraceError, match="does not read topic 'web'"):
        quarantine.plan(deployed, POS, QUERY, at("web:1:33"))
    with pytest.raises(HeadraceError, match=r"pos_sales\.items never ran"):
        quarantine.plan(deployed, POS, "items", at("pos:1:33"))


def test_an_entry_that_the_query_has_not_reached_is_removed(deployed: Any) -> None:
    put(deployed)
    put(deployed, "pos:0:50")
    assert take_out(deployed).items[0].detail == "before the query reaches it"
    assert [str(entry) for entry in kept.read(deployed.root, "pos_sales").entries] == ["pos:0:50-50"]
    assert "is not in the quarantine" in quarantine.plan_release(deployed, POS, QUERY, at("pos:1:33-34")).blockers[0]


def test_an_entry_that_the_query_has_passed_over_ends_with_its_line(deployed: Any) -> None:
    put(deployed)
    run(deployed.root, generation.all_of(deployed.root, "pos_sales", QUERY)[0], range(3, 4))
    planned = take_out(deployed)
    assert planned.items[0].detail == "from generation 2 on"
    assert "headrace stream start pos_sales --new-generation tumbling --rows keep" in planned.notes[0]
    assert len(kept.passed_by_query(deployed.root, "pos_sales", QUERY)) == 1, "generation 1 has passed over it"
    begin(deployed.root)
    assert kept.passed_by_query(deployed.root, "pos_sales", QUERY) == ()


def test_a_search_takes_the_batch_that_was_planned_and_not_committed(deployed: Any) -> None:
    prepared = find.prepare(deployed, POS, QUERY)
    assert prepared.spec == FindSpec(
        given_ms=prepared.spec.given_ms, query=QUERY, batch=3,
        starts={"pos": {"0": 30, "1": 30}}, ends={"pos": {"0": 40, "1": 40}}, limit=find.LIMIT,
    )  # fmt: skip


def test_a_search_is_refused_while_the_driver_runs_and_without_such_a_batch(deployed: Any) -> None:
    with pytest.raises(HeadraceError, match=r"pos_sales\.items has no batch that was planned and not committed"):
        find.prepare(deployed, POS, "items")
    deployed.local.living.append(RUNS)
    with pytest.raises(HeadraceError, match=r"runs \(process 4711\)\. Stop it first: headrace stream stop pos_sales"):
        find.prepare(deployed, POS, QUERY)


FOUND = FindReport("pos_sales.items", 3, 20, 6, (FailingRecord("pos", 1, 33, "ValueError: no"),), "ValueError: no")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (FOUND, "1 record of batch 3 of pos_sales.items (20 offsets, 6 runs) fails alone."),
        (
            replace(FOUND, complete=False, records=FOUND.records * 2),
            "fail alone; the search ended there, more may fail.",
        ),
        (
            replace(FOUND, records=()),
            "fails alone, but all of them together do: ValueError: no. Correct the transform.",
        ),
        (replace(FOUND, records=(), together=None), "The fault is in the state, a sink or a store, not in a record."),
    ],
)
def test_the_result_of_a_search_is_a_sentence(report: FindReport, words: str) -> None:
    assert words in find.words(report)


def test_the_printed_command_names_each_record() -> None:
    twice = replace(FOUND, records=(FOUND.records[0], FailingRecord("pos", 0, 4, "ValueError: no")))
    assert find.quarantine_command("pos_sales", twice) == (
        "headrace dead-letters quarantine pos_sales --query items --offsets pos:1:33-33 --offsets pos:0:4-4"
    )
    assert find.quarantine_command("pos_sales", replace(FOUND, records=())) is None
