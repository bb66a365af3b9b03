"""`headrace checkpoint` on a storage root made by hand: JSON, exit codes, plans that change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli import app, common
from headrace.errors import HeadraceError
from headrace.store import generation
from headrace.store.checkpoint_log import commits_entry
from tests.support.checkpoints import begin, put, run


@pytest.fixture
def root(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(project)
    storage = str(tmp_path / "home" / "storage")
    run(storage, begin(storage), range(3))
    return storage


def _call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, ["checkpoint", *arguments])


def _json(*arguments: str) -> Any:
    done = _call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_inspect_and_snapshot_name_a_pipeline_or_a_query(root: str) -> None:
    assert common.pipelines_of()
    assert [inspected["query"] for inspected in _json("inspect")].count("pos_sales.tumbling") == 1
    (one,) = _json("inspect", "pos_sales.tumbling")
    assert (one["current"], one["generations"][0]["committed_batch"]) == (1, 2)
    (taken,) = _json("snapshot")
    assert (taken["query"], taken["batch"], taken["reason"]) == ("tumbling", 2, "by hand")
    assert "pos_sales.tumbling" in _call("inspect", "pos_sales.tumbling").stdout


def test_verify_ends_with_1_where_something_critical_is_found(root: str) -> None:
    assert all(report["sound"] for report in _json("verify", "--no-kafka"))
    put(commits_entry(generation.current(root, "pos_sales", "tumbling").paths(root).checkpoint, 2), "")  # type: ignore[union-attr]
    done = _call("verify", "--no-kafka", "pos_sales", "--json")
    assert done.exit_code == 1
    (report,) = [candidate for candidate in json.loads(done.stdout) if not candidate["sound"]]
    assert (report["query"], report["findings"][0]["runbook"]) == ("pos_sales.tumbling", "CheckpointLogDamaged")
    assert _call("verify", "--no-kafka", "pos_sales").exit_code == 1


def test_a_reset_is_carried_out_with_the_id_of_its_plan_and_with_no_other(root: str) -> None:
    words = ("restore", "pos_sales.tumbling", "--reset", "--at", "2026-01-01T00:00:00")
    planned = _json(*words)
    assert planned["items"][0]["detail"] == "with empty state, from 2026-01-01T00:00:00+00:00 of its topics"
    *_, last = _call(*words).stdout.splitlines()
    assert last.endswith(
        f"headrace checkpoint restore pos_sales.tumbling --reset --at '2026-01-01 00:00:00' --act {planned['id']}"
    )
    begin(root)
    refused = _call(*words, "--act", planned["id"])
    assert refused.exit_code == 1
    assert f"The situation changed since plan {planned['id']}" in str(refused.exception)
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    assert (now.number, _json(*words)["id"] != planned["id"]) == (2, True)


def test_a_prune_is_carried_out_with_the_id_of_its_plan_and_with_no_other(root: str) -> None:
    assert _json("prune", "--generation-days", "0")["items"] == []
    assert "There is nothing to do for the prune of" in _call("prune", "--generation-days", "0").stdout
    begin(root)
    planned = _json("prune", "--generation-days", "0")
    (item,) = planned["items"]
    assert (item["action"], item["target"]) == ("move to the trash", "checkpoints/pos_sales/tumbling/0001")
    refused = _call("prune", "--generation-days", "0", "--act", "3f2a9c01")
    assert "The situation changed since plan 3f2a9c01" in str(refused.exception)
    assert _json("prune", "--generation-days", "0") == planned, "nothing was moved"
    assert _json("prune", "--generation-days", "0", "--act", planned["id"])["id"] == planned["id"]
    assert _json("prune", "--generation-days", "0")["items"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["restore", "pos_sales"], "names a pipeline, but one query is needed: write PIPELINE.QUERY"),
        (["restore", "pos_sales.tumbling"], "has no snapshot: take one with"),
        (["restore", "pos_sales.tumbling", "--at", "2026-01-01"], "--at needs --reset"),
        (["inspect", "pos_sales.x"], "Unknown query 'x' of pos_sales"),
        (["snapshot", "pos_sales.items"], "has no generation"),
    ],
)
def test_a_refusal_is_one_sentence(root: str, arguments: list[str], sentence: str) -> None:
    done = _call(*arguments)
    assert isinstance(done.exception, HeadraceError)
    assert sentence in str(done.exception)
