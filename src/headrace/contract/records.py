"""Records in JSON files that an older and a newer release both read: a field that one does not know is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Record = TypeVar("Record")


def known_fields(kind: type[Record], found: Mapping[str, Any]) -> Record:
    """Return a dataclass made of the fields that it has; those of another release are left out.

    Raises TypeError where a field without a default is missing.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in found.items() if name in known})
