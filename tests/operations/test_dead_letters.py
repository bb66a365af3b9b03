"""Reading dead letters without Kafka: what the client is asked for, and what it may answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from headrace.errors import HeadraceError
from headrace.operations import dead_letters, topics


class Message:
    """A record, as far as reading looks at it."""

    def __init__(self, partition: int, offset: int) -> None:
        self.partition, self.offset = (lambda: partition), (lambda: offset)

    def error(self) -> None:
        return None


class Client:
    """Stands for `confluent_kafka.Consumer`, which waits the whole timeout if it is asked for more than there is."""

    def __init__(self, ends: dict[int, int], gone: frozenset[tuple[int, int]] = frozenset()) -> None:
        self.ends, self.waited, self.closed = ends, 0, False
        self.waiting = [Message(p, o) for p, end in ends.items() for o in range(end) if (p, o) not in gone]

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=dict.fromkeys(self.ends))})

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, self.ends[place.partition]

    def assign(self, places: list[TopicPartition]) -> None:
        pass

    def consume(self, number: int, timeout: float) -> list[Message]:
        given, self.waiting = self.waiting[:number], self.waiting[number:]
        self.waited += len(given) < number
        return given

    def close(self) -> None:
        self.closed = True


def _read(monkeypatch: pytest.MonkeyPatch, client: Client) -> list[tuple[int, int]]:
    binding = SimpleNamespace(client_config=dict)
    monkeypatch.setattr(topics, "read_kafka", lambda _: binding)
    monkeypatch.setattr(topics, "Consumer", lambda _: client)
    return [(each.partition(), each.offset()) for each in dead_letters.records(Path("bindings"), "pos")]


@pytest.mark.parametrize("ends", [{0: 1}, {0: 3, 1: 0, 2: 7}, {0: 5_001}])
def test_a_topic_is_read_without_a_wait_for_records_that_are_not_there(
    ends: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(ends)
    assert _read(monkeypatch, client) == [(p, o) for p, end in ends.items() for o in range(end)]
    assert (client.waited, client.closed) == (0, True)


def test_offsets_that_hold_no_record_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client({0: 4, 1: 2}, gone=frozenset({(0, 1), (1, 0)}))
    assert _read(monkeypatch, client) == [(0, 0), (0, 2), (0, 3), (1, 1)]


def test_a_silent_kafka_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TIMEOUT_SECONDS", 0)
    with pytest.raises(HeadraceError, match="Kafka gave no record of pos"):
        _read(monkeypatch, Client({0: 1}, gone=frozenset({(0, 0)})))
