"""A topic that was deleted and recreated ends a driver before a record is skipped, and one command recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from py4j.protocol import Py4JError

from headrace.contract.exit_codes import Exit
from headrace.driver import counted, queries, runtime, writer
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import restore, snapshots
from headrace.operations.drivers import generations
from headrace.store import ledger, paths, small_files, topic_identity
from tests.support import checkpoints

POS = checkpoints.pos_sales()


@dataclass
class Topics:
    """Kafka as the driver sees it: the id of each topic, and what was committed."""

    ids: dict[str, str]
    committed: list[object] = field(default_factory=list)
    silent: bool = False
    asked: int = 0

    def topic_ids(self, topics: Iterable[str], *, wait_ms: int) -> dict[str, str]:
        assert wait_ms <= 2_000, "a batch does not wait long for it"
        self.asked += 1
        if self.silent:
            raise Py4JError("TimeoutException")
        return {topic: self.ids[topic] for topic in topics if topic in self.ids}

    def commit(self, group: str, offsets: object) -> None:
        self.committed.append(offsets)


@pytest.fixture
def root(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a storage root. Spark is a double that reads one record in each batch, and Kafka is asked once in a test."""
    monkeypatch.setattr(writer, "ASKED_SECONDS", 3600.0)
    monkeypatch.setattr(counted, "execution", lambda _: None)
    monkeypatch.setattr(counted, "records", lambda _: 1)
    return str(tmp_path)


def _write(root: str, kafka: Topics, written: Callable[[], int], batches: int = 1) -> str:
    """Run the first batches of a query that was started on topic A; return its ledger's folder."""
    made = checkpoints.begin(root, stateful=False)
    link = SimpleNamespace(run_when_available=lambda _: counted.Counts(written(), 0))
    frame: Any = SimpleNamespace(persist=lambda _: None, unpersist=lambda: None, sparkSession=None)
    generation_paths = made.paths(root)
    spark: Any = None
    groups: Any = kafka
    cassandra: Any = link
    run = writer.Writer(
        spark, made, generation_paths, lambda *_: None, groups, writer.Gate(), writer.Counters(), cassandra,
        topics={"pos": "A"},
    )  # fmt: skip
    for number in range(batches):
        checkpoints.plan_batch(root, made, number)
        run(frame, number)
    return generation_paths.ledger


def test_a_topic_made_again_before_a_batch_ends_it_before_anything_is_written(root: str) -> None:
    wrote: list[int] = []

    def written() -> int:
        wrote.append(1)
        return 1

    with pytest.raises(HeadraceError, match=r"Topic pos was deleted and recreated .* --new-generation all") as refused:
        _write(root, Topics({"pos": "B"}), written)
    assert wrote == []
    assert ledger.batches(f"{root}/checkpoints/pos_sales/tumbling/0001/ledger") == []
    ended = SimpleNamespace(query=SimpleNamespace(exception=lambda: f"[STREAM_FAILED] {refused.value}"))
    assert runtime._classify([ended]) == Exit.REFUSED  # type: ignore[list-item]


def test_offsets_that_are_gone_because_their_topic_was_recreated_are_refused_with_its_command(root: str) -> None:
    made = checkpoints.begin(root)
    topic_identity.require_same(made.paths(root), {"pos": "A"}, "pos_sales")
    ended: Any = [SimpleNamespace(name="pos_sales.tumbling", generation=made)]

    def message(kafka: Any) -> str:
        return runtime._replaced_topic(ended, kafka, root)

    assert "headrace stream start pos_sales --new-generation all" in message(Topics({"pos": "B"}))
    assert message(Topics({"pos": "A"})) == ""
    assert message(Topics({})) == ""
    assert message(Topics({"pos": "B"}, silent=True)) == ""


def test_a_topic_made_again_while_a_batch_is_written_leaves_the_batch_undone(root: str) -> None:
    kafka = Topics({"pos": "A"})

    def written() -> int:
        kafka.ids["pos"] = "B"
        return 1

    with pytest.raises(HeadraceError, match="was deleted and recreated"):
        _write(root, kafka, written)
    assert (kafka.committed, ledger.batches(f"{root}/checkpoints/pos_sales/tumbling/0001/ledger")) == ([], [])


