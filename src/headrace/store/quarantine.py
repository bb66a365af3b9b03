"""The quarantine of a pipeline: records that a query passes over, because its transform fails on them (ADR 0049).

One document, `quarantine.json` in the pipeline's folder. `operations.dead_letters.quarantine` writes it while no driver can
run. The driver and the finite Spark jobs read it, and apply it in one place, `driver.source.without`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from headrace.errors import HeadraceError
from headrace.store import generation, paths, records, topic_identity
from headrace.store.checkpoint_log import Offsets
from headrace.store.generation import Generation

_RANGE = re.compile(r"(?P<topic>[A-Za-z0-9._-]+):(?P<partition>\d{1,9}):(?P<first>\d{1,18})(?:-(?P<last>\d{1,18}))?")


@dataclass(frozen=True)
class OffsetRange:
    """Offsets of one topic partition, `first` and `last` included."""

    topic: str
    partition: int
    first: int
    last: int

    def __str__(self) -> str:
        """Return the range as the command line takes it: `topic:partition:first-last`."""
        return f"{self.topic}:{self.partition}:{self.first}-{self.last}"

    @property
    def size(self) -> int:
        """Return the number of offsets."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Entry(OffsetRange):
    """A range that `query` (short name) passes over, with the reason of its dead letters, who approved it, and when.

    The entry is for the lines of generations (`Generation.line`) from `since` and before `until` (None: no end). Offsets of
    a topic that was deleted and recreated are others: `topic_id` is Kafka's id of the topic, "" if it was not known.
    """

    query: str
    reason: str = ""
    by: str = ""
    at_ms: int = 0
    topic_id: str = ""
    since: int = 0
    until: int | None = None

    def holds(self, query: str, line: int, ids: Mapping[str, str]) -> bool:
        """Return whether a line of a query passes over the range. `ids` are the ids of the topics that it reads."""
        same_topic = not self.topic_id or ids.get(self.topic, self.topic_id) == self.topic_id
        return self.query == query and self.since <= line and (self.until is None or line < self.until) and same_topic


@dataclass(frozen=True)
class Quarantine:
    """The document."""

    entries: tuple[Entry, ...] = ()


Entries = tuple[Entry, ...]


def parse_range(text: str) -> OffsetRange:
    """Return the range of a text `topic:partition:first-last` or `topic:partition:offset`. Raises HeadraceError."""
    match = _RANGE.fullmatch(text)
    if match is None or int(match["last"] or match["first"]) < int(match["first"]):
        raise HeadraceError(f"--offsets takes TOPIC:PARTITION:FIRST-LAST such as pos:0:120-120, not {text!r}.")
    return OffsetRange(
        match["topic"], int(match["partition"]), int(match["first"]), int(match["last"] or match["first"])
    )


def read(root: str, pipeline: str) -> Quarantine:
    """Return the quarantine of a pipeline, an empty one without a document."""
    return records.read(Quarantine, paths.quarantine(root, pipeline)) or Quarantine()


def write(root: str, pipeline: str, quarantine: Quarantine) -> None:
    """Replace the quarantine of a pipeline."""
    records.write(paths.quarantine(root, pipeline), quarantine)


def passed_by(root: str, reader: Generation | None, ids: Mapping[str, str] = MappingProxyType({})) -> Entries:
    """Return what a generation passes over; nothing for None, a query that never ran.

    `ids` are the ids of the topics, for a generation that no driver has started yet.
    """
    entries = read(root, reader.pipeline).entries if reader else ()
    if reader is None or not entries:
        return ()
    known = {**ids, **topic_identity.read(reader.paths(root))}
    return tuple(entry for entry in entries if entry.holds(reader.query, reader.line, known))


def passed_by_query(root: str, pipeline: str, query: str) -> Entries:
    """Return what the current generation of a query passes over."""
    return passed_by(root, generation.current(root, pipeline, query))


def inside(entries: Iterable[Entry], start: Offsets, end: Offsets) -> Entries:
    """Return the entries without their offsets outside a batch: [start, end) of each topic partition."""
    cut = []
    for entry in entries:
        first = max(entry.first, start.get(entry.topic, {}).get(entry.partition, 0))
        last = min(entry.last, end.get(entry.topic, {}).get(entry.partition, 0) - 1)
        if first <= last:
            cut.append(replace(entry, first=first, last=last))
    return tuple(cut)
