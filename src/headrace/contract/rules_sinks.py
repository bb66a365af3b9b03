"""Rules for sinks and dimensions: refuse what would overwrite, duplicate or drop rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import assert_never

from headrace.contract.cassandra import tables
from headrace.contract.limits import CQL_RESERVED_WORDS
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Pipeline, Query, decimal_digits
from headrace.contract.names import cassandra_table, dead_letter_topic
from headrace.contract.rules_state import WINDOW_START
from headrace.contract.wording import choices, listed
from headrace.errors import HeadraceError

MAX_TTL = timedelta(seconds=630_720_000)  # Attributes.MAX_TTL of Cassandra; CREATE TABLE refuses more
READ_DIGITS, READ_SCALE = 38, 18
"""The type that Cassandra's connector gives every decimal that it reads (its DataTypeConverter)."""
_CONSTANT_TYPES = ("string", "boolean")


def _cassandra(pipeline: Pipeline) -> Iterator[tuple[str, str, Query, CassandraSink]]:
    """Yield (dotted key, query name, query, sink) of every Cassandra sink."""
    for name, query in pipeline.queries.items():
        for index, sink in enumerate(query.sinks):
            if isinstance(sink, CassandraSink):
                yield f"queries.{name}.sinks.{index}", name, query, sink


def _kafka(pipeline: Pipeline) -> Iterator[tuple[str, str, Query, KafkaSink]]:
    """Yield (dotted key, query name, query, sink) of every Kafka sink."""
    for name, query in pipeline.queries.items():
        for index, sink in enumerate(query.sinks):
            if isinstance(sink, KafkaSink):
                yield f"queries.{name}.sinks.{index}", name, query, sink


def _key_columns(place: str, query: Query, columns: list[str]) -> Iterator[str]:
    """Yield a fault for each key column that the output lacks or that may be null."""
    for column in columns:
        if column not in query.columns:
            yield f"{place}: {column!r} is not a column of the query; {choices(column, query.columns)}"
        elif not query.columns[column].required:
            yield f"{place}: {column} may be null, but a row without a key cannot be written; set required: true on it"


def _group(query: Query) -> list[str]:
    """Return the output columns that together identify a row of an aggregate."""
    if query.aggregate is None:
        return []
    return [*([WINDOW_START] if query.aggregate.window else []), *query.aggregate.keys]


