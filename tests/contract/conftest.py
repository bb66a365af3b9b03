from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.contract.load import load_pipeline, load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GONE = "<gone>"


@pytest.fixture(scope="session")
def pipelines() -> dict[str, Pipeline]:
    return load_pipelines(ROOT / "pipelines")


@pytest.fixture(scope="session")
def good() -> Pipeline:
    return load_pipeline(HERE / "good.yaml")


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the good pipeline with changes {dotted key: value or GONE} and returns the file."""

    def write(changes: dict[str, Any], name: str = "good") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(changed(changes), sort_keys=False))
        return path

    return write


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    # Aliases of YAML are one object: a JSON-like copy of each branch lets a change hit one place only.
    content: dict[str, Any] = _unshared(_good())
    for key, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place: Any = content
        for part in parents:
            place = place[part]
        if value == GONE:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    return content


@cache
def _good() -> dict[str, Any]:
    return dict(yaml.safe_load((HERE / "good.yaml").read_text()))


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def refusal(path: Path) -> str:
    with pytest.raises(HeadraceError) as caught:
        load_pipeline(path)
    return str(caught.value)
