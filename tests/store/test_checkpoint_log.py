"""Reading Spark's checkpoint, on folders made by hand in the shape that Spark 3.5 writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.store.checkpoint_log import Offsets, initial_offsets, newest_batch, read_batch_range


def offsets(folder: Path, batch: int, watermark: int, *sources: Offsets | None) -> None:
    """Write `offsets/<batch>` as OffsetSeqLog does; None is a source that has no offset yet."""
    path = folder / "offsets" / str(batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["-" if source is None else json.dumps(source) for source in sources]
    metadata = {"batchWatermarkMs": watermark, "batchTimestampMs": 1, "conf": {"spark.sql.shuffle.partitions": "2"}}
    path.write_text("\n".join(["v1", json.dumps(metadata), *lines]))
    (path.parent / f".{batch}.crc").write_bytes(b"\0")


def began(folder: Path, source: int, at: Offsets) -> None:
    """Write `sources/<n>/0` as KafkaSourceInitialOffsetWriter does: a zero byte, a version line, JSON."""
    path = folder / "sources" / str(source) / "0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0v1\n" + json.dumps(at).encode())


def test_the_first_batch_starts_where_the_source_began(tmp_path: Path) -> None:
    began(tmp_path, 0, {"pos": {0: 5, 1: 0}})
    offsets(tmp_path, 0, 0, {"pos": {0: 8, 1: 2}})
    read = read_batch_range(str(tmp_path), 0)
    assert (read.start, read.end, read.offsets) == ({"pos": {0: 5, 1: 0}}, {"pos": {0: 8, 1: 2}}, 5)
    assert (read.watermark_ms, read.late_watermark_ms) == (0, 0)


def test_a_later_batch_starts_where_the_one_before_ended_and_is_late_by_its_watermark(tmp_path: Path) -> None:
    began(tmp_path, 0, {"pos": {0: 0}})
    offsets(tmp_path, 41, 60_000, {"pos": {0: 10}})
    offsets(tmp_path, 42, 90_000, {"pos": {0: 10}})
    offsets(tmp_path, 43, 90_001, {"pos": {0: 11}})
    read = read_batch_range(str(tmp_path), 42)
    assert (read.offsets, read.watermark_ms, read.late_watermark_ms) == (0, 90_000, 60_000)
    read = read_batch_range(str(tmp_path), 43)
    assert (read.offsets, read.start, read.watermark_ms, read.late_watermark_ms) == (
        1,
        {"pos": {0: 10}},
        90_001,
        90_000,
    )


def test_a_topic_that_is_silent_at_first_starts_where_it_began(tmp_path: Path) -> None:
    began(tmp_path, 0, {"impressions": {0: 0}})
    began(tmp_path, 1, {"clicks": {0: 7}})
    offsets(tmp_path, 0, 0, {"impressions": {0: 3}}, None)
    offsets(tmp_path, 1, 0, {"impressions": {0: 3}}, {"clicks": {0: 9}})
    assert read_batch_range(str(tmp_path), 0).offsets == 3
    read = read_batch_range(str(tmp_path), 1)
    assert read.start == {"impressions": {0: 3}, "clicks": {0: 7}}
    assert read.offsets == 2


def test_a_partition_that_was_added_starts_at_its_first_record(tmp_path: Path) -> None:
    began(tmp_path, 0, {"pos": {0: 5}})
    offsets(tmp_path, 0, 0, {"pos": {0: 6}})
    offsets(tmp_path, 1, 0, {"pos": {0: 6, 1: 4}})
    assert read_batch_range(str(tmp_path), 1).offsets == 4


@pytest.mark.parametrize(
    "text", [None, "", "v1", 'v1\n{"batchWatermarkMs": 0}'], ids=["gone", "empty", "cut", "no source"]
)
def test_an_offset_log_that_is_gone_or_cut_is_an_error_with_a_remedy(tmp_path: Path, text: str | None) -> None:
    began(tmp_path, 0, {"pos": {0: 0}})
    offsets(tmp_path, 0, 0, {"pos": {0: 1}})
    path = tmp_path / "offsets" / "0"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(HeadraceError, match=r"offsets/0 is missing or truncated.*start a new generation"):
        read_batch_range(str(tmp_path), 0)


def test_a_missing_batch_before_is_an_error_and_not_a_range_from_the_beginning(tmp_path: Path) -> None:
    began(tmp_path, 0, {"pos": {0: 0}})
    offsets(tmp_path, 9, 60_000, {"pos": {0: 500}})
    with pytest.raises(HeadraceError, match="offsets/8 is missing or truncated"):
        read_batch_range(str(tmp_path), 9)


def test_the_beginnings_of_all_topics_are_read(tmp_path: Path) -> None:
    assert initial_offsets(str(tmp_path)) == {}
    began(tmp_path, 0, {"impressions": {0: 1}})
    began(tmp_path, 1, {"clicks": {0: 2, 1: 3}})
    assert initial_offsets(str(tmp_path)) == {"impressions": {0: 1}, "clicks": {0: 2, 1: 3}}


def test_the_newest_batch_is_found_by_number_among_other_files(tmp_path: Path) -> None:
    assert newest_batch(str(tmp_path)) is None
    for name in ("9", "10", ".10.crc", "10.tmp", "metadata"):
        (tmp_path / "commits").mkdir(exist_ok=True)
        (tmp_path / "commits" / name).write_text("")
    assert newest_batch(str(tmp_path)) == 10
    assert newest_batch(str(tmp_path), "offsets") is None
