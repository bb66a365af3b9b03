"""Java classes by their full name, without a search.

py4j asks the JVM about each part of `jvm.org.apache...`: is `org` a class, is `org.apache` one, and so on. The JVM searches
all jars to answer no. pyspark looks up its own classes this way too, by short name and in every call of `functions`.
Together this can cost more than the batch itself (50 of 390 ms, ADR 0036). A fully qualified name needs no search.
"""

from __future__ import annotations

from typing import Any

from py4j.java_gateway import JavaClass
from pyspark.sql import SparkSession

# The short names that pyspark 3.5 uses while a batch runs.
_OWN = {
    "functions": "org.apache.spark.sql.functions",
    "PythonSQLUtils": "org.apache.spark.sql.api.python.PythonSQLUtils",
    "PythonUtils": "org.apache.spark.api.python.PythonUtils",
    "SparkSession": "org.apache.spark.sql.SparkSession",
    "SparkSession$": "org.apache.spark.sql.SparkSession$",
}


def named(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - a Java class: call it, or use its static members
    """Return the Java class with a full name (inner classes after `$`). A wrong name fails when the class is used."""
    return JavaClass(name, spark.sparkContext._gateway._gateway_client)


def singleton(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - a Java object
    """Return the Scala object with a full name."""
    return getattr(named(spark, f"{name}$"), "MODULE$")


def keep_own(spark: SparkSession) -> None:
    """Cache pyspark's own classes where pyspark looks first: as attributes of its view of the JVM."""
    for short, name in _OWN.items():
        setattr(spark._jvm, short, named(spark, name))
