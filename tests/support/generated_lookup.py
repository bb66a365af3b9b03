"""A lookup of a generated pipeline: its dimension, the join by Spark and by Python, and the rows of its table.

The table's values are values of the records, so that some records find a row and others do not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import reduce
from operator import and_
from typing import Any

from cassandra.cluster import Session
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.contract.limits import CQL_RESERVED_WORDS
from tests.support.generated_columns import GROWN

Row = dict[str, Any]
UNREAD = ("decimal(38,0)", "decimal(38,38)")
"""Decimals that do not fit decimal(38,18), as which Cassandra's connector reads every one."""

JULIAN, GREGORIAN = date(1582, 10, 4), date(1582, 10, 15)
"""The last day of the Julian calendar and the first one of the Gregorian, for Java."""


@dataclass(frozen=True)
class Lookup:
    """A query's join with a table: `on` and `values` say from which column of the source a column has its values."""

    dimension: str
    keyspace: str
    on: Mapping[str, str]
    values: Mapping[str, str]
    type: str
    matched: str | None
    times: int
    """How often a text GROWN occurs in its key, so that some keys are at Cassandra's limit and others beyond it."""
    rows: dict[tuple[Any, ...], Row] = field(default_factory=dict)

    def joined(self, frame: DataFrame, table: DataFrame) -> DataFrame:
        """Return the records with the rows that they find, by Spark."""
        texts = {name for name, kind in frame.dtypes if kind == "string"}
        same = (
            (grown(frame[column], self.times) if column in texts else frame[column]) == table[key]
            for key, column in self.on.items()
        )
        return frame.join(table, reduce(and_, same), self.type)

    def is_matched(self, table: DataFrame) -> list[Column]:
        """Return the query's `matched` column, if it has one."""
        return [table[next(iter(self.on))].isNotNull().alias(self.matched)] if self.matched else []

    def row_of(self, record: Row) -> Row | None:
        """Return the row that a record finds, by Python."""
        return self.rows.get(self.key_of(record))

    def key_of(self, record: Row) -> tuple[Any, ...]:
        """Return the key by which a record looks up its row, by Python."""
        values = (record[column] for column in self.on.values())
        return tuple(value * self.times if value == GROWN else value for value in values)

    def fill(self, random_: random.Random, session: Session, records: Iterable[Row]) -> None:
        """Write rows for some of the records' keys, with values of other records, to the table."""
        records = list(records)
        for record in random_.sample(records, min(len(records), random_.choice([0, 1, 10, 40]))):
            key = self.key_of(record)
            if not can_be_a_key(key):
                continue
            other = random_.choice(records)
            key = tuple(in_milliseconds(value) for value in key)
            self.rows[key] = {name: other[column] for name, column in self.values.items()}
        columns = [*self.on, *self.values]
        names, marks = ", ".join(f'"{column}"' for column in columns), ", ".join("?" * len(columns))
        insert = session.prepare(f'INSERT INTO "{self.keyspace}"."{self.dimension}" ({names}) VALUES ({marks})')
        for key, row in self.rows.items():
            session.execute(insert, [*key, *row.values()])
            self.rows[key] = {name: in_table(value) for name, value in row.items()}


def grown(text: Column, times: int) -> Column:
    """Return a text, which is long if it is GROWN."""
    return F.when(text == GROWN, F.repeat(text, times)).otherwise(text)


def can_be_a_key(values: tuple[Any, ...]) -> bool:
    """Return whether Cassandra takes a partition key: 1 to 65,535 bytes in all; each of several parts takes 3 more.

    A time before 1582-10-15 and the ten days before it are no keys here: no record finds their rows.
    """
    if None in values:
        return False
    for value in values:
        if isinstance(value, datetime) and value.date() < GREGORIAN:
            return False
        if isinstance(value, date) and not isinstance(value, datetime) and JULIAN < value < GREGORIAN:
            return False
    sizes = [len(value.encode()) if isinstance(value, str) else 8 for value in values]
    return 1 <= sum(sizes) + 3 * len(values) * (len(values) > 1) <= 65_535


def drawn(
    random_: random.Random, fresh: Callable[[Any], str], pipeline: str, name: str, columns: Row
) -> tuple[Row, Lookup]:
    """Return a dimension whose columns have the types of a source's `columns`, and the lookup in it."""
    pick = random_.choice
    keyable = [c for c, spec in columns.items() if spec["type"] != "json" and not spec["type"].startswith("decimal")]
    on: dict[str, str] = {}
    for column in random_.sample(keyable, min(len(keyable), pick([1, 1, 2]))):
        other = fresh({**columns, **on, **dict.fromkeys(CQL_RESERVED_WORDS)})
        on[other if column in CQL_RESERVED_WORDS else pick([column, other])] = column
    values: dict[str, str] = {}
    for column in random_.sample(list(columns), pick([1, 2])):
        if columns[column]["type"] not in ("json", *UNREAD):
            values[fresh({**columns, **on, **values})] = column
    given = {key: {"type": columns[column]["type"], "required": True} for key, column in on.items()}
    given |= {value: {"type": columns[column]["type"]} for value, column in values.items()}
    matched = pick([fresh({**columns, **on, **values}), fresh({**columns, **on, **values}), None])
    type_ = "left" if matched else pick(["left", "inner"])
    content = {"keyspace": pipeline, "table": name, "key": list(on), "columns": given}
    times = random.Random(name).choice([1, 21_844, 21_845, 21_846])  # of three bytes: at the limit, and beyond it
    return content, Lookup(name, pipeline, on, values, type_, matched, times)


def in_milliseconds(value: Any) -> Any:
    """Return a value as Cassandra stores it: times to the millisecond."""
    return value.replace(microsecond=value.microsecond // 1000 * 1000) if isinstance(value, datetime) else value


def in_table(value: Any) -> Any:
    """Return a value as the connector reads it: times to the millisecond, and no day between 4 and 15 October 1582."""
    if isinstance(value, date) and not isinstance(value, datetime) and JULIAN < value < GREGORIAN:
        return value + timedelta(days=10)
    return in_milliseconds(value)
