from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.contract.model import EventTime, Source, SourceColumn
from headrace.errors import HeadraceError
from headrace.operations.produce.files import count_records, read_records
from headrace.operations.produce.record import Record
from headrace.operations.produce.rows import OddRows

POS = Source(
    key="product_id",
    columns={
        "product_id": SourceColumn(type="string", required=True),
        "amount": SourceColumn(type="decimal(12,2)", required=True),
        "create_date": SourceColumn(type="timestamp", required=True),
    },
    event_time=EventTime(column="create_date"),
)
WIDE = Source(
    key="id",
    columns={
        "id": SourceColumn(type="long", required=True),
        "flag": SourceColumn(type="boolean"),
        "small": SourceColumn(type="int"),
        "name": SourceColumn(type="string"),
        "day": SourceColumn(type="date"),
        "price": SourceColumn(type="decimal(10,3)"),
    },
)


HEADER = "product_id,amount,create_date\n"


def read(path: Path, source: Source = POS) -> list[Record]:
    return list(read_records(path, "pos", source))


def values(records: list[Record]) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"", parse_float=Decimal) for record in records]


@given(lines=st.lists(st.binary().map(lambda raw: raw.replace(b"\n", b" ").rstrip(b"\r"))))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_ndjson_lines_are_sent_byte_by_byte(lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b"first\n" + b"\n".join(lines))
    assert [record.value for record in read(path)] == [b"first", *(line for line in lines if line)]


def test_an_ndjson_line_gives_its_key_and_a_bad_line_goes_without(tmp_path: Path) -> None:
    lines = [b'{"product_id":"p1"}', b'{"product_id":7}', b'{"product_id":null}', b'{"x":1}', b"[1]", b"nonsense"]
    lines += [b'{"product_id":{"deep":1}}', b"\xff\xfe", b"[" * 100_000, b'{"product_id":"\xea\xb0\x80"}']
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    records = read(path)
    assert [record.value for record in records] == lines
    assert [record.key for record in records] == [b"p1", b"7", *[None] * 7, "가".encode()]


def test_a_byte_order_mark_belongs_to_the_file(tmp_path: Path) -> None:
    ndjson, table = tmp_path / "x.ndjson", tmp_path / "x.csv"
    ndjson.write_bytes(b'\xef\xbb\xbf{"product_id":"p"}\n')
    table.write_bytes(b"\xef\xbb\xbfproduct_id,amount,create_date\np,1,2026-01-01 00:00:00\n")
    assert [record.key for record in read(ndjson)] == [b"p"]
    assert [record.key for record in read(table)] == [b"p"]


def test_csv_cells_become_the_types_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "id,flag,small,name,day,price,extra\n"
        '1,TRUE,-5,"a ""quoted"", name\nin two lines",2026-01-31,12.340,dropped\n'
        "2,,,,,,\n"
        "\n"
        "03,yes,1.5,0,soon,1e2,\n"
    )
    first, second, third = values(read(path, WIDE))
    assert first == {
        "id": 1,
        "flag": True,
        "small": -5,
        "name": 'a "quoted", name\nin two lines',
        "day": "2026-01-31",
        "price": Decimal("12.340"),
    }
    assert second == {"id": 2}
    # What does not fit is passed on as text, for the contract to refuse.
    assert third == {"id": "03", "flag": "yes", "small": "1.5", "name": "0", "day": "soon", "price": Decimal("1e2")}


def test_a_decimal_of_csv_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("product_id,amount,create_date\np,9999999999.99000000000000001,2026-01-01 00:00:00\n")
    assert b'"amount":9999999999.99000000000000001,' in (read(path)[0].value or b"")


@pytest.mark.parametrize(
    ("given_time", "sent"),
    [
        ("2026-03-09T23:30:00", None),
        ("2026-03-09 23:30:00.25", None),
        ("2026-03-09T23:30:00+09:00", None),
        ("2026-03-09T23:30:00Z", None),
        ("9/3/2026 23:30", None),
        ("0001-01-01T00:00:00+09:00", None),
        ("1761031200000", None),  # milliseconds since 1970
        ("20260309", None),
        ("2026-W11-1", None),
        ("2026-068", None),
        ("2026-03-09 11:59:00.123456789", None),
        ("2026-03-09 11:59:00,5", None),
        ("202603091112131", None),
        ("20260309T111213", None),
        ("2026-03-09 11:59", None),
        ("2026-03-09 24:00:00", None),
        (" 2026-03-09 11:59:00", None),
        ("2026-03-09 ", None),
        ("2026-03-09", "2026-03-09 00:00:00"),  # the one stated rule: a date alone is midnight
    ],
)
def test_a_time_of_csv_is_sent_as_it_is_written(given_time: str, sent: str | None, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'product_id,amount,create_date\np,1,"{given_time}"\n')
    assert values(read(path))[0]["create_date"] == (sent or given_time)


rows = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        st.decimals(-(10**10) + 1, 10**10 - 1, places=2),
        st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)),
    )
)


