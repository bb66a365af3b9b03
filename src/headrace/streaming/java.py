"""Java classes by their full name, without a search for them.

py4j asks the JVM for each part of `jvm.org.apache...`: is `org` a class, is `org.apache` one, and so on. The JVM looks
through all jars to say no. pyspark asks in this way for its own classes too, by a short name and in every call of
`functions`. Both cost more than many a batch (50 of 390 ms, ADR 0036). A class that is named in full is not searched.
"""

from __future__ import annotations

from typing import Any

from py4j.java_gateway import JavaClass
from pyspark.sql import SparkSession

# The short names that pyspark 3.5 uses in what a batch does.
_OWN = {
    "functions": "org.apache.spark.sql.functions",
    "PythonSQLUtils": "org.apache.spark.sql.api.python.PythonSQLUtils",
    "PythonUtils": "org.apache.spark.api.python.PythonUtils",
    "SparkSession": "org.apache.spark.sql.SparkSession",
    "SparkSession$": "org.apache.spark.sql.SparkSession$",
}


def named(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - a Java class: call it, or use its static members
    """Return the Java class of a full name; an inner one has `$` before its own. A wrong name fails where it is used."""
    return JavaClass(name, spark.sparkContext._gateway._gateway_client)


def singleton(spark: SparkSession, name: str) -> Any:  # noqa: ANN401 - a Java object
    """Return the Scala object of a full name."""
    return getattr(named(spark, f"{name}$"), "MODULE$")


def keep_own(spark: SparkSession) -> None:
    """Keep pyspark's own classes where pyspark looks for them first: as attributes of its view of the JVM."""
    for short, name in _OWN.items():
        setattr(spark._jvm, short, named(spark, name))
