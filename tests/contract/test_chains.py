"""A topic that one pipeline writes and another reads is a chain: its settings, its order, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.contract.kafka import SOURCE_RECORD_BYTES, WRITTEN_RECORD_BYTES, topics
from headrace.contract.load import load_pipelines, read_folder
from headrace.contract.rules_between import in_order
from headrace.errors import HeadraceError
from headrace.operations.lineage import graph

COLUMNS = {"order_id": {"type": "string", "required": True}, "amount": {"type": "long", "required": True}}


def link(name: str, reads: str, writes: str, **source: Any) -> dict[str, Any]:
    """A pipeline that copies one topic into another."""
    given = {"key": "order_id", "columns": copy.deepcopy(COLUMNS)} | source
    sink = {"kind": "kafka", "topic": writes, "key": "order_id"}
    copied = {"sources": [reads], "mode": "append", "columns": copy.deepcopy(COLUMNS), "sinks": [sink]}
    return {
        "name": name, "owner": "t", "description": "t", "version": 1, "sources": {reads: given}, "queries": {"copied": copied},
    }  # fmt: skip


def folder_of(place: Path, *pipelines: dict[str, Any]) -> Path:
    for pipeline in pipelines:
        (place / f"{pipeline['name']}.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return place


def refusal(place: Path, *pipelines: dict[str, Any]) -> list[str]:
    with pytest.raises(HeadraceError) as caught:
        load_pipelines(folder_of(place, *pipelines))
    return str(caught.value).splitlines()


def test_a_topic_that_one_pipeline_writes_and_another_reads_is_as_its_writer_wants_it_for_both(tmp_path: Path) -> None:
    loaded = load_pipelines(folder_of(tmp_path, link("b", "orders", "joined"), link("a", "joined", "out")))
    (by_writer,) = [topic for topic in topics(loaded["b"]) if topic.name == "joined"]
    (by_reader,) = [topic for topic in topics(loaded["a"]) if topic.name == "joined"]
    assert by_writer == by_reader
    assert by_reader.config["max.message.bytes"] == str(WRITTEN_RECORD_BYTES)
    (orders,) = [topic for topic in topics(loaded["b"]) if topic.name == "orders"]
    assert orders.config["max.message.bytes"] == str(SOURCE_RECORD_BYTES)


def test_writers_come_before_their_readers(tmp_path: Path) -> None:
    chain = link("c", "orders", "x"), link("b", "x", "y"), link("a", "y", "z")
    loaded = load_pipelines(folder_of(tmp_path, *chain))
    assert list(loaded) == ["a", "b", "c"]
    assert list(in_order(loaded)) == ["c", "b", "a"]


def test_the_topic_of_a_chain_has_one_archive_and_one_place_for_dead_letters(tmp_path: Path) -> None:
    loaded = load_pipelines(folder_of(tmp_path, link("a", "orders", "joined"), link("b", "joined", "out")))
    where = graph.Places("kafka://k", "cassandra://c", "file:///lake")
    jobs = {job.name: job for pipeline in loaded.values() for job in graph.stream_jobs(pipeline, where).values()}
    outputs = [dataset.name for job in jobs.values() for dataset in job.outputs]
    assert [name for name in outputs if "archive_joined" in name] == ["b.archive_joined"]
    assert outputs.count("joined_dead_letters") == 1
    assert [dataset.name for dataset in jobs["a.copied"].outputs] == [
        dataset.name for dataset in jobs["b.copied"].inputs
    ]


def test_a_loop_of_pipelines_is_refused_by_its_name(tmp_path: Path) -> None:
    (fault,) = refusal(tmp_path, link("a", "z", "x"), link("b", "x", "y"), link("c", "y", "z"))
    names = fault.split(": a loop")[0].split(" -> ")
    assert names[0] == names[-1]
    assert sorted(names[:-1]) == ["a", "b", "c", "topic x", "topic y", "topic z"]
    place = names.index("a") if names[0] != "a" else 0
    assert names[place + 1] == "topic x"
    assert set(read_folder(tmp_path).clashes) == {"a", "b", "c"}


def test_two_readers_of_one_topic_are_refused_for_it_would_be_archived_twice(tmp_path: Path) -> None:
    faults = refusal(tmp_path, link("a", "orders", "x"), link("b", "x", "y"), link("c", "x", "z"))
    assert "c and b both own topic x: only one pipeline may read, archive or write it" in faults[0]


def test_two_writers_of_one_topic_are_refused(tmp_path: Path) -> None:
    faults = refusal(tmp_path, link("a", "orders", "x"), link("b", "sales", "x"))
    assert faults == [
        (
            "b and a both own topic x: only one pipeline may read, archive or write it. "
            "Rename it in one, or move the query into the other."
        )
    ]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"partitions": 6}, "partitions: a.copied, which writes the topic, declares 2. Write partitions: 2."),
        (
            {"retention": "3 days"},
            "retention: a.copied, which writes the topic, declares 7 days. Write retention: 7 days.",
        ),
        (
            {"key": "note", "columns": COLUMNS | {"note": {"type": "string", "required": True}}},
            "key: a.copied, which writes the topic, writes key order_id. Write key: order_id.",
        ),
        (
            {"columns": COLUMNS | {"note": {"type": "string", "required": True}}},
            "columns.note: a.copied, which writes the topic, has no such column",
        ),
        (
            {"columns": COLUMNS | {"amount": {"type": "string", "required": True}}},
            "columns.amount: a.copied, which writes the topic, writes long. Write type: long.",
        ),
    ],
)
def test_a_reader_that_does_not_fit_its_writer_is_refused(tmp_path: Path, source: dict[str, Any], says: str) -> None:
    faults = refusal(tmp_path, link("a", "orders", "joined"), link("b", "joined", "out", **source))
    assert any(line.startswith(f"pipelines/b.yaml: sources.joined.{says}") for line in faults)
    assert set(read_folder(tmp_path).clashes) == {"b"}


@pytest.mark.parametrize(
    ("written", "read", "fits"),
    [
        ("decimal(12,2)", "decimal(22,2)", True),
        ("decimal(12,2)", "decimal(12,4)", False),
        ("int", "long", True),
        ("long", "int", False),
        ("timestamp", "timestamp", True),
    ],
)
def test_a_reader_may_have_a_wider_type_than_its_writer(tmp_path: Path, written: str, read: str, fits: bool) -> None:
    writer = link("a", "orders", "joined")
    writer["queries"]["copied"]["columns"]["amount"]["type"] = written
    reader = link("b", "joined", "out", columns=COLUMNS | {"amount": {"type": read, "required": True}})
    assert (not read_folder(folder_of(tmp_path, writer, reader)).clashes) == fits
