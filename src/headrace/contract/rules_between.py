"""What pipelines must say together: who owns a topic or a table, and what a chain of pipelines hands on (ADR 28).

A file that loads alone may clash with another. A topic that one pipeline writes and another reads is a chain, no clash:
its settings are the writer's, its archive and its dead letters the reader's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from headrace.contract.cassandra import tables
from headrace.contract.kafka import topics
from headrace.contract.model import KafkaSink, Pipeline, Query, Source, decimal_digits, format_duration
from headrace.contract.rules_topics import metric_name


@dataclass(frozen=True)
class Clash:
    """One thing that pipelines cannot both have: their names, and a sentence with the remedy."""

    pipelines: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Chain:
    """A topic that one pipeline writes and another reads."""

    topic: str
    writer: Pipeline
    query: str
    sink: KafkaSink
    reader: Pipeline

    @property
    def written(self) -> Query:
        """Return the query that writes the topic."""
        return self.writer.queries[self.query]

    @property
    def read(self) -> Source:
        """Return the source that reads the topic."""
        return self.reader.sources[self.topic]


def chains(pipelines: Collection[Pipeline]) -> list[Chain]:
    """Return every topic that one of the pipelines writes and another reads."""
    return [
        Chain(sink.topic, writer, name, sink, reader)
        for writer in pipelines
        for name, query in writer.queries.items()
        for sink in query.sinks
        if isinstance(sink, KafkaSink)
        for reader in pipelines
        if reader is not writer and sink.topic in reader.sources
    ]


def in_order(pipelines: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
    """Return the pipelines so that each comes behind those whose topics it reads, by name else; a loop stays by name."""
    before: dict[str, set[str]] = {name: set() for name in pipelines}
    for chain in chains(pipelines.values()):
        before[chain.reader.name].add(chain.writer.name)
    try:
        return {name: pipelines[name] for name in TopologicalSorter(before).static_order()}
    except CycleError:
        return dict(pipelines)


def clashes(pipelines: Collection[Pipeline]) -> Iterator[Clash]:
    """Yield a clash for what two pipelines would own, for a loop, and for a chain whose two ends do not fit."""
    found = chains(pipelines)
    yield from _owned_twice(pipelines, {(chain.reader.name, f"topic {chain.topic}") for chain in found})
    yield from _alike(pipelines)
    yield from _loops(found)
    for chain in found:
        for sentence in _misfits(chain):
            yield Clash((chain.reader.name,), sentence)


def _owned_twice(pipelines: Collection[Pipeline], handed_on: Collection[tuple[str, str]]) -> Iterator[Clash]:
    """Yield a clash for each topic or table that two pipelines write, read or archive; `handed_on` is the writers'."""
    owners: dict[str, str] = {}
    for pipeline in pipelines:
        owned = {f"topic {topic.name}" for topic in topics(pipeline)}
        owned |= {f"table {table.keyspace}.{table.name}" for table in tables(pipeline)}
        for thing in sorted(owned):
            place = f"read {thing}" if (pipeline.name, thing) in handed_on else thing
            if place in owners:
                yield Clash(
                    (pipeline.name, owners[place]),
                    f"{pipeline.name} and {owners[place]} both own {thing}: one pipeline reads, archives or writes it; "
                    "rename it in one, or move the query into the other.",
                )
            owners.setdefault(place, pipeline.name)


def _alike(pipelines: Collection[Pipeline]) -> Iterator[Clash]:
    """Yield a clash for each two topics of two pipelines that Kafka does not take beside each other."""
    known: dict[str, tuple[str, str]] = {}
    for pipeline in pipelines:
        for topic in topics(pipeline):
            other, owner = known.setdefault(metric_name(topic.name), (topic.name, pipeline.name))
            if other != topic.name and owner != pipeline.name:
                yield Clash(
                    (pipeline.name, owner),
                    f"{pipeline.name} has topic {topic.name} and {owner} has topic {other}: Kafka refuses one beside the "
                    "other, because '.' and '_' are one character in the names of its metrics; rename one of both.",
                )


def _loops(found: Collection[Chain]) -> Iterator[Clash]:
    """Yield a clash for the first loop: each record would come back and be counted again, for ever."""
    before: dict[str, set[str]] = {}
    for chain in found:
        before.setdefault(chain.reader.name, set()).add(chain.writer.name)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        names = error.args[1]  # each comes before the next, and the last is the first
        topics_of = {(chain.writer.name, chain.reader.name): chain.topic for chain in found}
        told = "".join(f" -> topic {topics_of[pair]} -> {pair[1]}" for pair in pairwise(names))
        yield Clash(
            tuple(dict.fromkeys(names)),
            f"{names[0]}{told}: a loop, each record would come back for ever; take one of these topics out of a sink "
            "or a source.",
        )


def _misfits(chain: Chain) -> Iterator[str]:
    """Yield a sentence for each word of a chain's reader that is not what its writer says."""
    place = f"pipelines/{chain.reader.name}.yaml: sources.{chain.reader.source_name(chain.topic)}"
    by = f"{chain.writer.name}.{chain.query}, which writes the topic,"
    sink, source = chain.sink, chain.read
    if source.partitions != sink.partitions:
        yield f"{place}.partitions: {by} declares {sink.partitions}; write partitions: {sink.partitions}."
    if source.retention != sink.retention:
        kept = format_duration(sink.retention)
        yield f"{place}.retention: {by} declares {kept}; write retention: {kept}."
    if source.columns[source.key].path(source.key) != (sink.key,):
        yield f"{place}.key: {by} writes key {sink.key}; write key: {sink.key}."
    for name, column in source.columns.items():
        path = column.path(name)
        written = chain.written.columns.get(path[0]) if len(path) == 1 else None
        if written is None:
            if column.required:
                yield f"{place}.columns.{name}: {by} has no such column, so each record would be a dead letter; remove it."
        elif not _takes(column.type, written.type):
            yield f"{place}.columns.{name}: {by} writes {written.type}; write type: {written.type}."


def _takes(read: str, written: str) -> bool:
    """Return whether a column of type `read` holds every value of type `written`."""
    into, given = decimal_digits(read), decimal_digits(written)
    if into and given:
        return into[1] >= given[1] and into[0] - into[1] >= given[0] - given[1]
    return read == written or (written, read) == ("int", "long")
