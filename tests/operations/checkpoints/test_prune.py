"""Prune on files alone: what nothing refers to goes, and what something refers to stays."""

from __future__ import annotations

import time

import pytest

from headrace.errors import HeadraceError
from headrace.operations.checkpoints import prune, restore, snapshots
from headrace.operations.plans import Approval
from headrace.store import generation, paths, small_files, trees
from headrace.store import snapshot as kept
from tests.support import checkpoints
from tests.support.checkpoints import Approver, FakeLauncher, begin, rows_of, run

POS = checkpoints.pos_sales()
WHO: Approver = {"by": "test", "reason": "test"}


def test_prune_takes_what_nothing_refers_to_to_the_trash_and_later_away(root: str) -> None:
    made = begin(root, "files", stateful=False)
    run(root, made, range(3), stateful=False)
    lost = begin(root, "files", stateful=False)
    run(root, lost, range(3), stateful=False)
    old = snapshots.take(root, "pos_sales", "files", number=1)
    restore.restore(FakeLauncher(root), checkpoints.with_files(), "files", old.id, **WHO)
    now = generation.current(root, "pos_sales", "files")
    assert now is not None
    seen = rows_of(root, now)
    for _ in range(3):
        snapshots.take(root, "pos_sales", "files")
    keep = prune.Retention(generation_days=0, snapshot_days=0, snapshots=1, trash_days=1)
    assert prune.plan(root, [checkpoints.with_files()], prune.Retention()).items == ()
    planned = prune.plan(root, [checkpoints.with_files()], keep)
    assert prune.plan(root, [checkpoints.with_files()], keep, time.time_ns() // 1_000_000 + 1000).id == planned.id, (
        "ages are notes"
    )
    gone = [item.target for item in planned.items]
    assert gone[:2] == ["checkpoints/pos_sales/files/0002", "files/pos_sales/files/0002"]
    # of four snapshots, the newest and the one that the current generation came from stay
    assert [path.startswith("snapshots/") for path in gone[2:]] == [True, True]
    snapshots.take(root, "pos_sales", "files")
    with pytest.raises(HeadraceError, match=f"The situation changed since plan {planned.id}"):
        prune.act(root, [checkpoints.with_files()], keep, Approval(planned.id, **WHO))
    assert all(trees.files(f"{root}/{path}") for path in gone), "nothing was moved"
    prune.act(
        root, [checkpoints.with_files()], keep, Approval(prune.plan(root, [checkpoints.with_files()], keep).id, **WHO)
    )
    assert [present.number for present in generation.all_of(root, "pos_sales", "files")] == [1, 3]
    assert rows_of(root, now) == seen == [0, 1, 2]
    assert old.id in {snapshot.id for snapshot in kept.listed(root, "pos_sales", "files")}
    assert prune.plan(root, [checkpoints.with_files()], keep).items == ()
    (trashed,) = small_files.list_names(paths.trash(root))
    assert trees.files(f"{paths.trash(root)}/{trashed}/files/pos_sales/files/0002")
    later = prune.plan(root, [checkpoints.with_files()], keep, time.time_ns() // 1_000_000 + 2 * prune.DAY_MS)
    assert [item.target for item in later.items if item.action == prune.DELETE] == [f"trash/{trashed}"]
    assert later.items[-1].note.startswith("in the trash for 2.0 days, ")


def test_prune_keeps_the_output_files_that_a_kept_snapshot_is_restored_with_and_takes_them_with_it(root: str) -> None:
    made = begin(root, "files", stateful=False)
    run(root, made, range(5), stateful=False)
    taken = snapshots.take(root, "pos_sales", "files")
    run(root, begin(root, "files", stateful=False), range(2), stateful=False)
    later = time.time_ns() // 1_000_000 + 15 * prune.DAY_MS
    planned = prune.plan(root, [checkpoints.with_files()], prune.Retention(), later)
    assert planned.items == ()
    assert planned.notes == (f"Generation 1 of pos_sales.files stays: snapshot {taken.id} needs its output files.",)
    restore.restore(FakeLauncher(root), checkpoints.with_files(), "files", taken.id, **WHO)
    now = generation.current(root, "pos_sales", "files")
    assert now is not None
    assert rows_of(root, now) == list(range(5))
    # without the snapshot nothing needs them: both go at once
    run(root, begin(root, "files", stateful=False), range(2), stateful=False)
    for _ in range(2):
        snapshots.take(root, "pos_sales", "files")
    much_later = later + 30 * prune.DAY_MS
    keep = prune.Retention(snapshots=1)
    gone = [item.target for item in prune.plan(root, [checkpoints.with_files()], keep, much_later).items]
    assert {"files/pos_sales/files/0001", f"snapshots/pos_sales/files/{taken.id}"} <= set(gone)


def test_a_snapshot_that_was_broken_off_is_none_and_goes_once_a_later_one_is_complete(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root, begin(root), range(3))
    with monkeypatch.context() as patch:
        patch.setattr(small_files, "write_json", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            snapshots.take(root, "pos_sales", "tumbling")
    (broken,) = small_files.list_names(paths.snapshots(root, "pos_sales", "tumbling"))
    assert kept.listed(root, "pos_sales", "tumbling") == []
    assert prune.plan(root, [POS], prune.Retention()).items == ()
    snapshots.take(root, "pos_sales", "tumbling")
    (item,) = prune.plan(root, [POS], prune.Retention()).items
    assert item.target.endswith(broken)
    assert item.note.startswith("a snapshot of pos_sales.tumbling that was broken off, ")
