"""Every document is read as each release wrote it: the present form, a newer one with more fields, an older with fewer.

The fixtures in `fixtures/documents` were written by the functions that write the files (2026-11-29), before they had types;
`act.json` is younger and had a type from the start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.batch import finite_job
from headrace.contract.job_files import SPECS, JobProgress
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs
from headrace.operations.dimensions.documents import Begun, RefreshRecord
from headrace.operations.drivers.desired_state import DesiredState
from headrace.operations.plans import Act, Item
from headrace.operations.quality.findings import Findings
from headrace.operations.quality.plan import Check
from headrace.operations.quality.position import Position
from headrace.operations.quality.summary import Summary
from headrace.operations.quality.windows import Batches, BatchesStep, Nothing
from headrace.operations.supervisor import memory
from headrace.operations.supervisor.memory import Supervision
from headrace.store import paths, records, small_files
from headrace.store.driver_files import CheckResult, ExitRecord, Heartbeat
from headrace.store.job_reports import DrillReport, FindReport, ReconcileReport, UpkeepReport, ViewsReport
from headrace.store.quarantine import Quarantine
from headrace.store.view_state import ViewState

FIXTURES = Path(__file__).parent / "fixtures" / "documents"
DOCUMENTS: list[tuple[str, type[Any]]] = [
    ("heartbeat", Heartbeat),
    ("outcome", ExitRecord),
    ("check", CheckResult),
    ("intent", DesiredState),
    ("supervision", Supervision),
    *((f"order-{duty}", kind) for duty, kind in SPECS.items()),
    ("progress", JobProgress),
    ("refresh-record", RefreshRecord),
    ("refresh-begun", Begun),
    ("report-views", ViewsReport),
    ("report-reconcile", ReconcileReport),
    ("report-drill", DrillReport),
    ("report-upkeep", UpkeepReport),
    ("views", ViewState),
    ("report-find", FindReport),
    ("quarantine", Quarantine),
    ("quality-check", Check),
    ("quality-summary", Summary),
    ("quality-findings", Findings),
    ("quality-position", Position),
]
ACT: tuple[str, type[Any]] = ("act", Act)
"""The record of a plan that was carried out: its fields are required, because every release has written all of them."""

BY_NAME = {
    "changes", "offsets", "begins", "starts", "ends", "first", "marks", "held", "archive", "repeats", "tables", "days", "covered",
    "sums", "rows", "key", "batch", "due", "speed", "late",
    "left", "parameters", "references", "rows_out", "spans",
}  # fmt: skip


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def known(written: Any, document: Any) -> Any:
    """What was written, without the fields that the document lacks: later releases have more of them, in inner objects too."""
    if isinstance(document, dict):
        return {name: known(written[name], inner) for name, inner in document.items()}
    if isinstance(document, list):
        return [known(*pair) for pair in zip(written, document, strict=True)]
    return written


def with_more(value: Any) -> Any:
    """The document as a newer release would write it: a field more in every object but those whose keys are data."""
    if isinstance(value, dict):
        return {name: inner if name in BY_NAME else with_more(inner) for name, inner in value.items()} | {
            "of_a_newer_release": [1]
        }
    return [with_more(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "kind"), [*DOCUMENTS, ACT])
def test_the_present_form_is_read_and_written_again_without_a_difference(name: str, kind: type[Any]) -> None:
    document = fixture(name)
    written = json.loads(json.dumps(records.to_json(records.from_json(kind, document))))
    assert known(written, document) == document
    newer = {"orphan_days", "quarantined", "plan", "only_new", "fewer", "shapes", "outdated"}
    assert set(written) - set(document) <= newer, "left out where it had its default, or newer"


@pytest.mark.parametrize(("name", "kind"), [*DOCUMENTS, ACT])
def test_a_release_that_was_rolled_back_to_reads_what_the_newer_one_wrote(name: str, kind: type[Any]) -> None:
    newer = with_more(fixture(name))
    assert "of_a_newer_release" in newer
    assert records.from_json(kind, newer) == records.from_json(kind, fixture(name))


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS)
def test_every_field_that_an_older_release_did_not_write_has_a_default(name: str, kind: type[Any]) -> None:
    assert records.from_json(kind, {}) == kind()
    document = fixture(name)
    for lacking in document:
        older = records.from_json(kind, {key: value for key, value in document.items() if key != lacking})
        written = records.to_json(older)
        assert written.pop(lacking, None) == records.to_json(kind()).get(lacking)
        rest = {key: value for key, value in document.items() if key != lacking}
        assert known(json.loads(json.dumps(written)), rest) == rest


@pytest.mark.parametrize("lacking", ["plan", "approval", "at_ms"])
def test_an_act_without_a_field_that_every_release_writes_is_refused_in_a_sentence(lacking: str) -> None:
    document = {key: value for key, value in fixture("act").items() if key != lacking}
    with pytest.raises(
        HeadraceError, match=rf"^A document of kind Act lacks a field \(.*'{lacking}'\): restore the file\.$"
    ):
        records.from_json(Act, document)


def test_an_act_without_the_optional_fields_of_its_parts_has_their_defaults() -> None:
    document = fixture("act")
    for part, optional in [
        ("plan", "blockers"),
        ("plan", "notes"),
        ("approval", "approved_by"),
        ("approval", "reason"),
    ]:
        document[part].pop(optional)
    document["plan"]["items"] = [{"action": "begin", "target": "generation 2"}]
    act = records.from_json(Act, document)
    assert (act.plan.blockers, act.plan.notes, act.approval.approved_by, act.approval.reason) == ((), (), "", "")
    assert act.plan.items == (Item("begin", "generation 2"),)


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
    act = records.from_json(Act, fixture("act"))
    assert (act.plan.kind, act.plan.id, act.approval.approved_by) == ("restore", act.approval.plan, "mia (Airflow)")


def test_a_window_is_read_as_the_type_of_its_kind_and_one_of_an_unknown_kind_keeps_its_name() -> None:
    assert isinstance(records.from_json(Check, fixture("quality-check")).window, Batches)
    (finding,) = records.from_json(Findings, fixture("quality-findings")).open
    assert isinstance(finding.window, BatchesStep)
    assert finding.window.rows_out == {"3": 1}
    of_another_release = {"window": {"kind": "sample", "name": "every tenth row", "share": 0.1}}
    assert records.from_json(Summary, of_another_release).window == Nothing(kind="sample", name="every tenth row")


def test_a_verdict_that_only_a_newer_release_knows_is_unknown(tmp_path: Path) -> None:
    small_files.write_json(paths.supervision(str(tmp_path), "p"), {"verdict": "DROWSY", "reason": "a nap"})
    read = memory.read(str(tmp_path), "p")
    assert read is not None
    assert (read.verdict, read.reason) == ("UNKNOWN", "DROWSY (of another release): a nap")


@pytest.mark.parametrize("duty", SPECS)
def test_the_spec_that_a_planner_prepares_is_the_one_that_the_job_reads(duty: Any, tmp_path: Path) -> None:
    run = job_runs.prepare(str(tmp_path), duty, "p", SPECS[duty](), "r")
    assert finite_job.job_spec(SPECS[duty], str(tmp_path), "p", "r") == run.spec
    assert run.spec.given_ms > 0


def test_a_run_without_a_spec_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"There is no job spec for run 'r' of p\. Plan the run first"):
        finite_job.job_spec(SPECS["views"], str(tmp_path), "p", "r")
