from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from headrace.contract import model, model_quality, schema
from headrace.errors import HeadraceError
from tests.contract.conftest import HERE, ROOT

FOLDER = ROOT / "pipelines"
MODELS = [
    value
    for value in vars(model).values()
    if isinstance(value, type) and issubclass(value, model.Strict) and value is not model.Strict
] + [model_quality.Quality]


def test_the_committed_schema_is_fresh() -> None:
    assert (FOLDER / "schema.json").read_text() == schema.schema(), "run python -m headrace.contract.schema"


def test_the_committed_field_tables_are_fresh() -> None:
    text = (FOLDER / "README.md").read_text()
    assert text == schema.readme(text), "run python -m headrace.contract.schema"


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# A\n{schema.BEGIN}\nA STALE TABLE\n{schema.END}\nafter\n")
    schema.main(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    schema.main(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert first["README.md"].startswith(b"# A\n")
    assert first["README.md"].endswith(b"\nafter\n")
    assert b"A STALE TABLE" not in first["README.md"]


def test_a_readme_without_its_marks_is_refused() -> None:
    with pytest.raises(HeadraceError, match="Add them where the fields belong"):
        schema.readme("# no marks")


@pytest.mark.parametrize("part", MODELS, ids=lambda part: part.__name__)
def test_every_field_says_what_it_means_and_stands_in_the_readme(part: type[BaseModel]) -> None:
    assert part in [section for _, section in schema.SECTIONS]
    text = (FOLDER / "README.md").read_text()
    for name, field in part.model_fields.items():
        assert field.description, f"{part.__name__}.{name}"
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("path", [*sorted(FOLDER.glob("*.yaml")), HERE / "good.yaml"], ids=lambda path: path.stem)
def test_an_editor_that_checks_by_the_schema_accepts_the_file(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema.schema()))


def test_an_editor_that_checks_by_the_schema_refuses_a_wrong_key() -> None:
    content = yaml.safe_load((HERE / "good.yaml").read_text()) | {"ownr": "x"}
    with pytest.raises(jsonschema.ValidationError, match="ownr"):
        jsonschema.validate(content, json.loads(schema.schema()))


def test_defaults_in_the_schema_are_spelled_as_in_a_file() -> None:
    assert not re.search(r'"default": "P', schema.schema())
