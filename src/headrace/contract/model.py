"""The typed schema of `pipelines/<name>.yaml`: strict models that reject unknown keys.

The vocabulary follows the Open Data Contract Standard where it has a term (description, owner, required). This module
constrains single fields; `rules` checks fields against each other. Nothing here knows Spark, Kafka or Cassandra.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr, WithJsonSchema

from headrace.contract.model_quality import Expectations, Quality

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,47}$"
TOPIC_PATTERN = r"^[A-Za-z0-9._-]{1,150}$"
"""Kafka's characters. Kafka allows 249 of them; names derived from a topic need room (`contract.names`)."""
DURATION_PATTERN = r"^[0-9]+ (millisecond|second|minute|hour|day)s?$"
FIELD_PATTERN = r'^[^"\\\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}$'
"""One step of a JSON path, or the dotted path. The parser supports no quotes, backslashes or control characters in it."""
MAX_DURATION = timedelta(days=365_000)
"""A thousand years: added to a present-day time it fits the time types of Spark, Kafka, Arrow and Python."""
TYPE_PATTERN = r"^(string|boolean|int|long|timestamp|date|decimal\(\d{1,2},\d{1,2}\))$"
SOURCE_TYPE_PATTERN = TYPE_PATTERN.replace("|date|", "|date|json|")

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
TopicName = Annotated[str, Field(pattern=TOPIC_PATTERN)]
FieldName = Annotated[str, Field(pattern=FIELD_PATTERN)]

StateStore = Literal["memory", "rocksdb"]
ROCKSDB_KEYS = 1_000_000
"""From this number of keys, state is kept in RocksDB unless the query says otherwise."""


def parse_duration(value: object) -> timedelta:
    """Turn "10 minutes" (number, space, unit from millisecond to day) into a timedelta. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError(f"{value!r} is not a duration: write an integer and a unit, such as '10 minutes'")
    number, unit = value.split()
    longest = MAX_DURATION // timedelta(**{unit.rstrip("s") + "s": 1})
    if len(number.lstrip("0")) > len(str(longest)) or int(number) > longest:
        raise ValueError(f"a duration is at most {MAX_DURATION.days} days (a thousand years); write a shorter one")
    return timedelta(**{unit.rstrip("s") + "s": int(number)})


def format_duration(value: timedelta) -> str:
    """Format a duration in the largest unit that divides it; Spark's interval parser accepts the result."""
    milliseconds = value // timedelta(milliseconds=1)
    if milliseconds == 0:
        return "0 seconds"
    units = {"day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1_000, "millisecond": 1}
    unit = next(unit for unit, size in units.items() if milliseconds % size == 0)
    number = milliseconds // units[unit]
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


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
    """Rejects unknown keys, converts nothing ("1" is not a number), and is immutable once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Column(Strict):
    """One column of a source, a dimension or a query's output."""

    type: ColumnType = Field(
        description="string, boolean, int, long, timestamp, date or decimal(p,s); floats are refused."
    )
    description: str = Field("", description="The meaning of the value, for readers.")
    required: bool = Field(False, description="A record without it is a dead letter; a row without it is refused.")
    max_distinct: int | None = Field(
        None,
        gt=0,
        description="Maximum number of distinct values; complete mode needs it. With more keys, the verdict is TOO_MANY_KEYS.",
    )


class SourceColumn(Column):
    """One column of a source and the field of the JSON record that it is read from."""

    type: Annotated[str, Field(pattern=SOURCE_TYPE_PATTERN)] = Field(
        description=(
            "As below; or json: any JSON value, passed to the transform as text, to explode arrays (`from_json`)."
        )
    )
    field: FieldName | list[FieldName] | None = Field(
        None,
        description=(
            "The JSON field; dots descend into objects: order.orderId. Use a list, [order, a.b], for names with a dot. "
            "Default: the column's name."
        ),
    )

    def path(self, name: str) -> tuple[str, ...]:
        """Return the path of the JSON field from the outermost object inwards; `name` is the column's name."""
        if self.field is None:
            return (name,)
        return tuple(self.field.split(".") if isinstance(self.field, str) else self.field)


class EventTime(Strict):
    """The column with the time of the event, and how far it may be ahead of the broker's clock."""

    column: Name = Field(description="A required timestamp column of the source.")
    accepted_skew: Duration = Field(
        timedelta(minutes=5), description="An event time later than the Kafka timestamp plus this is a dead letter."
    )


class Source(Strict):
    """One Kafka topic that the pipeline reads. Queries and transforms refer to it by its key in this file."""

    description: str = Field("", description="The meaning of a record, for readers.")
    topic: TopicName | None = Field(
        None, description="The existing topic, such as shop.orders-v1. Default: the source's name."
    )
    partitions: int = Field(2, ge=1, le=1024, description="Partitions of the topic and of its dead-letter topic.")
    retention: Duration = Field(
        timedelta(days=7), description="How long Kafka keeps records. Set it longer than the longest outage to survive."
    )
    key: Name = Field(description="The required column whose value is the Kafka record key.")
    columns: dict[Name, SourceColumn] = Field(description="Columns read from the record; other fields are ignored.")
    event_time: EventTime | None = Field(None, description="Default: the time at which Kafka received the record.")


class Refresh(Strict):
    """The source of a dimension's rows and how much one refresh may change. It never touches columns that a query writes."""

    source: Literal["files", "sql"] = Field(
        "files",
        description="files: CSV or Parquet snapshots in the drop folder. sql: a table behind the binding `<dimension>-source`.",
    )
    table: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)?$", description="The SQL table or view, such as public.users."
    )
    delimiter: Literal[",", ";", "\t", "|"] = Field(",", description="The delimiter of CSV files.")
    schedule: str = Field(
        "29 0 * * *", description="When the DAG `<dimension>_refresh` runs: cron with five fields, in UTC."
    )
    keep: Duration = Field(
        timedelta(days=7),
        description="How long a refresh's staged rows (personal data) are kept; 1 to 365 days.",
    )
    max_delete_percent: int = Field(
        5,
        ge=0,
        le=100,
        description="Percentage of the live rows. A refresh that deletes more waits for approval. So does one whose snapshot is "
        "smaller than the largest of the last ten by more than this percentage.",
    )
    min_rows_percent: int = Field(
        50, ge=0, le=100, description="A snapshot with fewer rows than this percentage of the live rows is refused."
    )


