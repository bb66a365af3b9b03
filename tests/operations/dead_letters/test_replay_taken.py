"""A replay doubles nothing: a record that another query has taken is not sent again (B12)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.operations.dead_letters import reader, replay
from headrace.operations.dead_letters.reader import Filter, Letter
from headrace.operations.plans import Item, Plan
from headrace.orchestration import batch_tasks

OTHERS = ["user_logins.last_login", "user_logins.logins_per_device"]


def letter(offset: int, query: str, reason: str) -> Letter:
    return Letter(f"logins/0/{offset}", "logins", 0, offset, 1_000, reason, f"user_logins.{query}", "3", b"k", b"{}")


UNMATCHED = letter(1, "last_login", "unmatched: login_id")
REFUSED = letter(2, "archive_logins", "missing: login_id")


def planned(monkeypatch: pytest.MonkeyPatch, root: Path, *letters: Letter, readers: list[str]) -> Plan:
    def read(_: Path, __: str, chosen: Filter = reader.ALL) -> list[Letter]:
        return [candidate for candidate in letters if chosen.takes(candidate)]

    monkeypatch.setattr(reader, "read", read)
    return replay.plan(str(root), Path("bindings"), "logins", readers=readers)


def test_a_letter_of_the_only_query_of_a_topic_is_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert planned(monkeypatch, tmp_path, UNMATCHED, REFUSED, readers=OTHERS[:1]).items == (
        Item("send", "logins/0/1", "unmatched"),
        Item("send", "logins/0/2", "missing"),
    )


def test_a_record_that_a_second_query_counted_is_left_out_with_the_reason_and_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = planned(monkeypatch, tmp_path, UNMATCHED, REFUSED, readers=OTHERS)
    assert plan.items == (Item("send", "logins/0/2", "missing"),)
    (note,) = plan.notes
    assert note.startswith("1 letters are not sent: ")
    assert "user_logins.logins_per_device accepted their records" in note
    assert "headrace stream restart user_logins --new-generation last_login --rows keep" in note


def test_a_quarantined_record_is_taken_out_before_its_query_reads_the_topic_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    apart = letter(1, "last_login", "quarantined: the transform fails on it")
    (_, first) = planned(monkeypatch, tmp_path, apart, readers=OTHERS).notes
    assert "take the records out of the quarantine" in first
    assert first.endswith("headrace dead-letters quarantine user_logins")
    assert len(planned(monkeypatch, tmp_path, apart, readers=OTHERS[:1]).items) == 1, "no other query has accepted it"


def test_a_record_that_all_queries_refused_is_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    both = letter(1, "logins_per_device", "not_written: device")
    assert len(planned(monkeypatch, tmp_path, UNMATCHED, both, readers=OTHERS).items) == 1


def test_the_dag_refuses_a_replay_that_would_only_double(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Path
) -> None:
    logins = load_pipeline(project / "pipelines" / "user_logins.yaml")
    second = logins.model_copy(update={"queries": logins.queries | {"logins_per_device": logins.queries["last_login"]}})
    deployment: Any = SimpleNamespace(root=str(tmp_path), bindings=Path("b"), pipelines=lambda: {"user_logins": second})
    planned(monkeypatch, tmp_path, UNMATCHED, readers=OTHERS)
    with pytest.raises(HeadraceError, match="would count them twice"):
        batch_tasks.plan_replay(deployment, "logins", "unmatched", again=False, by="me")
