"""Upkeep: a reader that lists and reads at any moment of it sees every batch once, and a kill leaves nothing worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fsspec
import pytest

from headrace.operations.checkpoints import compact, restore, snapshots, verify
from headrace.store import file_sink, generation, ledger, small_files, trees
from tests.support.checkpoints import FakeLauncher, begin, rows_of, run, with_files


class KilledError(Exception):
    """Stands for SIGKILL."""


def _every_moment(monkeypatch: pytest.MonkeyPatch, look: Callable[[], None], kill_at: int | None = None) -> list[str]:
    """Look before every change that upkeep makes to the file system; kill it before change number `kill_at`."""
    moments: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def looked(*args: Any, **kwargs: Any) -> Any:
            look()
            moments.append(name)
            if len(moments) == kill_at:
                raise KilledError
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, looked)

    for name in ("remove", "remove_file"):
        watch(trees, name)
    watch(small_files, "write_text")
    for protocol in ("file", "memory"):
        for name in ("mv", "rm"):
            watch(fsspec.get_filesystem_class(protocol), name)
    return moments


@pytest.mark.parametrize("kill_at", [None, 1, 2, 5, 40])
def test_a_ledger_is_gathered_and_reads_the_same_at_every_moment(
    root: str, monkeypatch: pytest.MonkeyPatch, kill_at: int | None
) -> None:
    made = begin(root)
    run(root, made, range(60))
    folder = made.paths(root).ledger
    before = ledger.read(folder)
    with monkeypatch.context() as patch:
        moments = _every_moment(patch, lambda: _same(ledger.read(folder), before), kill_at)
        try:
            assert compact.compact_ledger(folder, singles=10) == 50
            assert kill_at is None
        except KilledError:
            assert kill_at is not None
    assert moments
    compact.compact_ledger(folder, singles=10)
    assert ledger.read(folder) == before
    names = small_files.list_names(folder)
    assert (len(ledger.segments(names)), ledger.singles(names)) == (1, list(range(50, 60)))
    assert (ledger.batches(folder), ledger.record(folder, 7)) == (list(range(60)), before[7])
    assert compact.compact_ledger(folder, singles=10) == 0
    assert verify.verify(root, with_files(), "archive_pos").findings == ()
    run(root, made, range(60, 64))
    assert len(ledger.read(folder)) == 64


def _same(actual: object, wanted: object) -> None:
    assert actual == wanted


def test_a_ledger_with_a_gap_is_gathered_around_it_and_many_segments_become_few(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "SEGMENT_RECORDS", 7)
    monkeypatch.setattr(compact, "SEGMENTS_MERGED", 3)
    made = begin(root)
    run(root, made, range(40))
    folder = made.paths(root).ledger
    trees.remove_file(f"{folder}/{ledger.record_name(20)}")
    before = ledger.read(folder)
    compact.compact_ledger(folder, singles=0)
    assert ledger.read(folder) == before
    assert [ledger.bounds(name) for name in ledger.segments(small_files.list_names(folder))] == [(0, 19), (21, 39)]


def test_a_long_ledger_is_never_rewritten_and_a_reader_from_its_end_reads_only_that(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SEGMENT_RECORDS", 10), ("SEGMENTS_MERGED", 1), ("MERGED_RECORDS", 20)):
        monkeypatch.setattr(compact, name, value)
    made = begin(root)
    folder = made.paths(root).ledger
    write, sizes = ledger.write_segment, []

    def noted(folder: str, records: list[ledger.BatchRecord]) -> str:
        sizes.append(len(records))
        return write(folder, records)

    monkeypatch.setattr(ledger, "write_segment", noted)
    for start in range(0, 200, 10):
        run(root, made, range(start, start + 10), stateful=False)
        compact.compact_ledger(folder, singles=0)
    assert max(sizes) == 20
    assert sum(sizes) <= 2 * 200, "each record is written at most twice"
    segments = [ledger.bounds(name) for name in ledger.segments(small_files.list_names(folder))]
    assert segments == [(first, first + 19) for first in range(0, 200, 20)]
    assert ledger.runs(folder) == [range(200)]
    read = small_files.read_text
    opened: list[str] = []

    def counted(path: str) -> str | None:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(small_files, "read_text", counted)
    assert [record["batch"] for record in ledger.read(folder, 195)] == list(range(195, 200))
    assert len(opened) == 1


@pytest.mark.parametrize("kill_at", [None, 1, 2, 3, 9])
def test_output_directories_are_gathered_and_a_reader_sees_each_row_once_at_every_moment(
    root: str, monkeypatch: pytest.MonkeyPatch, kill_at: int | None
) -> None:
    made = begin(root, "files", stateful=False)
    run(root, made, range(30), stateful=False)
    rows = list(range(30))
    with monkeypatch.context() as patch:
        _every_moment(patch, lambda: _same(rows_of(root, made), rows), kill_at)
        for _ in range(2):
            try:
                compact.compact_files(root, made, closed_seconds=-1)
            except KilledError:
                continue
            assert rows_of(root, made) == rows
    compact.compact_files(root, made, closed_seconds=-1)
    compact.compact_files(root, made, closed_seconds=-1)
    folder = made.paths(root).files
    assert small_files.list_names(folder) == ["batch_id=0-29"]
    assert rows_of(root, made) == rows
    assert verify.verify(root, with_files(), "files").findings == ()
    run(root, made, range(30, 33), stateful=False)
    assert rows_of(root, made) == list(range(33))


def test_directories_wait_for_who_has_them_open_and_young_ones_are_left_alone(root: str) -> None:
    made = begin(root, "files", stateful=False)
    run(root, made, range(30), stateful=False)
    assert compact.compact_files(root, made, closed_seconds=3600) == (0, 0)
    assert compact.compact_files(root, made, closed_seconds=-1) == (1, 0)
    assert compact.compact_files(root, made, closed_seconds=3600) == (0, 0)
    assert len(small_files.list_names(made.paths(root).files)) == 31
    assert compact.compact_files(root, made, closed_seconds=-1) == (0, 30)


def test_a_gathered_directory_never_reaches_over_a_cut_that_somebody_may_restore(root: str) -> None:
    made = begin(root, "files", stateful=False)
    run(root, made, range(15), stateful=False)
    cut = snapshots.take(root, "pos_sales", "files")
    run(root, made, range(15, 40), stateful=False)
    for _ in range(2):
        compact.compact_queries(root, with_files(), closed_seconds=-1, singles=5)
    folder = made.paths(root).files
    assert [
        (directory.first, directory.last) for directory in file_sink.parse(folder, small_files.list_names(folder))
    ] == [
        (0, 14),
        (15, 39),
    ]
    restore.restore(FakeLauncher(root), with_files(), "files", cut.id, by="test", reason="test")
    now = generation.current(root, "pos_sales", "files")
    assert now is not None
    assert rows_of(root, now) == list(range(15))
    trees.remove(cut.paths(root).folder)  # the lineage remembers the cut after the snapshot is gone
    run(root, now, range(15, 20), stateful=False)
    compact.compact_queries(root, with_files(), closed_seconds=-1, singles=5)
    assert rows_of(root, now) == list(range(20))