class Dimension(Strict):
    """A Cassandra table that a query joins (direct join). Transforms refer to it by its key in this file."""

    description: str = Field("", description="The meaning of a row, for readers.")
    keyspace: Name = Field(description="Cassandra keyspace.")
    table: Name = Field(description="Cassandra table.")
    key: list[Name] = Field(min_length=1, description="The complete partition key; a direct join needs all of it.")
    columns: dict[Name, Column] = Field(description="The columns of the table, by name.")
    refresh: Refresh | None = Field(None, description="Default: only queries write the table.")
    quality: Expectations = []


class Window(Strict):
    """A time window of an aggregate. `slide` equal to `size` (the default) makes it tumbling."""

    column: Name = Field(description="The event-time column of the source.")
    size: Duration = Field(description="Length of the window.")
    slide: Duration | None = Field(None, description="Time between two window starts. Default: the size.")
    offset: Duration = Field(
        timedelta(0),
        description=(
            "Shift of the window starts from multiples of the slide since 1970 UTC, shorter than the slide: 15 hours for "
            "days that begin at midnight in UTC+9, 5 minutes for shifts that begin at 5 past the hour."
        ),
    )


class Aggregate(Strict):
    """The grouping of a stateful query. Part of the plan fingerprint."""

    keys: list[Name] = Field(default_factory=list, description="Grouping columns besides the window.")
    window: Window | None = Field(None, description="The time window to group by.")


class TimeRange(Strict):
    """The right side's event time must be in [left + lower, left + upper], bounds included."""

    lower: Duration = Field(timedelta(0), description="The right side is at least this much later.")
    upper: Duration | None = Field(None, description="Required. The right side is at most this much later.")


