"""Read one column's JSON values: how each contract type becomes Arrow, and what is refused (rules: `decode`).

There are two readers per type. The bulk reader passes the entire column to Arrow and raises if Arrow rejects a value. Then
the exact reader reads value by value and reports which value is refused and why. For every input that the bulk reader
accepts, the exact reader returns the same result; tests verify this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

REASON_LENGTH: Final = 200
TIMESTAMP: Final = pa.timestamp("us", "UTC")
PIECES: Final = 8
NULL: Final = msgspec.Raw(b"null")

_ARROW_TYPES: Final = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "timestamp": TIMESTAMP,
    "date": pa.date32(),
    "json": pa.string(),
}
_MIN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_MICROS: Final = 253_402_300_799_999_999  # 9999-12-31 23:59:59.999999
_MIN_DAY: Final = -719_162  # 0001-01-01; Arrow also reads the year 0000
_TIMESTAMP_TEXT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?", re.ASCII
)
_DATE_TEXT: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER_TEXT: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Raised by Arrow if one value of a column does not fit.
_ARROW_REFUSES: Final = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError)


class BrokenRuleError(Exception):
    """A value breaks a rule: (reason code, detail)."""


@dataclass(frozen=True)
class ColumnRule:
    """How to read a column. `kind` is the contract's type: string, decimal(12,2) ...

    `field` is the path from the record to the value; without it the column's name is used.
    """

    name: str
    kind: str
    required: bool
    field: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """The path of the JSON field, from the record inwards."""
        return self.field or (self.name,)

    @property
    def label(self) -> str:
        """The column's name in reasons, with its field if that has another name."""
        return self.name if self.path == (self.name,) else f"{self.name} (field {'.'.join(self.path)})"

    @property
    def decimal(self) -> tuple[int, int]:
        """Precision and scale of a decimal column."""
        precision, scale = self.kind.removeprefix("decimal(").removesuffix(")").split(",")
        return int(precision), int(scale)

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that the column is written as."""
        return pa.decimal128(*self.decimal) if self.kind.startswith("decimal") else _ARROW_TYPES[self.kind]

    @property
    def json(self) -> tuple[Any, Any]:
        """The parser's type and default. Every field may be null or absent: `decode` checks required columns in one place.

        Decimals and json stay bytes, so that no digit is lost.
        """
        if self.kind.startswith("decimal") or self.kind == "json":
            return msgspec.Raw, NULL
        return {"boolean": bool | None, "int": int | None, "long": int | None}.get(self.kind, str | None), None


def reason(code: str, detail: str) -> str:
    """Return a dead letter's reason: a stable code, then a detail for people; at most 200 characters."""
    return f"{code}: {detail}"[:REASON_LENGTH]