def cassandra_key_is_full(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a primary key with columns that are not required, or without one that identifies a group."""
    for place, _, query, sink in _cassandra(pipeline):
        key = [*sink.partition_key, *sink.clustering_key]
        yield from _key_columns(f"{place}.partition_key", query, sink.partition_key)
        yield from _key_columns(f"{place}.clustering_key", query, sink.clustering_key)
        for column in sink.clustering_order:
            if column not in sink.clustering_key:
                yield (
                    f"{place}.clustering_order: {column!r} is not a column of the clustering key; "
                    f"{choices(column, sink.clustering_key)}"
                )
        twice = sorted({column for column in key if key.count(column) > 1})
        if twice:
            yield f"{place}: {listed(twice)} appears twice in the primary key; list each column once"
        missing = [column for column in _group(query) if column not in key]
        if missing:
            yield (
                f"{place}: {listed(missing)} is missing from the primary key, so groups with the same key would overwrite each "
                f"other; add {listed(missing)} to clustering_key"
            )


def cassandra_key_stands_still(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a key column of an aggregate unless it is a grouping key, a window bound, or a constant."""
    for place, _, query, sink in _cassandra(pipeline):
        if query.aggregate is None:
            continue
        still = {*_group(query), "window_end"}
        for column in [*sink.partition_key, *sink.clustering_key]:
            spec = query.columns.get(column)
            if spec and column not in still and spec.type not in _CONSTANT_TYPES:
                yield (
                    f"{place}: {column} changes while its group exists, and each change would leave an old row behind; "
                    f"remove it from the key (grouping keys, {WINDOW_START} and constant texts may stay)"
                )


def writetime_orders_the_rows(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a write time that does not order the versions of a row: on a tie the larger cell wins."""
    for place, _, query, sink in _cassandra(pipeline):
        key, column = f"{place}.writetime", sink.writetime
        stateful = query.aggregate is not None or query.join is not None
        if column == "batch":
            if not stateful:
                yield (
                    f"{key}: two rows with the same key in one batch would have the same write time and be mixed cell by cell; "
                    "name the timestamp column that orders the versions of a row"
                )
        elif column not in query.columns:
            yield f"{key}: {column!r} is not a column of the query; {choices(column, ['batch', *query.columns])}"
        elif query.columns[column].type != "timestamp" or not query.columns[column].required:
            yield f"{key}: {column} must be a required timestamp; change the column or write writetime: batch"
        elif query.aggregate is not None:
            yield (
                f"{key}: a total that changes would be written twice with the same write time, and the larger value would win "
                "instead of the later one; write writetime: batch"
            )


def ttl_fits_cassandra(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a ttl that is not an integer number of seconds up to 20 years (CASSANDRA-14092); zero would mean no ttl."""
    for place, _, _, sink in _cassandra(pipeline):
        if sink.ttl is None:
            continue
        if sink.ttl.total_seconds() < 1 or sink.ttl.microseconds:
            yield f"{place}.ttl: Cassandra counts in seconds; write at least 1 second, or remove it to keep rows"
        if sink.ttl > MAX_TTL:
            yield (
                f"{place}.ttl: Cassandra allows a ttl of at most {MAX_TTL.days} days (20 years); write a shorter one, or "
                "remove it to keep rows forever"
            )


def retention_of_a_sink_is_positive(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a retention of zero, with which Kafka would delete rows at once."""
    for place, _, _, sink in _kafka(pipeline):
        if not sink.retention:
            yield f"{place}.retention: Kafka would delete rows before they are read; write a duration such as 7 days"


def keyspace_is_not_cassandras_own(pipeline: Pipeline) -> Iterator[str]:
    """Refuse keyspaces whose names begin with `system`: they belong to Cassandra."""
    for place, name, _, sink in _cassandra(pipeline):
        keyspace, _table = cassandra_table(pipeline.name, name, sink)
        if keyspace.startswith("system"):
            yield f"{place}.keyspace: {keyspace} belongs to Cassandra itself; choose another"
    for name, dimension in pipeline.dimensions.items():
        if dimension.keyspace.startswith("system"):
            yield f"dimensions.{name}.keyspace: {dimension.keyspace} belongs to Cassandra itself; choose another"


def one_table_has_one_shape(pipeline: Pipeline) -> Iterator[str]:
    """Refuse two declarations of one table that differ in the key or in the type of a column."""
    for place, name, _, sink in _cassandra(pipeline):
        for title, dimension in pipeline.dimensions.items():
            if cassandra_table(pipeline.name, name, sink) != (dimension.keyspace, dimension.table):
                continue
            if sink.partition_key != dimension.key or sink.clustering_key:
                yield (
                    f"{place}.partition_key: the sink writes the table of dimension {title}, whose key is "
                    f"{listed(dimension.key)}; write partition_key: [{', '.join(dimension.key)}] and no clustering_key"
                )
                return
    try:
        tables(pipeline)
    except HeadraceError as error:
        yield f"queries: {error}"


def one_table_has_one_writer(pipeline: Pipeline) -> Iterator[str]:
    """Refuse two queries that write one column of one table: each would undo the other's rows."""
    writers: dict[tuple[str, str], list[tuple[str, set[str]]]] = {}
    for place, name, query, sink in _cassandra(pipeline):
        table = cassandra_table(pipeline.name, name, sink)
        values = set(query.columns) - {*sink.partition_key, *sink.clustering_key}
        for other, theirs in writers.get(table, []):
            if other == name or values & theirs or not values:
                yield (
                    f"{place}: {'.'.join(table)} is also written by {other}, and each would overwrite the other's "
                    "rows; give this sink a separate table"
                )
        writers.setdefault(table, []).append((name, values))


def kafka_rows_can_be_told_apart(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a record without a key, or without an id to detect duplicates: topics are written at least once."""
    for place, _, query, sink in _kafka(pipeline):
        yield from _key_columns(f"{place}.key", query, [sink.key])
        if sink.identity == "source":
            if query.aggregate is not None or query.join is not None:
                yield (
                    f"{place}.identity: a row of an aggregate or join has no single source record; name the columns "
                    f"that identify it, such as identity: [{', '.join(_group(query) or query.columns)}]"
                )
            continue
        yield from _key_columns(f"{place}.identity", query, sink.identity)
        if not sink.identity:
            yield f"{place}.identity: it is empty, so all rows would count as duplicates; name columns or write 'source'"
        missing = [column for column in _group(query) if column not in sink.identity]
        if missing:
            yield (
                f"{place}.identity: without {listed(missing)} two groups would count as duplicates and one would be "
                f"dropped; add {listed(missing)}"
            )


def topics_are_only_appended_to(pipeline: Pipeline) -> Iterator[str]:
    """Refuse Kafka and files sinks in modes other than append: they cannot replace a row."""
    for name, query in pipeline.queries.items():
        if query.mode == "append":
            continue
        for index, sink in enumerate(query.sinks):
            match sink:
                case CassandraSink():
                    pass
                case KafkaSink() if _revises(query):
                    yield (
                        f"queries.{name}.sinks.{index}: a topic cannot replace a row that {query.mode} mode revises; set "
                        "mode: append with a watermark (each group once, when it is final), or write to cassandra"
                    )
                case KafkaSink():
                    yield f"queries.{name}.sinks.{index}: a topic accepts only appended rows; set mode: append"
                case FilesSink():
                    yield (
                        f"queries.{name}.sinks.{index}: files accept only appended rows, because a file cannot replace a "
                        "row; set mode: append, or write to cassandra"
                    )
                case _:
                    assert_never(sink)


def _revises(query: Query) -> bool:
    return query.aggregate is not None or query.mode == "complete"


def one_topic_has_one_writer(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a sink topic that is a source, a dead-letter topic, or another query's topic."""
    topics = {topic: name for name, topic in pipeline.topics.items()}
    dead_letters = {dead_letter_topic(topic) for topic in topics}
    for topic in sorted(dead_letters & topics.keys()):
        yield f"sources.{topics[topic]}: the topic {topic} is a dead-letter topic of this pipeline; read another topic"
    writers: dict[str, str] = {}
    for place, name, _, sink in _kafka(pipeline):
        if sink.topic in topics:
            yield (
                f"{place}.topic: {sink.topic} is a source of this pipeline, which would read its own output; rename it, or "
                "read it in a second pipeline"
            )
        elif sink.topic in dead_letters:
            yield f"{place}.topic: {sink.topic} is a dead-letter topic; rename it"
        elif sink.topic in writers:
            yield (
                f"{place}.topic: {sink.topic} is already written by {writers[sink.topic]}, and a consumer could not tell "
                "the rows apart; give each sink a separate topic"
            )
        writers.setdefault(sink.topic, name)


def one_query_has_one_folder_of_files(pipeline: Pipeline) -> Iterator[str]:
    """Refuse two files sinks in one query, and a column with the name of the folders, `batch_id`."""
    for name, query in pipeline.queries.items():
        sinks = [sink for sink in query.sinks if isinstance(sink, FilesSink)]
        if len(sinks) > 1:
            yield f"queries.{name}.sinks: {len(sinks)} files sinks would write to one folder; keep one"
        if sinks and "batch_id" in query.columns:
            yield f"queries.{name}.columns.batch_id: the folders of a files sink are named batch_id=N; rename the column"


def dimension_key_is_known(pipeline: Pipeline) -> Iterator[str]:
    """Refuse a dimension key with columns that are not required, or whose names the connector cannot use in a direct join."""
    for name, dimension in pipeline.dimensions.items():
        for column in dimension.key:
            if column not in dimension.columns:
                yield f"dimensions.{name}.key: {column!r} is not a column of {name}; {choices(column, dimension.columns)}"
            elif not dimension.columns[column].required:
                yield f"dimensions.{name}.key: {column} may be null; set required: true on it"
            if column in CQL_RESERVED_WORDS:
                yield (
                    f"dimensions.{name}.key: {column} is a reserved word of CQL, and Spark's Cassandra connector cannot look up "
                    "rows by a column of that name; name the column otherwise, also in the table"
                )
            if column in dimension.columns and decimal_digits(dimension.columns[column].type):
                yield (
                    f"dimensions.{name}.key: {column} is a {dimension.columns[column].type}, and in a key of Cassandra 1.5 and "
                    "1.50 are different; declare it as string or long, also in the table"
                )


def spark_reads_the_decimals(pipeline: Pipeline) -> Iterator[str]:
    """Refuse decimals that a query has to read from a table and that Cassandra's connector reads as null or rounded."""
    read = {
        f"dimensions.{name}.columns.{column}": spec.type
        for name, dimension in pipeline.dimensions.items()
        for column, spec in dimension.columns.items()
    }
    for place, _, query, sink in _cassandra(pipeline):
        if query.mode == "complete":
            keys = [column for column in (*sink.partition_key, *sink.clustering_key) if column in query.columns]
            read |= {f"{place}: the key column {column}": query.columns[column].type for column in keys}
    for place, kind in read.items():
        digits = decimal_digits(kind)
        if digits and (digits[0] - digits[1] > READ_DIGITS - READ_SCALE or digits[1] > READ_SCALE):
            yield (
                f"{place} is a {kind}, but Spark reads a table's decimals as decimal({READ_DIGITS},{READ_SCALE}); declare at "
                f"most {READ_DIGITS - READ_SCALE} digits before the point and {READ_SCALE} after it"
            )


def matched_has_a_dimension(pipeline: Pipeline) -> Iterator[str]:
    """Refuse `matched` without a dimension, as an output column, or on the rows of an aggregate or join."""
    for name, query in pipeline.queries.items():
        key = f"queries.{name}.matched"
        if query.matched is None:
            continue
        if not query.dimensions:
            yield f"{key}: the query has no dimension to match; add dimensions or remove it"
        if query.matched in query.columns:
            yield f"{key}: {query.matched} is not written, so it cannot be an output column; remove it from columns"
        if query.aggregate is not None or query.join is not None:
            yield (
                f"{key}: a row of an aggregate or join is not a single record that could become a dead letter; "
                "join the dimension in a separate query, and aggregate its topic in a second pipeline"
            )


RULES = (
    cassandra_key_is_full,
    cassandra_key_stands_still,
    writetime_orders_the_rows,
    ttl_fits_cassandra,
    retention_of_a_sink_is_positive,
    keyspace_is_not_cassandras_own,
    one_table_has_one_shape,
    one_table_has_one_writer,
    kafka_rows_can_be_told_apart,
    topics_are_only_appended_to,
    one_topic_has_one_writer,
    one_query_has_one_folder_of_files,
    dimension_key_is_known,
    spark_reads_the_decimals,
    matched_has_a_dimension,
)
