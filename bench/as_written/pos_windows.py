"""The source document's streaming job as it is written there, in our own words: the other side of the measurement.

Kept: the settings of its session (3 shuffle partitions, all else Spark's default), from_json over the value as a string,
the time as a string read with a pattern, window and watermark, foreachBatch with the plain connector write, no limit on
a batch. Added, so that both sides do the same work: `product_id` as a second key (the document sums whole windows), the
columns in the order of the sink's table, and the type of `amount`, which the document does not show.
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, from_json, to_timestamp, window
from pyspark.sql.types import DecimalType, StringType, StructField, StructType

SETTINGS = {
    "spark.streaming.stopGracefullyOnShutdown": "true",
    "spark.sql.shuffle.partitions": "3",
    "spark.sql.extensions": "com.datastax.spark.connector.CassandraSparkExtensions",
    "spark.sql.catalog.lh": "com.datastax.spark.connector.datasource.CassandraCatalog",
}

schema = StructType(
    [
        StructField("product_id", StringType()),
        StructField("amount", DecimalType(12, 2)),
        StructField("create_date", StringType()),
    ]
)
timestamp_format = "yyyy-MM-dd HH:mm:ss"


def window_totals(spark: SparkSession, topic: str, kafka: dict[str, str]) -> DataFrame:
    """Return product totals of 5-minute windows; `kafka` holds servers and login (and a limit, if one is asked for)."""
    events = (
        spark.readStream.format("kafka")
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", "false")
        .options(**kafka)
        .load()
    )
    value_df = events.select(col("key"), from_json(col("value").cast("string"), schema).alias("value"))
    tf_df = value_df.select("value.*").withColumn("create_date", to_timestamp("create_date", timestamp_format))
    return (
        tf_df.withWatermark("create_date", "10 minutes")
        .groupBy(window(col("create_date"), "5 minutes"), "product_id")
        .sum("amount")
        .withColumnRenamed("sum(amount)", "total_amount")
        .select(
            col("window.start").alias("window_start"),
            col("window.end").alias("window_end"),
            "product_id",
            "total_amount",
        )
    )


def cassandra_writer(batch_df: DataFrame, batch_id: int) -> None:
    """Write one batch as the document does."""
    (
        batch_df.write.format("org.apache.spark.sql.cassandra")
        .option("keyspace", "pos_sales")
        .option("table", "tumbling")
        .mode("append")
        .save()
    )
