"""Rules for topics and fields: refuse names that Kafka, an archive or the parser could not distinguish."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.contract.model import KafkaSink, Pipeline, Source
from headrace.contract.names import archive_query, dead_letter_topic

KAFKAS_OWN = "__"
"""The prefix of Kafka's internal topics."""
MAX_STEPS = 50
"""Maximum nesting depth of a field: a record may contain at most 100 nested arrays and objects (`driver.decode`)."""


def metric_name(topic: str) -> str:
    """Return a topic's name in Kafka's metrics. Kafka refuses a second topic with the same metric name."""
    return topic.replace(".", "_")


def topics_can_exist(pipeline: Pipeline) -> Iterator[str]:
    """Refuse topics that Kafka reserves, and pairs of topics that it does not accept together."""
    sources = {f"sources.{name}.topic": topic for name, topic in pipeline.topics.items()}
    places = sources | {f"{place} (its dead letters)": dead_letter_topic(topic) for place, topic in sources.items()}
    for name, query in pipeline.queries.items():
        for index, sink in enumerate(query.sinks):
            if isinstance(sink, KafkaSink):
                places[f"queries.{name}.sinks.{index}.topic"] = sink.topic
    for place, topic in places.items():
        if topic in (".", "..") or topic.startswith(KAFKAS_OWN):
            yield f"{place}: {topic} is reserved by Kafka; choose another topic"
    known: dict[str, str] = {}
    for place, topic in places.items():
        other = known.setdefault(metric_name(topic), topic)
        if other != topic:
            yield (
                f"{place}: Kafka refuses to have both {topic} and {other}, because its metric names do not distinguish "
                "'.' and '_'; rename one of them"
            )


def one_topic_has_one_source(pipeline: Pipeline) -> Iterator[str]:
    """Refuse two sources of one topic, and two topics whose archives would have the same name."""
    topics: dict[str, str] = {}
    archives: dict[str, str] = {}
    for name, topic in pipeline.topics.items():
        if topic in topics:
            yield (
                f"sources.{name}.topic: {topic} is already source {topics[topic]}, and each record would be archived twice; "
                f"add the columns to {topics[topic]} and read it in several queries"
            )
            continue
        topics[topic] = name
        other = archives.setdefault(archive_query(topic), topic)
        if other != topic:
            yield (
                f"sources.{name}.topic: the archives of {topic} and {other} would both be named {archive_query(topic)}; "
                "read one of them in a separate pipeline"
            )


def fields_can_be_read(pipeline: Pipeline) -> Iterator[str]:
    """Refuse two columns of one field, a field inside another column's field, and a path with an empty step."""
    for name, source in pipeline.sources.items():
        yield from _fields(f"sources.{name}.columns", source)


def _fields(place: str, source: Source) -> Iterator[str]:
    paths = {name: column.path(name) for name, column in source.columns.items()}
    for name, path in paths.items():
        if not path or not all(path):
            yield f"{place}.{name}.field: a step of the path is empty; write a path such as order.orderId"
        if len(path) > MAX_STEPS:
            yield f"{place}.{name}.field: {len(path)} nested objects are too many; write at most {MAX_STEPS}"
    known: dict[tuple[str, ...], str] = {}
    for name, path in paths.items():
        if path in known:
            yield (
                f"{place}.{name}.field: column {known[path]} already reads {'.'.join(path)}; read it once, and "
                "copy it in the transform"
            )
        known.setdefault(path, name)
    for name, path in paths.items():
        for size in range(1, len(path)):
            if path[:size] in known:
                yield (
                    f"{place}.{name}.field: {'.'.join(path[:size])} is the value of column {known[path[:size]]}, so it is not "
                    "an object with fields; remove one of the two"
                )


RULES = (topics_can_exist, one_topic_has_one_source, fields_can_be_read)
