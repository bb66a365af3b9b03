"""The typed shape of `pipelines/<name>.yaml`: strict models, unknown keys refused.

Vocabulary follows the Open Data Contract Standard where it has a word (description, owner, required). What a single
field may hold is here; what fields must say together is in `rules`. Nothing here knows Spark, Kafka or Cassandra.
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
"""Kafka's own characters. Kafka takes 249 of them; names that follow from a topic need room (`contract.names`)."""
DURATION_PATTERN = r"^[0-9]+ (millisecond|second|minute|hour|day)s?$"
FIELD_PATTERN = r'^[^"\\\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}$'
"""The path of a JSON field, or a step of it. The parser takes no name with a quote, a backslash or a control character."""
MAX_DURATION = timedelta(days=365_000)
"""A thousand years: added to a time of our days it fits Spark's, Kafka's, Arrow's and Python's times and intervals."""
TYPE_PATTERN = r"^(string|boolean|int|long|timestamp|date|decimal\(\d{1,2},\d{1,2}\))$"
SOURCE_TYPE_PATTERN = TYPE_PATTERN.replace("|date|", "|date|json|")

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
TopicName = Annotated[str, Field(pattern=TOPIC_PATTERN)]
FieldName = Annotated[str, Field(pattern=FIELD_PATTERN)]

StateStore = Literal["memory", "rocksdb"]
ROCKSDB_KEYS = 1_000_000
"""From this many keys on a state is in RocksDB unless its query says otherwise."""


def parse_duration(value: object) -> timedelta:
    """Turn "10 minutes" (number, space, unit from millisecond to day) into a timedelta. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError(f"{value!r} is not a duration: write a whole number and a unit, such as '10 minutes'")
    number, unit = value.split()
    longest = MAX_DURATION // timedelta(**{unit.rstrip("s") + "s": 1})
    if len(number.lstrip("0")) > len(str(longest)) or int(number) > longest:
        raise ValueError(f"a duration is at most {MAX_DURATION.days} days (a thousand years); write a shorter one")
    return timedelta(**{unit.rstrip("s") + "s": int(number)})


def format_duration(value: timedelta) -> str:
    """Write a duration the way Spark's interval parser and a reader both take it, in the largest whole unit."""
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
    """Unknown keys are refused, nothing is converted ("1" is no number), and a loaded pipeline never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Column(Strict):
    """One column of a source, a dimension or a query's output."""

    type: ColumnType = Field(
        description="string, boolean, int, long, timestamp, date or decimal(p,s); floats are refused."
    )
    description: str = Field("", description="What a value means, for people.")
    required: bool = Field(False, description="A record without it is a dead letter; a row without it is refused.")
    max_distinct: int | None = Field(
        None,
        gt=0,
        description="How many distinct values there can be; complete mode asks. A state with more is TOO_MANY_KEYS.",
    )


class SourceColumn(Column):
    """One column of a source, and which field of the JSON record it is read from."""

    type: Annotated[str, Field(pattern=SOURCE_TYPE_PATTERN)] = Field(
        description=(
            "As below; or json: any JSON value, which the transform gets as its text, to explode arrays (`from_json`)."
        )
    )
    field: FieldName | list[FieldName] | None = Field(
        None,
        description=(
            "The JSON field; dots lead into objects: order.orderId. A list, [order, a.b], is for names with a dot. "
            "Default: the column's name."
        ),
    )

    def path(self, name: str) -> tuple[str, ...]:
        """Return the field's name in each object from the record inwards; `name` is the column's."""
        if self.field is None:
            return (name,)
        return tuple(self.field.split(".") if isinstance(self.field, str) else self.field)


class EventTime(Strict):
    """Which column says when it happened, and how far ahead of the broker's clock it may be."""

    column: Name = Field(description="A required timestamp column of the source.")
    accepted_skew: Duration = Field(
        timedelta(minutes=5), description="An event time beyond the Kafka timestamp plus this is a dead letter."
    )


class Source(Strict):
    """One Kafka topic that the pipeline reads. Its key in the file is the name that queries and transforms use."""

    description: str = Field("", description="What a record is, for people.")
    topic: TopicName | None = Field(
        None, description="The topic, such as shop.orders-v1: a topic that exists already. Default: the source's name."
    )
    partitions: int = Field(2, ge=1, le=1024, description="Partitions of the topic; its dead letters have as many.")
    retention: Duration = Field(
        timedelta(days=7), description="How long Kafka keeps records: longer than the longest outage to be survived."
    )
    key: Name = Field(description="The required column whose value is the Kafka record key.")
    columns: dict[Name, SourceColumn] = Field(description="What is read of the JSON record; other fields are ignored.")
    event_time: EventTime | None = Field(None, description="Without it a record happened when Kafka got it.")


