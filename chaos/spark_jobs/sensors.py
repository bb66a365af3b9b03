"""Sensors: one row per reading."""

from pyspark.sql import DataFrame


def history(sensor_readings: DataFrame) -> DataFrame:
    """Return sensor_id, read_at, celsius, headrace_source: one row per reading."""
    return sensor_readings.select("sensor_id", "read_at", "celsius", "headrace_source")
