"""Ad attribution. Input: impressions and clicks. Output: each impression with its click, or with nulls."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

NO_CLICK = "none"


def attributed(impressions: DataFrame, clicks: DataFrame) -> DataFrame:
    """Return impr_uuid, impr_date, ad_id, click_key, click_date: one row per impression and click, or one with nulls.

    A click belongs to an impression with its uuid if click_date is in [impr_date, impr_date + 5 minutes].
    """
    left = impressions.select(F.col("uuid").alias("impr_uuid"), F.col("create_date").alias("impr_date"), "ad_id")
    right = clicks.select(F.col("uuid").alias("click_uuid"), F.col("create_date").alias("click_date"))
    in_time = F.expr("click_date >= impr_date AND click_date <= impr_date + INTERVAL 5 MINUTES")
    joined = left.join(right, (F.col("impr_uuid") == F.col("click_uuid")) & in_time, "left_outer")
    click_key = F.coalesce(F.date_format("click_date", "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"), F.lit(NO_CLICK))
    return joined.select("impr_uuid", "impr_date", "ad_id", click_key.alias("click_key"), "click_date")
