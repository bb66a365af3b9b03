"""How a generated query makes its columns, each way by Spark and by plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F

BEYOND = "a time beyond the years 1 to 9999"
GROWN = "gro"
"""A text that a transform makes long: three bytes, and rare, because such rows are large."""
TIMES = [1, 21_844, 21_845, 21_846, 350_000, 1_354_200, 1_354_410, 1_400_000]
"""How often: around the limits of a key, of a row and of a record."""


class How(NamedTuple):
    """How a column is made: its type, by Spark, and by Python from a value that is not null."""

    type: str
    spark: Callable[[Column], Column]
    python: Callable[[Any], Any]


class Made(NamedTuple):
    """One output column of a stateless query: from a column of its source, or of the table that it joins."""

    source: str
    how: How
    looked_up: str = ""
    """The type of the table's column."""


class Sum(NamedTuple):
    """One output column of an aggregate: its type, by Spark, and by Python from all values of a group."""

    type: str
    source: str
    spark: Callable[[Column], Column]
    python: Callable[[list[Any]], Any]


def how(random_: random.Random, kind: str) -> How:
    """Return one way to make a column from a column of this type."""
    same = How("string" if kind == "json" else kind, lambda column: column, lambda value: value)
    if kind == "string":
        times, odd = random_.choice(TIMES), random_.choice(["a", "7", " "])
        grown = How(
            kind,
            lambda c: F.when(c == GROWN, F.repeat(c, times)).otherwise(c),
            lambda v: v * times if v == GROWN else v,
        )
        emptied = How(kind, lambda c: F.when(c == odd, "").otherwise(c), lambda v: "" if v == odd else v)
        return random_.choice(
            [same, grown, emptied, How(kind, lambda c: F.when(c != odd, c), lambda v: None if v == odd else v)]
        )
    if kind in ("int", "long"):
        fifth = How(kind, lambda c: F.when(c % 5 != 0, c), lambda v: v if v % 5 else None)
        return random_.choice([same, same, fifth, How("long", lambda c: c.cast("bigint"), lambda v: v)])
    if kind == "boolean":
        return random_.choice([same, How(kind, lambda c: ~c, lambda v: not v)])
    if kind == "date":
        days = random_.choice([-400_000, 1, 1_000_000])
        return random_.choice([same, same, How(kind, lambda c: F.date_add(c, days), lambda v: moved(v, days))])
    if kind == "timestamp":
        days = random_.choice([-800_000, -400_000, -1, 3_000_000])
        return random_.choice(
            [same, same, same, How(kind, lambda c: c + F.expr(f"INTERVAL '{days}' DAY"), lambda v: moved(v, days))]
        )
    if kind.startswith("decimal"):
        precision, scale = map(int, kind[8:-1].split(","))
        less = max(1, precision - 3), min(scale, max(1, precision - 3), random_.choice([0, 1, 2, 9]))
        narrow = f"decimal({less[0]},{less[1]})"
        return random_.choice([same, same, How(narrow, lambda c: c.cast(narrow), lambda v: narrowed(v, *less))])
    return same


def sum_of(random_: random.Random, column: str, kind: str) -> Sum:
    """Return one computation over a column of this type. Sums that could overflow are left out: the order decides if one does."""
    count = Sum("long", column, lambda _: F.count(F.lit(1)), len)
    known = Sum("long", column, F.count, lambda values: len(present(values)))
    least = Sum(kind, column, F.min, lambda values: min(present(values), default=None))
    most = Sum(kind, column, F.max, lambda values: max(present(values), default=None))
    options = [count, known, least, most]
    if kind == "int":
        options += [Sum("long", column, F.sum, total)] * 2
    if kind.startswith("decimal"):
        precision, scale = map(int, kind[8:-1].split(","))
        if precision <= 27:
            options += [Sum(f"decimal({precision + 10},{scale})", column, F.sum, total)] * 4
    return random_.choice(options)


def present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def total(values: list[Any]) -> Any:
    """Return the exact sum of the values that are not null, or null if all are null."""
    some = present(values)
    if not some or isinstance(some[0], int):
        return sum(some) if some else None
    exact = Context(prec=100)
    result = Decimal(0)
    for value in some:
        result = exact.add(result, value)
    return result


def moved(value: date | datetime, days: int) -> Any:
    try:
        return value + timedelta(days=days)
    except OverflowError:
        return BEYOND


def narrowed(value: Decimal, precision: int, scale: int) -> Decimal | None:
    """Return what Spark's cast gives: rounded half up, null if the digits do not fit."""
    result = value.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, Context(prec=100))
    return result if abs(result) < Decimal(10) ** (precision - scale) else None
