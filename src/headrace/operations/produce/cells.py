"""One cell of a CSV or Parquet row as JSON text, by the type that the source declares. Values are never altered."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

import msgspec

# RFC 8259: the valid JSON numbers. "007", "1.", "+1" and "1,5" are invalid, and stay strings.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)")
_BOOLEANS: Final = {"true": "true", "false": "false"}
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def cell_text(kind: str, cell: Any) -> str | None:  # noqa: ANN401 - a str from CSV, any scalar from Parquet
    """Return the JSON text of a cell, or None for an absent one (null, or an empty CSV cell).

    If the contract's type `kind` is a number or a boolean in JSON, a valid cell is written as such, with its original digits.
    Anything else becomes a string with the user's text, which the contract then checks. One rule completes a text: a date,
    `yyyy-MM-dd`, becomes midnight if `kind` is timestamp. Bytes that are not UTF-8 appear as surrogate escapes (PEP 383).
    """
    text = _plain(kind, cell)
    if text is None:
        return None
    if kind in ("int", "long") and _INTEGER.fullmatch(text):
        return text
    if kind.startswith("decimal") and _NUMBER.fullmatch(text):
        return text
    if kind == "json" and _is_json(text):
        return text
    if kind == "boolean" and text.lower() in _BOOLEANS:
        return text.lower()
    return json.dumps(text, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text.encode(), type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True


def key_text(kind: str, cell: Any) -> bytes | None:  # noqa: ANN401
    """Return a Kafka key: the cell's plain text as bytes, or None if it is absent or not a scalar."""
    text = None if isinstance(cell, dict | list) else _plain(kind, cell)
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _plain(kind: str, cell: Any) -> str | None:  # noqa: ANN401
    """Return a scalar's text, or None for NaN, which pandas writes for an absent value."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # pandas turns an integer column with nulls into floats
    if isinstance(cell, Decimal):
        return format(cell, "f")
    text = cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else str(cell)
    if kind == "timestamp" and _DAY.fullmatch(text):
        return f"{text} 00:00:00"
    return text or None
