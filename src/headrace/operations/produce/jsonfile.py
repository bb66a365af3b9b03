"""A `.json` file: one object a line, one array of objects, or objects that go over several lines (what jq prints)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from headrace.errors import HeadraceError
from headrace.operations.produce.rows import named

_WHOLE: Final = 256 * 1024 * 1024  # bytes; an array is read into memory, lines are not
_LOOKED_AT: Final = 100  # lines
_LINES: Final = "write one JSON object a line, as `jq -c` does, into a file that ends with .ndjson"
_BLANK: Final = re.compile(r"[ \t\r\n]*")
# Values are passed on as their own text: how it would be read does not matter, only where it ends.
_DECODER: Final = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len, strict=False)


def values(path: Path) -> Iterator[bytes] | None:
    """Return the values of a file that is not one object a line, each as its own bytes; None for a file of lines.

    Raises HeadraceError where it is neither, so that its pieces are not sent as records, and where it is too large for that.
    """
    with path.open("rb") as file:
        head = [line for _, line in zip(range(_LOOKED_AT), file, strict=False)] if _begins(path) else []
    first = next((line for line in head if line.strip()), b"")
    if not head or (first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") and any(map(_complete, head))):
        return None
    if path.stat().st_size > _WHOLE:
        raise HeadraceError(f"{named(path)} is one JSON value over many lines and larger than 256 MiB: {_LINES}.")
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    try:
        spans = list(_spans(text))
    except json.JSONDecodeError as error:
        raise HeadraceError(
            f"{named(path)} is neither one JSON object a line nor one JSON array "
            f"(line {error.lineno}, column {error.colno}: {error.msg}): correct it there, or {_LINES}."
        ) from None
    except RecursionError:
        raise HeadraceError(f"{named(path)} has arrays and objects too deep inside each other: {_LINES}.") from None
    return (text[start:end].encode("utf-8", "surrogateescape") for start, end in spans)


def require_no_arrays(path: Path) -> None:
    """Raise HeadraceError for a file that is one array, or whose first lines are arrays and no objects."""
    with path.open("rb") as file:
        head = [line for _, line in zip(range(_LOOKED_AT), file, strict=False)] if _begins(path) else []
    first = next((line for line in head if line.removeprefix(b"\xef\xbb\xbf").strip()), b"")
    array = first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if array and not (_complete(first, "[]") and any(map(_complete, head))):
        raise HeadraceError(
            f"{named(path)} begins with a JSON array, and each line of such a file is a record of its own: end its name "
            f"with .json, so that each element of the array is a record, or {_LINES}."
        )


def _begins(path: Path) -> bool:
    """Return whether a file begins like an array or an object; what does not is lines, for the contract to judge."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def _complete(line: bytes, brackets: str = "{}") -> bool:
    """Return whether a line is an object, or an array, by itself."""
    text = line.decode("utf-8-sig", "surrogateescape").strip()
    if not (text.startswith(brackets[0]) and text.endswith(brackets[1])):
        return False
    try:
        return _DECODER.raw_decode(text)[1] == len(text)
    except (ValueError, RecursionError):
        return False


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each element of an array begins and ends, or each of the values of a text without one. Raises ValueError."""
    place = _after_blank(text, 0)
    array = text.startswith("[", place)
    place = _after_blank(text, place + array)
    empty = text.startswith("]", place) if array else place == len(text)
    while not empty:
        _, end = _DECODER.raw_decode(text, place)
        yield place, end
        place = _after_blank(text, end)
        if array and text.startswith(",", place):
            place = _after_blank(text, place + 1)
        elif array or place == len(text):
            break
    if array:
        if not text.startswith("]", place):
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
        if (place := _after_blank(text, place + 1)) != len(text):
            raise json.JSONDecodeError("Extra data after the array", text, place)


def _after_blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place
