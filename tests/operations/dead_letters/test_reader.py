"""Reading dead letters without Kafka: what the client is asked for, and what it may answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from headrace.errors import HeadraceError
from headrace.operations import topics
from headrace.operations.dead_letters import reader
from headrace.operations.dead_letters import replay as replays
from headrace.operations.plans import Approval, Item
from headrace.store import paths, small_files
from headrace.store.records import to_json


class Message:
    """A record, as far as reading looks at it."""

    def __init__(self, partition: int, offset: int) -> None:
        self.partition, self.offset = (lambda: partition), (lambda: offset)

    def error(self) -> None:
        return None


class End(Message):
    """What the client says where it stands at the end of a partition."""

    def error(self) -> Any:
        return SimpleNamespace(code=lambda: KafkaError._PARTITION_EOF)


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
    binding = SimpleNamespace(reader_config=lambda _: {})
    monkeypatch.setattr(topics, "read_kafka", lambda _: binding)
    monkeypatch.setattr(topics, "Consumer", lambda _: client)
    return [(message.partition(), message.offset()) for message in reader.records(Path("bindings"), "pos")]


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


def test_nothing_is_waited_for_where_the_last_offsets_hold_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TIMEOUT_SECONDS", 1)
    client = Client({0: 4, 1: 2}, gone=frozenset({(0, 2), (0, 3), (1, 0), (1, 1)}))
    client.waiting += [End(0, 4), End(1, 2)]
    assert _read(monkeypatch, client) == [(0, 0), (0, 1)]


def test_a_silent_kafka_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TIMEOUT_SECONDS", 0)
    with pytest.raises(HeadraceError, match="Kafka delivered no record of pos"):
        _read(monkeypatch, Client({0: 1}, gone=frozenset({(0, 0)})))


class LetterMessage:
    """A letter as Kafka gives it."""

    def __init__(self, key: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
        self._key, self._headers = key, headers

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes:
        return b"{}"

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_000


def _message(offset: int, query: str, *headers: tuple[str, bytes | None]) -> LetterMessage:
    place = [("headrace.topic", b"pos"), ("headrace.partition", b"1"), ("headrace.offset", b"%d" % offset)]
    ours = [
        ("headrace.query", query.encode()),
        ("headrace.id", b"pos/1/%d" % offset),
        ("headrace.reason", b"unmatched: id"),
    ]
    return LetterMessage(b"k", [*ours, *place, *headers])


def _letters(monkeypatch: pytest.MonkeyPatch, *messages: LetterMessage) -> list[reader.Letter]:
    monkeypatch.setattr(reader, "records", lambda *_, **__: iter(messages))
    return reader.read(Path("bindings"), "pos")


def test_a_letter_has_the_headers_of_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = [("trace", b"\xff"), ("record.headrace.id", b"mine"), ("record.own", b"1"), ("none", None)]
    (letter,) = _letters(monkeypatch, _message(7, "pos.allowed", *headers))
    assert letter.headers == (("trace", b"\xff"), ("headrace.id", b"mine"), ("record.own", b"1"), ("none", None))
    assert letter.is_complete
    assert to_json(reader.shown(letter))["headers"][0] == ["trace", "base64:/w=="]


def test_a_record_that_two_queries_refuse_has_two_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """D01: the second query's letter was taken for a repeat of the first's."""
    letters = _letters(monkeypatch, *(_message(7, query) for query in ("pos.allowed", "pos.known", "pos.known")))
    assert [(letter.id, letter.query) for letter in letters] == [("pos/1/7", "pos.allowed"), ("pos/1/7", "pos.known")]


def test_a_cut_letter_and_a_row_of_many_records_are_shown_but_are_no_complete_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row: list[tuple[str, bytes | None]] = [
        ("headrace.query", b"pos.totals"),
        ("headrace.id", b"pos.totals/1/7/A0"),
        ("headrace.reason", b"not_written: k"),
    ]
    cut, total = _letters(
        monkeypatch, _message(7, "pos.archive_pos", ("headrace.cut", b"value of 9 bytes")), LetterMessage(None, row)
    )[::-1]
    assert (cut.cut, cut.is_complete) == ("value of 9 bytes", False)
    assert (total.id, total.topic, total.partition, total.offset, total.is_complete) == (
        "pos.totals/1/7/A0",
        "pos",
        -1,
        -1,
        False,
    )


def test_a_replay_sends_a_record_once_with_its_headers_and_leaves_out_what_is_no_complete_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    messages = [
        _message(7, "pos.allowed", ("trace", b"1"), ("headrace.replay", b"old")),
        _message(7, "pos.known", ("trace", b"1")),
        _message(8, "pos.archive_pos", ("headrace.cut", b"value of 9 bytes")),
    ]
    sent: list[tuple[str, int, bytes, bytes, list[tuple[str, bytes]]]] = []

    class Producer:
        def __init__(self, _: Any) -> None:
            pass

        def produce(self, topic: str, value: bytes, key: bytes, partition: int, headers: Any, on_delivery: Any) -> None:
            sent.append((topic, partition, value, key, headers))
            on_delivery(None, SimpleNamespace(topic=lambda: topic, partition=lambda: 0, offset=lambda: 9))

        def poll(self, _: float) -> None:
            pass

        def flush(self, _: float) -> int:
            return 0

    monkeypatch.setattr(reader, "records", lambda *_, **__: iter(messages))
    monkeypatch.setattr(replays, "Producer", Producer)
    monkeypatch.setattr(replays, "producer_config", lambda *_, **__: {})
    monkeypatch.setattr(replays, "read_kafka", lambda _: None)
    monkeypatch.setattr(replays, "KafkaEnds", lambda _: lambda topics: {topics[0]: {0: 9}})
    place, readers = (str(tmp_path), Path("bindings"), "pos"), ("pos.allowed", "pos.known")
    planned = replays.plan(*place, readers=readers)
    assert planned.items == (Item("send", "pos/1/7", "unmatched"),)
    assert planned.notes == ("1 letters hold no complete record: they are left out.",)
    assert replays.plan(*place, readers=readers).id == planned.id, "the same situation"
    messages.append(_message(9, "pos.archive_pos"))
    assert replays.plan(*place, readers=readers).id != planned.id, "another letter"
    with pytest.raises(HeadraceError, match=r"There is no plan 3f2a9c01 of a replay of pos\. See the current plan"):
        replays.act(*place, Approval("3f2a9c01", by="mia"), readers=readers)
    assert sent == []
    done = replays.act(*place, Approval(planned.id, by="mia"), readers=readers)
    assert (done.plan, done.sent) == (planned.id, 1), "the letter that came after the plan is not part of it"
    assert replays.act(*place, Approval(planned.id, by="mia"), readers=readers) == done
    headers = [("trace", b"1"), ("headrace.replay_of", b"pos/1/7"), ("headrace.replay", planned.id.encode())]
    assert sent == [("pos", 1, b"{}", b"k", headers)], "the partition is the record's own (C29)"
    again = replays.plan(*place, readers=readers, again=True)
    assert again.items[0] == Item("send", "pos/1/7", f"unmatched, replayed before by {planned.id}")
    assert len({again.id, planned.id}) == 2, "a letter that is sent again is another plan"


def test_a_plan_whose_letters_were_replayed_or_deleted_since_is_refused_and_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    messages = [_message(7, "pos.allowed"), _message(8, "pos.allowed")]
    monkeypatch.setattr(reader, "records", lambda *_, **__: iter(messages))
    monkeypatch.setattr(replays, "KafkaEnds", lambda _: pytest.fail("nothing may be sent"))
    place = (str(tmp_path), Path("bindings"), "pos")
    planned = replays.plan(*place, readers=())
    del messages[0]
    with pytest.raises(HeadraceError, match=f"The situation changed since plan {planned.id} for the replay of pos"):
        replays.act(*place, Approval(planned.id, by="mia"), readers=())
    messages.insert(0, _message(7, "pos.allowed"))
    replays._write(
        str(tmp_path), replays.Journal("other", "pos", ids=("pos/1/8",), first={"pos/1/8": "pos/1/8"}, state="done")
    )
    with pytest.raises(HeadraceError, match="The situation changed"):
        replays.act(*place, Approval(planned.id, by="mia"), readers=())


def test_a_journal_of_an_earlier_release_is_read_and_its_interrupted_run_is_continued_by_its_name(
    tmp_path: Path,
) -> None:
    document = {
        "run": "replay-20261101T080000-ab12", "topic": "pos", "by": "mia", "at_ms": 5, "again": False,
        "ids": ["pos/1/7"], "first": {"pos/1/7": "pos/1/3"}, "from": {"0": 9}, "sent": {"pos/1/7": "pos/0/9"},
        "state": "running",
    }  # fmt: skip
    small_files.write_json(f"{paths.replays(str(tmp_path), 'pos')}/{document['run']}.json", document)
    (journal,) = replays.journals(str(tmp_path), "pos")
    assert (journal.ids, journal.starts, journal.state) == (("pos/1/7",), {0: 9}, "running")
    assert replays.history(str(tmp_path), "pos").replays == {"pos/0/9": "pos/1/3"}
    assert json.loads(json.dumps(to_json(journal))) == document
