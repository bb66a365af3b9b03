"""The rules of docs/dead-letters.md as plain Python: one record by the json module and jiter (pydantic-core), and its row.

It shares no code with the product.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pydantic_core import from_json

from headrace.contract.model import Column, Source
from headrace.driver.decode import MAX_DEPTH, MAX_KEY_TEXT


class Number(str):
    """A JSON number as it was written."""


class Pairs(list[tuple[str, Any]]):
    """An object with all its fields, those too that a later one of the same name hides."""


def parsed_by_both(value: bytes) -> tuple[bool, Any]:
    """Parse by the json module, numbers as written, and by jiter. They must agree on what is JSON, and on its texts."""
    try:
        text = value.decode()
        ours = json.loads(text, parse_float=Number, parse_int=Number, parse_constant=no_constant)
        json.dumps(pairs(value), ensure_ascii=False).encode()  # raises for an unpaired surrogate
        valid = True
    except (ValueError, RecursionError):
        ours, valid = None, False
    try:
        other = from_json(value, allow_inf_nan=False)
        other_valid = True
    except ValueError:
        other, other_valid = None, False
    assert valid == other_valid, f"the two parsers differ on {short(value)}"
    assert as_floats(ours) == as_floats(other), f"the two parsers differ on {short(value)}"
    return valid, ours


def pairs(value: bytes) -> Any:
    """Return a JSON value with all fields of its objects."""
    return json.loads(value, parse_float=Number, parse_int=Number, object_pairs_hook=Pairs)


def readable_inside(source: Source, value: Any, path: tuple[str, ...] = ()) -> bool:
    """Return whether everything that columns are read from, or that leads there, has its type, wherever it occurs."""
    columns = {column.path(name): column for name, column in source.columns.items()}
    if path in columns:
        return value is None or readable(columns[path], value)
    if not any(declared[: len(path)] == path for declared in columns):
        return True
    if value is None and path:
        return True
    return isinstance(value, Pairs) and all(readable_inside(source, inner, (*path, name)) for name, inner in value)


def at_path(record: Any, path: tuple[str, ...]) -> Any:
    """Return the value of a path, None where an object on it is null, absent or none."""
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def readable(column: Column, value: Any) -> bool:
    """Return whether a JSON value is of the type that a column is read from; of decimals the last alone is looked at."""
    kind = column.type.partition("(")[0]
    if kind in ("decimal", "json"):
        return True
    wanted = {"boolean": bool, "int": Number, "long": Number}.get(kind, str)
    if isinstance(value, Number):
        return wanted is Number and re.fullmatch("-?[0-9]+", value) is not None
    return type(value) is wanted


def short(value: bytes) -> str:
    """Return a record for a message; HEADRACE_TEST_SEED brings all of it back."""
    return repr(value if len(value) < 600 else re.sub(b"k{20,}", b"k...", value))[:1200]


def no_constant(text: str) -> None:
    raise ValueError(text)


def as_floats(value: Any) -> Any:
    """Return a value with all its numbers as floats: what two parsers of different exactness can agree on."""
    if isinstance(value, dict):
        return {key: as_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_floats(inner) for inner in value]
    if isinstance(value, Number | float) or (isinstance(value, int) and not isinstance(value, bool)):
        return float(value) if not isinstance(value, int) or value.bit_length() < 1000 else float("inf") * value
    return value


def oracle(source: Source, value: bytes | None, kafka_time: datetime) -> tuple[set[str], dict[str, Any]]:
    """Return the words of the rules that a record breaks, and its row if it breaks none."""
    if value is None:
        return {"null_value"}, {}
    if not value:
        return {"empty"}, {}
    try:
        value.decode()
    except UnicodeDecodeError:
        return {"not_utf8"}, {}
    valid, record = parsed_by_both(value)
    if not valid:
        # What opens more than is allowed is refused before it is parsed; what is damaged may be both.
        return {"not_json", "too_deep"} if value.count(b"[") + value.count(b"{") > MAX_DEPTH else {"not_json"}, {}
    if not isinstance(record, dict):
        return {"wrong_type"}, {}
    words: set[str] = set()
    if not readable_inside(source, pairs(value)):
        words.add("wrong_type")
    row = {
        name: typed(source, name, column, at_path(record, column.path(name)), words)
        for name, column in source.columns.items()
    }
    event_time = source.event_time
    at = row[event_time.column] if event_time else None
    if event_time and at is not None and at > kafka_time + event_time.accepted_skew:
        words.add("future")
    return words, row


def typed(source: Source, name: str, column: Column, value: Any, words: set[str]) -> Any:
    kind = column.type.partition("(")[0]
    if value is None or kind == "json":
        words |= {"missing"} if value is None and column.required else set()
        return value
    if kind == "decimal":
        return decimal(column.type, value, words)
    if not readable(column, value):
        words.add("wrong_type")
        return None
    if kind in ("int", "long"):
        limit = 2 ** {"int": 31, "long": 63}[kind]
        if len(value) > 30 or not -limit <= int(value) < limit:
            words.add("overflow")
            return None
        return int(value)
    if kind == "string":
        if column.required and len(value.encode()) > MAX_KEY_TEXT:
            words.add("too_long")
        if name == source.key and value == "":
            words.add("missing")
        return value
    if kind == "boolean":
        return value
    moment = (timestamp if kind == "timestamp" else day)(value)
    words |= {"bad_time"} if moment is None else set()
    return moment


def decimal(kind: str, value: Any, words: set[str]) -> Decimal | None:
    """Return the exact value of a spelling by fractions, whatever its form."""
    precision, scale = map(int, re.findall("[0-9]+", kind))
    if not isinstance(value, str):
        words.add("wrong_type")
        return None
    match = re.fullmatch(r"([+-]?)(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?)([0-9]+))?", value)
    if match is None:
        words.add("bad_number")
        return None
    sign, integer, fraction, exponent_sign, exponent = match.groups(default="")
    digits = int(integer + fraction)
    if digits == 0:
        return Decimal(0)
    power = int(exponent or "0")
    if power > 9_999:
        words.add("inexact" if exponent_sign == "-" else "overflow")
        return None
    exact = Fraction(digits) * Fraction(10) ** (-power if exponent_sign == "-" else power) / 10 ** len(fraction)
    if exact >= 10 ** (precision - scale):
        words.add("overflow")
        if (exact * 10**scale).denominator == 1:
            return None
    if (exact * 10**scale).denominator != 1:
        words.add("inexact")
        return None
    cents = str((exact * 10**scale).numerator)
    return Decimal(f"{sign}{cents}e-{scale}")


def timestamp(text: str) -> datetime | None:
    match = re.fullmatch(
        r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?"
        r"(Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?",
        text,
    )
    if match is None:
        return None
    *parts, fraction, _, sign, hours, minutes = match.groups()
    away = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if int(hours or 0) > 23 or int(minutes or 0) > 59:
        return None
    try:
        year, month, day, hour, minute, second = map(int, parts)
        time = datetime(year, month, day, hour, minute, second, int((fraction or "0").ljust(6, "0")), UTC)
        time = time + away if sign == "-" else time - away
    except (ValueError, OverflowError):
        return None
    return time if time.year >= 1970 else None


def day(text: str) -> date | None:
    match = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", text)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None
