"""Reads CSV as defined by RFC 4180 and refuses everything else with line and column; no message contains cell content.

Other readers guess when a file is broken: an open quote swallows the next lines, a backslash stays in the text. A refresh
deletes missing people, so a wrong guess deletes people. Cells are separated here first; Arrow then converts them.

Beyond the RFC: lines end with LF, CRLF or (all of them) with CR; a byte order mark is skipped; the delimiter may differ;
an empty cell is null and `""` is an empty text.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.csv

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_GZIP = b"\x1f\x8b"
_QUOTED = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')
_COLUMN = re.compile(r"In CSV column #(\d+)")
_LOOKS_LIKE = {
    "timestamp": "a timestamp with its zone, such as 2026-11-23T07:05:00Z",
    "date": "a date, such as 2026-11-23",
    "boolean": "true or false",
}

Span = tuple[int, int]


class CsvError(Exception):
    """A fault in a CSV file and its position: the message continues a sentence that begins with the file's name."""


def unpacked(content: bytes) -> bytes:
    """Return the content of a gzip file. Raises CsvError if it is truncated or not gzip."""
    if not content.startswith(_GZIP):
        raise CsvError(" is not a gzip file")
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise CsvError(" is not a complete gzip file: it was truncated or changed") from error


def read(content: bytes, delimiter: str, schema: pa.Schema, types: Mapping[str, str]) -> pa.Table:
    """Return the table of a CSV file whose header has the schema's columns in any order; `types` are the contract's.

    Raises CsvError. The caller has compared `header` with the schema.
    """
    names = header(content, delimiter, schema.names)
    rows = list(_records(content, delimiter, len(names)))[1:]
    if not rows:
        return schema.empty_table()

    def parse(first: int, last: int) -> pa.Table:
        part = content[rows[first][0] : rows[last - 1][1]]
        parsed = pyarrow.csv.read_csv(
            io.BytesIO(part),
            read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=1 << 24),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
        return parsed.select(schema.names).cast(schema)

    try:
        table = parse(0, len(rows))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        at, fault = first_bad(parse, len(rows), error)
        column = _COLUMN.search(str(fault))
        number = int(column[1]) if column else 0
        cells, _ = _cells(content, rows[at][0], delimiter.encode(), _line_end(content))
        kind = types[names[number]]
        raise CsvError(
            f"{_place(content, cells[number][0])} ({names[number]}): the cell is not {_LOOKS_LIKE.get(kind, kind)}"
        ) from error
    if table.num_rows != len(rows):  # the two readers disagree, so neither is trusted
        raise CsvError(f": {len(rows)} rows were found, but {table.num_rows} were read")
    return table


def header(content: bytes, delimiter: str, wanted: Sequence[str]) -> list[str]:
    """Return the names of the first line. Raises CsvError if the file is not UTF-8 or its first line is not CSV.

    A blank around a column name is refused: the cells below it most likely begin with one too, which would be in every text.
    """
    _require_text(content)
    spans, _ = _cells(content, _begin(content), delimiter.encode(), _line_end(content))
    names = [_text(content, span) for span in spans]
    for span, name in zip(spans, names, strict=True):
        if name not in wanted and name.strip() in wanted:
            raise CsvError(
                f"{_place(content, span[0])}: there is a blank next to the column name {name.strip()}; remove it"
            )
    return names


def other_delimiter(content: bytes, delimiter: str, wanted: Sequence[str]) -> str | None:
    """Return another delimiter that yields the wanted columns, if there is one."""
    for other in DELIMITERS:
        try:
            if other != delimiter and set(header(content, other, wanted)) == set(wanted):
                return other
        except CsvError:
            continue
    return None


def first_bad(parse: Callable[[int, int], object], rows: int, error: Exception) -> tuple[int, Exception]:
    """Return the first row that `parse(first, last)` cannot read, and its error; `error` is that of all rows."""
    low, high = 0, rows  # no row before low is bad, at least one before high is
    while high - low > 1:
        middle = (low + high) // 2
        try:
            parse(low, middle)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowTypeError) as narrower:
            high, error = middle, narrower
    try:
        parse(low, high)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as narrowest:
        error = narrowest
    return low, error


