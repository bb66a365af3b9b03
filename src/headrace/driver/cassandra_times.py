"""Times between Spark and Cassandra. Both have the Gregorian calendar for all years; the connector has not.

It hands over java.sql.Timestamp and java.sql.Date, whose calendar is the Julian one before 1582-10-15, and Spark keeps the
written date and not the moment (SPARK-26651). So a time of the year 1500 would be stored nine days later.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, TimestampType

_GREGORIAN = "1582-10-15"
_DAY_MICROS = 86_400_000_000


def sent(rows: DataFrame) -> DataFrame:
    """Return rows for the connector, with timestamps as milliseconds and dates as days since 1970, which it takes unchanged."""
    return rows.select(*(_number(field.name, field.dataType) for field in rows.schema))


def read(rows: DataFrame) -> DataFrame:
    """Return rows that the connector read, with the timestamps that Cassandra has.

    The connector has lost two cases: 29 February of a Julian leap year that is no Gregorian one (1500, 1400, 1300, ...), which is
    1 March, and the dates 1582-10-05 to -14. Rows of a direct join are not corrected: it takes the table as it is.
    """
    return rows.select(*(_moment(field.name, field.dataType) for field in rows.schema))


def _number(name: str, kind: object) -> Column:
    if isinstance(kind, TimestampType):
        return F.unix_millis(name).alias(name)
    return F.unix_date(name).alias(name) if isinstance(kind, DateType) else F.col(name)


def _moment(name: str, kind: object) -> Column:
    if not isinstance(kind, TimestampType):
        return F.col(name)
    # The calendars differ by one day more after each February that only the Julian one ends with the 29th.
    year = F.year(F.add_months(name, -2))
    days = F.floor(year / 100) - F.floor(year / 400) - 2
    moved = F.timestamp_micros(F.unix_micros(name) + days * _DAY_MICROS)
    return F.when(F.col(name) < F.lit(_GREGORIAN).cast("timestamp"), moved).otherwise(F.col(name)).alias(name)