class Refresh(Strict):
    """Where a dimension's rows come from and how much one refresh may change. Columns that a query writes are no part."""

    source: Literal["files", "sql"] = Field(
        "files",
        description="CSV or Parquet snapshots as they are dropped, or a table of the binding `<dimension>-source`.",
    )
    table: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)?$", description="The SQL table or view, such as public.users."
    )
    delimiter: Literal[",", ";", "\t", "|"] = Field(",", description="What stands between the cells of a CSV file.")
    schedule: str = Field(
        "29 0 * * *", description="When the DAG `<dimension>_refresh` runs: cron with five fields, UTC."
    )
    keep: Duration = Field(
        timedelta(days=7),
        description="How long what a refresh has staged (the directory's rows) is kept; 1 to 365 days.",
    )
    max_delete_percent: int = Field(
        5,
        ge=0,
        le=100,
        description="A refresh that deletes more of the live rows waits for an approval; so does one whose snapshot has so many "
        "rows fewer than the largest of the last ten.",
    )
    min_rows_percent: int = Field(
        50, ge=0, le=100, description="A snapshot with fewer rows than this share of the live ones is refused."
    )


class Dimension(Strict):
    """A Cassandra table that a query joins (direct join). Its key in the file is the name that the transform sees."""

    description: str = Field("", description="What a row is, for people.")
    keyspace: Name = Field(description="Cassandra keyspace.")
    table: Name = Field(description="Cassandra table.")
    key: list[Name] = Field(min_length=1, description="The full partition key: a direct join needs all of it.")
    columns: dict[Name, Column] = Field(description="The columns of the table, by name.")
    refresh: Refresh | None = Field(None, description="Without it nobody but the streams writes the table.")
    quality: Expectations = []


class Window(Strict):
    """A time window of an aggregate. `slide` equal to `size` (the default) makes it tumbling."""

    column: Name = Field(description="The event-time column of the source.")
    size: Duration = Field(description="Length of the window.")
    slide: Duration | None = Field(None, description="Time between two window starts; without it, the size.")
    offset: Duration = Field(
        timedelta(0),
        description=(
            "How long after a whole step since 1970 in UTC a window begins, less than the slide: 15 hours for days that "
            "begin at midnight in UTC+9, 5 minutes for shifts that begin at 5 past."
        ),
    )


class Aggregate(Strict):
    """What a stateful query groups by. It goes into the plan fingerprint."""

    keys: list[Name] = Field(default_factory=list, description="Columns that are grouped by, besides the window.")
    window: Window | None = Field(None, description="The time window that is grouped by.")


class TimeRange(Strict):
    """The right side's event time must lie in [left + lower, left + upper], borders included."""

    lower: Duration = Field(timedelta(0), description="The right side is at least this much later.")
    upper: Duration | None = Field(None, description="The right side is at most this much later; must be said.")


class Join(Strict):
    """A join of two streams. It goes into the plan fingerprint."""

    type: Literal["inner", "left_outer"] = Field(description="left_outer also emits unmatched left rows.")
    left: Name = Field(description="A source of the query.")
    right: Name = Field(description="The other source.")
    using: list[Name] = Field(min_length=1, description="Columns with one name on both sides that must be equal.")
    time_range: TimeRange | None = Field(None, description="How far apart in event time two rows may be; must be said.")


class State(Strict):
    """Where Spark keeps what a stateful query remembers between batches. It goes into the plan fingerprint."""

    store: StateStore | None = Field(
        None,
        description="'memory': the driver's heap; 'rocksdb': the local disk, with a bounded cache. Default: by `keys`.",
    )
    keys: int | None = Field(
        None,
        gt=0,
        description=(
            "How many keys the state holds at most (of an aggregate with a window: in all open windows). "
            f"From {ROCKSDB_KEYS:_} on the default store is rocksdb."
        ),
    )


class CassandraSink(Strict):
    """Upsert by full primary key into `<pipeline>.<query>` (or another pipeline-owned or dimension table)."""

    kind: Literal["cassandra"] = Field(description="cassandra")
    keyspace: Name | None = Field(None, description="Default: the pipeline's name.")
    table: Name | None = Field(None, description="Default: the query's name.")
    partition_key: list[Name] = Field(min_length=1, description="Required output columns: which rows lie together.")
    clustering_key: list[Name] = Field(default_factory=list, description="Required output columns: order inside.")
    clustering_order: dict[Name, Literal["asc", "desc"]] = Field(
        default_factory=dict,
        description="How rows of a partition lie and are read, by clustering column: {at: desc} is newest first. Default: asc.",
    )
    ttl: Duration | None = Field(None, description="Rows vanish this long after they were last written.")
    consistency: Literal["LOCAL_ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="How many replicas acknowledge a write."
    )
    writetime: str = Field(
        "batch",
        description="'batch': generation start in microseconds + batch id; or the timestamp column that orders rows.",
    )
    quality: Expectations = []


class KafkaSink(Strict):
    """Records to a topic, at least once, each with a deterministic id in its headers to de-duplicate by."""

    kind: Literal["kafka"] = Field(description="kafka")
    topic: TopicName = Field(description="The topic that is written; one query a topic.")
    key: Name = Field(description="The required output column whose value is the record key.")
    identity: list[Name] | Literal["source"] = Field(
        "source", description="'source': the coordinates of the source record; or the columns that identify a row."
    )
    partitions: int = Field(2, ge=1, le=1024, description="Partitions of the topic.")
    retention: Duration = Field(timedelta(days=7), description="How long Kafka keeps the rows.")
    quality: Expectations = []


