"""One cell of a CSV or Parquet row as JSON text, by the type that the source declares."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

# RFC 8259: what may stand in JSON as a number. "007", "1.", "+1" and "1,5" may not, and stay strings.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_BOOLEANS = {"true": "true", "false": "false"}


def cell_text(kind: str, cell: Any) -> str | None:  # noqa: ANN401 - a str from CSV, any scalar from Parquet
    """Return the JSON text of a cell, None for an absent one (null, or an empty CSV cell).

    Numbers keep the digits they came with: a decimal never passes through a float. Times are written
    `yyyy-MM-dd HH:mm:ss[.ffffff]` in UTC. What does not fit `kind` (a column type of the contract) becomes a string.
    """
    text = _plain(cell)
    if text is None or text == "":
        return None
    if kind in ("int", "long") and _INTEGER.fullmatch(text):
        return text
    if kind.startswith("decimal") and _NUMBER.fullmatch(text):
        return text
    if kind == "boolean" and text.lower() in _BOOLEANS:
        return text.lower()
    if kind == "timestamp":
        text = _time_text(text)
    return json.dumps(text, ensure_ascii=False)


def key_text(kind: str, cell: Any) -> bytes | None:  # noqa: ANN401
    """Return a Kafka key: the cell's plain text in UTF-8, None if it is absent or no scalar."""
    if isinstance(cell, dict | list):
        return None
    text = _plain(cell)
    if text is None or text == "":
        return None
    return (_time_text(text) if kind == "timestamp" else text).encode()


def _plain(cell: Any) -> str | None:  # noqa: ANN401
    """Return a scalar's text. Floats that are no number (NaN) are how pandas writes an absent value."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # pandas turns an integer column with nulls into floats
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, datetime):
        return cell.isoformat(sep=" ")
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return cell.decode()
    return str(cell)


def _time_text(text: str) -> str:
    """Write an ISO time the one way; leave anything else as it is, for the contract to judge."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    if time.tzinfo is not None:
        try:
            time = time.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            return text
    return time.isoformat(sep=" ")
