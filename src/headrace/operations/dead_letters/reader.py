"""Dead letters for operators: read them by reason, position and time.

A letter is identified by the coordinates of the refused record (`<topic>/<partition>/<offset>`, header headrace.id) and by
the query that refused it. The topic is written at least once, so a duplicate letter counts once. A refused row of an
aggregate or join has no record: its id is `<query>/<generation>/<batch>/<hash>`, its offset -1.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from headrace.contract.names import dead_letter_topic
from headrace.errors import HeadraceError
from headrace.operations import topics

HEADER_ID = "headrace.id"
HEADER_REASON = "headrace.reason"
HEADER_OFFSET = "headrace.offset"
HEADER_CUT = "headrace.cut"
OWN_HEADERS = (HEADER_ID, HEADER_REASON, HEADER_CUT, HEADER_OFFSET, "headrace.query", "headrace.generation",
               "headrace.batch", "headrace.topic", "headrace.partition")  # fmt: skip
RECORD_HEADER = "record."


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
    headers: tuple[tuple[str, bytes | None], ...] = field(default=(), repr=False)
    cut: str = ""

    @property
    def is_complete(self) -> bool:
        """Return whether the letter contains one complete record, which could be sent again."""
        return self.offset >= 0 and not self.cut

    @property
    def word(self) -> str:
        """Return the reason's stable code, such as `missing`."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Group:
    """The letters of a topic with one reason code: their number, when the first and the last was written, and one of them."""

    topic: str
    reason: str
    letters: int
    first_ms: int
    last_ms: int
    example: str
    example_id: str


@dataclass(frozen=True)
class ShownLetter:
    """A letter for people: bytes as text if they are UTF-8, otherwise in base64; what is known about its replay."""

    id: str
    topic: str
    partition: int
    offset: int
    at_ms: int
    reason: str
    word: str
    query: str
    batch: str
    key: str | None
    value: str | None
    headers: tuple[tuple[str, str | None], ...]
    cut: str
    replayed_by: str | None
    replay_of: str | None


@dataclass(frozen=True)
class Filter:
    """A selection of letters: all given conditions must hold. Times are milliseconds since 1970, `offsets` are inclusive."""

    reason: str | None = None
    partition: int | None = None
    offsets: tuple[int, int] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    ids: frozenset[str] | None = None

    def takes(self, letter: Letter) -> bool:
        """Return whether the letter is selected; a reason matches by its code or by the beginning of its text."""
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
    """Return the selected letters of a source topic, oldest first, each once. `bindings`: an admin's binding root.

    Raises HeadraceError if Kafka does not answer or the topic does not exist.
    """
    letters_by_id: dict[tuple[str, str], Letter] = {}
    for letter in _letters(bindings, topic, chosen.since_ms):
        if chosen.takes(letter):
            letters_by_id.setdefault((letter.id, letter.query), letter)
    letters = sorted(
        letters_by_id.values(), key=lambda entry: (entry.at_ms, entry.partition, entry.offset, entry.query)
    )
    return letters if limit is None else letters[:limit]


def shown(letter: Letter, replayed_by: str | None = None, replay_of: str | None = None) -> ShownLetter:
    """Return a letter for people, with the run that replayed it and the first coordinates if it is a replay itself."""
    return ShownLetter(
        letter.id, letter.topic, letter.partition, letter.offset, letter.at_ms, letter.reason, letter.word,
        letter.query, letter.batch, _text(letter.key), _text(letter.value),
        tuple((name, _text(value)) for name, value in letter.headers), letter.cut, replayed_by, replay_of,
    )  # fmt: skip


def summary(letters: Iterable[Letter]) -> list[Group]:
    """Return one group for each topic and reason code, the largest first."""
    groups: dict[tuple[str, str], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.topic, letter.word), []).append(letter)
    return [
        Group(
            topic,
            code,
            len(group),
            min(entry.at_ms for entry in group),
            max(entry.at_ms for entry in group),
            group[-1].reason,
            group[-1].id,
        )
        for (topic, code), group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def records(
    bindings: Path,
    topic: str,
    starts: Mapping[int, int] | None = None,
    since_ms: int | None = None,
    *,
    uncommitted: bool = False,
) -> Iterator[Any]:
    """Yield the records (confluent_kafka Messages) that a topic holds now: from `starts`, from a time, or all.

    `uncommitted`: see `topics.reader`.
    """
    with topics.reader(bindings, topic, "dead_letters", uncommitted=uncommitted) as consumer:
        listed = consumer.list_topics(topic, timeout=topics.TIMEOUT_SECONDS).topics[topic]
        if listed.error is not None:
            raise HeadraceError(f"Kafka has no topic {topic}. Run `headrace provision`.")
        ranges = _ranges(consumer, topic, sorted(listed.partitions), starts or {}, since_ms)
        yield from topics.between(consumer, topic, ranges)


def headers_of(message: Any) -> dict[str, str]:  # noqa: ANN401 - a confluent_kafka Message
    """Return a record's headers as text."""
    return {name: (value or b"").decode("utf-8", errors="replace") for name, value in message.headers() or ()}


def _ranges(
    consumer: Consumer, topic: str, partitions: list[int], starts: Mapping[int, int], since_ms: int | None
) -> dict[int, tuple[int, int]]:
    ranges = {}
    patience = topics.TIMEOUT_SECONDS
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=patience)
        begin = max(low, starts.get(partition, low))
        if since_ms is not None:
            (place,) = consumer.offsets_for_times([TopicPartition(topic, partition, since_ms)], timeout=patience)
            begin = max(begin, high if place.offset < 0 else place.offset)
        ranges[partition] = (begin, high)
    return ranges


def _letters(bindings: Path, topic: str, since_ms: int | None) -> Iterator[Letter]:
    for message in records(bindings, dead_letter_topic(topic), since_ms=since_ms):
        headers = headers_of(message)
        if HEADER_ID not in headers or HEADER_REASON not in headers:
            continue  # not written by a stream
        offset = headers.get(HEADER_OFFSET, "")
        yield Letter(
            id=headers[HEADER_ID],
            topic=topic,
            partition=int(headers["headrace.partition"]) if offset else -1,
            offset=int(offset or -1),
            at_ms=message.timestamp()[1],
            reason=headers.get(HEADER_REASON, ""),
            query=headers.get("headrace.query", ""),
            batch=headers.get("headrace.batch", ""),
            key=message.key(),
            value=message.value(),
            headers=tuple(_of_the_record(message.headers() or ())),
            cut=headers.get(HEADER_CUT, ""),
        )


def _of_the_record(headers: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, bytes | None]]:
    """Yield the headers of the original record (`driver.sinks.write_dead_letters`)."""
    for name, value in headers:
        if name.startswith(RECORD_HEADER) and name.removeprefix(RECORD_HEADER) in OWN_HEADERS:
            yield name.removeprefix(RECORD_HEADER), value
        elif name not in OWN_HEADERS:
            yield name, value


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"