def test_the_same_topic_and_one_that_is_away_for_a_moment_end_nothing(root: str) -> None:
    assert ledger.batches(_write(root, Topics({"pos": "A"}), lambda: 1)) == [0]
    assert topic_identity.replaced({"pos": "A"}, {}) == []


def test_batches_that_follow_fast_ask_kafka_once_each(root: str) -> None:
    kafka = Topics({"pos": "A"})
    _write(root, kafka, lambda: 1, batches=3)
    assert kafka.asked == 1 + 3  # before the first, and before the ledger takes each


def test_a_kafka_that_does_not_answer_ends_no_batch_and_is_left_alone_for_a_while(root: str) -> None:
    kafka = Topics({"pos": "B"}, silent=True)
    assert ledger.batches(_write(root, kafka, lambda: 1, batches=3)) == [0, 1, 2]
    assert kafka.asked == 1


def test_a_generation_keeps_the_ids_that_it_began_with_and_an_old_one_takes_the_present_ones(root: str) -> None:
    generation_paths = checkpoints.begin(root).paths(root)
    assert topic_identity.read(generation_paths) == {}  # begun by a release that knew no ids
    topic_identity.require_same(generation_paths, {"pos": "A"}, "pos_sales")
    topic_identity.require_same(generation_paths, {"pos": "A"}, "pos_sales")
    assert topic_identity.read(generation_paths) == {"pos": "A"}
    with pytest.raises(HeadraceError, match="its id was A and is now B") as refused:
        topic_identity.require_same(generation_paths, {"pos": "B"}, "pos_sales")
    assert refused.value.exit_code == Exit.REFUSED
    assert topic_identity.read(generation_paths) == {"pos": "A"}


def test_a_restored_generation_reads_the_topic_of_its_snapshot(root: str) -> None:
    made = checkpoints.begin(root)
    checkpoints.run(root, made, range(3))
    topic_identity.require_same(made.paths(root), {"pos": "A"}, "pos_sales")
    snapshots.take(root, "pos_sales", "tumbling")
    restore.restore(checkpoints.FakeLauncher(root), POS, "tumbling", by="test", reason="test")
    with pytest.raises(HeadraceError, match="was deleted and recreated"):
        topic_identity.require_same(paths.generation_paths(root, "pos_sales", "tumbling", 2), {"pos": "B"}, "pos_sales")


def _archive(root: str, topic_id: str) -> str:
    """Write the metadata of an archive table with one append of a topic; return the table's folder."""
    folder = f"{paths.lake(root)}/pos_sales/archive_pos"
    noted = {"headrace-batch": "pos_sales.archive_pos/1/4", "headrace-offsets": '{"pos":{"0":50}}'}
    snapshot = {"snapshot-id": 7, "timestamp-ms": 1, "summary": noted | {"headrace-topic-id": topic_id}}
    small_files.write_json(f"{folder}/metadata/v1.metadata.json", {"current-snapshot-id": 7, "snapshots": [snapshot]})
    return folder


def test_the_archive_of_another_topic_is_refused_and_set_aside_when_its_query_begins_again(root: str) -> None:
    folder = _archive(root, "A")
    driver = SimpleNamespace(root=root, pipeline=POS)
    queries._require_archive_of(driver, "pos", {"pos": "A"}, new=True)  # type: ignore[arg-type]
    with pytest.raises(HeadraceError, match="headrace stream start pos_sales --new-generation all"):
        queries._require_archive_of(driver, "pos", {"pos": "B"}, new=False)  # type: ignore[arg-type]
    assert small_files.list_names(folder) == ["metadata"]
    queries._require_archive_of(driver, "pos", {"pos": "B"}, new=True)  # type: ignore[arg-type]
    assert small_files.list_names(folder) == []
    (when,) = small_files.list_names(paths.set_aside(root))
    assert small_files.list_names(f"{paths.set_aside(root)}/{when}/pos_sales/archive_pos") == ["metadata"]
    queries._require_archive_of(driver, "pos", {"pos": "B"}, new=False)  # type: ignore[arg-type]


def test_all_stands_for_every_query_and_the_archives_and_a_misspelt_one_is_refused() -> None:
    every = generations.named(POS, ["all"])
    assert {"tumbling", "archive_pos"} <= set(every)
    assert generations.named(POS, ["archive_pos"]) == ["archive_pos"]
    with pytest.raises(HeadraceError, match="Unknown query 'tumblin' of pos_sales"):
        generations.named(POS, ["tumblin"])
