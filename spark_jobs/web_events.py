"""Website events. Input: events as sites send them. Output: normalised events."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def files(quickstart: DataFrame) -> DataFrame:
    """Return lower_city, domain, behavior, headrace_source: one row per event."""
    return quickstart.select(
        F.lower("city").alias("lower_city"),
        "domain",
        F.concat_ws(":", "domain", "event").alias("behavior"),
        "headrace_source",
    )


topic = files
