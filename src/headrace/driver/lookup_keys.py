"""A record whose key no row of a dimension can have finds no row: its query looks up another key instead.

Cassandra answers a read by null, by an empty key or by one beyond its limit with an error instead of no row, so one such
record would end every batch. It gets a time from the connector in milliseconds, and one before 1582-10-15 moved by days
(`driver.cassandra_times`), so such a record would find the row of another time.

In the condition of the join, the texts of such a key become a text that no row has. No value of another type is known to be in
no row. If a key has no text, an inner join gets only the records with a usable key; in an outer one the record looks up some
other key, and then gets null instead of that row's columns. Expressions of the transform are followed, because the condition
is taken from Spark's plan.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add, and_
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import limits
from headrace.contract.model import Dimension, Pipeline, Query
from headrace.contract.spark_types import ddl_type
from headrace.driver import spark_plan
from headrace.driver.java import named, singleton

NO_ROW = f"\x01{secrets.token_hex(16)}"
"""A key that no row has: nobody knows it before this process begins."""

SIZES = {"boolean": 1, "int": 4, "date": 4, "long": 8, "timestamp": 8}
"""Bytes of a value in a Cassandra key. A decimal cannot be in a dimension's key."""

SOME = {"boolean": "false", "timestamp": "1970-01-01 00:00:00", "date": "1970-01-01"}
"""Some value of a type, as text. Of every other one it is 0."""


class _Part(NamedTuple):
    """One equality of a join's condition: its sides as Java expressions, and the key column that one of them is, if it is."""

    sides: list[Any]
    expression: Any
    column: str | None = None
    given: int = 0
    """The side that the records give."""


@dataclass(frozen=True)
class _Lookup:
    """A join's condition that gives the complete key of a dimension. `kinds`: key column -> its type."""

    spark: SparkSession
    parts: list[_Part]
    kinds: dict[str, str]
    usable: Column

    def condition(self, renamed: Mapping[int, Any]) -> Column:
        """Return the condition with other values for keys that no row can have, and these attributes in place of others."""
        return reduce(and_, (self._compared(part, renamed) for part in self.parts))

    def _compared(self, part: _Part, renamed: Mapping[int, Any]) -> Column:
        if part.column is None:
            return _column(self.spark, part.expression)
        sides = [_column(self.spark, side) for side in part.sides]
        kind = self.kinds[part.column]
        other = F.lit(NO_ROW) if kind == "string" else F.lit(SOME.get(kind, "0")).cast(ddl_type(kind))
        sides[part.given] = F.when(self.usable, sides[part.given]).otherwise(other)
        attribute = part.sides[1 - part.given]
        sides[1 - part.given] = _column(self.spark, renamed.get(_id(attribute), attribute))
        return sides[0] == sides[1]


def guarded(frame: DataFrame, pipeline: Pipeline, query: Query) -> DataFrame:
    """Return a transform's frame in which a record with a key that no row can have finds no row in any dimension.

    The result of every other record is the same, and so are all columns, whatever the kind of join.
    """
    if not query.dimensions:
        return frame
    tables = [pipeline.dimensions[name] for name in query.dimensions]
    spark = frame.sparkSession
    plan, changed = _guarded(spark, frame._jdf.queryExecution().analyzed(), tables)
    if not changed:
        return frame
    return _frame(spark, plan)


def _frame(spark: SparkSession, plan: Any) -> DataFrame:  # noqa: ANN401 - a Java object
    return DataFrame(singleton(spark, "org.apache.spark.sql.Dataset").ofRows(spark._jsparkSession, plan), spark)


def can_be_a_key(dimension: Dimension, given: dict[str, Column]) -> Column:
    """Return whether a read of the connector by these values of the key's columns gives their own row, never null."""
    kinds = {name: dimension.columns[name].type for name in given}
    sizes = [
        F.octet_length(value) if kinds[name] == "string" else F.lit(SIZES[kinds[name]]) for name, value in given.items()
    ]
    several = len(dimension.key) > 1
    more = limits.CASSANDRA_KEY_PART_BYTES * len(dimension.key) if several else 0
    # An empty part of a key with several parts is allowed.
    fits = (reduce(add, sizes) + F.lit(more)).between(1, limits.CASSANDRA_KEY_BYTES)
    unchanged = [CHANGED[kinds[name]](value) for name, value in given.items() if kinds[name] in CHANGED]
    return reduce(and_, [*(value.isNotNull() for value in given.values()), *unchanged]) & fits


def _time_stays(time: Column) -> Column:
    return (F.date_trunc("millisecond", time) == time) & (time >= F.lit("1582-10-15").cast("timestamp"))


def _day_stays(day: Column) -> Column:
    return ~day.between(F.lit("1582-10-05").cast("date"), F.lit("1582-10-14").cast("date"))


CHANGED = {"timestamp": _time_stays, "date": _day_stays}
"""Types of which the connector changes some values, and whether it gives Cassandra a value as it is."""


def _guarded(spark: SparkSession, node: Any, tables: list[Dimension]) -> tuple[Any, bool]:  # noqa: ANN401 - Java objects
    """Return a plan whose lookups are guarded, and whether it differs from the given one."""
    below = [_guarded(spark, child, tables) for child in spark_plan.children_of(node)]
    changed = any(differs for _, differs in below)
    if changed:
        parts = named(spark, "org.apache.spark.api.python.PythonUtils").toSeq([child for child, _ in below])
        node = node.withNewChildren(parts)
    if node.nodeName() != "Join" or node.condition().isEmpty():
        return node, changed
    for side, table in enumerate(spark_plan.children_of(node)):
        for dimension, columns in _key_columns(table, tables):
            lookup = _lookup(spark, node.condition().get(), dimension, columns)
            if lookup and any(kind == "string" for kind in lookup.kinds.values()):
                return _joined(spark, node, node.left(), node.right(), lookup.condition({})), True
            if lookup and str(node.joinType()) == ("LeftOuter", "RightOuter")[1 - side]:
                return _without_found(spark, node, side, lookup), True
            if lookup and CHANGED.keys() & lookup.kinds.values():
                return _of_usable(spark, node, side, lookup), True
    return node, changed


