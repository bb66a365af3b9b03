"""The entry point of a driver leaves word of how it ended, with its own life."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.store import paths, small_files


@pytest.fixture
def entry(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """spark_jobs/main.py with everything of a driver but its life."""
    spec = importlib.util.spec_from_file_location("driver_main", project / "spark_jobs" / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("HEADRACE_STORAGE_ROOT", str(tmp_path))
    monkeypatch.setenv("HEADRACE_REQUEST", "R")
    monkeypatch.setenv("HEADRACE_LIFE", "L")
    monkeypatch.setattr(module, "_prepare", lambda *_: (SimpleNamespace(name="p"), None, None))
    return module


def _end(entry: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Exception) -> dict[str, Any] | None:
    def run(*_: object) -> int:
        raise fault

    monkeypatch.setattr(entry, "run", run)
    entry.main("p")
    word: dict[str, Any] | None = small_files.read_json(paths.outcome(str(tmp_path), "p"))
    return word


LOCKED = HeadraceError("A driver of p already runs (process 7).", exit_code=Exit.LOCKED)


def test_a_driver_that_found_its_lock_taken_says_so_with_its_life(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    word = _end(entry, monkeypatch, tmp_path, LOCKED)
    assert word is not None
    assert {key: word[key] for key in ("exit", "life", "request")} == {"exit": "LOCKED", "life": "L", "request": "R"}


def test_one_without_an_instance_leaves_the_word_of_the_running_driver(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HEADRACE_LIFE")
    assert _end(entry, monkeypatch, tmp_path, LOCKED) is None


def test_what_broke_a_driver_off_is_classed_in_its_word(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    word = _end(entry, monkeypatch, tmp_path, OSError(28, "No space left on device"))
    assert word is not None
    assert (word["exit"], "No space left on device" in word["error"]) == ("DISK_FULL", True)