def _records(content: bytes, delimiter: str, width: int) -> Iterator[Span]:
    """Yield begin and end of each record, the header first. Raises CsvError at the first malformed record."""
    mark, end, at, last = delimiter.encode(), _line_end(content), _begin(content), len(content)
    while at < last:
        stop = content.find(end, at)
        stop = last if stop < 0 else stop
        line = content[at : stop - 1] if end == b"\n" and content[stop - 1 : stop] == b"\r" else content[at:stop]
        if not line and not content[stop:].strip(b"\r\n"):
            return  # empty lines at the end
        if line and b'"' not in line and b"\r" not in line and b"\\N" not in line and line.count(mark) == width - 1:
            yield at, stop
            at = stop + len(end)
            continue
        cells, following = _cells(content, at, mark, end)
        if len(cells) != width:
            raise CsvError(
                f"{_place(content, at)}: the header has {width} cells, but this line has {len(cells) if line else 0}"
            )
        if not line:  # Arrow would skip it
            raise CsvError(f"{_place(content, at)}: the line is empty")
        yield at, following
        at = following


def _cells(content: bytes, at: int, mark: bytes, end: bytes) -> tuple[list[Span], int]:
    """Return the cells of the record that begins at `at`, and where the next record begins. Raises CsvError."""
    spans, last = [], len(content)
    while True:
        if content[at : at + 1] == b'"':
            quoted = _QUOTED.match(content, at)
            if not quoted:
                raise CsvError(f"{_place(content, at)}: a quote opens here and is not closed")
            stop = quoted.end()
        else:
            stop = content.find(end, at)
            stop = last if stop < 0 else stop
            if end == b"\n" and stop > at and content[stop - 1 : stop] == b"\r":
                stop -= 1
            next_mark = content.find(mark, at, stop)
            stop = stop if next_mark < 0 else next_mark
            _require_plain(content, at, stop)
        spans.append((at, stop))
        if content.startswith(mark, stop):
            at = stop + len(mark)
            continue
        for line_end in (end, b"\r\n" if end == b"\n" else end):
            if content.startswith(line_end, stop):
                return spans, stop + len(line_end)
        if stop >= last or not content[stop:].strip(b"\r\n"):
            return spans, last
        before = " A backslash does not escape a quote." if content[stop - 2 : stop - 1] == b"\\" else ""
        raise CsvError(
            f"{_place(content, stop - 1)}: this quote neither ends the cell, which begins in line {_line(content, at)}, nor is "
            f"doubled.{before} Write a quote inside a quoted cell twice"
        )


def _require_plain(content: bytes, at: int, stop: int) -> None:
    cell = content[at:stop]
    for strange, what in ((b'"', "a quote"), (b"\r", "a carriage return")):
        if strange in cell:
            where = _place(content, at + cell.index(strange))
            raise CsvError(f"{where}: {what} is in a cell that does not begin with a quote; quote the cell")
    if cell == b"\\N":
        raise CsvError(f"{_place(content, at)}: \\N is not null in CSV; leave the cell empty")


def _require_text(content: bytes) -> None:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise CsvError(" is not a CSV file in UTF-8")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CsvError(f"{_place(content, error.start)}: the text is not UTF-8") from error


def _begin(content: bytes) -> int:
    return len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0


def _line_end(content: bytes) -> bytes:
    return b"\r" if b"\n" not in content and b"\r" in content else b"\n"


def _text(content: bytes, span: Span) -> str:
    cell = content[slice(*span)].decode("utf-8", errors="replace")
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def _line(content: bytes, at: int) -> int:
    return content.count(_line_end(content), 0, at) + 1


def _place(content: bytes, at: int) -> str:
    begin = max(content.rfind(_line_end(content), 0, at) + 1, _begin(content))
    column = len(content[begin:at].decode("utf-8", errors="replace")) + 1
    return f", line {_line(content, at)}, column {column}"
