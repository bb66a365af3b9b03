from __future__ import annotations

import pyarrow as pa
import pytest

from headrace.contract.arrow_types import arrow_schema, arrow_type
from headrace.contract.cassandra import cql_type
from headrace.contract.model import Column, Pipeline, decimal_digits
from headrace.contract.spark_types import ddl, ddl_type

TYPES = [
    ("string", "string", pa.string(), "text"),
    ("boolean", "boolean", pa.bool_(), "boolean"),
    ("int", "int", pa.int32(), "int"),
    ("long", "bigint", pa.int64(), "bigint"),
    ("timestamp", "timestamp", pa.timestamp("us", tz="UTC"), "timestamp"),
    ("date", "date", pa.date32(), "date"),
    ("decimal(12,2)", "decimal(12,2)", pa.decimal128(12, 2), "decimal"),
    ("decimal(38,0)", "decimal(38,0)", pa.decimal128(38, 0), "decimal"),
]


@pytest.mark.parametrize(("written", "spark", "arrow", "cql"), TYPES)
def test_a_type_is_the_same_in_spark_arrow_and_cassandra(
    written: str, spark: str, arrow: pa.DataType, cql: str
) -> None:
    Column(type=written)
    assert (ddl_type(written), arrow_type(written), cql_type(written)) == (spark, arrow, cql)


def test_columns_keep_the_order_of_the_file(good: Pipeline) -> None:
    columns = good.sources["sales"].columns
    assert ddl(columns) == "`shop` string, `amount` decimal(12,2), `note` string, `at` timestamp"
    assert arrow_schema(columns).names == list(columns)


def test_digits_are_those_of_decimals_only() -> None:
    assert decimal_digits("decimal(12,2)") == (12, 2)
    assert decimal_digits("long") is None


@pytest.mark.spark
def test_spark_reads_the_ddl_as_the_type_that_arrow_has(good: Pipeline) -> None:
    """Needs no JVM but pyspark itself, which takes seconds to import."""
    from pyspark.sql.pandas.types import from_arrow_schema

    columns = good.sources["sales"].columns
    fields = from_arrow_schema(arrow_schema(columns), prefer_timestamp_ntz=False).fields
    assert ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in fields) == ddl(columns)
