"""Which snapshot is read: complete, newest, newer than what is applied, not of the future."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.dimensions.documents import RefreshRecord
from headrace.operations.dimensions.snapshot import DirectorySnapshot, applied, in_drop, pick, settings
from headrace.store.records import from_json, to_json

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(PROJECT / "pipelines" / "user_logins.yaml")


def _drop(root: Path, name: str, mark: str | None = "", text: str = "login_id,user_name\na,A\n") -> None:
    folder = root / "refresh" / "user_logins" / "users" / "drop"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    if mark is not None:
        (folder / f"{name}.done").write_text(mark)


def test_an_empty_drop_folder_is_said_so(tmp_path: Path, pipeline: Pipeline) -> None:
    reason = pick(str(tmp_path), pipeline, "users")
    assert reason == f"There is no complete snapshot in {tmp_path}/refresh/user_logins/users/drop."


def test_the_newest_complete_snapshot_is_picked_whatever_its_name_begins_with(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    _drop(tmp_path, "z-20260101T000000Z.csv")
    _drop(tmp_path, "a-20260103T000000Z.parquet")
    _drop(tmp_path, "b-20260102T000000Z.csv")
    snapshot = pick(str(tmp_path), pipeline, "users")
    assert isinstance(snapshot, DirectorySnapshot)
    assert (snapshot.version, snapshot.kind) == ("20260103T000000Z", "parquet")
    assert snapshot.extract_ms == int(datetime(2026, 1, 3, tzinfo=UTC).timestamp() * 1000)
    assert from_json(DirectorySnapshot, to_json(snapshot)) == snapshot


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path, pipeline: Pipeline) -> None:
    _drop(tmp_path, "users-20260101T000000Z.csv")
    _drop(tmp_path, "users-20260102T000000Z.csv", mark=None)
    _drop(tmp_path, ".users-20260103T000000Z.csv")
    _drop(tmp_path, "users.csv")
    snapshot = pick(str(tmp_path), pipeline, "users")
    assert isinstance(snapshot, DirectorySnapshot)
    assert snapshot.version == "20260101T000000Z"
    assert in_drop(str(tmp_path), "user_logins", "users")[1] == ["users-20260102T000000Z.csv"]


def test_a_mark_may_say_rows_and_hash(tmp_path: Path, pipeline: Pipeline) -> None:
    _drop(tmp_path, "users-20260101T000000Z.csv", mark=json.dumps({"rows": 1, "sha256": "ab"}))
    snapshot = pick(str(tmp_path), pipeline, "users")
    assert isinstance(snapshot, DirectorySnapshot)
    assert (snapshot.rows, snapshot.sha256) == (1, "ab")


@pytest.mark.parametrize("late", ["20260101T000000Z", "20251231T235959Z"])
def test_a_snapshot_as_old_as_the_applied_one_or_older_is_left(tmp_path: Path, pipeline: Pipeline, late: str) -> None:
    _drop(tmp_path, f"users-{late}.csv")
    record: dict[str, Any] = {
        "version": "20260101T000000Z",
        "extract_ms": int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000),
    }
    (tmp_path / "refresh" / "user_logins" / "users" / "applied.json").write_text(json.dumps(record))
    assert applied(str(tmp_path), "user_logins", "users") == RefreshRecord(**record)
    reason = pick(str(tmp_path), pipeline, "users")
    assert isinstance(reason, str)
    assert reason.startswith(f"{late}, the newest snapshot in ")
    assert "is not newer than applied 20260101T000000Z" in reason


def test_a_snapshot_of_the_future_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")
    _drop(tmp_path, f"users-{ahead}.csv")
    with pytest.raises(HeadraceError, match="extracted in the future, so its rows would override every later change"):
        pick(str(tmp_path), pipeline, "users")


def test_a_time_that_does_not_exist_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    _drop(tmp_path, "users-20261399T000000Z.csv")
    with pytest.raises(HeadraceError, match="has no time in its name"):
        pick(str(tmp_path), pipeline, "users")


@pytest.mark.parametrize("mark", ["[]", "{rows: 1}", '{"rows": "1"}', '{"rows": true}', '{"sha": "ab"}', "100"])
def test_a_mark_that_says_something_else_is_refused(tmp_path: Path, pipeline: Pipeline, mark: str) -> None:
    _drop(tmp_path, "users-20260101T000000Z.csv", mark=mark)
    with pytest.raises(HeadraceError, match=r"users-20260101T000000Z\.csv\.done is neither empty nor JSON such as"):
        pick(str(tmp_path), pipeline, "users")


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_snapshot_is_known_by_its_ending(tmp_path: Path, pipeline: Pipeline, ending: str) -> None:
    _drop(tmp_path, f"users-20260101T000000Z.{ending}")
    snapshot = pick(str(tmp_path), pipeline, "users")
    assert isinstance(snapshot, DirectorySnapshot)
    assert snapshot.kind == ending.removesuffix(".gz")


def test_a_dimension_that_is_not_refreshed_is_said_so(pipeline: Pipeline) -> None:
    with pytest.raises(HeadraceError, match=r"user_logins\.yaml has no dimensions\.shops\.refresh\. Add it"):
        settings(pipeline, "shops")
