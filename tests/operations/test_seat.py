"""What DAG files read of a project: names and topics, whatever a broken file or an editor left beside the good ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.operations import seat


@pytest.fixture
def dag_file(tmp_path: Path) -> str:
    """A DAG file beside a folder with one good pipeline file and four that are none or do not load."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "good.yaml").write_text("sources: {sales: {}}\ndimensions: {shops: {refresh: {}}, tills: {}}\n")
    (folder / "bad.yaml").write_text("sources: [1\n")
    (folder / "list.yaml").write_text("sources: [sales]\n")
    (folder / "lost.yaml").symlink_to("nowhere")
    (folder / ".#good.yaml").symlink_to("ada@laptop.4711:1764400000")
    (folder / "._good.yaml").write_bytes(b"\x00\x05\x16\x07\xff")
    return str(tmp_path / "dags" / "streams.py")


def test_the_dag_files_of_a_project_with_a_broken_pipeline_file_still_load(dag_file: str) -> None:
    assert seat.topics_of(dag_file) == ["sales"]
    assert seat.refreshed_dimensions(dag_file) == ["good.shops"]


def test_a_broken_file_keeps_its_name_in_the_forms_and_a_leftover_has_none(dag_file: str) -> None:
    assert seat.pipeline_names(dag_file) == ["bad", "good", "list", "lost"]
