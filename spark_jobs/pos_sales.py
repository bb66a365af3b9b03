"""Point of sale. Input: lines of receipts. Output: projections and sums of them."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def items(pos: DataFrame) -> DataFrame:
    """Return product_id, amount, headrace_source: one row per receipt line."""
    return pos.select("product_id", "amount", "headrace_source")


def product_totals(pos: DataFrame) -> DataFrame:
    """Return product_id, total_amount, sales: one row per product."""
    return pos.groupBy("product_id").agg(*_sums())


def tumbling(pos: DataFrame) -> DataFrame:
    """Return window_start, window_end, product_id, total_amount, sales: one row per product and 5 minutes."""
    return _windowed(pos, F.window("create_date", "5 minutes"))


def sliding(pos: DataFrame) -> DataFrame:
    """Return the columns of `tumbling`: one row per product and 10 minutes, with a new window every 5."""
    return _windowed(pos, F.window("create_date", "10 minutes", "5 minutes"))


final_windows = tumbling


def leaderboard(pos: DataFrame) -> DataFrame:
    """Return board, product_id, total_amount, sales: one row per product, all on one board."""
    return product_totals(pos).select(F.lit("all").alias("board"), "product_id", "total_amount", "sales")


def _windowed(pos: DataFrame, window: Column) -> DataFrame:
    return (
        pos.groupBy(window.alias("window"), "product_id")
        .agg(*_sums())
        .select(
            F.col("window.start").alias("window_start"),
            F.col("window.end").alias("window_end"),
            "product_id",
            "total_amount",
            "sales",
        )
    )


def _sums() -> list[Column]:
    return [F.sum("amount").alias("total_amount"), F.count(F.lit(1)).alias("sales")]
