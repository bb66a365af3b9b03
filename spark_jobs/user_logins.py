"""Logins of users. A row before: one login; after: one login with what is known of its user."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def last_login(logins: DataFrame, users: DataFrame) -> DataFrame:
    """Return login_id, last_login, last_device, known, source, raw: one row a login; `known` is false without a user.

    A user is known by its name: a login that is written back after the user's deletion leaves a row without one.
    """
    names = users.select("login_id", "user_name")
    return logins.join(names, "login_id", "left").select(
        "login_id",
        F.col("login_at").alias("last_login"),
        F.col("device").alias("last_device"),
        F.col("user_name").isNotNull().alias("known"),
        "source",
        "raw",
    )
