"""Small static frames from text, typed by DDL in the session's time zone (UTC), independent of the machine's zone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import _parse_datatype_string

from tests.support.replay import plain


def frame(spark: SparkSession, ddl: str, rows: Sequence[Sequence[str | None]]) -> DataFrame:
    """Return the rows as a frame of `ddl`; every cell is given as text and cast (None is null)."""
    schema = _parse_datatype_string(ddl)
    text = spark.createDataFrame([tuple(row) for row in rows], ", ".join(f"`{name}` string" for name in schema.names))
    return text.select(*(F.col(field.name).cast(field.dataType).alias(field.name) for field in schema))


def assert_same(actual: DataFrame, expected: DataFrame) -> None:
    """Assert that two frames have equal columns, types and rows, in any row order; decimals and times to the last digit.

    PySpark 3.5's assertDataFrameEqual allows a tolerance and imports pandas-on-Spark, which logs warnings.
    """
    assert [(f.name, f.dataType) for f in actual.schema] == [(f.name, f.dataType) for f in expected.schema]
    assert Counter(plain(actual)) == Counter(plain(expected))
