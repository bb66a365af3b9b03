"""The command line of the batch layer: exit codes, JSON, plans that change nothing, errors in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.errors import HeadraceError
from headrace.operations import retention
from headrace.operations.batch import job_runs, repair
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.plans import Approval, Item, Plan
from headrace.store import paths, quarantine, small_files, trees
from headrace.store.job_reports import ReconcileReport
from headrace.store.records import from_json
from tests.cli.conftest import use

DIFFERENCE = {
    "what": "missing in the sink",
    "key": {"product_id": "p7"},
    "batches": [3],
    "offsets": {"pos/0": [5, 9]},
}
ACCOUNT = {
    "query": "tumbling", "sink": "table pos_sales.tumbling", "kind": "windows", "compared": 9, "late": 1, "pending": 0,
    "note": "",
}  # fmt: skip


@pytest.fixture
def deployment(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.chdir(project)
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    made = Deployment(
        project=project,
        root=str(tmp_path / "storage"),
        bindings=tmp_path / "admin",
        drivers=LocalDrivers(**folders, environment={}),
    )
    small_files.write_json(paths.generation_paths(made.root, "pos_sales", "tumbling", 1).manifest, {})
    use(made, tmp_path / "deployment.json", monkeypatch)
    return made


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app.app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_difference_is_exit_code_4_and_none_is_0(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def executed(differing: int) -> Any:
        status = "FAILED" if differing else "PASSED"
        account = ACCOUNT | {"differing": differing, "differences": [DIFFERENCE] * differing, "status": status}
        known = from_json(ReconcileReport, {"differing": differing, "accounts": [account]})
        return lambda _, given, *__: replace(known, pipeline=given.pipeline, run=given.run)

    monkeypatch.setattr(job_runs, "execute", executed(0))
    assert run("batch", "reconcile", "pos_sales", "--json")[0] == 0
    monkeypatch.setattr(job_runs, "execute", executed(1))
    code, printed = run("batch", "reconcile", "pos_sales", "--query", "tumbling")
    assert code == 4
    assert "tumbling: missing in the sink product_id=p7, batches 3, pos/0 5-9" in printed
    code, printed = run("batch", "reconcile", "--json")
    assert code == 4
    assert [report["pipeline"] for report in json.loads(printed)] == ["pos_sales"], "the others never ran"


def test_a_comparison_that_could_not_be_made_is_exit_code_5(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = ACCOUNT | {
        "compared": 0,
        "differing": 0,
        "differences": [],
        "status": "NOT_COMPARED",
        "note": "no archive",
    }
    report = from_json(ReconcileReport, {"pipeline": "pos_sales", "run": "r", "differing": 0, "accounts": [blocked]})
    monkeypatch.setattr(job_runs, "execute", lambda *_: report)
    code, shown = run("batch", "reconcile", "pos_sales")
    assert code == 5
    assert "NOT_COMPARED" in shown
    assert "tumbling: no archive" in shown


def test_a_repair_shows_its_plan_and_changes_nothing_without_act(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item("write", "tumbling product_id=p7", "sales: 2 -> 3")
    planned = Plan("repair", "pos_sales after run r", (item,), notes=("Not repaired: items: a topic.",))
    acted: list[str] = []

    def act(_: Deployment, pipeline: str, run: str, approval: Approval) -> repair.Repaired:
        acted.append(approval.plan)
        return repair.Repaired(approval.plan, pipeline, run, 1, 0, 1, ("tumbling",))

    monkeypatch.setattr(repair, "plan", lambda *_: planned)
    monkeypatch.setattr(repair, "act", act)
    code, printed = run("batch", "repair", "pos_sales", "r")
    assert (code, acted) == (0, [])
    assert "write tumbling product_id=p7: sales: 2 -> 3" in printed
    assert "Not repaired: items: a topic." in printed
    assert printed.splitlines()[-1].endswith(f"headrace batch repair pos_sales r --act {planned.id}")
    code, printed = run("batch", "repair", "pos_sales", "r", "--act", planned.id)
    assert (code, acted) == (0, [planned.id])
    assert "1 rows written, 0 deleted, 1 verified" in printed
    assert "Now: headrace batch reconcile pos_sales --query tumbling" in printed


def test_retention_is_exit_code_4_when_records_are_or_will_be_lost(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = retention.Place("tumbling", "pos", 0, "LOST", 5, 9, 12, 0.0)
    report = retention.RetentionReport("pos_sales", "LOST", (place,), 0.0, ("pos",))
    monkeypatch.setattr(retention, "guard", lambda *_: report)
    code, shown = run("batch", "retention", "pos_sales")
    assert code == 4
    assert "pos is also limited by size" in shown
    monkeypatch.setattr(retention, "guard", lambda *_: replace(report, state="RETIRED"))
    assert run("batch", "retention", "pos_sales")[0] == 0
    monkeypatch.setattr(retention, "guard", lambda *_: retention.RetentionReport("pos_sales", "OK"))
    assert run("batch", "retention", "pos_sales")[0] == 0


def test_what_cannot_be_asked_is_reported_in_one_sentence(deployment: Deployment) -> None:
    for words, message in (
        (("dead-letters", "list", "--since", "yesterday"), "is not a time. Write 2026-11-23"),
        (("dead-letters", "show", "pos", "--offsets", "a-b"), "--offsets takes FIRST-LAST"),
        (("dead-letters", "list", "poss"), "Unknown source topic 'poss'"),
        (("dead-letters", "quarantine", "pos_sales", "--offsets", "pos:0:1"), "--offsets needs --query"),
        (
            ("dead-letters", "quarantine", "pos_sales", "--query", "items", "--offsets", "1-2"),
            "takes TOPIC:PARTITION:FIRST",
        ),
        (
            ("dead-letters", "find", "pos_sales", "--query", "items"),
            "items has no batch that was planned and not committed",
        ),
        (("serve-query", "pos_sales", "tumbling", "--key", "p1"), "--key takes COLUMN=VALUE"),
        (("serve-query", "pos_sales", "tumbling", "--since", "noon"), "is not a time. Write 2026-11-23"),
        (("batch", "rebuild", "pos_sales", "items2"), "Unknown query 'items2' of pos_sales"),
        (("batch", "repair", "pos_sales", "never"), "Run never of pos_sales left no report"),
    ):
        with pytest.raises(HeadraceError, match=message):
            run(*words)


def test_the_status_of_views_is_there_before_the_first_run(deployment: Deployment) -> None:
    code, printed = run("batch", "status", "pos_sales", "--json")
    assert code == 0
    assert json.loads(printed)[0]["horizon"] is None


def test_the_quarantine_is_listed_and_a_pipeline_without_a_crash_has_no_batch_to_search(deployment: Deployment) -> None:
    entry = quarantine.Entry("pos", 0, 41, 42, query="items", reason="poison", by="ada", since=1, until=3)
    quarantine.write(deployment.root, "pos_sales", quarantine.Quarantine((entry,)))
    code, printed = run("dead-letters", "quarantine", "pos_sales")
    assert code == 0
    assert all(word in printed for word in ("items", "poison", "ada"))
    assert json.loads(run("dead-letters", "quarantine", "pos_sales", "--json")[1])["entries"][0]["last"] == 42
    trees.remove(paths.pipeline_folder(deployment.root, "pos_sales"))
    code, printed = run("dead-letters", "find", "pos_sales")
    assert (code, printed.strip()) == (
        0, "No query of pos_sales has a batch that was planned and not committed: no record ended a driver."
    )  # fmt: skip
