"""Dead letters for operators: read them, by reason, place and time.

A letter is told by the coordinates of the record that was refused (`<topic>/<partition>/<offset>`, header headrace.id):
the topic is written at least once, so a letter can stand there twice and is counted once.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from headrace.contract.names import dead_letter_topic
from headrace.errors import HeadraceError
from headrace.operations import topics

HEADER_ID = "headrace.id"
HEADER_REASON = "headrace.reason"


@dataclass(frozen=True)
class Letter:
    """One refused record. `at_ms` is when the letter was written (broker time, milliseconds since 1970)."""

    id: str
    topic: str
    partition: int
    offset: int
    at_ms: int
    reason: str
    query: str
    batch: str
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)

    @property
    def word(self) -> str:
        """Return the reason's stable word, such as `missing`."""
        return self.reason.partition(":")[0]

    def to_json_dict(self) -> dict[str, Any]:
        """Return the letter as JSON values: bytes as text where they are UTF-8, else in base64."""
        return asdict(self) | {"word": self.word, "key": _bytes(self.key), "value": _bytes(self.value)}


@dataclass(frozen=True)
class Filter:
    """Which letters: all that is given must hold. Times are milliseconds since 1970, `offsets` both included."""

    reason: str | None = None
    partition: int | None = None
    offsets: tuple[int, int] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    ids: frozenset[str] | None = None

    def takes(self, letter: Letter) -> bool:
        """Return whether the letter is one of them; a reason is its word or the beginning of its text."""
        low, high = self.offsets or (letter.offset, letter.offset)
        return (
            (self.reason is None or letter.word == self.reason or letter.reason.startswith(self.reason))
            and (self.partition is None or letter.partition == self.partition)
            and low <= letter.offset <= high
            and (self.since_ms is None or letter.at_ms >= self.since_ms)
            and (self.until_ms is None or letter.at_ms < self.until_ms)
            and (self.ids is None or letter.id in self.ids)
        )


ALL = Filter()


def read(bindings: Path, topic: str, chosen: Filter = ALL, limit: int | None = None) -> list[Letter]:
    """Return the letters of a source topic that a filter takes, oldest first, each once. `bindings`: an admin's root.

    Raises HeadraceError where Kafka does not answer or there is no such topic.
    """
    found: dict[str, Letter] = {}
    for letter in _letters(bindings, topic, chosen.since_ms):
        if chosen.takes(letter):
            found.setdefault(letter.id, letter)
    letters = sorted(found.values(), key=lambda each: (each.at_ms, each.partition, each.offset))
    return letters if limit is None else letters[:limit]


def summary(letters: Iterable[Letter]) -> list[dict[str, Any]]:
    """Return one entry a topic and reason word: how many, the first and last time, one example."""
    groups: dict[tuple[str, str], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.topic, letter.word), []).append(letter)
    return [
        {
            "topic": topic,
            "reason": word,
            "letters": len(group),
            "first_ms": min(each.at_ms for each in group),
            "last_ms": max(each.at_ms for each in group),
            "example": group[-1].reason,
            "example_id": group[-1].id,
        }
        for (topic, word), group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def count_by_word(letters: Iterable[Letter]) -> dict[str, int]:
    """Return reason word -> how many letters."""
    return dict(Counter(letter.word for letter in letters))


def records(
    bindings: Path, topic: str, starts: Mapping[int, int] | None = None, since_ms: int | None = None
) -> Iterator[Any]:
    """Yield the records (confluent_kafka Messages) that a topic holds now, from `starts`, from a time, or all."""
    with topics.reader(bindings, topic, "dead_letters") as consumer:
        listed = consumer.list_topics(topic, timeout=topics.TIMEOUT_SECONDS).topics[topic]
        if listed.error is not None:
            raise HeadraceError(f"Kafka has no topic {topic}: run `headrace provision`.")
        ranges = _ranges(consumer, topic, sorted(listed.partitions), starts or {}, since_ms)
        yield from topics.between(consumer, topic, ranges)


def headers_of(message: Any) -> dict[str, str]:  # noqa: ANN401 - a confluent_kafka Message
    """Return a record's headers as text."""
    return {name: (value or b"").decode("utf-8", errors="replace") for name, value in message.headers() or ()}


def _ranges(
    consumer: Consumer, topic: str, partitions: list[int], starts: Mapping[int, int], since_ms: int | None
) -> dict[int, tuple[int, int]]:
    found = {}
    patience = topics.TIMEOUT_SECONDS
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=patience)
        begin = max(low, starts.get(partition, low))
        if since_ms is not None:
            (place,) = consumer.offsets_for_times([TopicPartition(topic, partition, since_ms)], timeout=patience)
            begin = max(begin, high if place.offset < 0 else place.offset)
        found[partition] = (begin, high)
    return found


def _letters(bindings: Path, topic: str, since_ms: int | None) -> Iterator[Letter]:
    for message in records(bindings, dead_letter_topic(topic), since_ms=since_ms):
        headers = headers_of(message)
        origin, partition, offset = headers.get(HEADER_ID, "//").rsplit("/", 2)
        if not offset.isdigit():
            continue  # not written by a stream
        yield Letter(
            id=headers[HEADER_ID],
            topic=origin,
            partition=int(partition),
            offset=int(offset),
            at_ms=message.timestamp()[1],
            reason=headers.get(HEADER_REASON, ""),
            query=headers.get("headrace.query", ""),
            batch=headers.get("headrace.batch", ""),
            key=message.key(),
            value=message.value(),
        )


def _bytes(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"
