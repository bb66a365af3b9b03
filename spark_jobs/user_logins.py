"""Logins of users. Input: logins. Output: each login with its user, if known."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def last_login(logins: DataFrame, users: DataFrame) -> DataFrame:
    """Return login_id, last_login, last_device, known, headrace_source, headrace_raw: one row per login.

    `known` is false without a user. A user is known if it has a name: a login written back after the user's deletion leaves a
    row without one.
    """
    names = users.select("login_id", "user_name")
    return logins.join(names, "login_id", "left").select(
        "login_id",
        F.col("login_at").alias("last_login"),
        F.col("device").alias("last_device"),
        F.col("user_name").isNotNull().alias("known"),
        "headrace_source",
        "headrace_raw",
    )
