"""Website events, with a fault that shows when the first row comes: its plan is as sound as the good one's."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def files(quickstart: DataFrame) -> DataFrame:
    """Return lower_city, domain, behavior, headrace_source; fails for each row."""
    return quickstart.select(
        F.when(F.length("city") >= 0, F.raise_error(F.lit("a bad release")))
        .otherwise(F.lower("city"))
        .alias("lower_city"),
        "domain",
        F.concat_ws(":", "domain", "event").alias("behavior"),
        "headrace_source",
    )


topic = files
