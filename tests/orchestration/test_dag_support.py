"""What DAG files read of a project: names and topics, whatever a broken file or an editor left beside the good ones."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace.errors import HeadraceError
from headrace.operations.lineage.graph import PARENT
from headrace.orchestration import dag_support


@pytest.fixture
def dag_file(tmp_path: Path) -> str:
    """A DAG file beside a folder with one good pipeline file and four that are none or do not load."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "good.yaml").write_text(
        "sources: {sales: {}, placed: {topic: shop.orders-v1}}\ndimensions: {shops: {refresh: {}}, tills: {}}\n"
    )
    (folder / "bad.yaml").write_text("sources: [1\n")
    (folder / "list.yaml").write_text("sources: [sales]\n")
    (folder / "lost.yaml").symlink_to("nowhere")
    (folder / ".#good.yaml").symlink_to("ada@laptop.4711:1764400000")
    (folder / "._good.yaml").write_bytes(b"\x00\x05\x16\x07\xff")
    return str(tmp_path / "dags" / "streams.py")


def test_the_dag_files_of_a_project_with_a_broken_pipeline_file_still_load(dag_file: str) -> None:
    assert dag_support.topics_of(dag_file) == ["sales", "shop.orders-v1"]
    assert [
        (dimension.name, dimension.pipeline, dimension.dimension)
        for dimension in dag_support.refreshed_dimensions(dag_file)
    ] == [("shops", "good", "shops")]


def test_a_broken_file_keeps_its_name_in_the_forms_and_a_leftover_has_none(dag_file: str) -> None:
    assert dag_support.pipeline_names(dag_file) == ["bad", "good", "list", "lost"]


def _project(folder: Path, **pipelines: str) -> str:
    (folder / "pipelines").mkdir()
    for name, refreshes in pipelines.items():
        dimensions = "".join(f"  {line}\n" for line in refreshes.split("; "))
        (folder / "pipelines" / f"{name}.yaml").write_text(f"dimensions:\n{dimensions}")
    return str(folder / "dags" / "users_refresh.py")


def test_each_dimension_that_is_refreshed_has_a_name_and_a_schedule_of_its_own(tmp_path: Path) -> None:
    dag_file = _project(
        tmp_path,
        one="staff: {refresh: {schedule: '5 3 * * 1'}}; doors: {refresh: {}}; fixed: {}",
        two="doors: {refresh: {schedule: 'every day'}}; users: {refresh: {schedule: 7}}",
    )
    assert dag_support.refreshed_dimensions(dag_file) == [
        dag_support.Refreshed("one_doors", "one", "doors", "29 0 * * *"),
        dag_support.Refreshed("staff", "one", "staff", "5 3 * * 1"),
        dag_support.Refreshed("two_doors", "two", "doors", None),
        dag_support.Refreshed("users", "two", "users", None),
    ]


def test_a_project_without_a_refreshed_dimension_has_none(tmp_path: Path) -> None:
    assert dag_support.refreshed_dimensions(_project(tmp_path, one="fixed: {}")) == []


class _Answered:
    """A task instance that knows one answer."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def xcom_pull(self, task_ids: str) -> object:
        return self.answer if task_ids == "approve" else None


def test_an_approval_has_the_name_of_the_person() -> None:
    answer = {"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "mia"}}
    assert dag_support.approver(_Answered(answer), "approve") == "mia (Airflow)"


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"chosen_options": ["Approve"], "responded_by_user": None},
     {"chosen_options": ["Reject"], "responded_by_user": {"id": "7", "name": "mia"}}],
)  # fmt: skip
def test_what_no_person_approved_is_not_approved(answer: object) -> None:
    with pytest.raises(HeadraceError, match="The task approve was not approved"):
        dag_support.approver(_Answered(answer), "approve")


@pytest.mark.parametrize("logical_date", [datetime(2026, 3, 1, tzinfo=UTC), None], ids=["scheduled", "by an asset"])
def test_a_task_names_its_dag_run_for_the_lineage_that_it_emits(
    monkeypatch: pytest.MonkeyPatch, logical_date: datetime | None
) -> None:
    monkeypatch.setenv(PARENT, "")
    tasks = dag_support.dag_arguments(doc="", tags=())["default_args"]
    run = SimpleNamespace(
        dag_id="quality", logical_date=logical_date, run_after=datetime(2026, 3, 2, tzinfo=UTC), clear_number=None
    )
    tasks["on_execute_callback"]({"dag_run": run})
    day = "01" if logical_date else "02"
    assert json.loads(os.environ[PARENT]) == {"dag": "quality", "at": f"2026-03-{day}T00:00:00+00:00", "clear": 0}
