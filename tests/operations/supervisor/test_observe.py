"""What a look sees where something is away or half there, without any server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel

from headrace.access.bindings import write_binding
from headrace.contract import names
from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError
from headrace.operations.drivers import control
from headrace.operations.supervisor import observe
from headrace.operations.supervisor.cycle import Context, run_pass
from headrace.operations.supervisor.observe import KafkaEnds, positions_of
from headrace.store import generation
from tests.operations.supervising import Imagined
from tests.operations.supervisor.test_verdict import PIPELINE
from tests.support.platform import free_ports

(TOPIC,) = PIPELINE.sources


def test_a_kafka_that_is_away_is_one_sentence_and_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    values = {
        "type": "kafka", "bootstrapServers": f"127.0.0.1:{port}", "securityProtocol": "SASL_PLAINTEXT",
        "saslMechanism": "SCRAM-SHA-512", "username": "admin", "password": "not-a-secret",
    }  # fmt: skip
    write_binding(tmp_path / "kafka", values)
    monkeypatch.setattr(observe, "KAFKA_SECONDS", 0.3)
    monkeypatch.setattr(observe, "AWAY_SECONDS", 3600.0)  # four questions may last longer than three seconds
    ends, asked = KafkaEnds(tmp_path), 0
    ask = KafkaEnds._ask

    def counted(self: KafkaEnds, topics: list[str], isolation: IsolationLevel) -> object:
        nonlocal asked
        asked += 1
        return ask(self, topics, isolation)

    monkeypatch.setattr(KafkaEnds, "_ask", counted)
    for _ in range(4):
        with pytest.raises(HeadraceError, match=r"Kafka does not answer \(.+\): see `headrace status`"):
            ends([TOPIC])
    assert asked == 1
    assert capfd.readouterr().err == "", "the client must not speak beside the verdict"


def _batches(root: str, query: str, offsets: dict[int, int], commits: list[int]) -> None:
    """Begin a generation whose checkpoint has offsets/N at `offsets[N]` in both partitions, and commits."""
    folder = Path(generation.begin(root, PIPELINE.name, query, {}).paths(root).checkpoint)
    for log in ("offsets", "commits"):
        (folder / log).mkdir(parents=True)
    for batch, offset in offsets.items():
        ends = json.dumps({TOPIC: {"0": offset, "1": offset}})
        (folder / "offsets" / str(batch)).write_text(f'v1\n{{"batchWatermarkMs":0}}\n{ends}\n')
    for batch in commits:
        (folder / "commits" / str(batch)).write_text("v1\n{}\n")


def test_lag_is_kafkas_end_minus_what_the_checkpoint_has_committed_not_planned(tmp_path: Path) -> None:
    _batches(str(tmp_path), "last_login", {0: 10, 1: 20, 2: 30}, [0, 1])
    positions = positions_of(str(tmp_path), PIPELINE, {TOPIC: {0: 30, 1: 25}})
    assert (positions["last_login"].generation, positions["last_login"].batch, positions["last_login"].lag) == (
        1,
        1,
        15,
    )
    never_ran = positions[names.archive_query(TOPIC)]
    assert (never_ran.generation, never_ran.batch, never_ran.lag) == (None, None, 55)


def test_a_new_partition_counts_from_its_first_record_and_a_shrunken_topic_is_no_negative_lag(tmp_path: Path) -> None:
    _batches(str(tmp_path), "last_login", {0: 10}, [0])
    ends = {TOPIC: {0: 10, 1: 4, 2: 7}}
    assert positions_of(str(tmp_path), PIPELINE, ends)["last_login"].lag == 7


def test_what_stands_behind_an_open_transaction_is_no_lag_but_is_reported(tmp_path: Path) -> None:
    _batches(str(tmp_path), "last_login", {0: 10}, [0])
    positions = positions_of(str(tmp_path), PIPELINE, {TOPIC: {0: 10, 1: 4}}, {TOPIC: {0: 17, 1: 4}})
    position = positions["last_login"]
    assert (position.lag, position.held, position.held_at) == (0, 7, f"{TOPIC}/0 offset 10")
    assert positions_of(str(tmp_path), PIPELINE, {TOPIC: {0: 10, 1: 4}})["last_login"].held_at == ""


def test_a_checkpoint_that_cannot_be_read_is_reported_for_that_query_alone(tmp_path: Path) -> None:
    _batches(str(tmp_path), "last_login", {1: 20}, [1])
    positions = positions_of(str(tmp_path), PIPELINE, {TOPIC: {0: 0, 1: 0}})
    assert "offsets/0 is missing or truncated" in positions["last_login"].error
    assert not positions[names.archive_query(TOPIC)].error


def test_a_pass_over_all_pipelines_of_this_project_is_cheap(tmp_path: Path, project: Path) -> None:
    """Below 10 s of processor time are promised; Kafka's two answers are imagined here, checkpoints are real files."""
    began = time.process_time()
    for name, pipeline in load_pipelines(project / "pipelines").items():
        launcher = Imagined(str(tmp_path))
        control.start(launcher, name, by="ann")
        for query in names.query_names(pipeline):
            folder = Path(generation.begin(str(tmp_path), name, query, {}).paths(str(tmp_path)).checkpoint)
            for log in ("offsets", "commits"):
                (folder / log).mkdir(parents=True)
                for batch in range(100):  # what Spark retains
                    offsets = json.dumps({topic: {"0": batch, "1": batch} for topic in pipeline.sources})
                    (folder / log / str(batch)).write_text(f'v1\n{{"batchWatermarkMs":0}}\n{offsets}\n')
        report = run_pass(Context(launcher, pipeline, lambda topics: {topic: {0: 99, 1: 100} for topic in topics}))
        assert [query.batch for query in report.queries] == [99] * len(report.queries)
    spent = time.process_time() - began
    print(f"\n{spent:.2f} s of processor time, with making the files")
    assert spent < 10
