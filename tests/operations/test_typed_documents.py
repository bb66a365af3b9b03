"""Every document is read as each release wrote it: the present form, a newer one with more fields, an older with fewer.

The fixtures in `fixtures/documents` were written by the functions that write the files (2026-11-29), before they had types.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.contract import paths, records, storage
from headrace.contract.driver_files import CheckResult, ExitRecord, Heartbeat
from headrace.operations import supervision
from headrace.operations.intent import DesiredState
from headrace.operations.supervision import Supervision

FIXTURES = Path(__file__).parent / "fixtures" / "documents"
DOCUMENTS: list[tuple[str, type[Any]]] = [
    ("heartbeat", Heartbeat),
    ("outcome", ExitRecord),
    ("check", CheckResult),
    ("intent", DesiredState),
    ("supervision", Supervision),
]


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def with_more(value: Any) -> Any:
    """The document as a newer release would write it: a field more in every object that has fixed fields."""
    if isinstance(value, dict):
        more = {} if all(isinstance(inner, dict) for inner in value.values()) else {"of_a_newer_release": [1]}
        return {name: with_more(inner) for name, inner in value.items()} | more
    return [with_more(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS)
def test_the_present_form_is_read_and_written_again_without_a_difference(name: str, kind: type[Any]) -> None:
    document = fixture(name)
    assert json.loads(json.dumps(records.to_json(records.from_json(kind, document)))) == document


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS)
def test_a_release_that_was_rolled_back_to_reads_what_the_newer_one_wrote(name: str, kind: type[Any]) -> None:
    document = with_more(fixture(name)) | {"of_a_newer_release": {"more": 1}}
    for maps in ("changes",):  # by query: its keys are data
        if maps in document:
            document[maps] = fixture(name)[maps]
    if name == "heartbeat":
        document["queries"] = [
            query | {"offsets": old["offsets"]}
            for query, old in zip(document["queries"], fixture(name)["queries"], strict=True)
        ]
    assert records.from_json(kind, document) == records.from_json(kind, fixture(name))


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS)
def test_every_field_that_an_older_release_did_not_write_has_a_default(name: str, kind: type[Any]) -> None:
    assert records.from_json(kind, {}) == kind()
    document = fixture(name)
    for lacking in document:
        older = records.from_json(kind, {key: value for key, value in document.items() if key != lacking})
        written = records.to_json(older)
        assert written.pop(lacking) == records.to_json(kind())[lacking]
        assert json.loads(json.dumps(written)) == {key: value for key, value in document.items() if key != lacking}


def test_what_the_fields_mean_has_not_moved() -> None:
    heartbeat = records.from_json(Heartbeat, fixture("heartbeat"))
    state = heartbeat.query("user_logins.last_login")
    assert state is not None
    assert state.work is not None
    assert (heartbeat.instance, state.running_batch, state.work.tasks_done) == ("l1", 9, 3)
    last = records.from_json(Supervision, fixture("supervision"))
    assert (last.verdict, last.memory.marks["last_login"].batch) == ("STALLED", None)
    assert last.last_action is not None
    assert last.last_action.kind == "START"
    desired = records.from_json(DesiredState, fixture("intent"))
    assert (desired.want, desired.new_generations) == ("RUNNING", ("last_login",))


def test_a_verdict_that_only_a_newer_release_knows_is_unknown(tmp_path: Path) -> None:
    storage.write_json(paths.supervision(str(tmp_path), "p"), {"verdict": "DROWSY", "reason": "a nap"})
    read = supervision.read(str(tmp_path), "p")
    assert read is not None
    assert (read.verdict, read.reason) == ("UNKNOWN", "DROWSY (of another release): a nap")
