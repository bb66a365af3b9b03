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
    assert [each["query"] for each in _json("inspect")].count("pos_sales.tumbling") == 1
    (one,) = _json("inspect", "pos_sales.tumbling")
    assert (one["current"], one["generations"][0]["committed_batch"]) == (1, 2)
    (taken,) = _json("snapshot")
    assert (taken["query"], taken["batch"], taken["reason"]) == ("tumbling", 2, "by hand")
    assert "pos_sales.tumbling" in _call("inspect", "pos_sales.tumbling").stdout


def test_verify_ends_with_1_where_something_critical_is_found(root: str) -> None:
    assert all(each["sound"] for each in _json("verify", "--no-kafka"))
    put(commits_entry(generation.current(root, "pos_sales", "tumbling").paths(root).checkpoint, 2), "")  # type: ignore[union-attr]
    done = _call("verify", "--no-kafka", "pos_sales", "--json")
    assert done.exit_code == 1
    (found,) = [each for each in json.loads(done.stdout) if not each["sound"]]
    assert (found["query"], found["findings"][0]["runbook"]) == ("pos_sales.tumbling", "CheckpointLogDamaged")
    assert _call("verify", "--no-kafka", "pos_sales").exit_code == 1


def test_a_reset_and_a_prune_are_plans_until_they_are_told_to_act(root: str) -> None:
    planned = _json("restore", "pos_sales.tumbling", "--reset", "--at", "2026-01-01T00:00:00")
    assert (planned["acted"], planned["new_generation"], planned["starting_ms"]) == (False, 2, 1_767_225_600_000)
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    assert now.number == 1
    assert _json("prune", "--generation-days", "0")["items"] == []
    begin(root)
    (item,) = _json("prune", "--generation-days", "0")["items"]
    assert item["path"].endswith("checkpoints/pos_sales/tumbling/0001")
    assert _json("prune", "--generation-days", "0", "--act")["acted"] is True
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
