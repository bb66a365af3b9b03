"""Website events. A row before: one event as the site sent it; after: one normalised event."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def files(quickstart: DataFrame) -> DataFrame:
    """Return lower_city, domain, behavior, source: one row an event."""
    return quickstart.select(
        F.lower("city").alias("lower_city"),
        "domain",
        F.concat_ws(":", "domain", "event").alias("behavior"),
        "source",
    )


topic = files