def column_array(column: ColumnRule, values: list[Any], reasons: dict[int, str], first: int = 0) -> pa.Array:
    """Return a column's parsed values (typed as in `ColumnRule.json`) as an Arrow array of the same length.

    A refused value becomes null, and `reasons` gets {row: reason} unless the row has one; `values[0]` is row `first`.
    """
    bulk, exact = _readers(column)
    try:
        return bulk(values)
    except _ARROW_REFUSES:
        if len(values) > PIECES * PIECES:  # split, so that one bad value does not slow down the entire batch
            size = -(-len(values) // PIECES)
            starts = range(0, len(values), size)
            return pa.concat_arrays([column_array(column, values[i : i + size], reasons, first + i) for i in starts])
    kept: list[Any] = []
    for row, value in enumerate(values, first):
        try:
            kept.append(None if value is None else exact(value))
        except BrokenRuleError as refused:
            code, detail = refused.args
            reasons.setdefault(row, reason(code, f"{column.label}: {detail}"))
            kept.append(None)
    return pa.array(kept, column.arrow)


def _readers(column: ColumnRule) -> tuple[Callable[[list[Any]], pa.Array], Callable[[Any], object]]:
    """Return the two readers: for a list, and for one value that is not None (raises RefusedError)."""
    if column.kind.startswith("decimal"):
        precision, scale = column.decimal
        return partial(_bulk_decimals, kind=column.arrow), partial(_exact_decimal, precision=precision, scale=scale)
    if column.kind in ("int", "long"):
        return partial(pa.array, type=column.arrow), partial(_exact_integer, kind=column.kind)
    if column.kind == "json":
        return _bulk_json, _exact_json
    if column.kind == "timestamp":
        return _bulk_timestamps, _exact_timestamp
    if column.kind == "date":
        return _bulk_dates, _exact_date
    return partial(pa.array, type=column.arrow), lambda value: value


def _exact_integer(value: int, kind: str) -> int:
    bits = {"int": 31, "long": 63}[kind]
    if not -(1 << bits) <= value < 1 << bits:
        raise BrokenRuleError("overflow", f"does not fit {kind}")
    return value


def _bulk_json(values: list[Any]) -> pa.Array:
    return pa.array([_exact_json(value) for value in values], pa.string())


def _exact_json(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode()
    return None if text == "null" else text


def _bulk_decimals(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Read JSON numbers, and strings with numbers, as decimals. Raises ArrowInvalid if the exact reader must decide.

    Joining and splitting is by far the cheapest way to get the bytes out of `Raw` (ADR 0004). A surplus line reveals a value
    with a line feed. Arrow's cast silently overflows if digits and scale exceed 38 together ("11" becomes 0.79... as
    decimal(38,38)), and reads 1E-1111 as 0: hence the limits on length and exponents.
    """
    joined = b"\n".join(values)
    texts = pc.split_pattern(pa.array([joined], pa.string()), "\n").flatten()
    longest = pc.max(pc.binary_length(texts)).as_py()
    if len(texts) != len(values) or longest > 38 - kind.scale or b"e" in joined or b"E" in joined:
        raise pa.ArrowInvalid("not a plain number in each line")
    if b"null" in joined:
        texts = pc.replace_with_mask(texts, pc.equal(texts, "null"), pa.scalar(None, pa.string()))
    if b'"' in joined:
        texts = pc.ascii_trim(texts, characters='"')
    return texts.cast(kind)


def _exact_decimal(raw: msgspec.Raw, precision: int, scale: int) -> Decimal | None:
    text: Any = bytes(raw).decode()
    if text == "null":
        return None
    if text.startswith('"'):
        text = msgspec.json.decode(raw)
        if not _NUMBER_TEXT.fullmatch(text):
            raise BrokenRuleError("bad_number", f"{_shown(text)} is not a number")
    elif text[0] not in "-0123456789":
        got = {"t": "bool", "f": "bool", "[": "array"}.get(text[0], "object")
        raise BrokenRuleError("wrong_type", f"expected decimal({precision},{scale}), got {got}")
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.lstrip("+-")
    integer, _, fraction = digits.partition(".")
    significant = (integer + fraction).lstrip("0")
    if not significant:
        return Decimal(0)
    kept = significant.rstrip("0")
    # The value is `kept` * 10**power.
    power = _exponent(exponent) - len(fraction) + len(significant) - len(kept)
    if len(kept) + power > precision - scale:
        raise BrokenRuleError("overflow", f"{_shown(text)} does not fit decimal({precision},{scale})")
    if -power > scale:
        raise BrokenRuleError("inexact", f"{_shown(text)} has more than {scale} decimals")
    return Decimal((1 if mantissa.startswith("-") else 0, tuple(map(int, kept)), power))


def _exponent(text: str) -> int:
    """Return the exponent [+-]digits of a number, 0 for "". RFC 8259 section 6 allows any number of leading zeros.

    20 significant digits are out of range whatever the mantissa, so the rest of a longer exponent does not matter.
    """
    size = int(text.lstrip("+-").lstrip("0")[:20] or "0")
    return -size if text.startswith("-") else size


def _bulk_timestamps(values: list[str | None]) -> pa.Array:
    """Read timestamps that have no zone, or that all have one. Raises ArrowInvalid if the exact reader must decide.

    The first value determines which, because Arrow needs a microsecond for each value that it rejects; a wrong guess costs
    only time. Arrow also reads shorter forms, which the rule refuses: seconds exist if there is a colon at 13 and at 16.
    """
    texts = pa.array(values, pa.string())
    for place in (13, 16):
        if not pc.all(pc.equal(pc.binary_slice(texts.view(pa.binary()), place, place + 1), b":")).as_py():
            raise pa.ArrowInvalid("no seconds")
    sample = next(filter(None, values), "")
    zoned = len(sample) > 19 and not sample[20:].isdigit()  # anything there except a fraction is a zone
    times = texts.cast(TIMESTAMP) if zoned else texts.cast(pa.timestamp("us")).view(TIMESTAMP)
    bounds = pc.min_max(times.view(pa.int64())).as_py()
    if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] <= _MAX_MICROS:
        raise pa.ArrowInvalid("out of range")
    return times


def _exact_timestamp(text: str) -> datetime:
    if not _TIMESTAMP_TEXT.fullmatch(text):
        raise BrokenRuleError(
            "bad_time", f"{_shown(text)} is not yyyy-MM-dd HH:mm:ss[.ffffff] with Z, an offset or none (UTC)"
        )
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BrokenRuleError("bad_time", f"{_shown(text)}: {error}") from None
    if time < _MIN_TIME:
        raise BrokenRuleError("bad_time", f"{_shown(text)} is before 1970")
    return time


def _bulk_dates(values: list[str | None]) -> pa.Array:
    dates = pa.array(values, pa.string()).cast(pa.date32())
    first = pc.min(dates.view(pa.int32())).as_py()
    if first is not None and first < _MIN_DAY:
        raise pa.ArrowInvalid("out of range")
    return dates


def _exact_date(text: str) -> date:
    if not _DATE_TEXT.fullmatch(text):
        raise BrokenRuleError("bad_time", f"{_shown(text)} is not yyyy-MM-dd")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BrokenRuleError("bad_time", f"{_shown(text)}: {error}") from None


def _shown(text: str) -> str:
    """Return text for a reason: shortened, printable, on one line."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")