class FilesSink(Strict):
    """JSON files, one directory a batch, written aside and renamed."""

    kind: Literal["files"] = Field(description="files")
    quality: Expectations = []


Sink = Annotated[CassandraSink | KafkaSink | FilesSink, Field(discriminator="kind")]


class Query(Strict):
    """One streaming query: a transform, its output columns, and where the rows go."""

    description: str = Field("", description="What a row means, for people.")
    sources: list[Name] = Field(min_length=1, description="Sources, in the order of the transform's parameters.")
    dimensions: list[Name] = Field(default_factory=list, description="Dimensions, the transform's last parameters.")
    mode: Literal["append", "update", "complete"] = Field(description="Spark's output mode.")
    trigger: Duration = Field(timedelta(seconds=2), description="A batch begins at most this often.")
    watermark: dict[Name, Duration] = Field(default_factory=dict, description="Delay for each source topic.")
    late: Literal["drop", "include"] | None = Field(
        None, description="What happens to a late row of an aggregate or join; must be said wherever there is one."
    )
    aggregate: Aggregate | None = Field(None, description="What the transform groups by, if it does.")
    join: Join | None = Field(None, description="How the transform joins its two sources, if it has two.")
    state: State | None = Field(None, description="Of an aggregate or join: where its state is and how large.")
    matched: Name | None = Field(
        None,
        description="Boolean column that the transform adds, not written: rows where it is not true are dead letters.",
    )
    columns: dict[Name, Column] = Field(description="The columns that are written, by name.")
    sinks: list[Sink] = Field(min_length=1, description="Where the rows go; each kind has keys of its own.")
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


class Driver(Strict):
    """Sizes of the pipeline's one Spark application."""

    cores: int = Field(2, ge=1, le=64, description="Cores that all queries of the pipeline share.")
    memory: str = Field("768m", pattern=r"^[1-9]\d*[mg]$", description="Java heap of the driver, such as 768m or 2g.")
    state_partitions: int = Field(
        2, ge=1, le=1024, description="spark.sql.shuffle.partitions, fixed before the first batch (SPARK-19873)."
    )
    max_offsets_per_trigger: int = Field(100_000, gt=0, lt=2**63, description="Bound of a catch-up batch, in offsets.")


class Slo(Strict):
    """What the operator promises; beyond it a query is LAGGING."""

    freshness: Duration = Field(timedelta(minutes=1), description="Age of the newest finished batch while rows come.")
    lag: int = Field(100_000, gt=0, description="Offsets behind the end of the topic.")


class Pipeline(Strict):
    """One pipeline file."""

    name: Name = Field(description="The file's name without .yaml; all other names follow from it.")
    owner: str = Field(min_length=1, description="The team to ask.")
    description: str = Field(min_length=1, description="What the pipeline is for, in a sentence.")
    version: int = Field(ge=1, description="Counts up with each change of meaning.")
    sources: dict[Name, Source] = Field(min_length=1, description="Kafka topics that are read, by name.")
    dimensions: dict[Name, Dimension] = Field(
        default_factory=dict, description="Cassandra tables that queries join, by the name that the transform sees."
    )
    queries: dict[Name, Query] = Field(
        min_length=1, description="Streaming queries, by name; the transform of spark_jobs/ has the same name."
    )
    driver: Driver = Field(Driver(), description="Sizes of the application.")
    slo: Slo = Field(Slo(), description="What is promised.")
    quality: Quality = Field(Quality(), description="What a failed expectation does.")
    _handed_on: dict[str, KafkaSink] = PrivateAttr(default_factory=dict)
    _source_names: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def handed_on(self) -> Mapping[str, KafkaSink]:
        """Return the sources that another pipeline writes, with its sink; known where the folder was loaded (ADR 28)."""
        return self._handed_on

    def reading(self, topics: Mapping[str, KafkaSink]) -> Pipeline:
        """Return this pipeline as the reader of topics that other pipelines write."""
        copied = self.model_copy()
        copied._handed_on = dict(topics)
        return copied

    @property
    def topics(self) -> dict[str, str]:
        """Return the topic of each source, by the source's name."""
        return {name: source.topic or name for name, source in self.sources.items()}

    def by_topic(self) -> Pipeline:
        """Return this pipeline with the topic of each source as the source's name, in its queries too (ADR 42)."""
        # Offsets, archives, dead letters, rights and lineage belong to topics; the file's names (`source_name`) to transforms.
        topics = self.topics
        if all(name == topic for name, topic in topics.items()):
            return self
        sources = {topics[name]: source for name, source in self.sources.items()}
        queries = {name: query.reading(topics) for name, query in self.queries.items()}
        copied = self.model_copy(update={"sources": sources, "queries": queries})
        copied._source_names = {topic: name for name, topic in topics.items()}
        return copied

    def source_name(self, topic: str) -> str:
        """Return the name that the file and the transforms have for the source of a topic."""
        return self._source_names.get(topic, topic)
