"""Column types of a pipeline file as Spark DDL strings. Does not import Spark."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.contract.model import Column

_SIMPLE = {
    "string": "string",
    "boolean": "boolean",
    "int": "int",
    "long": "bigint",
    "timestamp": "timestamp",
    "date": "date",
    "json": "string",
}


def ddl_type(column_type: str) -> str:
    """Return the Spark DDL of one contract type (`long` -> `bigint`, `decimal(12,2)` as it is)."""
    return column_type if column_type.startswith("decimal(") else _SIMPLE[column_type]


def ddl(columns: Mapping[str, Column]) -> str:
    """Return `name type, ...` in the file's order, for `createDataFrame` or a `mapInArrow` schema.

    Every column is nullable: Spark does not check NOT NULL in a stream; the decoder and the writer do.
    """
    return ", ".join(f"`{name}` {ddl_type(column.type)}" for name, column in columns.items())
