"""What must hold for any bytes: nothing raises, nothing is lost, neighbours do not matter, an oracle agrees."""

from __future__ import annotations

import json
import os
import pickle
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.contract.model import Source, SourceColumn
from headrace.contract.platform_columns import KAFKA_TIMESTAMP, RAW, SOURCE
from headrace.driver import decode
from headrace.driver.columns import BrokenRuleError, ColumnRule, _readers
from headrace.driver.decode import make_decoder
from headrace.errors import HeadraceError
from tests.driver.decode_data import GOOD, KAFKA_TIME, ORDERS, POS, WIDE, batch, oracle, reasons, rows

WITH_RAW = (*decode.USUAL, RAW)

DECODERS = [(source, make_decoder(source)) for source in (POS, WIDE, ORDERS)]
WIDE_GOOD = (
    b'{"name": "n", "large": 5, "price": "1.5", "day": "2026-03-09", "seen": "2026-03-09T12:00:00Z", "flag": true}'
)

ORDERS_GOOD = (
    b'{"order": {"orderId": "o1", "sum": {"total": "3.10", "iso.code": "EUR"}, "lineCount": 2, "buyer": {"id": 7}}, '
    b'"@timestamp": "2026-03-09T11:59:00Z", "gift": false}'
)

digits = st.text("0123456789", max_size=6)
numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**11), max_value=10**11).map(str),
    st.builds("{}{}.{}e{}".format, st.sampled_from(["", "-", "+"]), digits, digits, st.integers(-8, 12)),
    st.builds("{}e{}{}".format, digits, st.sampled_from(["", "-", "+"]), digits),
    st.text("0123456789+-.eE_ ", max_size=45),
)
times = st.one_of(
    st.builds(
        "{}-{:02d}-{:02d}{}{:02d}:{:02d}:{:02d}{}{}".format,
        st.sampled_from(["2026", "1970", "1969", "9999", "0000", "0001", "2024"]),
        st.integers(0, 13),
        st.integers(0, 32),
        st.sampled_from(["T", " ", "t", "_", ""]),
        st.integers(0, 25),
        st.integers(0, 60),
        st.integers(0, 61),
        st.sampled_from(["", ".", ".1", ".123", ".123456", ".1234567", ",5"]),
        st.sampled_from(["", "", "Z", "z", "+02", "+0230", "-02:30", "+24:00", "+02:60", "-00:00", "+02:00:30", " Z"]),
    ),
    st.datetimes().map(str),
    st.dates().map(str),
    st.sampled_from(["2026-03-01 10:00", "2026-03-01 10:00+02:00", "2026-03-01 10+02:00", "2026-03-01T10:00Z", ""]),
    st.text("0123456789-:T Z+.", max_size=30),
)
texts = st.one_of(st.text(max_size=12), numbers, times)
leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**66), 2**66), st.floats(), texts)
json_values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)


def dumped(fields: list[tuple[str, Any]], raw: dict[str, str]) -> bytes:
    """Write an object, perhaps with a key twice; `raw` values are written as they are (numbers with all digits)."""
    written = [(name, json.dumps(value, ensure_ascii=False)) for name, value in fields] + list(raw.items())
    text = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in written) + "}"
    return text.encode("utf-8", "surrogatepass")


@st.composite
def likely_records(draw: st.DrawFn) -> bytes:
    """Return an object with mostly the right fields and mostly the right types."""
    source = draw(st.sampled_from([POS, WIDE]))
    makers: dict[str, st.SearchStrategy[Any]] = {
        "string": texts,
        "boolean": st.booleans(),
        "int": st.integers(-(2**32), 2**32) | st.integers(-9, 9),
        "long": st.integers(-(2**64), 2**64) | st.integers(-9, 9),
        "timestamp": st.datetimes(datetime(1969, 1, 1), datetime(2026, 12, 31)).map(str) | times,
        "date": st.dates().map(str) | times,
        "decimal": numbers,
    }
    fields: list[tuple[str, Any]] = []
    raw: dict[str, str] = {}
    for name, column in source.columns.items():
        kind = column.type.split("(")[0]
        chance = draw(st.integers(0, 19))
        if chance == 0:
            fields.append((name, draw(json_values)))
        elif kind == "decimal" and chance < 10:
            raw[name] = draw(numbers | st.integers(-999, 999).map(str))
        elif chance < 19:
            fields.append((name, draw(makers[kind])))
    return dumped(draw(st.permutations(fields)) + draw(st.sampled_from([[], fields[:1], [("x", 1)]])), raw)


