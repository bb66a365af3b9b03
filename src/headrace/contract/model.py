"""The typed shape of `pipelines/<name>.yaml`: strict models, unknown keys refused.

Vocabulary follows the Open Data Contract Standard where it has a word (description, owner, required). What a single
field may hold is here; what fields must say together is in `rules`. Nothing here knows Spark, Kafka or Cassandra.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,47}$"
DURATION_PATTERN = r"^\d+ (millisecond|second|minute|hour|day)s?$"
TYPE_PATTERN = r"^(string|boolean|int|long|timestamp|date|decimal\(\d{1,2},\d{1,2}\))$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def parse_duration(value: object) -> timedelta:
    """Turn "10 minutes" (number, space, unit from millisecond to day) into a timedelta. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.match(DURATION_PATTERN, value):
        raise ValueError(f"{value!r} is not a duration: write a whole number and a unit, such as '10 minutes'")
    number, unit = value.split()
    return timedelta(**{unit.rstrip("s") + "s": int(number)})


def format_duration(value: timedelta) -> str:
    """Write a duration the way Spark's interval parser and a reader both take it, in the largest whole unit."""
    milliseconds = value // timedelta(milliseconds=1)
    if milliseconds == 0:
        return "0 seconds"
    for unit, size in (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds} milliseconds"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]

ColumnType = Annotated[str, Field(pattern=TYPE_PATTERN)]


def decimal_digits(column_type: str) -> tuple[int, int] | None:
    """Return (precision, scale) of "decimal(p,s)", or None for any other type."""
    match = re.fullmatch(r"decimal\((\d+),(\d+)\)", column_type)
    return (int(match[1]), int(match[2])) if match else None


class Strict(BaseModel):
    """Unknown keys are refused, nothing is converted ("1" is no number), and a loaded pipeline never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Column(Strict):
    """One column of a source, a dimension or a query's output."""

    type: ColumnType
    description: str = ""
    required: bool = Field(False, description="A record without it is a dead letter.")
    max_distinct: int | None = Field(
        None, gt=0, description="How many distinct values there can be. Makes a key set bounded (complete mode asks)."
    )


class EventTime(Strict):
    """Which column says when it happened, and how far ahead of the broker's clock it may be."""

    column: Name
    accepted_skew: Duration = Field(
        timedelta(minutes=5), description="An event time beyond the Kafka timestamp plus this is a dead letter."
    )


class Source(Strict):
    """One Kafka topic that the pipeline reads. Its key in the file is the topic's name."""

    description: str = ""
    partitions: int = Field(2, ge=1, le=1024)
    retention: Duration = timedelta(days=7)
    key: Name = Field(description="The column whose value is the Kafka record key.")
    columns: dict[Name, Column]
    event_time: EventTime | None = Field(None, description="Without it a record happened when Kafka got it.")


class Dimension(Strict):
    """A Cassandra table that a query joins (direct join). Its key in the file is the name that the transform sees."""

    description: str = ""
    keyspace: Name
    table: Name
    key: list[Name] = Field(min_length=1, description="The full partition key: a direct join needs all of it.")
    columns: dict[Name, Column]


class Window(Strict):
    """A time window of an aggregate. `slide` equal to `size` (the default) makes it tumbling."""

    column: Name
    size: Duration
    slide: Duration | None = None


class Aggregate(Strict):
    """What a stateful query groups by. It goes into the plan fingerprint."""

    keys: list[Name] = Field(default_factory=list)
    window: Window | None = None


class TimeRange(Strict):
    """The right side's event time must lie in [left + lower, left + upper], borders included."""

    lower: Duration = timedelta(0)
    upper: Duration | None = None


class Join(Strict):
    """A join of two streams. It goes into the plan fingerprint."""

    type: Literal["inner", "left_outer"]
    left: Name
    right: Name
    using: list[Name] = Field(min_length=1, description="Columns with one name on both sides that must be equal.")
    time_range: TimeRange | None = None


class CassandraSink(Strict):
    """Upsert by full primary key into `<pipeline>.<query>` (or another pipeline-owned or dimension table)."""

    kind: Literal["cassandra"]
    keyspace: Name | None = Field(None, description="Default: the pipeline's name.")
    table: Name | None = Field(None, description="Default: the query's name.")
    partition_key: list[Name] = Field(min_length=1)
    clustering_key: list[Name] = Field(default_factory=list)
    ttl: Duration | None = None
    consistency: Literal["LOCAL_ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = "LOCAL_QUORUM"
    writetime: str = Field(
        "batch",
        description="'batch': generation start in microseconds + batch id; or the timestamp column that orders rows.",
    )


class KafkaSink(Strict):
    """Records to a topic, at least once, each with a deterministic id in its headers to de-duplicate by."""

    kind: Literal["kafka"]
    topic: Name
    key: Name
    identity: list[Name] | Literal["source"] = Field(
        "source", description="'source': the coordinates of the source record; or the columns that identify a row."
    )
    partitions: int = Field(2, ge=1, le=1024)
    retention: Duration = timedelta(days=7)


class FilesSink(Strict):
    """JSON files, one directory a batch, written aside and renamed."""

    kind: Literal["files"]


Sink = Annotated[CassandraSink | KafkaSink | FilesSink, Field(discriminator="kind")]


class Query(Strict):
    """One streaming query: a transform, its output columns, and where the rows go."""

    description: str = ""
    sources: list[Name] = Field(min_length=1)
    dimensions: list[Name] = Field(default_factory=list)
    mode: Literal["append", "update", "complete"]
    trigger: Duration = timedelta(seconds=2)
    watermark: dict[Name, Duration] = Field(default_factory=dict, description="Delay for each source topic.")
    late: Literal["drop", "include"] | None = Field(
        None, description="What happens to a late row of an aggregate or join; must be said wherever there is one."
    )
    aggregate: Aggregate | None = None
    join: Join | None = None
    matched: Name | None = Field(
        None,
        description="Boolean column that the transform adds, not written: rows where it is false are dead letters.",
    )
    columns: dict[Name, Column]
    sinks: list[Sink] = Field(min_length=1)


class Driver(Strict):
    """Sizes of the pipeline's one Spark application."""

    cores: int = Field(2, ge=1, le=64)
    memory: Annotated[str, Field(pattern=r"^\d+[mg]$")] = "768m"
    state_partitions: int = Field(
        2, ge=1, description="spark.sql.shuffle.partitions, fixed before the first batch (SPARK-19873)."
    )
    max_offsets_per_trigger: int = Field(2_000_000, gt=0, description="Bound of a catch-up batch, in offsets.")


class Slo(Strict):
    """What the operator promises; beyond it a query is LAGGING."""

    freshness: Duration = timedelta(minutes=1)
    lag: int = Field(100_000, gt=0, description="Offsets behind the end of the topic.")


class Pipeline(Strict):
    """One pipeline file."""

    name: Name
    owner: str = Field(min_length=1)
    description: str = Field(min_length=1)
    version: int = Field(ge=1)
    sources: dict[Name, Source] = Field(min_length=1)
    dimensions: dict[Name, Dimension] = Field(default_factory=dict)
    queries: dict[Name, Query] = Field(min_length=1)
    driver: Driver = Driver()
    slo: Slo = Slo()
