"""What pipelines must say together: who owns a topic or a table. A file that loads alone may clash with another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from headrace.contract.cassandra import tables
from headrace.contract.kafka import topics
from headrace.contract.model import Pipeline


@dataclass(frozen=True)
class Clash:
    """One thing that pipelines cannot both have: their names, and a sentence with the remedy."""

    pipelines: tuple[str, ...]
    sentence: str


def clashes(pipelines: Collection[Pipeline]) -> Iterator[Clash]:
    """Yield a clash for each topic or table that two pipelines would write or archive."""
    owners: dict[str, str] = {}
    for pipeline in pipelines:
        owned = {f"topic {topic.name}" for topic in topics(pipeline)}
        owned |= {f"table {table.keyspace}.{table.name}" for table in tables(pipeline)}
        for thing in sorted(owned):
            if thing in owners:
                yield Clash(
                    (pipeline.name, owners[thing]),
                    f"{pipeline.name} and {owners[thing]} both own {thing}: one pipeline reads, archives or writes it; "
                    "rename it in one, or move the query into the other.",
                )
            owners.setdefault(thing, pipeline.name)
