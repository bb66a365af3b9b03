"""Spark interprets the plan of a small batch and compiles that of a large one (ADR 54).

Compiled code pays for itself over many rows. Its text is made again for each batch, and classes that are compiled again
start in the JVM's interpreter, so for a few rows it costs more than all else. The results are the same (Spark itself falls
back to interpretation where it cannot compile).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import SparkSession

LARGE_OFFSETS = 5_000
"""A batch of so many offsets is large."""

INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}


def use(spark: SparkSession, settings: dict[str, str]) -> None:
    """Set INTERPRETED or COMPILED for the plans that this session makes from now on."""
    for key, value in settings.items():
        spark.conf.set(key, value)


@dataclass
class Compilation:
    """What one query's session does; a query starts interpreted."""

    large: bool = False

    def follow(self, spark: SparkSession, offsets: int) -> None:
        """Set the query's session by the size of its running batch, for the rest of it and for the plan of the next one.

        Spark has planned what the batch reads before it calls the writer, so after a change of size one batch is planned
        as the one before it.
        """
        large = offsets >= LARGE_OFFSETS
        if large != self.large:
            use(spark, COMPILED if large else INTERPRETED)
            self.large = large
