"""The ledger: what is written is read, in order, and a replay changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.store import ledger
from headrace.store.checkpoint_log import BatchRange


def record(batch: int, rows_out: int = 3) -> ledger.BatchRecord:
    taken = BatchRange(
        batch=batch,
        start={"pos": {1: 4}},
        end={"pos": {10: 2, 1: 9}, "clicks": {0: 0}},
        watermark_ms=90_000,
        late_watermark_ms=60_000,
    )
    return ledger.make_record("pos_sales.tumbling", 2, taken, rows_out=rows_out, began_ms=1, written_ms=2)


def test_a_record_says_which_offsets_the_batch_took_and_by_which_watermark_its_rows_were_late() -> None:
    assert record(7) == {
        "query": "pos_sales.tumbling",
        "generation": 2,
        "batch": 7,
        "offsets": {"clicks": {"0": [0, 0]}, "pos": {"1": [4, 9], "10": [0, 2]}},
        "watermark_ms": 90_000,
        "late_watermark_ms": 60_000,
        "rows_in": 7,
        "rows_out": 3,
        "began_ms": 1,
        "written_ms": 2,
    }


def test_records_come_back_as_they_were_in_the_order_of_batches(tmp_path: Path) -> None:
    folder = str(tmp_path / "ledger")
    assert ledger.read(folder) == []
    for batch in (10, 2, 9, 12_345_678_901):
        ledger.write(folder, record(batch))
    assert ledger.read(folder) == [record(batch) for batch in (2, 9, 10, 12_345_678_901)]


def test_a_replayed_batch_stands_in_the_ledger_once(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), record(1))
    ledger.write(str(tmp_path), record(1, rows_out=4))
    assert ledger.read(str(tmp_path)) == [record(1, rows_out=4)]


def test_a_file_that_a_killed_driver_left_aside_is_no_record(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), record(1))
    (tmp_path / ".0000000002.json.0123").write_text('{"batch":')
    (tmp_path / ".0000000003.json").write_text('{"batch":')
    assert ledger.read(str(tmp_path)) == [record(1)]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["0000000001.json"]


def test_a_broken_record_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    ledger.write(str(tmp_path), record(1))
    (tmp_path / "0000000002.json").write_text('{"batch":')
    with pytest.raises(HeadraceError, match=r"0000000002\.json is not JSON"):
        ledger.read(str(tmp_path))
