"""Records in JSON files that both older and newer releases read: unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Record = TypeVar("Record")


def known_fields(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Return a dataclass built from the fields that it knows; fields of another release are ignored.

    Raises TypeError if a field without a default is missing.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})
