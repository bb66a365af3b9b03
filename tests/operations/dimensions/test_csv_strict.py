"""CSV as RFC 4180 has it; everything else is refused with line and column, and no refusal holds a cell."""

from __future__ import annotations

import csv
import gzip
import io
import random
from datetime import date

import pyarrow as pa
import pytest

from headrace.operations.dimensions.csv_strict import CsvError, header, other_delimiter, read, unpacked

SCHEMA = pa.schema([("login_id", pa.string()), ("user_name", pa.string())])
TYPES = {"login_id": "string", "user_name": "string"}
HEAD = b"login_id,user_name\n"


def _rows(content: bytes, delimiter: str = ",") -> list[tuple[str | None, ...]]:
    return [tuple(row.values()) for row in read(content, delimiter, SCHEMA, TYPES).to_pylist()]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b'u1,Ann\nu2,"Low\nu3,Ben\n', ", line 3, column 4: a quote opens here and is not closed", id="open quote"),
        pytest.param(
            b'u1,Ann\nu2,"Low\nu3,"Ben"\n',
            ", line 4, column 4: this quote neither ends the cell, which begins in line 3, nor is doubled",
            id="an open quote that a later one seems to close",
        ),
        pytest.param(
            b'u1,"Ann \\"Ace\\" Low"\n',
            ", line 2, column 10: this quote neither ends the cell, which begins in line 2, nor is doubled. A backslash does not "
            "escape a quote. Write a quote inside a quoted cell twice",
            id="a quote with a backslash",
        ),
        pytest.param(b'u1,Ann "Ace" Low\n', ", line 2, column 8: a quote is in a cell", id="a quote in a bare cell"),
        pytest.param(b"u1,\\N\n", ", line 2, column 4: \\N is not null in CSV; leave the cell empty", id="null as MySQL has it"),
        pytest.param(b"u1,Ann\nu2\n", ", line 3, column 1: the header has 2 cells, but this line has 1", id="a cut line"),
        pytest.param(b"u1,Ann,x\n", ", line 2, column 1: the header has 2 cells, but this line has 3", id="a cell too many"),
        pytest.param(b"u1,Ann\n\nu2,Ben\n", ", line 3, column 1: the header has 2 cells, but this line has 0", id="empty"),
        pytest.param(b"u1,Ann\rLow\n", ", line 2, column 7: a carriage return is in a cell", id="a carriage return"),
        pytest.param("u1,Ann\nu2,Ł".encode() + b"\xff\n", ", line 3, column 5: the text is not UTF-8", id="no UTF-8"),
        pytest.param(b"u1,Ann\nu2,B\0n\n", " is not a CSV file in UTF-8", id="a NUL"),
    ],
)  # fmt: skip
def test_what_is_not_csv_is_refused_with_line_and_column(body: bytes, says: str) -> None:
    with pytest.raises(CsvError) as refused:
        read(HEAD + body, ",", SCHEMA, TYPES)
    assert str(refused.value).startswith(says)
    assert not any(name in str(refused.value) for name in ("Ann", "Ben", "Low", "Ace"))


def test_a_cell_of_another_type_is_refused_by_place_and_not_by_content() -> None:
    schema = pa.schema([("login_id", pa.string()), ("joined_on", pa.date32())])
    types = {"login_id": "string", "joined_on": "date"}
    body = b"".join(b"u%d,2002-03-02\n" % number for number in range(999))
    good = read(b"login_id,joined_on\n" + body, ",", schema, types)
    assert good.column("joined_on")[998].as_py() == date(2002, 3, 2)
    with pytest.raises(CsvError) as refused:
        read(b"login_id,joined_on\n" + body + b"ux,secret\n" + body, ",", schema, types)
    assert str(refused.value) == ", line 1001, column 4 (joined_on): the cell is not a date, such as 2026-11-23"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte-order mark"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ended", "last line open"])
def test_line_ends_and_a_byte_order_mark_do_not_matter(end: bytes, mark: bytes, last: bool) -> None:
    lines = [b"login_id,user_name", b'u1,"Low, ""Ann"""', b"u2,", b'u3,""', b"u4,\\Ben"]
    content = mark + end.join(lines) + (end if last else b"")
    assert header(content, ",", SCHEMA.names) == SCHEMA.names
    assert _rows(content) == [("u1", 'Low, "Ann"'), ("u2", None), ("u3", ""), ("u4", "\\Ben")]


def test_a_blank_beside_a_column_name_is_named_with_its_place() -> None:
    with pytest.raises(CsvError) as refused:
        header(b"login_id, user_name\nu1, Ann\n", ",", SCHEMA.names)
    assert str(refused.value) == ", line 1, column 10: there is a blank next to the column name user_name; remove it"


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_read_where_it_is_declared_and_recognised_where_it_is_not(delimiter: str) -> None:
    content = f"login_id{delimiter}user_name\nu1{delimiter}Low, Ann\n".encode()
    assert _rows(content, delimiter) == [("u1", "Low, Ann")]
    assert other_delimiter(content, ",", SCHEMA.names) == delimiter
    assert other_delimiter(HEAD, ",", SCHEMA.names) is None


def test_gzip_is_unpacked_completely_or_refused() -> None:
    packed = gzip.compress(HEAD + b"u1,Ann\n")
    assert _rows(unpacked(packed)) == [("u1", "Ann")]
    for bad in (packed[:-5], packed[:-8] + b"\0" * 8, HEAD):
        with pytest.raises(CsvError, match="gzip"):
            unpacked(bad)


def test_whatever_a_csv_writer_writes_is_read_as_it_was(seed: int) -> None:
    chance = random.Random(seed)
    alphabet = 'ab ,;|"\\\n\t\r' + "Łé日"
    written = [
        ("".join(chance.choices("ab", k=4)), "".join(chance.choices(alphabet, k=chance.randrange(1, 12))))
        for _ in range(2_000)
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL).writerows([("login_id", "user_name"), *written])
    assert _rows(text.getvalue().encode()) == written


def test_a_file_that_is_cut_anywhere_is_refused_or_ends_with_a_complete_line(seed: int) -> None:
    content = HEAD + b"".join(b'u%d,"Low, ""A%d"""\n' % (number, number) for number in range(30))
    rows = _rows(content)
    for at in random.Random(seed).sample(range(len(HEAD), len(content)), 200):
        try:
            parsed = _rows(content[:at])
        except CsvError:
            continue
        assert parsed[:-1] == rows[: max(0, len(parsed) - 1)]
