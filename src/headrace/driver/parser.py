"""The C parser of a source's records: one type for the record, and one for each object on the path to a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from headrace.driver.columns import ColumnRule


class Parser(NamedTuple):
    """The C decoder of one record, the row that replaces a refused one (all null), and the getter of each column's value."""

    parse: Callable[[bytes], Any]
    blank: Any
    values: tuple[Callable[[Any], Any], ...]


@cache
def parser(columns: tuple[ColumnRule, ...]) -> Parser:
    """Return the parser for records with these columns.

    Every field may be absent or null: required columns are checked in one place, for all types alike.
    """
    values: dict[str, Callable[[Any], Any]] = {}
    row = _struct(columns, 0, (), values)
    return Parser(msgspec.json.Decoder(row).decode, row(), tuple(values[column.name] for column in columns))


def _struct(
    columns: Sequence[ColumnRule], depth: int, steps: tuple[str, ...], values: dict[str, Callable[[Any], Any]]
) -> type[msgspec.Struct]:
    """Return the parser's type of the object that contains all these columns, `steps` attributes below the record.

    Attributes are numbered, because a field may be named like a keyword or a method. `values` collects the columns' getters.
    """
    below: dict[str, list[ColumnRule]] = {}
    for column in columns:
        below.setdefault(column.path[depth], []).append(column)
    fields: list[tuple[str, Any, Any]] = []
    for index, (name, inner) in enumerate(below.items()):
        here = (*steps, f"c{index}")
        if len(inner[0].path) == depth + 1:
            kind, default = inner[0].json
            values[inner[0].name] = _getter(here, default)
        else:
            kind, default = _struct(inner, depth + 1, here, values) | None, None
        fields.append((f"c{index}", kind, msgspec.field(default=default, name=name)))
    return msgspec.defstruct("Row", fields, gc=False, kw_only=True)


def _getter(steps: tuple[str, ...], default: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - a parsed value
    if len(steps) == 1:
        return attrgetter(steps[0])

    def value_of(row: Any) -> Any:  # noqa: ANN401
        for step in steps:
            row = getattr(row, step, default)
        return row

    return value_of
