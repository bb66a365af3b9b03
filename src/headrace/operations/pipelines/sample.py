"""Columns, types and required columns of a source, from a sample of its records (JSON objects)."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from headrace.contract.model import FIELD_PATTERN
from headrace.contract.platform_columns import OWN_PREFIX
from headrace.errors import HeadraceError

MOST_RECORDS = 1_000
_DEPTH = 5
_LONG = 2**63
_PRECISION, _SCALE = 12, 2  # a decimal column is never narrower: a sample seldom has the largest value
_MAX_PRECISION = 38
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class SampledColumn:
    """One column: its name, its type, whether every record has it, and its path in the record if that is not its name."""

    name: str
    type: str
    required: bool = False
    path: tuple[str, ...] = ()


@dataclass
class _PathValues:
    """What the records hold at one path."""

    count: int = 0
    kinds: set[str] = field(default_factory=set)
    digits: int = 0
    scale: int = 0


def columns_of(records: Iterable[bytes]) -> list[SampledColumn]:
    """Return the columns of at most MOST_RECORDS records, in the order of the fields.

    Nested objects become columns of their fields, arrays become json. A line that is not a JSON object is passed over.
    Raises HeadraceError where no record is a JSON object.
    """
    seen: dict[tuple[str, ...], _PathValues] = {}
    total = 0
    for record in _objects(records):
        total += 1
        for path, value in _leaves(record):
            _note(seen.setdefault(path, _PathValues()), value)
    if not total:
        raise HeadraceError("The sample has no record that is a JSON object. Give a file with one JSON object a line.")
    paths = [path for path in seen if not _has_parts(path, seen)]
    named = _names(paths)
    return [
        SampledColumn(named[path], _type(seen[path]), seen[path].count == total, () if path == (named[path],) else path)
        for path in paths
    ]


def _objects(records: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(line for line in records if line.strip()):
        if number == MOST_RECORDS:
            return
        try:
            record = json.loads(line, parse_float=Decimal)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _leaves(record: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in record.items():
        path = (*above, name)
        if not re.fullmatch(FIELD_PATTERN.strip("^$"), name):
            continue  # no column can read a field of such a name
        if isinstance(value, dict) and value and len(path) < _DEPTH:
            yield from _leaves(value, path)
        else:
            yield path, value


def _has_parts(path: tuple[str, ...], seen: Mapping[tuple[str, ...], _PathValues]) -> bool:
    """Return whether a null or an empty object stands where other records have an object with fields."""
    empty = not seen[path].kinds - {"json"}
    return empty and any(other[: len(path)] == path and other != path for other in seen)


def _note(seen: _PathValues, value: Any) -> None:  # noqa: ANN401 - any JSON value
    if value is None:
        return
    seen.count += 1
    seen.kinds.add(_kind(value))
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        _, digits, exponent = Decimal(value).as_tuple()
        scale = max(0, -int(exponent))
        seen.scale = max(seen.scale, scale)
        seen.digits = max(seen.digits, len(digits) + int(exponent))


def _kind(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "long" if -_LONG <= value < _LONG else "decimal"
    if isinstance(value, Decimal):
        return "decimal"
    if not isinstance(value, str):
        return "json"
    return "timestamp" if _TIME.fullmatch(value) else "date" if _DATE.fullmatch(value) else "string"


def _type(seen: _PathValues) -> str:
    kinds = seen.kinds
    if kinds <= {"long", "decimal"} and "decimal" in kinds:
        scale = min(_MAX_PRECISION - 1, max(_SCALE, seen.scale) if seen.scale else 0)
        return f"decimal({min(_MAX_PRECISION, max(_PRECISION, seen.digits + scale + 2))},{scale})"
    if len(kinds) == 1:
        return next(iter(kinds))
    return "string" if kinds <= {"string", "date", "timestamp"} else "json"


def _names(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return a column name for each path: its last part that is free, in lower case with `_`."""
    named: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for path in paths:
        choices = [_name(path[-1]), _name("_".join(path))]
        name = next((choice for choice in choices if choice not in taken), "")
        number = 2
        while not name:
            candidate = f"{choices[1][:44]}_{number}"
            name, number = ("" if candidate in taken else candidate), number + 1
        taken.add(name)
        named[path] = name
    return named


def is_text(name: str) -> bool:
    """Return whether YAML reads a name as text: it reads on, off, yes, no and null as other values."""
    return isinstance(yaml.safe_load(name), str)


def _name(text: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:44]
    usable = name and name[0].isalpha() and is_text(name) and not keyword.iskeyword(name)
    return name if usable and not name.startswith(OWN_PREFIX) else f"f_{name}".rstrip("_")