@st.composite
def damaged_records(draw: st.DrawFn) -> bytes:
    """Return a good record with a piece cut out, repeated or replaced by bytes."""
    value = draw(st.sampled_from([GOOD, WIDE_GOOD, ORDERS_GOOD]))
    start = draw(st.integers(0, len(value)))
    stop = draw(st.integers(start, min(len(value), start + 8)))
    return (
        value[:start] + draw(st.binary(max_size=4) | st.sampled_from([b'"', b"\\", b"null", b"\\ud800"])) + value[stop:]
    )


records = st.one_of(
    st.none(),
    st.binary(max_size=20),
    likely_records(),
    damaged_records(),
    st.sampled_from([GOOD, WIDE_GOOD, ORDERS_GOOD]),
    json_values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)
# HEADRACE_TEST_EXAMPLES=5000 looks deeper than every run can afford.
many = settings(
    max_examples=int(os.environ.get("HEADRACE_TEST_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@many
@given(st.lists(records, max_size=12))
def test_a_batch_is_judged_as_its_records_one_by_one_and_as_the_oracle_does(values: list[bytes | None]) -> None:
    for source, decoder in DECODERS:
        judged = reasons(decoder, values)
        assert judged == [reasons(decoder, [value])[0] for value in values]
        expected = {i: row for i, row in enumerate(oracle(source, value) for value in values) if row is not None}
        assert rows(decoder, values) == expected
        assert [i for i, reason in enumerate(judged) if reason is None] == list(expected)


@many
@given(st.lists(records, min_size=1, max_size=8), st.integers(0, 2**40))
def test_accepted_and_refused_are_all_and_each_keeps_its_bytes_and_place(
    values: list[bytes | None], first: int
) -> None:
    for _, decoder in DECODERS:
        given_batch = batch(values, first_offset=first)
        (judged,) = decoder.judged([given_batch])
        (taken,) = decoder.accepted([given_batch])
        for name in given_batch.schema.names:
            assert judged.column(name).equals(given_batch.column(name))
        refused = [row["offset"] for row in judged.to_pylist() if row["reason"] is not None]
        accepted = [row[SOURCE]["offset"] for row in taken.to_pylist()]
        assert sorted(refused + accepted) == list(range(first, first + len(values)))


@pytest.mark.parametrize("bad", [1, 40, 400])
def test_one_bad_value_in_a_batch_of_thousands_changes_no_other_row(bad: int) -> None:
    decoder = DECODERS[0][1]
    values: list[bytes | None] = [GOOD.replace(b"12.50", b"%d.5" % i) for i in range(5000)]
    for i in range(0, 5000, 5000 // bad):
        values[i] = (b"{", GOOD.replace(b"12.50", b"1.001"), GOOD.replace(b"2026", b"soon"))[i % 3]
    read = rows(decoder, values)
    assert read == {i: row for i, value in enumerate(values) if (row := oracle(POS, value))}
    assert len(read) == 5000 - len(range(0, 5000, 5000 // bad))


def whole_and_exact(kind: str, value: Any) -> tuple[Any, Any]:
    """Read one value by both readers; a refusal is None."""
    column = ColumnRule("c", kind, required=False)
    fast_reader, exact = _readers(column)
    try:
        fast = fast_reader([value]).to_pylist()[0]
    except (pa.ArrowInvalid, OverflowError):
        fast = None
    try:
        slow = pa.array([exact(value)], column.arrow).to_pylist()[0]
    except BrokenRuleError:
        slow = None
    return fast, slow


@many
@given(numbers, st.sampled_from(["decimal(12,2)", "decimal(38,0)", "decimal(38,38)", "decimal(5,5)", "decimal(22,2)"]))
@example("1" * 39, "decimal(38,0)")
@example(str(2**128 + 1), "decimal(38,0)")
@example("1E-1111", "decimal(38,0)")
@example("11", "decimal(38,38)")
@example("9" * 36, "decimal(12,2)")
@example("0." + "0" * 37 + "1", "decimal(38,38)")
@example("000000000000000000000000000000000000000000001", "decimal(5,5)")
def test_what_arrow_takes_as_a_decimal_the_exact_rule_takes_with_the_same_value(text: str, kind: str) -> None:
    fast, slow = whole_and_exact(kind, f'"{text}"'.encode())
    if fast is not None:
        assert fast == slow
    if slow is not None:
        assert slow == Decimal(text)


@many
@given(times)
def test_what_arrow_takes_as_a_time_the_exact_rule_takes_with_the_same_value(text: str) -> None:
    for kind in ("timestamp", "date"):
        fast, slow = whole_and_exact(kind, text)
        if fast is not None:
            assert fast == slow


def test_a_decoder_goes_to_a_worker_by_pickle_and_stays_equal() -> None:
    decoder = DECODERS[0][1]
    list(decoder.accepted([batch([GOOD])]))  # the C parser, which cannot be pickled, now exists
    copy = pickle.loads(pickle.dumps(decoder))
    assert copy == decoder
    assert rows(copy, [GOOD]) == rows(decoder, [GOOD])


@pytest.mark.parametrize("source", [POS, WIDE])
@pytest.mark.parametrize("added", [decode.USUAL, WITH_RAW, (KAFKA_TIMESTAMP,), ()])
def test_batches_have_the_declared_schema_even_when_empty(source: Source, added: tuple[str, ...]) -> None:
    for values in ([], [GOOD], [b"{"], [WIDE_GOOD, None]):
        (taken,) = decode.accepted([batch(values)], source, added)
        (judged,) = decode.judged([batch(values)], source)
        assert taken.schema == decode.accepted_schema(source, added)
        assert judged.schema == decode.judged_schema()


def test_the_raw_bytes_come_along_if_asked_for() -> None:
    (taken,) = decode.accepted([batch([b"{", GOOD])], POS, WITH_RAW)
    assert taken.column(RAW).to_pylist() == [GOOD]


def test_headers_and_keys_of_a_judged_record_are_as_they_came() -> None:
    headers: list[Any] = [[("trace", b"\0\xff"), ("trace", None)], None]
    given_batch = batch([GOOD, None]).append_column("headers", pa.array(headers, decode.HEADERS))
    (judged,) = decode.judged([given_batch], POS)
    assert judged.column("headers").equals(given_batch.column("headers"))
    assert judged.column("key").equals(given_batch.column("key"))


def test_a_record_without_kafka_timestamp_is_not_in_the_future() -> None:
    given_batch = batch([GOOD])
    place = given_batch.schema.get_field_index("timestamp")
    stampless = given_batch.set_column(place, "timestamp", pa.nulls(1, pa.timestamp("us", "UTC")))
    (judged,) = decode.judged([stampless], POS)
    assert judged.column("reason").to_pylist() == [None]


@pytest.mark.parametrize("name", ["class", "from", "self", "decode", "c1", "items", "source", "raw"])
def test_a_column_may_have_any_name_that_a_contract_allows(name: str) -> None:
    source = Source(
        key=name, columns={name: SourceColumn(type="string", required=True), "c0": SourceColumn(type="int")}
    )
    assert rows(make_decoder(source), [b'{"%s": "x", "c0": 1}' % name.encode()]) == {0: {name: "x", "c0": 1}}


@pytest.mark.parametrize("name", [SOURCE, KAFKA_TIMESTAMP, RAW])
def test_a_column_cannot_take_the_name_of_one_that_decoding_adds(name: str) -> None:
    source = Source(key=name, columns={name: SourceColumn(type="string", required=True)})
    with pytest.raises(HeadraceError, match=f"'{name}'.*Rename it"):
        make_decoder(source)


def test_the_ddl_and_the_arrow_schema_are_the_same_types_to_spark() -> None:
    types = pytest.importorskip("pyspark.sql.pandas.types")
    pairs = [
        (decode.accepted_schema(source, added), decode.accepted_ddl(source, added))
        for source in (POS, WIDE)
        for added in (decode.USUAL, WITH_RAW)
    ]
    for schema, ddl in [*pairs, (decode.judged_schema(), decode.judged_ddl())]:
        spark = types.from_arrow_schema(schema).simpleString()
        assert spark == "struct<" + ddl.replace("`", "").replace(", ", ",").replace(" ", ":") + ">"


def test_the_kafka_timestamp_is_kept_to_the_microsecond() -> None:
    (taken,) = decode.accepted([batch([GOOD])], POS)
    assert taken.column(KAFKA_TIMESTAMP).to_pylist() == [KAFKA_TIME]
