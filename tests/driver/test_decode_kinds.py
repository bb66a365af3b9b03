"""Each kind of bad or odd input, and what becomes of it (docs/dead-letters.md has the same rows for people)."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.driver.decode import MAX_DEPTH, make_decoder
from tests.driver.decode_data import GOOD, KAFKA_TIME, ORDERS, POS, WIDE, batch, reasons, rows

POS_DECODER = make_decoder(POS)
WIDE_DECODER = make_decoder(WIDE)


def pos(amount: str = "12.50", date: str = '"2026-03-09 11:59:00"', key: str = '"p1"', more: str = "") -> bytes:
    return f'{{"product_id": {key}, "amount": {amount}, "create_date": {date}{more}}}'.encode()


def nested(levels: int) -> bytes:
    return pos(more=f', "x": {"[" * (levels - 1)}{"]" * (levels - 1)}')


def order(inside: str) -> bytes:
    return f'{{"order": {inside}, "@timestamp": "2026-03-09 11:59:00"}}'.encode()


BAD_TIME = "bad_time: create_date: "
NOT_A_TIME = "is not yyyy-MM-dd HH:mm:ss[.ffffff] with Z, an offset or none (UTC)"
BEYOND = "is beyond the Kafka timestamp and the skew"

REFUSED = {
    "a tombstone": (None, "null_value: the record has no value (a tombstone)"),
    "no bytes": (b"", "empty: the value has no bytes"),
    "only blanks": (b"  \n", "not_json: Input data was truncated"),
    "plain text": (b"hello", "not_json: invalid character (byte 0)"),
    "JSON null": (b"null", "wrong_type: expected an object, got null"),
    "a number": (b"17", "wrong_type: expected an object, got int"),
    "a string": (b'"x"', "wrong_type: expected an object, got str"),
    "an array of a good record": (b"[" + GOOD + b"]", "wrong_type: expected an object, got array"),
    "cut short": (GOOD[:-9], "not_json: Input data was truncated"),
    "two records in one": (GOOD + GOOD, "not_json: trailing characters (byte 76)"),
    "a NUL after the record": (GOOD + b"\0", "not_json: trailing characters (byte 76)"),
    "single quotes": (GOOD.replace(b'"', b"'"), "not_json: object keys must be strings (byte 1)"),
    "a trailing comma": (GOOD[:-1] + b",}", "not_json: trailing comma in object (byte 75)"),
    "NaN as a number": (pos("NaN"), "not_json: invalid character (byte 31)"),
    "a leading zero": (pos("012"), "not_json: invalid number (byte 32)"),
    "a raw line feed in a string": (pos(key='"a\nb"'), "not_json: invalid character (byte 17)"),
    "an unpaired surrogate": (
        pos(key=r'"\ud83d"'),
        "not_json: unexpected end of escaped utf-16 surrogate pair (byte 22)",
    ),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "not_json: begins with a byte order mark"),
    "Latin-1": (pos(key='"Köln"').decode().encode("latin-1"), "not_utf8: invalid start byte (byte 17)"),
    "bad UTF-8 in an unknown field": (GOOD[:-1] + b', "x": "\xff"}', "not_utf8: invalid start byte (byte 82)"),
    "a surrogate in UTF-8": (
        pos(key='"_"').replace(b"_", b"\xed\xa0\x80"),
        "not_utf8: invalid continuation byte (byte 9)",
    ),
    "UTF-16": (GOOD.decode().encode("utf-16"), "not_utf8: invalid start byte (byte 0)"),
    "Avro with a schema id": (b"\0\0\0\0\7\x04p1", "not_json: invalid character (byte 0)"),
    "one level too deep": (nested(MAX_DEPTH + 1), "too_deep: more than 100 nested arrays and objects"),
    "100,000 brackets": (b"[" * 100_000, "too_deep: more than 100 nested arrays and objects"),
    "100,000 open objects": (b'{"a":' * 100_000, "too_deep: more than 100 nested arrays and objects"),
    "no fields": (b"{}", "missing: product_id"),
    "no amount": (GOOD.replace(b"amount", b"Amount"), "missing: amount"),
    "a null amount": (pos("null"), "missing: amount"),
    "no event time": (GOOD.replace(b"create_date", b"date"), "missing: create_date"),
    "a null key": (pos(key="null"), "missing: product_id"),
    "an empty key": (pos(key='""'), "missing: product_id: the key is empty"),
    "a number as key": (pos(key="7"), "wrong_type: product_id: expected string, got int"),
    "a key of 16,385 bytes": (pos(key=f'"{"k" * 16385}"'), "too_long: product_id: 16385 bytes, at most 16384"),
    "a boolean amount": (pos("true"), "wrong_type: amount: expected decimal(12,2), got bool"),
    "an amount in an array": (pos("[12.5]"), "wrong_type: amount: expected decimal(12,2), got array"),
    "an amount in an object": (pos('{"EUR": 1}'), "wrong_type: amount: expected decimal(12,2), got object"),
    "an amount of words": (pos('"a lot"'), "bad_number: amount: 'a lot' is not a number"),
    "an empty amount": (pos('""'), "bad_number: amount: '' is not a number"),
    "an amount with a blank": (pos('" 1"'), "bad_number: amount: ' 1' is not a number"),
    "an amount with a comma": (pos('"1,50"'), "bad_number: amount: '1,50' is not a number"),
    "an amount with an underscore": (pos('"1_000"'), "bad_number: amount: '1_000' is not a number"),
    "an amount in wide digits": (pos('"\\uff11\\uff12"'), r"bad_number: amount: '\uff11\uff12' is not a number"),
    "NaN as text": (pos('"NaN"'), "bad_number: amount: 'NaN' is not a number"),
    "infinity as text": (pos('"-Infinity"'), "bad_number: amount: '-Infinity' is not a number"),
    "a third decimal": (pos("0.001"), "inexact: amount: '0.001' has more than 2 decimals"),
    "1e-400": (pos("1e-400"), "inexact: amount: '1e-400' has more than 2 decimals"),
    "11 digits before the point": (pos("10000000000"), "overflow: amount: '10000000000' does not fit decimal(12,2)"),
    "1e400": (pos("1e400"), "overflow: amount: '1e400' does not fit decimal(12,2)"),
    "an exponent of 22 digits": (
        pos("1E9999999999999999999999"),
        "overflow: amount: '1E9999999999999999999999' does not fit decimal(12,2)",
    ),
    "2^128 + 1, which wraps to 1": (
        pos(str(2**128 + 1)),
        "overflow: amount: '340282366920938463463374607431768211457' does not fit decimal(12,2)",
    ),
    "a million digits": (pos("9" * 1_000_000), f"overflow: amount: '{'9' * 37}...' does not fit decimal(12,2)"),
    "30 February": (
        pos(date='"2026-02-30 00:00:00"'),
        BAD_TIME + "'2026-02-30 00:00:00': day is out of range for month",
    ),
    "hour 24": (pos(date='"2026-03-01 24:00:00"'), BAD_TIME + "'2026-03-01 24:00:00': hour must be in 0..23"),
    "a leap second": (pos(date='"2016-12-31 23:59:60"'), BAD_TIME + "'2016-12-31 23:59:60': second must be in 0..59"),
    "a date without time": (pos(date='"2026-03-01"'), BAD_TIME + f"'2026-03-01' {NOT_A_TIME}"),
    "no seconds": (pos(date='"2026-03-01 10:00"'), BAD_TIME + f"'2026-03-01 10:00' {NOT_A_TIME}"),
    "no seconds but an offset": (
        pos(date='"2026-03-01 10:00+02:00"'),
        BAD_TIME + f"'2026-03-01 10:00+02:00' {NOT_A_TIME}",
    ),
    "nanoseconds": (
        pos(date='"2026-03-01 10:00:00.000000001"'),
        BAD_TIME + f"'2026-03-01 10:00:00.000000001' {NOT_A_TIME}",
    ),
    "a time of words": (pos(date='"yesterday"'), BAD_TIME + f"'yesterday' {NOT_A_TIME}"),
    "seconds since 1970": (pos(date="1772000000"), "wrong_type: create_date: expected timestamp, got int"),
    "before 1970": (pos(date='"1969-12-31 23:59:59.999999"'), BAD_TIME + "'1969-12-31 23:59:59.999999' is before 1970"),
    "the year 0": (pos(date='"0000-01-01 00:00:00"'), BAD_TIME + "'0000-01-01 00:00:00': year 0 is out of range"),
    "past the year 9999 in UTC": (
        pos(date='"9999-12-31 23:59:59-01:00"'),
        BAD_TIME + "'9999-12-31 23:59:59-01:00': date value out of range",
    ),
    "the far future": (pos(date='"2099-01-01 00:00:00"'), f"future: create_date 2099-01-01 00:00:00 {BEYOND}"),
    "a microsecond beyond the skew": (
        pos(date='"2026-03-09 12:05:00.123001"'),
        f"future: create_date 2026-03-09 12:05:00 {BEYOND}",
    ),
    "a wrong type before a right one of the same key": (
        pos(more=', "product_id": 7'),
        "wrong_type: product_id: expected string, got int",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_record_becomes_a_dead_letter_with_its_reason(kind: str) -> None:
    value, reason = REFUSED[kind]
    assert reasons(POS_DECODER, [value]) == [reason]
    assert rows(POS_DECODER, [value]) == {}


def test_all_kinds_in_one_batch_get_the_same_reasons_as_alone_and_spare_the_good() -> None:
    values: list[bytes | None] = []
    expected: list[str | None] = []
    for value, reason in REFUSED.values():
        values += [GOOD, value]
        expected += [None, reason]
    assert reasons(POS_DECODER, values) == expected
    assert list(rows(POS_DECODER, values)) == list(range(0, len(values), 2))


def test_there_are_more_than_thirty_kinds() -> None:
    assert len(REFUSED) > 30


UTC_NOON = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
ACCEPTED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "plain": (GOOD, {"amount": Decimal("12.50"), "create_date": datetime(2026, 3, 9, 11, 59, tzinfo=UTC)}),
    "an unknown field": (pos(more=', "colour": {"a": [1, null]}'), {}),
    "blanks around": (b" \t\r\n" + GOOD + b"\n", {}),
    "escaped field names": (GOOD.replace(b"amount", rb"\u0061mount"), {"amount": Decimal("12.50")}),
    "the last of two equal keys": (pos(more=', "amount": 3'), {"amount": Decimal(3)}),
    "a null before a value of the same key": (pos(key='null, "product_id": "p2"'), {"product_id": "p2"}),
    "an amount in a string": (pos('"12.50"'), {"amount": Decimal("12.50")}),
    "an amount with plus and bare points": (pos('"+.5"'), {"amount": Decimal("0.50")}),
    "an exponent": (pos("1.25e3"), {"amount": Decimal(1250)}),
    "zeros before an exponent": (pos("1e000000000000000000002"), {"amount": Decimal(100)}),
    "zeros before a minus exponent": (pos('"15e-000000000000000000001"'), {"amount": Decimal("1.50")}),
    "5,000 zeros before a plus exponent": (pos(f"25E+{'0' * 5000}1"), {"amount": Decimal(250)}),
    "zeros beyond the scale": (pos("1.5000000000000000000000000000000000000000000"), {"amount": Decimal("1.5")}),
    "escapes in an amount": (pos(r'"1\u0032"'), {"amount": Decimal(12)}),
    "a negative amount": (pos("-9999999999.99"), {"amount": Decimal("-9999999999.99")}),
    "minus zero": (pos("-0.0"), {"amount": Decimal(0)}),
    "zero with a huge exponent": (pos("0e999999"), {"amount": Decimal(0)}),
    "T and Z": (pos(date='"2026-03-09T12:00:00Z"'), {"create_date": UTC_NOON}),
    "an offset": (pos(date='"2026-03-09 14:00:00+02:00"'), {"create_date": UTC_NOON}),
    "an offset without colon": (pos(date='"2026-03-09 14:00:00+0200"'), {"create_date": UTC_NOON}),
    "an offset of hours": (pos(date='"2026-03-09 09:00:00-03"'), {"create_date": UTC_NOON}),
    "one digit of a second": (
        pos(date='"2026-03-09 11:59:59.5"'),
        {"create_date": datetime(2026, 3, 9, 11, 59, 59, 500000, UTC)},
    ),
    "exactly at the skew": (
        pos(date='"2026-03-09 12:05:00.123"'),
        {"create_date": datetime(2026, 3, 9, 12, 5, 0, 123000, UTC)},
    ),
    "1970": (pos(date='"1970-01-01 00:00:00"'), {"create_date": datetime(1970, 1, 1, tzinfo=UTC)}),
    "an escaped NUL in text": (pos(key=r'"a\u0000b"'), {"product_id": "a\0b"}),
    "all of Unicode": (pos(key='"Zoë 🛒"'), {"product_id": "Zoë 🛒"}),
    "a pair of surrogates": (pos(key=r'"\ud83d\uded2"'), {"product_id": "🛒"}),
    "a key of 16,384 bytes": (pos(key=f'"{"k" * 16384}"'), {"product_id": "k" * 16384}),
    "a blank key": (pos(key='" "'), {"product_id": " "}),
    "as deep as is allowed": (nested(MAX_DEPTH), {}),
    "brackets in a string": (pos(more=f', "x": "{"[{" * 5000}"'), {}),
    "many shallow arrays": (pos(more=f', "x": [{", ".join(["[]"] * 5000)}]'), {}),
    "a record of 1 MB": (pos(more=f', "x": "{"y" * 1_000_000}"'), {}),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_an_odd_record_is_accepted_by_a_stated_rule(kind: str) -> None:
    value, expected = ACCEPTED[kind]
    assert reasons(POS_DECODER, [value]) == [None]
    row = rows(POS_DECODER, [value])[0]
    assert {name: row[name] for name in expected} == expected


def test_every_type_is_read_and_every_optional_column_may_be_null_or_absent() -> None:
    full = (
        b'{"name": "n", "note": "", "flag": false, "small": -2147483648, "large": 9223372036854775807,'
        b' "price": "1.125", "day": "0001-01-01", "seen": "2026-03-09 12:00:00"}'
    )
    nulls = (
        b'{"name": "n", "large": 0, "note": null, "flag": null, "small": null,'
        b' "price": null, "day": null, "seen": null}'
    )
    none = b'{"name": "n", "large": 0}'
    expected = {"name": "n", "large": 0} | dict.fromkeys(["note", "flag", "small", "price", "day", "seen"])
    read = rows(WIDE_DECODER, [full, nulls, none])
    assert read[0] == {
        "name": "n",
        "note": "",
        "flag": False,
        "small": -(2**31),
        "large": 2**63 - 1,
        "price": Decimal("1.125"),
        "day": date(1, 1, 1),
        "seen": UTC_NOON,
    }
    assert read[1] == read[2] == expected


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ('"small": 2147483648', "overflow: small: does not fit int"),
        ('"large": 9223372036854775808', "overflow: large: does not fit long"),
        (f'"large": {"1" * 5000}', "overflow: large: does not fit long"),
        ('"large": 1.0', "wrong_type: large: expected long, got float"),
        ('"large": 1e3', "wrong_type: large: expected long, got float"),
        ('"large": 1e400', "wrong_type: large: expected long, got float"),
        ('"note": 1e400', "wrong_type: note: expected string, got float"),
        ('"note": 7, oops', "not_json: expected '\"' (byte 37)"),
        ('"large": "1"', "wrong_type: large: expected long, got str"),
        ('"large": true', "wrong_type: large: expected long, got bool"),
        ('"flag": 1', "wrong_type: flag: expected boolean, got int"),
        ('"flag": "true"', "wrong_type: flag: expected boolean, got str"),
        ('"note": ["a"]', "wrong_type: note: expected string, got array"),
        ('"day": "2026-02-29"', "bad_time: day: '2026-02-29': day is out of range for month"),
        ('"day": "0000-01-01"', "bad_time: day: '0000-01-01': year 0 is out of range"),
        ('"day": "2026-03-01 00:00:00"', "bad_time: day: '2026-03-01 00:00:00' is not yyyy-MM-dd"),
        ('"seen": ""', f"bad_time: seen: '' {NOT_A_TIME}"),
    ],
)
def test_a_value_beyond_its_type_is_refused(field: str, reason: str) -> None:
    value = b'{"name": "n", "large": 0, %s}' % field.encode()
    assert reasons(WIDE_DECODER, [value]) == [reason]


def test_a_source_without_event_time_takes_the_future() -> None:
    assert reasons(WIDE_DECODER, [b'{"name": "n", "large": 0, "seen": "9999-12-31 23:59:59.999999"}']) == [None]


def test_the_future_is_measured_from_each_records_own_kafka_timestamp() -> None:
    value = pos(date='"2026-03-09 12:04:00"')
    later = batch([value], kafka_time=KAFKA_TIME)
    earlier = batch([value], kafka_time=datetime(2026, 3, 9, 11, 0, tzinfo=UTC))
    assert [b.num_rows for b in POS_DECODER.accepted([later, earlier])] == [1, 0]


def test_a_reason_never_exceeds_200_characters() -> None:
    long_name = b'{"%s": 1, "name": "n", "large": 0, "day": "%s"}' % (b"x" * 1000, b"\xf0\x9f\x9b\x92" * 500)
    (reason,) = reasons(WIDE_DECODER, [long_name])
    assert reason is not None
    assert len(reason) <= 200
    assert reason.isascii()


NASTY_SCRIPT = r"""
from tests.driver.test_decode_kinds import POS_DECODER, REFUSED, batch

