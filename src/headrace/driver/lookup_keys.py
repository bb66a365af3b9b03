"""A record whose key no row of a dimension can have finds no row: its query looks up another key instead.

Cassandra answers a read by null, by an empty key or by one beyond its limit with an error instead of no row, so one such
record would end every batch. In the condition of the join, and nowhere else, the texts of such a key become a text that no
row has. Expressions of the transform are followed, because the condition is taken from Spark's plan. A null that is no text
remains: no value of another type is known to be in no row (`spark_plan.require_direct_join` refuses columns that may be null).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import reduce
from operator import add, and_
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract import limits
from headrace.contract.model import Dimension, Pipeline, Query
from headrace.driver import spark_plan
from headrace.driver.java import named, singleton

NO_ROW = f"\x01{secrets.token_hex(16)}"
"""A key that no row has: nobody knows it before this process begins."""

SIZES = {"boolean": 1, "int": 4, "date": 4, "long": 8, "timestamp": 8}
"""Bytes of a value in a Cassandra key. A decimal has at most 20: four of scale, and 38 digits."""
DECIMAL_SIZE = 20


class _Part(NamedTuple):
    """One equality of a join's condition: its sides as Java expressions, and the key column that one of them is, if it is."""

    sides: list[Any]
    expression: Any
    column: str | None = None
    given: int = 0
    """The side that the records give."""


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
    made = singleton(spark, "org.apache.spark.sql.Dataset").ofRows(spark._jsparkSession, plan)
    return DataFrame(made, spark)


def can_be_a_key(dimension: Dimension, given: dict[str, Column]) -> Column:
    """Return whether Cassandra answers a read by these values of the key's columns; null counts as no."""
    sizes = [
        F.octet_length(value) if (kind := dimension.columns[name].type) == "string" else F.lit(_size(kind))
        for name, value in given.items()
    ]
    several = len(dimension.key) > 1
    more = limits.CASSANDRA_KEY_PART_BYTES * len(dimension.key) if several else 0
    # An empty part of a key with several parts is allowed.
    return (reduce(add, sizes) + F.lit(more)).between(1, limits.CASSANDRA_KEY_BYTES)


def _size(kind: str) -> int:
    return SIZES.get(kind, DECIMAL_SIZE)


def _guarded(spark: SparkSession, node: Any, tables: list[Dimension]) -> tuple[Any, bool]:  # noqa: ANN401 - Java objects
    """Return a plan whose lookups are guarded, and whether it differs from the given one."""
    below = [_guarded(spark, child, tables) for child in spark_plan.children_of(node)]
    changed = any(differs for _, differs in below)
    if changed:
        parts = named(spark, "org.apache.spark.api.python.PythonUtils").toSeq([child for child, _ in below])
        node = node.withNewChildren(parts)
    if node.nodeName() != "Join" or node.condition().isEmpty():
        return node, changed
    for side in spark_plan.children_of(node):
        for dimension, columns in _key_columns(side, tables):
            condition = _condition(spark, node.condition().get(), dimension, columns)
            if condition is not None:
                some = named(spark, "scala.Option").apply(condition._jc.expr())
                node, changed = node.copy(node.left(), node.right(), node.joinType(), some, node.hint()), True
    return node, changed


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


def _condition(spark: SparkSession, condition: Any, dimension: Dimension, columns: dict[str, str]) -> Column | None:  # noqa: ANN401
    """Return a join's condition with other texts for keys that no row can have; None if it does not give the complete key."""
    parts = [_part(part, columns) for part in spark_plan.conjuncts_of(condition)]
    given = {part.column: _column(spark, part.sides[part.given]) for part in parts if part.column}
    if given.keys() != set(dimension.key) or not any(dimension.columns[name].type == "string" for name in given):
        return None
    usable = can_be_a_key(dimension, given)

    def compared(part: _Part) -> Column:
        if part.column is None or dimension.columns[part.column].type != "string":
            return _column(spark, part.expression)
        sides = [_column(spark, side) for side in part.sides]
        sides[part.given] = F.when(usable, sides[part.given]).otherwise(F.lit(NO_ROW))
        return sides[0] == sides[1]

    return reduce(and_, map(compared, parts))


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
