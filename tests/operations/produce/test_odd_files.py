"""A user's file whose rows are not what the contract says: each is judged, none is altered, none ends the import."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.driver.decode import judged
from headrace.errors import HeadraceError
from headrace.operations.produce import parquet
from headrace.operations.produce.files import read_records
from headrace.operations.produce.record import Record
from headrace.operations.produce.rows import SHOWN, OddRows
from tests.driver.decode_data import batch
from tests.operations.produce.test_files import HEADER, POS, WIDE, read, values


def dead_letters(records: list[Record]) -> dict[bytes | None, str | None]:
    """Judge records as the stream does: value -> reason."""
    (table,) = judged([batch([record.value for record in records])], POS)
    return dict(zip(table.column("value").to_pylist(), table.column("reason").to_pylist(), strict=True))


def test_a_dead_letter_of_a_csv_time_shows_what_the_user_wrote(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    times = ["1761031200000", "20260309", "2026-W11-1", "2026-03-09 11:59:00.123456789", "202603091112131"]
    path.write_text(HEADER + "".join(f"p{i},1.00,{time}\n" for i, time in enumerate(times)))
    for (value, reason), time in zip(dead_letters(read(path)).items(), times, strict=True):
        assert f'"create_date":"{time}"'.encode() in (value or b"")
        assert reason is not None
        assert reason.startswith(f"bad_time: create_date: '{time}' is not")


BAD_ROWS = {
    b"p,1": "2 cells, but the header has 3",
    b"p,1,2,3": "4 cells, but the header has 3",
    b'"p,1,2026-01-01 00:00:00': "not CSV (",
    b'"p"x,1,2026-01-01 00:00:00': "not CSV (",
    b'p,"1,': "not CSV (",
    b"caf\xe9,1,2026-01-01 00:00:00": "not UTF-8",
    b"caf\xe9,1": "2 cells",
}


@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_bad_row_of_csv_is_counted_named_and_passed_on_and_the_others_are_sent(
    bad: bytes, end: bytes, tmp_path: Path
) -> None:
    path, odd = tmp_path / "x.csv", OddRows()
    good = b'"a, ""b""\nc",1,2026-01-01 00:00:00'
    path.write_bytes(HEADER.encode() + end.join([b"p1,1,2026-01-01", bad, b"", good, b"p3,1,2026-01-01", bad]))
    records = list(read_records(path, "pos", POS, odd=odd))
    reasons = list(dead_letters(records).values())
    assert [records[place].key for place in (0, 2, 3)] == [b"p1", b'a, "b"\nc', b"p3"]
    assert len(records) == 5
    assert (odd.refused, odd.left) == (2, 0)
    assert [name.partition(": ")[0] for name in odd.named] == ["line 3", "line 8"]
    assert all(BAD_ROWS[bad] in name for name in odd.named)
    assert [reason is None for reason in reasons] == [True, False, True, True]  # both bad rows have one value
    assert json.loads(records[2].value or b"")["product_id"] == 'a, "b"\nc'
    if BAD_ROWS[bad] != "not UTF-8":
        assert records[1].value == records[4].value == bad
    else:
        assert b'"product_id":"caf\xe9"' in (records[1].value or b"")


def test_an_open_quote_costs_its_line_and_not_the_rows_after_it(tmp_path: Path) -> None:
    path, odd = tmp_path / "x.csv", OddRows()
    rows = [f'p{i},1,"2026-01-01"' for i in range(5_000)]
    rows[7] = '"p7,1,2026-01-01'
    path.write_text(HEADER + "\n".join(rows))
    records = list(read_records(path, "pos", POS, odd=odd))
    assert [record.key for record in records] == [None if i == 7 else b"p%d" % i for i in range(5_000)]
    assert odd.named == ["line 9: not CSV (',' expected after '\"')"]


def test_a_message_and_a_name_never_hold_a_row(tmp_path: Path) -> None:
    path, odd = tmp_path / "x.csv", OddRows()
    path.write_text(HEADER + "Ann Low,1\n" * 50)
    assert len(list(read_records(path, "pos", POS, odd=odd))) == odd.refused == 50
    assert len(odd.named) == SHOWN
    assert "Ann" not in "".join(odd.named)
    path = path.rename(tmp_path / "a\n\x1b[2K.csv")
    path.write_text("Ann Low\x1b[2K" + "n" * 10_000 + ",1,2\r" * 100)
    with pytest.raises(HeadraceError, match=r"a\\n\\x1b\[2K.csv has no column 'product_id'") as caught:
        read(path)
    assert "Ann" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        '[{"product_id": "a", "amount": 1.50}, {"product_id": "b"}, {"product_id": "c"}]',
        '[\n  {\n    "product_id": "a",\n    "amount": 1.50\n  },\n  {"product_id": "b"},\n  {"product_id": "c"}\n]\n',
        '\ufeff \n[{"product_id":"a","amount":1.50},{"product_id":"b"},{"product_id":"c"}]',
        '{\n  "product_id": "a",\n  "amount": 1.50\n}\n{\n  "product_id": "b"\n}\n{\n"product_id":\n"c"}',
        '{"product_id": "a", "amount": 1.50}\n{"product_id": "b"}\n{"product_id": "c"}\n',
    ],
)
def test_a_json_file_is_read_as_lines_an_array_or_objects_over_many_lines(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    records = read(path)
    assert [record.key for record in records] == [b"a", b"b", b"c"]
    assert values(records)[0]["amount"] == Decimal("1.50")
    assert b"1.50" in (records[0].value or b"")


@pytest.mark.parametrize("text", ["[]", " [ ] \n", ""])
def test_an_empty_json_file_has_no_records(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert read(path) == []


def test_an_element_of_a_json_array_keeps_its_bytes_good_or_bad(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    elements = [b'{"a": 1e0002, "a": NaN}', b"17", b'"\xff"', b'"\\ud800"', b"9" * 5_000, b'{"x":"]"}', b"[1, [2]]"]
    path.write_bytes(b"[" + b" ,\n".join(elements) + b"]")
    assert [record.value for record in read(path)] == elements


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[\n  {\n    "product_id": "a"\n  },\n  {\n    "product_id"\n  }\n]', "line 7, column 3"),
        ('[{"a": 1}\n', "line 2, column 1"),
        ('[{"a": 1}] [2]', "line 1, column 12"),
        ('[{"a": 1},]', "line 1, column 11"),
        ('{\n  "product_id": "a",\n  "amount": }\n', "line 3, column 13"),
        ("[" * 100_000, "too deep"),
    ],
)
def test_a_broken_json_array_is_refused_in_one_sentence_and_nothing_of_it_is_sent(
    text: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(HeadraceError) as caught:
        read_records(path, "pos", POS)
    assert sentence in str(caught.value)
    assert "write one JSON object per line" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ['[{"product_id": "a"}]', '\ufeff \n[\n {"product_id": "a"},\n {"x": 1}\n]\n', "[1]\n[2]\n"]
)
def test_a_file_of_lines_that_begins_with_an_array_is_refused_before_anything_is_sent(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text(text)
    with pytest.raises(HeadraceError, match=r"begins with a JSON array.* end with \.json, so that each element"):
        read_records(path, "pos", POS)
    path.write_text('[1]\n{"product_id": "a"}\n')
    assert [record.value for record in read_records(path, "pos", POS)] == [b"[1]", b'{"product_id": "a"}']


def test_a_json_file_of_lines_with_bad_ones_is_sent_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    lines = [b'{"product_id": "a",', b'{"product_id": "b"}', b"nonsense"]
    path.write_bytes(b"\n".join(lines))
    assert [record.value for record in read(path)] == lines


def test_a_parquet_time_beyond_the_year_9999_is_sent_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for unit, far in (
        ("s", 10**12),
        ("ms", 253_402_300_800_000),
        ("us", 2**63 - 1),
        ("ms", -(2**63)),
        ("ns", 2**63 - 1),
    ):
        per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        table = pa.table(
            {
                "product_id": ["ok", "open-end"],
                "amount": ["1.00", "2.00"],
                "create_date": pa.array([1_793_527_200 * per, far], pa.int64()).cast(pa.timestamp(unit)),
            }
        )
        pq.write_table(table, path)
        good, other = values(read(path))
        assert good["create_date"] == "2026-11-01 10:00:00"
        assert other["product_id"] == "open-end"
        if unit == "ms" and far > 0:
            assert other["create_date"] == "10000-01-01 00:00:00"
        if unit == "ns":
            assert other["create_date"] == "2262-04-11 23:47:16.854775807"
        good_reason, reason = dead_letters(read(path)).values()
        assert good_reason is None or good_reason.startswith("future")
        assert str(reason).startswith("bad_time: create_date: ")


@given(st.integers(-62_135_596_800, 253_402_300_799), st.sampled_from(["s", "ms", "us"]), st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_a_parquet_time_is_the_one_that_python_reads(seconds: int, unit: str, rest: int) -> None:
    per = {"s": 1, "ms": 10**3, "us": 10**6}[unit]
    at = seconds * per + (rest if unit != "s" else 0)
    (text,) = parquet.cells(pa.array([at], pa.int64()).view(pa.timestamp(unit)))
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1) + timedelta(microseconds=at * 10**6 // per)


def test_what_python_cannot_hold_of_a_parquet_file_is_text(tmp_path: Path) -> None:
    path, odd = tmp_path / "x.parquet", OddRows()
    table = pa.table(
        {
            "id": pa.array([1, 2], pa.uint64()),
            "name": pa.array([b"caf\xe9", b"ok"], pa.binary()).view(pa.string()),
            "day": pa.array([2_932_897, -719_163], pa.int32()).view(pa.date32()),
            "price": pa.array([0.1, math.nan], pa.float32()),
            "flag": pa.array([1, 2], pa.int64()).view(pa.time64("ns")),
        }
    )
    pq.write_table(table, path)
    first, second = list(read_records(path, "wide", WIDE, odd=odd))
    assert first.value == b'{"id":1,"flag":"00:00:00.000000001","name":"caf\xe9","day":"10000-01-01","price":0.1}'
    assert second.value == b'{"id":2,"flag":"00:00:00.000000002","name":"ok","day":"0000-12-31"}'
    assert odd == OddRows(refused=1, left=0, named=["row 1: not UTF-8"])


def test_the_key_of_a_json_line_has_the_digits_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b'{"price": 9999999999.99000000001}\n{"price": 1.10}\n{"price": "x", "price": 1e400}\n')
    source = WIDE.model_copy(update={"key": "price"})
    assert [record.key for record in read(path, source)] == [b"9999999999.99000000001", b"1.10", b"1e400"]
