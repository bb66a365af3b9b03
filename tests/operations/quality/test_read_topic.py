"""A sink's topic is read onward, each record once: the query's own rows, and those that a stranger wrote (B24)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract.checked_sinks import find
from headrace.contract.load import load_pipelines
from headrace.operations import topics
from headrace.operations.quality import read_cassandra, read_topic
from headrace.operations.quality.windows import BatchesStep

PROJECT = Path(__file__).resolve().parents[3]
SINK = find(load_pipelines(PROJECT / "pipelines").values(), "kafka.pos_items")


@dataclass
class Message:
    """Stands for a confluent_kafka.Message."""

    at: int
    head: list[tuple[str, bytes]] | None
    body: bytes = b'{"product_id": "p", "amount": 1.5}'
    place: int = 0

    def headers(self) -> Any:
        return self.head

    def value(self) -> bytes:
        return self.body

    def partition(self) -> int:
        return self.place

    def offset(self) -> int:
        return self.at


def written(
    at: int, batch: int, row: str, generation: int = 2, query: str = "pos_sales.items", place: int = 0
) -> Message:
    headers = {
        "headrace.id": row, "headrace.batch": str(batch), "headrace.generation": str(generation),
        "headrace.query": query,
    }  # fmt: skip
    return Message(at, [(name, value.encode()) for name, value in headers.items()], place=place)


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """The records of a topic; what is read of it is what Kafka would give."""
    messages: list[Message] = []

    def between(_: object, __: str, ranges: dict[int, tuple[int, int]]) -> Any:
        return (message for message in messages if ranges[message.place][0] <= message.at < ranges[message.place][1])

    def ends() -> dict[int, int]:
        return {
            p: sum(message.place == p for message in messages)
            for p in sorted({0, *(message.place for message in messages)})
        }

    times = SimpleNamespace(
        since=lambda _, at_ms: {str(p): [0 if at_ms < 0 else end, end] for p, end in ends().items()},
        begins=lambda _: dict.fromkeys(ends(), 0),
    )
    monkeypatch.setattr(read_topic, "TopicOffsets", lambda _: times)
    monkeypatch.setattr(topics, "between", between)
    return messages


def onward(first: int, last: int, rows_out: dict[str, int], cursor: Any, read_to: Any = None) -> Any:
    window = BatchesStep(generation=2, first=first, last=last, rows_out=rows_out)
    consumer: Any = None
    return read_topic.onward(consumer, SINK, window, cursor, read_to)


def test_a_step_ends_with_the_last_row_of_its_batches_and_the_next_one_begins_there(topic: list[Message]) -> None:
    topic += [written(0, 0, "a"), written(1, 0, "b"), written(2, 1, "c"), written(3, 2, "d"), written(4, 2, "e")]
    rows, start, cursor = onward(0, 1, {"0": 2, "1": 1}, None)
    assert ([row["_id"] for row in rows], start, cursor) == (["a", "b", "c"], {"0": 0}, {"0": 3})
    rows, start, cursor = onward(2, 2, {"2": 2}, cursor)
    assert ([row["_id"] for row in rows], start, cursor) == (["d", "e"], {"0": 3}, {"0": 5})
    assert onward(3, 3, {}, cursor) == ([], {"0": 5}, {"0": 5}), "batches without rows need no record"


def test_no_row_of_a_later_batch_is_passed_over_where_kafka_gives_one_partition_before_another(
    topic: list[Message],
) -> None:
    """Seen on a real topic: the first partition came whole, and its rows of the next batches were never checked."""
    topic += [written(at, batch, f"p0-{batch}") for at, batch in enumerate([0, 1, 2])]
    topic += [written(at, batch, f"p1-{batch}", place=1) for at, batch in enumerate([0, 2, 3])]
    seen, cursor = [], None
    for batch, rows_out in enumerate([2, 1, 2, 1]):
        rows, _, cursor = onward(batch, batch, {str(batch): rows_out}, cursor)
        seen.append([row["_id"] for row in rows])
    assert seen == [["p0-0", "p1-0"], ["p0-1"], ["p0-2", "p1-2"], ["p1-3"]]
    rows, _, cursor = onward(0, 0, {"0": 3}, None)
    assert cursor == {"0": 1, "1": 1}, "where a row is missing too"


def test_a_batch_that_ran_twice_is_read_until_each_of_its_rows_was_there(topic: list[Message]) -> None:
    topic += [written(0, 0, "a"), written(1, 0, "a"), written(2, 0, "b"), written(3, 1, "c")]
    rows, _, cursor = onward(0, 0, {"0": 2}, None)
    assert [row["_id"] for row in rows] == ["a", "a", "b"]
    assert cursor == {"0": 3}
    assert [row["_copies"] for row in read_topic.distinct(rows)] == [2, 1]


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(Message(1, None), id="no headers"),
        pytest.param(Message(1, [("trace", b"1")]), id="headers of another system"),
        pytest.param(written(1, 0, "x", query="web_events.topic"), id="another query"),
        pytest.param(Message(1, [("headrace.id", b"x"), ("headrace.batch", b"seven")]), id="no batch"),
        pytest.param(Message(1, None, b""), id="no value"),
    ],
)
def test_a_record_that_no_batch_of_the_query_wrote_is_found_once_and_counts_as_no_copy(
    topic: list[Message], strange: Message
) -> None:
    topic += [written(0, 0, "a"), strange, written(2, 0, "b"), written(3, 1, "c")]
    rows, _, cursor = onward(0, 0, {"0": 2}, None)
    records = read_topic.distinct(rows)
    assert [row["_offset"] for row in records if "_stranger" in row] == [1]
    assert sum(row["_copies"] for row in records) == 2
    rows, _, _ = onward(1, 1, {"1": 1}, cursor)
    assert [row for row in rows if "_stranger" in row] == []


def test_a_stranger_behind_the_newest_batch_is_found_where_everything_is_read(topic: list[Message]) -> None:
    topic += [written(0, 0, "a"), written(1, 0, "b", generation=1), written(2, 1, "c"), Message(3, None)]
    rows, _, cursor = onward(0, 0, {"0": 1}, None, {"0": 4})
    assert [(row["_offset"], "_stranger" in row) for row in rows] == [(0, False), (3, True)]
    assert cursor == {"0": 4}
    window = BatchesStep(generation=2, first=0, last=0, ranges={"0": [0, 4]})
    again = read_topic.again(None, SINK, window)
    assert again == rows, "a finding's window reads the same again"


def test_rows_of_a_table_are_cut_between_tokens_never_within_one() -> None:
    given = [(-5, "a"), (-5, "b"), (-5, "c"), (1, "d"), (9, "e")]
    rows = [{"headrace_token": token, "name": name} for token, name in given]
    portions = list(read_cassandra.cut(rows, 2))
    assert [([row["name"] for row in portion], token) for portion, token in portions] == [
        (["a", "b", "c"], -5),
        (["d", "e"], None),
    ]
    assert list(read_cassandra.cut([], 2)) == [([], None)]