class Join(Strict):
    """A join of two streams. Part of the plan fingerprint."""

    type: Literal["inner", "left_outer"] = Field(description="left_outer also emits unmatched left rows.")
    left: Name = Field(description="A source of the query.")
    right: Name = Field(description="The other source.")
    using: list[Name] = Field(min_length=1, description="Columns with the same name on both sides that must be equal.")
    time_range: TimeRange | None = Field(None, description="Required. How far apart in event time two rows may be.")


class State(Strict):
    """Where Spark keeps the state of a query between batches. Part of the plan fingerprint."""

    store: StateStore | None = Field(
        None,
        description="'memory': the driver's heap; 'rocksdb': the local disk, with a bounded cache. Default: by `keys`.",
    )
    keys: int | None = Field(
        None,
        gt=0,
        description=(
            "Maximum number of keys in the state (with a window: in all open windows). "
            f"From {ROCKSDB_KEYS:_} the default store is rocksdb."
        ),
    )


class CassandraSink(Strict):
    """Upserts by complete primary key into `<pipeline>.<query>` (or another table of the pipeline, or a dimension)."""

    kind: Literal["cassandra"] = Field(description="cassandra")
    keyspace: Name | None = Field(None, description="Default: the pipeline's name.")
    table: Name | None = Field(None, description="Default: the query's name.")
    partition_key: list[Name] = Field(min_length=1, description="Required output columns that form the partition key.")
    clustering_key: list[Name] = Field(default_factory=list, description="Required output columns: order of rows.")
    clustering_order: dict[Name, Literal["asc", "desc"]] = Field(
        default_factory=dict,
        description="Sort order of a partition's rows, by clustering column: {at: desc} is newest first. Default: asc.",
    )
    ttl: Duration | None = Field(None, description="Rows expire this long after their last write. Default: never.")
    consistency: Literal["LOCAL_ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="How many replicas must acknowledge a write."
    )
    writetime: str = Field(
        "batch",
        description="'batch': start of the generation in microseconds + batch id; or the timestamp column that orders rows.",
    )
    quality: Expectations = []


class KafkaSink(Strict):
    """Records in a topic, at least once; each has a deterministic id in its headers for de-duplication."""

    kind: Literal["kafka"] = Field(description="kafka")
    topic: TopicName = Field(description="The output topic; each topic has one query.")
    key: Name = Field(description="The required output column whose value is the record key.")
    identity: list[Name] | Literal["source"] = Field(
        "source", description="'source': the coordinates of the source record; or the columns that identify a row."
    )
    partitions: int = Field(2, ge=1, le=1024, description="Partitions of the topic.")
    retention: Duration = Field(timedelta(days=7), description="How long Kafka keeps the records.")
    quality: Expectations = []


class FilesSink(Strict):
    """JSON files, one directory per batch, written to a temporary path and renamed."""

    kind: Literal["files"] = Field(description="files")
    quality: Expectations = []


Sink = Annotated[CassandraSink | KafkaSink | FilesSink, Field(discriminator="kind")]


class Query(Strict):
    """One streaming query: a transform, its output columns, and where the rows go."""

    description: str = Field("", description="The meaning of a row, for readers.")
    sources: list[Name] = Field(min_length=1, description="Sources, in the order of the transform's parameters.")
    dimensions: list[Name] = Field(default_factory=list, description="Dimensions, the transform's last parameters.")
    mode: Literal["append", "update", "complete"] = Field(description="Spark's output mode.")
    trigger: Duration = Field(timedelta(seconds=2), description="Minimum time between two batches.")
    freshness: Duration | None = Field(
        None, description="Maximum age of a record when its batch is written. Until then, a small batch waits for more."
    )
    watermark: dict[Name, Duration] = Field(default_factory=dict, description="Watermark delay of each source.")
    late: Literal["drop", "include"] | None = Field(
        None, description="What happens to late rows; required with an aggregate or a join."
    )
    aggregate: Aggregate | None = Field(None, description="The grouping, if the transform aggregates.")
    join: Join | None = Field(None, description="The join, if the query has two sources.")
    state: State | None = Field(None, description="Store and size of the state of an aggregate or join.")
    matched: Name | None = Field(
        None,
        description="Boolean column added by the transform and not written: rows where it is not true are dead letters.",
    )
    columns: dict[Name, Column] = Field(description="The output columns, by name.")
    sinks: list[Sink] = Field(min_length=1, description="Where the rows go; the keys depend on the kind.")
    quality: Expectations = []

    def reading(self, topics: Mapping[str, str]) -> Query:
        """Return this query with its sources renamed."""
        join = self.join
        if join:
            join = join.model_copy(update={"left": topics[join.left], "right": topics[join.right]})
        return self.model_copy(
            update={
                "sources": [topics[name] for name in self.sources],
                "watermark": {topics[name]: delay for name, delay in self.watermark.items()},
                "join": join,
            }
        )