def _joined(spark: SparkSession, join: Any, left: Any, right: Any, condition: Column) -> Any:  # noqa: ANN401
    """Return a join of the same kind with other sides and another condition."""
    some = named(spark, "scala.Option").apply(condition._jc.expr())
    return join.copy(left, right, join.joinType(), some, join.hint())


def _without_found(spark: SparkSession, join: Any, side: int, lookup: _Lookup) -> Any:  # noqa: ANN401
    """Return an outer join, with the same columns, in which a record with an unusable key has no row of the table.

    The join below has other attributes for the table's columns: Spark drops a projection that gives the same ones.
    """
    expressions = "org.apache.spark.sql.catalyst.expressions"
    option, to_seq = named(spark, "scala.Option"), named(spark, "org.apache.spark.api.python.PythonUtils").toSeq
    table = spark_plan.children_of(join)[side]
    frame = _frame(spark, table)
    # Spark itself gives the second table of a join with itself new attributes.
    (_, copy) = spark_plan.children_of(frame.crossJoin(frame)._jdf.queryExecution().analyzed())
    renamed = dict(zip(map(_id, _elements(table.output())), _elements(copy.output()), strict=True))

    def masked(column: Any) -> Any:  # noqa: ANN401
        if _id(column) not in renamed:
            return column
        value = F.when(lookup.usable, _column(spark, renamed[_id(column)]))._jc.expr()
        named_as = column.name(), column.exprId(), column.qualifier(), option.apply(column.metadata())
        return named(spark, f"{expressions}.Alias")(value, *named_as, to_seq([]))

    output = to_seq([masked(column) for column in _elements(join.output())])
    left, right = (join.left(), copy) if side else (copy, join.right())
    joined = _joined(spark, join, left, right, lookup.condition(renamed))
    return named(spark, "org.apache.spark.sql.catalyst.plans.logical.Project")(output, joined)


def _of_usable(spark: SparkSession, join: Any, side: int, lookup: _Lookup) -> Any:  # noqa: ANN401
    """Return an inner join with a table that gets only the records with a usable key."""
    filter_ = named(spark, "org.apache.spark.sql.catalyst.plans.logical.Filter")
    left, right = (
        child if number == side else filter_(lookup.usable._jc.expr(), child)
        for number, child in enumerate(spark_plan.children_of(join))
    )
    return join.copy(left, right, join.joinType(), join.condition(), join.hint())


def _elements(sequence: Any) -> list[Any]:  # noqa: ANN401
    return [sequence.apply(index) for index in range(sequence.size())]


def _id(attribute: Any) -> int:  # noqa: ANN401
    return int(attribute.exprId().id())


def _key_columns(side: Any, tables: list[Dimension]) -> Iterator[tuple[Dimension, dict[str, str]]]:  # noqa: ANN401
    """Yield each dimension that one side of a join is, with attribute -> column of its key, also where it is renamed."""
    nodes = list(spark_plan.nodes_of(side))
    if any(node.nodeName() == "Join" for node in nodes):
        return  # the joins below are guarded themselves
    for node in nodes:
        dimension = _dimension(node, tables)
        if dimension is not None:
            lines = [part.simpleString(spark_plan.COLUMNS) for part in nodes]
            keys = {
                a: name
                for a in spark_plan.attributes_of(node.output())
                if (name := a.partition("#")[0]) in dimension.key
            }
            origins = {a: spark_plan.origin(a, lines) for a in spark_plan.attributes_of(side.output())}
            yield dimension, {a: keys[origin] for a, origin in origins.items() if origin in keys}


def _dimension(node: Any, tables: list[Dimension]) -> Dimension | None:  # noqa: ANN401
    if node.nodeName() != "DataSourceV2Relation" or node.identifier().isEmpty():
        return None
    place = node.identifier().get()
    matching = (table for table in tables if [table.keyspace, table.table] == [*place.namespace(), place.name()])
    return next(matching, None)


def _lookup(spark: SparkSession, condition: Any, dimension: Dimension, columns: dict[str, str]) -> _Lookup | None:  # noqa: ANN401
    """Return the lookup that a join's condition is; None if it does not give the complete key."""
    parts = [_part(part, columns) for part in spark_plan.conjuncts_of(condition)]
    given = {part.column: _column(spark, part.sides[part.given]) for part in parts if part.column}
    if given.keys() != set(dimension.key):
        return None
    kinds = {name: dimension.columns[name].type for name in given}
    return _Lookup(spark, parts, kinds, can_be_a_key(dimension, given))


def _part(expression: Any, columns: dict[str, str]) -> _Part:  # noqa: ANN401
    sides = spark_plan.children_of(expression)
    if expression.nodeName() == "EqualTo":
        for given, side in ((1, sides[0]), (0, sides[1])):
            if side.nodeName() == "AttributeReference":
                (attribute,) = spark_plan.attributes_of(side.references())
                if attribute in columns:
                    return _Part(sides, expression, columns[attribute], given)
    return _Part(sides, expression)


def _column(spark: SparkSession, expression: Any) -> Column:  # noqa: ANN401
    return Column(named(spark, "org.apache.spark.sql.Column")(expression))
