"""The Iceberg table that archives a topic: every record, accepted or refused (`reason`), each offset once."""

from __future__ import annotations

from pyspark.sql import SparkSession

from headrace.contract import names

COLUMNS = (
    "key BINARY, value BINARY, headers ARRAY<STRUCT<key: STRING, value: BINARY>>, topic STRING, `partition` INT, "
    "`offset` BIGINT, timestamp TIMESTAMP, reason STRING"
)


def create(spark: SparkSession, pipeline: str, topic: str) -> None:
    """Create the archive table of a topic if it is absent, partitioned by day of broker time."""
    spark.sql(
        f"CREATE TABLE IF NOT EXISTS {names.archive_table(pipeline, topic)} ({COLUMNS}) USING iceberg "
        "PARTITIONED BY (days(timestamp)) TBLPROPERTIES ('write.metadata.delete-after-commit.enabled'='true', "
        "'write.metadata.previous-versions-max'='20', 'commit.retry.num-retries'='10')"
    )
