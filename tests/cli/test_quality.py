"""`headrace quality` and `headrace users` without any server: what is kept in files, and the sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli.app import app
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.store import paths, small_files
from tests.cli.conftest import use

SINK = "kafka.pos_items"


@pytest.fixture
def root(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The storage root of a deployment."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(project)
    drivers = LocalDrivers(
        run_dir=tmp_path, log_dir=tmp_path, tmp_dir=tmp_path, driver_bindings=tmp_path, environment={}
    )
    made = Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path, drivers=drivers)
    use(made, tmp_path / "deployment.json", monkeypatch)
    return made.root


def _summary(**values: Any) -> dict[str, Any]:
    failed = {
        "id": "1",
        "expectation": "column_values_to_be_unique(_id)",
        "severity": "critical",
        "why": "One id says one thing.",
        "unexpected": 2,
        "percent": 0.1,
        "observed": None,
        "error": "",
        "examples": [{"_partition": 0, "_offset": 7}],
    }
    return {
        "sink": SINK,
        "status": "FAILED",
        "rows": 1234,
        "sampled": False,
        "window": {"name": "generation 1 batches 0 to 5"},
        "failed": [failed],
        "batches": [{"batch": 3, "expected": 10, "found": 9}],
    } | values


def test_show_says_why_an_expectation_could_not_be_judged(root: str) -> None:
    """It said "found: None": the error was shown only beside failing rows, and there are none."""
    summary = _summary()
    summary["failed"][0] |= {"unexpected": 0, "error": "the column x does not exist", "examples": []}
    small_files.write_json(paths.quality_latest(root, SINK), summary)
    shown = CliRunner().invoke(app, ["quality", "show", SINK])
    assert "found: the column x does not exist" in shown.output


def test_show_tells_what_failed_why_and_in_which_rows_and_batches(root: str) -> None:
    small_files.write_json(paths.quality_latest(root, SINK), _summary())
    shown = CliRunner().invoke(app, ["quality", "show", SINK])
    assert shown.exit_code == 0
    for text in (
        "FAILED",
        "1,234",
        "generation 1 batches 0 to 5",
        "column_values_to_be_unique(_id) critical: One id says one thing.",
        "2 rows (0.1 %)",
        "'_offset': 7",
        "batch 3: 9 rows, but 10 in the ledger",
    ):
        assert text in shown.output
    printed = CliRunner().invoke(app, ["quality", "show", SINK, "--json"])
    assert json.loads(printed.output) == _summary()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quality", "show", SINK], "kafka.pos_items has not been checked yet. Run `headrace quality run`."),
        (["quality", "show", "kafka.nope"], "Unknown sink or stage 'kafka.nope'. Known sinks and stages: cassandra."),
        (["quality", "run", "--since", "today"], "'today' is not a time. Write 2026-11-23 or 2026-11-23T10:00 (UTC)."),
        (["users", "refresh", "a.b"], "Unknown dimension 'a.b'. Dimensions with a refresh: user_logins.users."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("root")
def test_a_wrong_word_is_answered_in_one_sentence(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, HeadraceError)
    assert says in str(done.exception)


def test_users_status_tells_what_waits_and_what_is_applied(root: str) -> None:
    drop = Path(paths.refresh_drop(root, "user_logins", "users"))
    drop.mkdir(parents=True)
    for name in ("a-20260101T000000Z.csv", "a-20260101T000000Z.csv.done", "a-20260102T000000Z.csv"):
        (drop / name).write_text("")
    small_files.write_json(
        f"{paths.refresh(root, 'user_logins', 'users')}/applied.json", {"version": "20251231T000000Z", "rows": 5}
    )
    status = json.loads(CliRunner().invoke(app, ["users", "status", "--json"]).output)["user_logins.users"]
    assert status["applied"]["rows"] == 5
    assert [Path(place).name for place in status["complete"]] == ["a-20260101T000000Z.csv"]
    assert status["unfinished"] == ["a-20260102T000000Z.csv"]
    shown = CliRunner().invoke(app, ["users", "status"]).output
    assert "20251231T000000Z" in shown


def test_a_refresh_without_a_newer_snapshot_says_so_and_changes_nothing(root: str) -> None:
    done = CliRunner().invoke(app, ["users", "refresh"])
    assert done.exit_code == 0
    assert "There is no complete snapshot in" in done.output
    assert not Path(root).exists()
