"""Rules across pipelines: who owns a topic or a table, and which topics one pipeline passes to another (ADR 28).

A valid file may still clash with another. If one pipeline writes a topic and another reads it, that is a chain, not a
clash: the writer decides on the topic's settings, the reader on its archive and its dead letters.
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
    """Something that two pipelines cannot both have: their names, and a sentence with the remedy."""

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
    """Return the pipelines sorted so that each follows those whose topics it reads, otherwise by name, also in a loop."""
    before: dict[str, set[str]] = {name: set() for name in pipelines}
    for chain in chains(pipelines.values()):
        before[chain.reader.name].add(chain.writer.name)
    try:
        return {name: pipelines[name] for name in TopologicalSorter(before).static_order()}
    except CycleError:
        return dict(pipelines)


def clashes(pipelines: Collection[Pipeline]) -> Iterator[Clash]:
    """Yield a clash for anything that two pipelines would own, for a loop, and for a chain whose two ends do not match."""
    all_chains = chains(pipelines)
    yield from _owned_twice(pipelines, {(chain.reader.name, f"topic {chain.topic}") for chain in all_chains})
    yield from _alike(pipelines)
    yield from _loops(all_chains)
    for chain in all_chains:
        for sentence in _misfits(chain):
            yield Clash((chain.reader.name,), sentence)


def _owned_twice(pipelines: Collection[Pipeline], handed_on: Collection[tuple[str, str]]) -> Iterator[Clash]:
    """Yield a clash for each topic or table that two pipelines own; `handed_on` lists topics that belong to their writer."""
    owners: dict[str, str] = {}
    for pipeline in pipelines:
        owned = {f"topic {topic.name}" for topic in topics(pipeline)}
        owned |= {f"table {table.keyspace}.{table.name}" for table in tables(pipeline)}
        for thing in sorted(owned):
            place = f"read {thing}" if (pipeline.name, thing) in handed_on else thing
            if place in owners:
                yield Clash(
                    (pipeline.name, owners[place]),
                    f"{pipeline.name} and {owners[place]} both own {thing}: only one pipeline may read, archive or write it. "
                    "Rename it in one, or move the query into the other.",
                )
            owners.setdefault(place, pipeline.name)


def _alike(pipelines: Collection[Pipeline]) -> Iterator[Clash]:
    """Yield a clash for each two topics of two pipelines that Kafka does not accept together."""
    known: dict[str, tuple[str, str]] = {}
    for pipeline in pipelines:
        for topic in topics(pipeline):
            other, owner = known.setdefault(metric_name(topic.name), (topic.name, pipeline.name))
            if other != topic.name and owner != pipeline.name:
                yield Clash(
                    (pipeline.name, owner),
                    f"{pipeline.name} has topic {topic.name} and {owner} has topic {other}. Kafka refuses to have both, "
                    "because its metric names do not distinguish '.' and '_'. Rename one of them.",
                )


def _loops(links: Collection[Chain]) -> Iterator[Clash]:
    """Yield a clash for the first loop: each record would return and be counted again, forever."""
    before: dict[str, set[str]] = {}
    for chain in links:
        before.setdefault(chain.reader.name, set()).add(chain.writer.name)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        names = error.args[1]  # each precedes the next, and the last equals the first
        topics_of = {(chain.writer.name, chain.reader.name): chain.topic for chain in links}
        path = "".join(f" -> topic {topics_of[pair]} -> {pair[1]}" for pair in pairwise(names))
        yield Clash(
            tuple(dict.fromkeys(names)),
            f"{names[0]}{path}: a loop, each record would return forever. Remove one of these topics from a sink "
            "or a source.",
        )


def _misfits(chain: Chain) -> Iterator[str]:
    """Yield a sentence for each setting of a chain's reader that does not match its writer."""
    place = f"pipelines/{chain.reader.name}.yaml: sources.{chain.reader.source_name(chain.topic)}"
    by = f"{chain.writer.name}.{chain.query}, which writes the topic,"
    sink, source = chain.sink, chain.read
    if source.partitions != sink.partitions:
        yield f"{place}.partitions: {by} declares {sink.partitions}. Write partitions: {sink.partitions}."
    if source.retention != sink.retention:
        kept = format_duration(sink.retention)
        yield f"{place}.retention: {by} declares {kept}. Write retention: {kept}."
    if source.columns[source.key].path(source.key) != (sink.key,):
        yield f"{place}.key: {by} writes key {sink.key}. Write key: {sink.key}."
    for name, column in source.columns.items():
        path = column.path(name)
        written = chain.written.columns.get(path[0]) if len(path) == 1 else None
        if written is None:
            if column.required:
                yield f"{place}.columns.{name}: {by} has no such column, so each record would be a dead letter. Remove it."
        elif not _takes(column.type, written.type):
            yield f"{place}.columns.{name}: {by} writes {written.type}. Write type: {written.type}."


def _takes(read: str, written: str) -> bool:
    """Return whether a column of type `read` can hold every value of type `written`."""
    into, given = decimal_digits(read), decimal_digits(written)
    if into and given:
        return into[1] >= given[1] and into[0] - into[1] >= given[0] - given[1]
    return read == written or (written, read) == ("int", "long")
