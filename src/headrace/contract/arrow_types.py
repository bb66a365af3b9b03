"""Column types of a pipeline file as Arrow types, which the decoder builds and Spark accepts."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from headrace.contract.model import Column, decimal_digits

# Spark stores timestamps as microseconds since the epoch; the session time zone is UTC.
TIMESTAMP = pa.timestamp("us", tz="UTC")

_SIMPLE = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "timestamp": TIMESTAMP,
    "date": pa.date32(),
}


def arrow_type(column_type: str) -> pa.DataType:
    """Return the Arrow type of one contract type; `decimal(p,s)` is a decimal128, never a float."""
    digits = decimal_digits(column_type)
    return pa.decimal128(*digits) if digits else _SIMPLE[column_type]


def arrow_schema(columns: Mapping[str, Column]) -> pa.Schema:
    """Return the schema of the columns in the file's order, all nullable (see `contract.spark_types.ddl`)."""
    return pa.schema([pa.field(name, arrow_type(column.type)) for name, column in columns.items()])
