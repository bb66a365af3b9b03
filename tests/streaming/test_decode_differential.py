"""The decoder against two independent parsers on generated and damaged records: the json module and jiter (pydantic-core).

HEADRACE_DECODE_CASES=100000 is the long form. Every case is judged in a batch of many, and the reason that a refused
record gets must be one of the rules that it breaks by the oracle.
"""

from __future__ import annotations

import json
import os
import random
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pydantic_core import from_json

from headrace.contract.model import Column, Source
from headrace.streaming.decode import MAX_DEPTH, MAX_KEY_TEXT, make_decoder
from tests.streaming.decode_data import KAFKA_TIME, POS, WIDE, batch

CASES = int(os.environ.get("HEADRACE_DECODE_CASES", "2000"))
BATCH = 250
SOURCES = {"pos": POS, "wide": WIDE}
DECODERS = {name: make_decoder(source) for name, source in SOURCES.items()}


class Number(str):
    """A JSON number as it was written."""


# The oracle: one record, the words of all rules that it breaks, or its row.


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


def pairs(value: bytes) -> list[tuple[str, Any]]:
    """Return the fields of an object, those too that a later one of the same name hides."""
    found: list[tuple[str, Any]] = json.loads(value, parse_float=Number, parse_int=Number, object_pairs_hook=list)
    return found


def readable(column: Column, value: Any) -> bool:
    """Return whether a JSON value is of the type that a column is read from; of decimals the last alone is looked at."""
    kind = column.type.partition("(")[0]
    if kind == "decimal":
        return True
    wanted = {"boolean": bool, "int": Number, "long": Number}.get(kind, str)
    return type(value) is wanted and (wanted is str or wanted is bool or re.fullmatch("-?[0-9]+", value) is not None)


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


def oracle(source: Source, value: bytes) -> tuple[set[str], dict[str, Any]]:
    """Return the words of the rules that a record breaks, and its row if it breaks none."""
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
    for name, field in pairs(value):  # a wrong type is refused wherever it occurs, before a field of the same name too
        if name in source.columns and field is not None and not readable(source.columns[name], field):
            words.add("wrong_type")
    row = {name: typed(source, name, column, record.get(name), words) for name, column in source.columns.items()}
    event_time = source.event_time
    at = row[event_time.column] if event_time else None
    if event_time and at is not None and at > KAFKA_TIME + event_time.accepted_skew:
        words.add("future")
    return words, row


def typed(source: Source, name: str, column: Column, value: Any, words: set[str]) -> Any:
    kind = column.type.partition("(")[0]
    if value is None:
        words |= {"missing"} if column.required else set()
        return None
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
    found = (timestamp if kind == "timestamp" else day)(value)
    words |= {"bad_time"} if found is None else set()
    return found


def decimal(kind: str, value: Any, words: set[str]) -> Decimal | None:
    """Return the exact value of a spelling by fractions, whatever its form."""
    precision, scale = map(int, re.findall("[0-9]+", kind))
    if not isinstance(value, str):
        words.add("wrong_type")
        return None
    found = re.fullmatch(r"([+-]?)(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?)([0-9]+))?", value)
    if found is None:
        words.add("bad_number")
        return None
    sign, whole, fraction, exponent_sign, exponent = found.groups(default="")
    digits = int(whole + fraction)
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
    found = re.fullmatch(
        r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?"
        r"(Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?",
        text,
    )
    if found is None:
        return None
    *parts, fraction, _, sign, hours, minutes = found.groups()
    away = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if int(hours or 0) > 23 or int(minutes or 0) > 59:
        return None
    try:
        time = datetime(*map(int, parts), int((fraction or "0").ljust(6, "0")), UTC)  # type: ignore[misc,arg-type]
        time = time + away if sign == "-" else time - away
    except (ValueError, OverflowError):
        return None
    return time if time.year >= 1970 else None


def day(text: str) -> date | None:
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", text)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


# The generator: legal spellings, odd ones, and damage.


