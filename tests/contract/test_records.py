"""The one way of documents to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HeadraceError
from headrace.store import records, small_files


@dataclass(frozen=True)
class Inner:
    number: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    items: tuple[Inner, ...] = ()
    pairs: dict[str, tuple[str, int]] = field(default_factory=dict)
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    renamed: str = records.key("old_name", "")


FULL = Outer("x", Inner(1, "n"), Inner(2), (Inner(3),), {"a": ("b", 4)}, {"t": {0: 5}}, "r")


def test_a_document_is_the_same_after_json(tmp_path: Path) -> None:
    path = str(tmp_path / "document.json")
    records.write(path, FULL)
    assert records.read(Outer, path) == FULL
    assert (small_files.read_json(path) or {})["old_name"] == "r", "the key on disk stays"


def test_a_missing_field_and_a_null_that_may_not_be_have_the_default() -> None:
    assert records.from_json(Outer, {"name": "x"}) == Outer("x")
    assert records.from_json(Outer, {"name": "x", "inner": None, "items": None, "maybe": None}) == Outer("x")


def test_an_unknown_field_is_ignored_at_every_depth() -> None:
    document = records.to_json(FULL) | {"newer": 1}
    document["items"] = [item | {"newer": 1} for item in document["items"]]
    assert records.from_json(Outer, document) == FULL


@pytest.mark.parametrize("document", [[], "text", {"inner": {}}, {"name": "x", "inner": 3}])
def test_what_is_no_such_document_is_refused_with_its_path(document: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "document.json")
    small_files.write_json(path, document)
    with pytest.raises(HeadraceError, match=r"document\.json cannot be read: A document of kind (Outer|Inner)"):
        records.read(Outer, path)


def test_no_file_is_no_document(tmp_path: Path) -> None:
    assert records.read(Outer, str(tmp_path / "none.json")) is None


def test_a_short_id_is_the_same_for_the_same_content_and_another_for_another() -> None:
    assert records.short_id({"a": 1, "b": 2}) == records.short_id({"b": 2, "a": 1})
    assert len({records.short_id("a"), records.short_id("b"), records.short_id(["a"])}) == 3
    assert len(records.short_id("a")) == 16
