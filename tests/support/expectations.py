"""Great Expectations in tests: imported once, with its own warnings; and the suites of a stage that has other names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def import_great_expectations() -> None:
    """Import it as a user's process does: on Python 3.11 it imports a module that is deprecated (sre_constants)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations  # noqa: F401


def copy_suites(project: Path, tree: Path, names: Mapping[str, str], words: Mapping[str, str]) -> None:
    """Copy suites (old name -> new name) into a stage's tree; `words` that stand alone in them are replaced."""
    (tree / "expectations").mkdir(parents=True, exist_ok=True)
    for old, new in names.items():
        suite = json.loads((project / "expectations" / f"{old}.json").read_text())
        suite = _renamed(suite, words) | {"name": new}
        (tree / "expectations" / f"{new}.json").write_text(json.dumps(suite))


def _renamed(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, words) for inner in value]
    return words.get(value, value) if isinstance(value, str) else value