class Maker:
    """Records of a source by a random generator."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.calm = False  # values that fit their columns, in any spelling

    def record(self, source: Source) -> bytes:
        pick = self.random.choice
        self.calm = self.random.random() < 0.6
        fields = [
            (name, self.value(column))
            for name, column in source.columns.items()
            if (self.calm and column.required) or self.random.random() < 0.97
        ]
        if self.random.random() < 0.2:
            self.random.shuffle(fields)
        if self.random.random() < 0.1:
            fields.insert(self.random.randrange(len(fields) + 1), (pick(["x", "amount", ""]), self.any(3)))
        if fields and self.random.random() < 0.05:
            name, _ = pick(fields)
            fields.append((name, self.value(source.columns[name]) if name in source.columns else self.any(2)))
        blank = pick(["", "", " ", "\n", "\t \r\n"])
        text = f"{{{blank}" + f",{blank}".join(f"{self.string(name)}{blank}:{blank}{value}" for name, value in fields)
        value = f"{blank}{text}{blank}}}{blank}".encode()
        return self.damaged(value) if self.random.random() < 0.2 else value

    def value(self, column: Column) -> str:
        chance, kind = self.random.random(), column.type.partition("(")[0]
        if self.calm:
            chance = 0.5
        if chance < 0.03:
            return self.any(3)
        if chance < 0.05:
            return "null"
        if kind == "decimal":
            number = self.number()
            return number if self.random.random() < 0.6 else json.dumps(self.odd(number))
        if kind in ("int", "long"):
            return self.integer() if chance < 0.9 else self.number()
        if kind == "boolean":
            return self.random.choice(["true", "false"])
        if kind in ("timestamp", "date"):
            return json.dumps(self.odd(self.time(kind)))
        return self.string(self.text())

    def integer(self) -> str:
        if self.calm:
            return str(self.random.randint(-(2**31), 2**31 - 1))
        size = self.random.choice([1, 2, 9, 10, 11, 18, 19, 20, 40])
        limit = self.random.choice([2**31, 2**63, 10**size])
        edge = limit + self.random.randint(-2, 2) if self.random.random() < 0.3 else self.random.randrange(10**size)
        return self.random.choice(["", "-"]) + str(edge)

    def number(self) -> str:
        """Return a legal JSON number in one of its many spellings; often within the columns' range."""
        pick = self.random.choice
        if self.calm:
            return self.cents()
        text = pick(["", "", "-"]) + pick(["0", str(self.random.randrange(10 ** pick([1, 3, 8, 10, 13, 40])))])
        if self.random.random() < 0.6:
            text += "." + self.digits(pick([1, 2, 2, 3, 7, 45]))
        if self.random.random() < 0.5:
            zeros = "0" * pick([0, 0, 1, 2, 19, 20, 21, 40])
            size = pick([0, 1, 2, 3, 8, 12, 19, 400, 10**19, 10**20, 10**22])
            text += pick("eE") + pick(["", "+", "-"]) + zeros + str(size)
        return text

    def cents(self) -> str:
        """Return an amount below 10^7 with the point at any of its digits, and the exponent that puts it back."""
        pick = self.random.choice
        digits = str(self.random.randrange(10 ** pick([1, 3, 9])))
        point = self.random.randrange(len(digits) + 1)
        fraction = digits[point:] + "0" * pick([0, 0, 1, 19, 40])
        power = len(digits) - point - 2
        mantissa = pick(["", "-"]) + (digits[:point] or "0") + ("." + fraction if fraction else "")
        return (
            mantissa
            + pick("eE")
            + ("-" if power < 0 else pick(["", "+"]))
            + "0" * pick([0, 1, 19, 40])
            + str(abs(power))
        )

    def digits(self, count: int) -> str:
        return "".join(self.random.choice("0001234567890") for _ in range(count))

    def time(self, kind: str) -> str:
        pick, between = self.random.choice, self.random.randint
        if self.calm:
            text = f"{between(1971, 2025)}-{between(1, 12):02}-{between(1, 28):02}"
            clock = f"{pick(' T')}{between(0, 23):02}:{between(0, 59):02}:{between(0, 59):02}"
            return text if kind == "date" else text + clock + pick(["", ".5", ".123456", "Z", "+0230", "-11"])
        text = (
            f"{pick(['2026', '2026', '1970', '9999', '0001', '0000', '1969'])}-{between(1, 12):02}-{between(1, 30):02}"
        )
        if kind == "date" and self.random.random() < 0.9:
            return text
        clock = f"{between(0, 23):02}:{between(0, 59):02}:{between(0, 59):02}"
        zone = pick(["", "", "", "Z", "+02:00", "-0330", "+09", "+24:00", "-00:60"])
        return text + pick(" T") + clock + pick(["", "", ".5", ".123456", "." + self.digits(7)]) + zone

    def odd(self, text: str) -> str:
        """Return a text as it is or, seldom, with a character changed."""
        if self.calm or self.random.random() < 0.85:
            return text
        place = self.random.randrange(len(text) + 1)
        odd = self.random.choice(["", " ", "+", "-", ".", "0", "e", ":", "T", "\0", "\N{FULLWIDTH DIGIT ONE}"])
        return text[:place] + odd + text[place + 1 :]

    def text(self) -> str:
        pick = self.random.choice
        if self.random.random() < 0.01:
            return "k" * pick([MAX_KEY_TEXT - 1, MAX_KEY_TEXT, MAX_KEY_TEXT + 1])
        characters = ["a", "7", " ", '"', "\\", "/", "\0", "\x1b", "\n", "é", "가", "🛒", "[b]"]
        return "".join(pick(characters) for _ in range(pick([1, 3, 9] if self.calm else [0, 1, 3, 9])))

    def string(self, text: str) -> str:
        """Return a text as a JSON string, each character in one of its spellings."""
        if self.random.random() < 0.7:
            return json.dumps(text, ensure_ascii=self.random.random() < 0.5)
        units = json.dumps(text)[1:-1]
        return '"' + (units if "\\" in units else units.replace("a", "\\u0061")) + '"'

    def any(self, depth: int) -> str:
        pick = self.random.choice
        if depth == 0 or self.random.random() < 0.5:
            words = ["true", "false", "null", "{}", "[]"]
            return pick([self.number(), self.integer(), self.string(self.text()), pick(words)])
        inner = [self.any(depth - 1) for _ in range(pick([1, 2, 3]))]
        if self.random.random() < 0.5:
            return "[" + ", ".join(inner) + "]"
        return "{" + ", ".join(f"{self.string(self.text())}: {each}" for each in inner) + "}"

    def damaged(self, value: bytes) -> bytes:
        """Return a value with one to three small pieces changed."""
        pieces = [b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"1", b"-", b"+", b".", b"e", b"E5", b"00",
                  b"null", b"NaN", b"true", b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b" ", b"\xef\xbb\xbf",
                  b"[" * 60, b"{\"a\":" * 60, b"'"]  # fmt: skip
        for _ in range(self.random.choice([1, 1, 2, 3])):
            start = self.random.randrange(len(value) + 1)
            value = value[:start] + self.random.choice(pieces) + value[start + self.random.choice([0, 0, 1, 1, 2, 9]) :]
        return value


def test_the_decoder_agrees_with_two_independent_parsers(seed: int) -> None:
    maker = Maker(random.Random(seed))
    accepted = refused = 0
    for first in range(0, CASES, BATCH):
        name = "pos" if first // BATCH % 2 else "wide"
        values = [maker.record(SOURCES[name]) for _ in range(BATCH)]
        (judged,) = DECODERS[name].judged([batch(values)])
        (taken,) = DECODERS[name].accepted([batch(values)])
        rows = {row["source"]["offset"]: row for row in taken.to_pylist()}
        for place, (value, reason) in enumerate(zip(values, judged.column("reason").to_pylist(), strict=True)):
            words, row = oracle(SOURCES[name], value)
            if reason is not None:
                assert reason.partition(":")[0] in words, (
                    f"{short(value)} is refused as {reason!r}; the oracle has {words}"
                )
                refused += 1
                continue
            assert not words, f"{short(value)} is accepted; the oracle has {words}"
            assert {column: rows[place][column] for column in row} == row, f"{short(value)} is read as another row"
            accepted += 1
    print(f"{accepted} accepted, {refused} refused")
    assert min(accepted, refused) > CASES // 10  # the generator makes enough of both
