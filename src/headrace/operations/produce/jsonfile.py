"""A `.json` file: one object per line, one array of objects, or objects over several lines (as jq prints them)."""

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
_LINES: Final = "write one JSON object per line, as `jq -c` does, into a file that ends with .ndjson"
_BLANK: Final = re.compile(r"[ \t\r\n]*")
# Values are passed on as text: their interpretation does not matter, only where they end.
_DECODER: Final = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len, strict=False)


def values(path: Path) -> Iterator[bytes] | None:
    """Return the values of a file that is not one object per line, each as its original bytes; None for a file of lines.

    Raises HeadraceError if it is neither, so that its fragments are not sent as records, or if it is too large to decide.
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
            f"{named(path)} is neither one JSON object per line nor one JSON array "
            f"(line {error.lineno}, column {error.colno}: {error.msg}): correct it there, or {_LINES}."
        ) from None
    except RecursionError:
        raise HeadraceError(f"{named(path)} has arrays and objects that are nested too deeply: {_LINES}.") from None
    return (text[start:end].encode("utf-8", "surrogateescape") for start, end in spans)


def require_no_arrays(path: Path) -> None:
    """Raise HeadraceError for a file that is one array, or whose first lines are arrays instead of objects."""
    with path.open("rb") as file:
        head = [line for _, line in zip(range(_LOOKED_AT), file, strict=False)] if _begins(path) else []
    first = next((line for line in head if line.removeprefix(b"\xef\xbb\xbf").strip()), b"")
    array = first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if array and not (_complete(first, "[]") and any(map(_complete, head))):
        raise HeadraceError(
            f"{named(path)} begins with a JSON array, but each line of such a file is a separate record. Rename the file "
            f"to end with .json, so that each element of the array is a record, or {_LINES}."
        )


def _begins(path: Path) -> bool:
    """Return whether a file begins like an array or an object; any other file consists of lines for the contract to check."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def _complete(line: bytes, brackets: str = "{}") -> bool:
    """Return whether a line is by itself a complete object or array."""
    text = line.decode("utf-8-sig", "surrogateescape").strip()
    if not (text.startswith(brackets[0]) and text.endswith(brackets[1])):
        return False
    try:
        return _DECODER.raw_decode(text)[1] == len(text)
    except (ValueError, RecursionError):
        return False


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each element of an array, or of each value in a text without one. Raises ValueError."""
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
    match = _BLANK.match(text, place)
    return match.end() if match else place
