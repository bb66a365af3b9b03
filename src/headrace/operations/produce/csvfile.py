"""The rows of a CSV file. A malformed row is passed on as its line, and reading continues with the next line."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from headrace.errors import HeadraceError
from headrace.operations.produce.rows import OddRows, named

_MAX_LINE: Final = 16 * 1024 * 1024  # characters; a file without line ends must not fill the memory
_MAX_CELL: Final = 1024 * 1024  # characters; no topic accepts a larger record, and an open quote ends there
_ENDS: Final = ("\n", "\r")
_UTF8: Final = "save it as UTF-8"


class _TooLongError(Exception):
    """A line is longer than `_MAX_LINE`."""


class _Lines:
    """The lines of a file for csv.reader. It keeps the lines of the current row, so that `give_back` can read them again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._read = 0
        self._given_back: deque[tuple[int, str]] = deque()
        self.kept: list[tuple[int, str]] = []  # (line number, text)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.kept.append(self._given_back.popleft() if self._given_back else self._next())
        return self.kept[-1][1]

    def _next(self) -> tuple[int, str]:
        line = self._file.readline(_MAX_LINE)
        if not line:
            raise StopIteration
        self._read += 1
        if len(line) == _MAX_LINE and not line.endswith(_ENDS):
            while (line := self._file.readline(_MAX_LINE)) and not line.endswith(_ENDS):
                pass
            raise _TooLongError(self._read)
        return self._read, line

    def take(self) -> int:
        """Take all kept lines as one row; return the number of its first line."""
        number, _ = self.kept[0]
        self.kept.clear()
        return number

    def give_back(self) -> tuple[int, str]:
        """Take only the first of the kept lines as a row and read the others again; return its number and text."""
        (number, text), *others = self.kept
        self._given_back.extendleft(reversed(others))
        self.kept.clear()
        return number, text.rstrip("\r\n")


def header(path: Path) -> list[str]:
    """Return the names in the first line. Raises HeadraceError if it is not the header of a CSV file in UTF-8."""
    csv.field_size_limit(_MAX_CELL)
    with _open(path) as file:
        try:
            names = next(csv.reader(_Lines(file)), [])
            "".join(names).encode()
        except (UnicodeEncodeError, csv.Error, _TooLongError) as error:
            why = (
                "its header is not UTF-8"
                if isinstance(error, UnicodeError)
                else str(error) or "its first line has no end"
            )
            raise HeadraceError(f"{named(path)} is not a CSV file in UTF-8 ({why}). Correct it, and {_UTF8}.") from None
    return names


def rows(path: Path, names: list[str], odd: OddRows) -> Iterator[tuple[int, dict[str, str] | bytes]]:
    """Yield each row's line number and cells by name, or the bytes of a malformed line; `odd` counts and names those.

    Bytes that are not UTF-8 appear in the cells as surrogate escapes (PEP 383). If a row over several lines is malformed, only
    its first line is lost: an open quote does not swallow the rows after it. A line longer than 16 MiB is left out.
    """
    with _open(path) as file:
        lines = _Lines(file)
        reader = csv.reader(lines, strict=True)
        next(reader, None)
        lines.kept.clear()
        while True:
            why = ""
            row: list[str] | None = []
            try:
                row = next(reader, None)
                if row and len(row) != len(names):
                    why = f"{len(row)} cells, but the header has {len(names)}"
            except csv.Error as error:
                why = f"not CSV ({error})"
            except _TooLongError as error:
                odd.leave(f"line {error.args[0]}", "longer than 16 MiB")
                why = "not CSV (a quote is not closed)" if lines.kept else ""
            if row is None:
                return
            if why:
                number, text = lines.give_back()
                odd.refuse(f"line {number}", why)
                yield number, text.encode("utf-8", "surrogateescape")
            elif row:
                yield lines.take(), dict(zip(names, row, strict=True))
            else:  # an empty line
                lines.kept.clear()


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