@given(rows=rows, kind=st.sampled_from(["csv", "parquet"]))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_table_comes_back_from_csv_and_parquet(
    rows: list[tuple[str, Decimal, datetime]], kind: str, tmp_path: Path
) -> None:
    names = [name for name, _, _ in rows]
    table = pa.table(
        {
            "product_id": pa.array(names, pa.string()),
            "amount": pa.array([amount for _, amount, _ in rows], pa.decimal128(12, 2)),
            "create_date": pa.array([at for _, _, at in rows], pa.timestamp("us")),
        }
    )
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
        assert count_records(path) == len(rows)
    records = read(path)
    assert [record.key for record in records] == [name.encode() for name in names]
    restored = values(records)
    assert [row["product_id"] for row in restored] == names
    assert [Decimal(row["amount"]) for row in restored] == [amount for _, amount, _ in rows]
    assert [datetime.fromisoformat(row["create_date"]) for row in restored] == [at for _, _, at in rows]


def test_parquet_of_other_types_is_written_as_the_source_says(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    at = datetime(2026, 3, 9, 14, 30, 0, 123456, tzinfo=UTC)
    table = pa.table(
        {
            "product_id": pa.array(["a", "b", "c"]).dictionary_encode(),
            "amount": pa.array([12.5, math.nan, 3.0], pa.float64()),
            "create_date": pa.array(
                [at, None, at.astimezone(timezone(timedelta(hours=9)))], pa.timestamp("ns", "Asia/Seoul")
            ),
            "other": pa.array([[1], [2], []]),
        }
    )
    pq.write_table(table, path)
    assert [record.value for record in read(path)] == [
        b'{"product_id":"a","amount":12.5,"create_date":"2026-03-09 14:30:00.123456"}',
        b'{"product_id":"b"}',
        b'{"product_id":"c","amount":3,"create_date":"2026-03-09 14:30:00.123456"}',
    ]


def test_a_rate_plans_the_records_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b"{}\n{}\n{}\n")
    assert [record.planned_at for record in read_records(path, "pos", POS, rate=4)] == [0, 0.25, 0.5]


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b'{"product_id":"p"}\n' * 3 + b"x" * (17 * 1024 * 1024))
    records = read_records(path, "pos", POS)
    assert [next(records).key for _ in range(3)] == [b"p"] * 3
    assert next(records, None) is None


LONG = b"x" * (17 * 1024 * 1024)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("x.ndjson", b'{"product_id":"p1"}\n', b'\n{"product_id":"p2"}\n'),
        ("x.csv", HEADER.encode() + b"p1,1,2026-01-01\n", b"\np2,1,2026-01-01\n"),
        ("x.csv", HEADER.encode() + b'p1,1,2026-01-01\n"', b"\np2,1,2026-01-01\n"),
    ],
)
def test_a_line_without_end_is_left_and_named_and_the_next_is_read(
    name: str, before: bytes, after: bytes, tmp_path: Path
) -> None:
    path, odd = tmp_path / name, OddRows()
    path.write_bytes(before + LONG + after)
    assert [record.key for record in read_records(path, "pos", POS, odd=odd)] == [b"p1", b"p2"]
    line = 2 if name == "x.ndjson" else 3
    assert odd == OddRows(refused=0, left=1, named=[f"line {line}: longer than 16 MiB, left out"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.csv", None, "does not exist. Name a file that ends with .ndjson"),
        ("x.xlsx", b"", "cannot be derived from its name. Its name must end with .ndjson"),
        ("x.csv", b"", "has no column 'product_id', which topic pos needs"),
        ("x.csv", b"product_id,amount,createdate\n", "has no column 'create_date'"),
        ("x.csv", b"product_id,amount,createdate\n", "Rename 'createdate' to 'create_date'"),
        ("x.csv", b"product_id;amount;create_date\n", "Separate the cells by commas"),
        ("x.csv", b"product_id,amount,amount,create_date\n", "two columns 'amount'"),
        ("x.csv", b"caf\xe9\n", "save it as UTF-8"),
        ("x.parquet", b"no parquet at all", "is not a readable Parquet file"),
        ("x.parquet", b"", "is not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_sent_is_one_sentence(
    name: str, content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HeadraceError) as caught:
        read(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_cut_off_or_nested_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"product_id": ["a"], "amount": [[1]], "create_date": [1]}), path)
    with pytest.raises(HeadraceError, match=r"column 'amount' is list<element: int64>.*Flatten it"):
        read(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(HeadraceError, match="not a readable Parquet file"):
        read(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="is a folder"):
        read(tmp_path)


ORDERS = Source(
    topic="shop.orders-v1",
    key="order_id",
    columns={
        "order_id": SourceColumn(type="string", required=True, field="order.orderId"),
        "total": SourceColumn(type="decimal(12,2)", field=["order", "sum.total"]),
        "gift": SourceColumn(type="boolean"),
    },
)


def test_a_row_of_a_table_has_each_cell_where_its_column_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("gift,total,order_id\ntrue,3.10,o1\n,,o2\n")
    records = read(path, ORDERS)
    assert values(records) == [
        {"order": {"orderId": "o1", "sum.total": Decimal("3.10")}, "gift": True},
        {"order": {"orderId": "o2"}},
    ]
    assert [record.key for record in records] == [b"o1", b"o2"]


def test_the_key_of_a_json_value_is_found_inside_its_object(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text('{"order": {"orderId": "o1"}}\n{"order": null}\n{"order": 5}\n{"orderId": "o4"}\n{"order": {}}\n')
    assert [record.key for record in read(path, ORDERS)] == [b"o1", None, None, None, None]