nasty = [value for value, _ in REFUSED.values()]
nasty += [b"null", b"null\n", b"{}\n{}", b"\0" * 1000, b"[" * 5_000_000, b'{"a":' * 999_999]
quotes = b'\\"' * 500_000
nasty += [b'"' * 1_000_001, quotes]
nasty += [b'{"' + quotes, b"[" * 200 + b'"' + quotes, b'{"x": "' + b"[" * 200 + quotes + b'"}']
batches = [batch([value]) for value in nasty] + [batch(nasty)]
print(sum(judged.num_rows for judged in POS_DECODER.judged(batches)), 2 * len(nasty))
"""


def test_no_kind_kills_the_process_that_decodes_it(tmp_path: Path) -> None:
    """A crash in C cannot be caught, so the nastiest go through a process of their own."""
    script = tmp_path / "nasty.py"
    script.write_text(NASTY_SCRIPT)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(script)],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    judged, given = done.stdout.split()
    assert judged == given


def test_the_page_about_dead_letters_has_every_kind_with_its_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dead-letters.md").read_text()
    for kind, (_, reason) in REFUSED.items():
        assert f"| {kind} | `{reason}` |" in page
    for kind in ACCEPTED:
        assert f"| {kind} |\n" in page
    assert {f"| `{reason.split(':')[0]}` |" for _, reason in REFUSED.values()} <= set(re.findall(r"\| `\w+` \|", page))


OF_ORDERS = {
    "a path through a number": (order("3"), "wrong_type: field order: expected an object, got int"),
    "a path through an array": (order('[{"orderId": "o1"}]'), "wrong_type: field order: expected an object, got array"),
    "a path through a text": (
        order('{"orderId": "o1", "sum": "3.10"}'),
        "wrong_type: field order.sum: expected an object, got str",
    ),
    "an object that is null": (order("null"), "missing: order_id (field order.orderId)"),
    "an object that is absent": (b'{"@timestamp": "2026-03-09 11:59:00"}', "missing: order_id (field order.orderId)"),
    "a wrong type inside": (
        order('{"orderId": 7}'),
        "wrong_type: order_id (field order.orderId): expected string, got int",
    ),
    "an empty key inside": (
        order('{"orderId": ""}'),
        "missing: order_id (field order.orderId): the key is empty",
    ),
    "a long integer inside": (
        order('{"orderId": "o1", "lineCount": 3000000000}'),
        "overflow: lines (field order.lineCount): does not fit int",
    ),
    "a fraction beyond the scale inside": (
        order('{"orderId": "o1", "sum": {"total": 1.005}}'),
        "inexact: total (field order.sum.total): '1.005' has more than 2 decimals",
    ),
    "an object twice, the first one wrong": (
        order('4, "order": {"orderId": "o1", "sum": {"total": 1}}'),
        "wrong_type: field order: expected an object, got int",
    ),
}


@pytest.mark.parametrize("name", OF_ORDERS)
def test_a_field_inside_an_object_is_refused_by_its_column_and_path(name: str) -> None:
    value, reason = OF_ORDERS[name]
    assert reasons(make_decoder(ORDERS), [value]) == [reason]


def test_fields_inside_objects_are_read_by_their_paths() -> None:
    full = order('{"orderId": "o1", "sum": {"total": "3.10", "iso.code": "EUR"}, "lineCount": 2}')
    bare = order('{"orderId": "o2", "sum": null}')
    twice = order('{"orderId": "o3", "lineCount": 1}, "order": {"orderId": "o4"}')
    at = datetime(2026, 3, 9, 11, 59, tzinfo=UTC)
    assert rows(make_decoder(ORDERS), [full, bare, twice]) == {
        0: {
            "order_id": "o1",
            "total": Decimal("3.10"),
            "currency": "EUR",
            "lines": 2,
            "at": at,
            "gift": None,
            "items": None,
        },
        1: {"order_id": "o2", "total": None, "currency": None, "lines": None, "at": at, "gift": None, "items": None},
        2: {"order_id": "o4", "total": None, "currency": None, "lines": None, "at": at, "gift": None, "items": None},
    }


@pytest.mark.parametrize(
    "text",
    ['[{"sku": "a", "price": 1.10}, {"sku": "b"}]', '{"a":  1}', '"t"', "1.10", "[]", "true", '"\\u00e9\\n"', '"null"'],
)
def test_a_json_column_is_the_text_of_any_value(text: str) -> None:
    value = order(f'{{"orderId": "o1", "items":  {text} }}')
    assert rows(make_decoder(ORDERS), [value])[0]["items"] == text
    assert rows(make_decoder(ORDERS), [order('{"orderId": "o1", "items": null}')])[0]["items"] is None