class DriverResources(Strict):
    """Resources of the pipeline's Spark application."""

    cores: int = Field(2, ge=1, le=64, description="Cores shared by all queries of the pipeline.")
    memory: str = Field("768m", pattern=r"^[1-9]\d*[mg]$", description="Java heap of the driver, such as 768m or 2g.")
    state_partitions: int = Field(
        2, ge=1, le=1024, description="spark.sql.shuffle.partitions, fixed by the first batch (SPARK-19873)."
    )
    max_offsets_per_trigger: int = Field(100_000, gt=0, lt=2**63, description="Maximum number of offsets in a batch.")


class Slo(Strict):
    """Service level objectives. A query that misses one is LAGGING."""

    freshness: Duration = Field(timedelta(minutes=1), description="Maximum batch age while records arrive.")
    lag: int = Field(100_000, gt=0, description="Maximum number of offsets behind the end of the topic.")


class Pipeline(Strict):
    """One pipeline file."""

    name: Name = Field(description="The file's name without .yaml; all other names derive from it.")
    owner: str = Field(min_length=1, description="The responsible team.")
    description: str = Field(min_length=1, description="The purpose of the pipeline, in one sentence.")
    version: int = Field(ge=1, description="Incremented with each change of meaning.")
    sources: dict[Name, Source] = Field(min_length=1, description="Kafka topics to read, by name.")
    dimensions: dict[Name, Dimension] = Field(
        default_factory=dict, description="Cassandra tables that queries join, by the name used in transforms."
    )
    queries: dict[Name, Query] = Field(
        min_length=1, description="Streaming queries, by name; the transform in spark_jobs/ has the same name."
    )
    driver: DriverResources = Field(DriverResources(), description="Resources of the Spark application.")
    slo: Slo = Field(Slo(), description="Service level objectives.")
    quality: Quality = Field(Quality(), description="Consequences of a failed expectation.")
    _handed_on: dict[str, KafkaSink] = PrivateAttr(default_factory=dict)
    _source_names: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def handed_on(self) -> Mapping[str, KafkaSink]:
        """Return topic -> the sink of the pipeline that writes it; set by the folder loader (ADR 28)."""
        return self._handed_on

    def reading(self, topics: Mapping[str, KafkaSink]) -> Pipeline:
        """Return this pipeline as the reader of topics that other pipelines write."""
        copied = self.model_copy()
        copied._handed_on = dict(topics)
        return copied

    @property
    def topics(self) -> dict[str, str]:
        """Return source name -> topic."""
        return {name: source.topic or name for name, source in self.sources.items()}

    def by_topic(self) -> Pipeline:
        """Return this pipeline with its sources, and the references in its queries, named by topic (ADR 42)."""
        # Offsets, archives, dead letters, rights and lineage belong to topics; transforms use the file's names (`source_name`).
        topics = self.topics
        if all(name == topic for name, topic in topics.items()):
            return self
        sources = {topics[name]: source for name, source in self.sources.items()}
        queries = {name: query.reading(topics) for name, query in self.queries.items()}
        copied = self.model_copy(update={"sources": sources, "queries": queries})
        copied._source_names = {topic: name for name, topic in topics.items()}
        return copied

    def source_name(self, topic: str) -> str:
        """Return the name that the file and the transforms use for the source of a topic."""
        return self._source_names.get(topic, topic)
