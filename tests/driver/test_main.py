"""A driver whose files are broken says so and is not started again: no restart corrects a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.store import paths, small_files
from spark_jobs import main


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("pipelines/pos_sales.yaml", "colour: red\n", "colour: unknown key"),
        ("spark_jobs/pos_sales.py", "def items(pos:\n", "pos_sales.py cannot be imported (SyntaxError: "),
        (
            "spark_jobs/pos_sales.py",
            "import no_such_module\n",
            "cannot be imported (ModuleNotFoundError: No module named",
        ),
        ("spark_jobs/pos_sales.py", "", "pos_sales.py lacks items"),
        ("spark_jobs/pos_sales.py", None, "pos_sales.py is missing"),
    ],
)
def test_a_driver_whose_files_are_broken_is_refused(
    file: str, text: str | None, says: str, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("pipelines", "spark_jobs"):
        (tmp_path / folder).mkdir()
    shutil.copy(project / "pipelines" / "pos_sales.yaml", tmp_path / "pipelines")
    if text is not None:
        (tmp_path / file).write_text(text)
    monkeypatch.setenv("HEADRACE_PIPELINES", str(tmp_path / "pipelines"))
    monkeypatch.setenv("HEADRACE_STORAGE_ROOT", str(tmp_path / "storage"))
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    assert main.main("pos_sales") == Exit.REFUSED
    word = small_files.read_json(paths.outcome(str(tmp_path / "storage"), "pos_sales"))
    assert word is not None
    assert word["exit"] == "REFUSED"
    assert says in word["error"]
