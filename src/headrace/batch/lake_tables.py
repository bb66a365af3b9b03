"""Iceberg tables of the batch layer: created if absent, altered if their columns changed."""

from __future__ import annotations

from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from headrace.errors import HeadraceError


@dataclass(frozen=True)
class SchemaChange:
    """The alteration: columns added, dropped, or changed in type."""

    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()


def ensure(spark: SparkSession, table: str, columns: str, by: str, remedy: str = "") -> SchemaChange:
    """Create a table of `columns` (DDL), partitioned by the column `by`, or alter the existing one. Rows are kept.

    Raises HeadraceError, ending with `remedy`, if Iceberg cannot widen a column's type to the new one.
    """
    spark.sql(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) USING iceberg PARTITIONED BY ({by})")
    wanted = {field.name: field.dataType.simpleString() for field in spark.createDataFrame([], columns).schema}
    current = {field.name: field.dataType.simpleString() for field in spark.table(table).schema}
    added = {name: kind for name, kind in wanted.items() if name not in current}
    dropped = tuple(name for name in current if name not in wanted)
    widened = {name: kind for name, kind in wanted.items() if current.get(name, kind) != kind}
    for name, kind in widened.items():
        try:
            spark.sql(f"ALTER TABLE {table} ALTER COLUMN `{name}` TYPE {kind}")
        except (AnalysisException, Py4JJavaError) as error:
            raise HeadraceError(
                f"{table} has {name} as {current[name]}, which cannot be changed to {kind} in place. {remedy}".rstrip()
            ) from error
    if added:
        spark.sql(f"ALTER TABLE {table} ADD COLUMNS ({', '.join(f'`{n}` {kind}' for n, kind in added.items())})")
    for name in dropped:
        spark.sql(f"ALTER TABLE {table} DROP COLUMN `{name}`")
    return SchemaChange(tuple(added), dropped, tuple(widened))
