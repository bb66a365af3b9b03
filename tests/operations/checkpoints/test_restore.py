"""Snapshot and restore on files alone: a cut, and a new generation."""

from __future__ import annotations

import pytest

from headrace.errors import HeadraceError
from headrace.operations.checkpoints import inspect, restore, snapshots, verify
from headrace.operations.drivers import desired_state
from headrace.operations.drivers.interface import Driver
from headrace.operations.plans import Approval
from headrace.store import checkpoint_log, file_sink, generation, ledger, paths, small_files, trees
from headrace.store import snapshot as kept
from tests.support import checkpoints
from tests.support.acts import acts
from tests.support.checkpoints import Approver, FakeLauncher, begin, plan_batch, rows_of, run, write_batch

POS = checkpoints.pos_sales()
WHO: Approver = {"by": "test", "reason": "test"}


def test_a_snapshot_is_the_cut_at_the_newest_commit_while_the_next_batch_is_under_way(root: str) -> None:
    made = begin(root)
    run(root, made, range(13))
    plan_batch(root, made, 13)
    checkpoints.put(f"{made.paths(root).checkpoint}/state/0/0/14.delta", b"of batch 13, which is not committed")
    write_batch(root, made, 13)
    taken = snapshots.take(root, "pos_sales", "tumbling", reason="why")
    snapshot_paths = taken.paths(root)
    assert (taken.generation, taken.batch, taken.reason) == (1, 12, "why")
    assert (
        checkpoint_log.batches(snapshot_paths.checkpoint, "offsets")
        == checkpoint_log.batches(snapshot_paths.checkpoint, "commits")
        == list(range(3, 13))
    )
    assert [record["batch"] for record in ledger.read(snapshot_paths.ledger)] == list(range(13))
    states = {
        path
        for path in trees.files(snapshot_paths.checkpoint)
        if path.startswith("state/0/0/") and "_metadata" not in path
    }
    assert states == {f"state/0/0/{name}" for name in ("10.snapshot", "11.delta", "12.delta", "13.delta")}
    assert kept.listed(root, "pos_sales", "tumbling") == [taken]
    assert kept.damaged(root, taken) == []


def test_a_snapshot_that_lost_or_changed_a_file_is_not_restored(root: str) -> None:
    run(root, begin(root), range(3))
    taken = snapshots.take(root, "pos_sales", "tumbling")
    checkpoints.put(f"{taken.paths(root).checkpoint}/state/0/1/2.delta", b"other")
    assert kept.damaged(root, taken) == ["checkpoint/state/0/1/2.delta"]
    with pytest.raises(HeadraceError, match="have another hash than when it was taken"):
        restore.restore(FakeLauncher(root), POS, "tumbling", **WHO)


def test_a_file_that_is_purged_while_it_is_copied_leads_to_a_later_cut(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begin(root)
    run(root, made, range(3))
    copy, calls = trees.copy, []

    def purged(source: str, target: str) -> str:
        calls.append(source)
        if len(calls) == 3:
            run(root, made, [3])
            raise FileNotFoundError(source)
        return copy(source, target)

    monkeypatch.setattr(trees, "copy", purged)
    taken = snapshots.take(root, "pos_sales", "tumbling")
    assert taken.batch == 3
    assert small_files.list_names(paths.snapshots(root, "pos_sales", "tumbling")) == [taken.id]


def test_a_restore_is_a_new_generation_with_the_state_of_the_cut_and_one_first_batch_over_what_came_after(
    root: str,
) -> None:
    made = begin(root)
    run(root, made, range(4))
    taken = snapshots.take(root, "pos_sales", "tumbling")
    run(root, made, range(4, 9))
    plan_batch(root, made, 9)
    planned = restore.plan(FakeLauncher(root), POS, "tumbling", taken.id)
    assert planned.items[0].note == "120 offsets are read again"
    restored = restore.restore(FakeLauncher(root), POS, "tumbling", taken.id, **WHO)
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    assert (now.number, now.lineage, now.snapshot, now.fingerprint) == (2, ((1, 3),), taken.id, made.fingerprint)
    assert now.started_micros > made.started_micros
    assert (restored.plan, restored.generation, restored.sound) == (planned.id, 2, True)
    current_paths = now.paths(root)
    assert [record["batch"] for record in ledger.read(current_paths.ledger)] == [0, 1, 2, 3]
    assert checkpoint_log.newest_batch(current_paths.checkpoint) == 3
    pinned = checkpoint_log.read_batch_range(current_paths.checkpoint, 4)
    # from the cut to the newest planned offsets, judged by the watermarks that batch 4 had at first
    assert (pinned.start, pinned.end) == ({"pos": {0: 40, 1: 40}}, {"pos": {0: 100, 1: 100}})
    old = checkpoint_log.read_batch_range(made.paths(root).checkpoint, 4)
    assert (pinned.watermark_ms, pinned.late_watermark_ms) == (old.watermark_ms, old.late_watermark_ms)


def test_a_generation_that_lost_its_manifest_is_restored_and_what_it_had_read_is_read_again(root: str) -> None:
    first = begin(root)
    run(root, first, range(2))
    made = begin(root)
    run(root, made, range(4))
    taken = snapshots.take(root, "pos_sales", "tumbling")
    run(root, made, range(4, 9))
    trees.remove_file(made.paths(root).manifest)
    report = verify.verify(root, POS, "tumbling")
    assert [finding.fault for finding in report.findings] == ["MANIFEST_GONE"]
    assert "headrace checkpoint restore pos_sales.tumbling; the command that it prints" in report.findings[0].what
    planned = restore.plan(FakeLauncher(root), POS, "tumbling")
    restored = restore.restore(FakeLauncher(root), POS, "tumbling", **WHO)
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    assert (now.number, now.snapshot, restored.sound) == (3, taken.id, True)
    assert planned.items[0].note == "100 offsets are read again"
    assert now.started_micros > made.started_micros + 8
    assert generation.lost(root, "pos_sales", "tumbling") == []


def test_a_generation_that_lost_its_manifest_and_has_no_snapshot_is_reset(root: str) -> None:
    made = begin(root)
    run(root, made, range(4))
    trees.remove_file(made.paths(root).manifest)
    planned = restore.plan_reset(FakeLauncher(root), POS, "tumbling")
    assert [(item.action, item.target) for item in planned.items] == [("begin", "generation 2")]
    assert "totals in the sinks fall" in planned.notes[0]
    assert restore.reset(FakeLauncher(root), POS, "tumbling", Approval(planned.id, **WHO)).number == 2
    assert verify.verify(root, POS, "tumbling").findings == ()


def test_a_restore_that_broke_off_never_ran_and_the_generation_before_goes_on(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begin(root)
    run(root, made, range(4))
    snapshots.take(root, "pos_sales", "tumbling")
    with monkeypatch.context() as killed:
        killed.setattr(generation, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restore.restore(FakeLauncher(root), POS, "tumbling", **WHO)
    assert small_files.list_names(paths.generation_paths(root, "pos_sales", "tumbling", 2).ledger)
    assert verify.verify(root, POS, "tumbling").findings == ()
    assert generation.resume_or_begin(root, "pos_sales", "tumbling", checkpoints.STATEFUL) == made
    restore.restore(FakeLauncher(root), POS, "tumbling", **WHO)
    now = generation.current(root, "pos_sales", "tumbling")
    assert now is not None
    assert now.number == 3
    assert small_files.list_names(now.paths(root).folder) == ["checkpoint", "ledger", "manifest.json"]


def test_a_query_without_watermark_reads_on_in_batches_of_its_own(root: str) -> None:
    made = begin(root, "product_totals")
    run(root, made, range(4))
    snapshots.take(root, "pos_sales", "product_totals")
    run(root, made, range(4, 9))
    restore.restore(FakeLauncher(root), POS, "product_totals", **WHO)
    now = generation.current(root, "pos_sales", "product_totals")
    assert now is not None
    assert checkpoint_log.newest_batch(now.paths(root).checkpoint, "offsets") == 3


def test_a_file_sink_reads_the_same_after_restores_of_restores(root: str) -> None:
    made = begin(root, "files", stateful=False)
    run(root, made, range(6), stateful=False)
    first = snapshots.take(root, "pos_sales", "files")
    run(root, made, range(6, 9), stateful=False)
    for number, cut in ((2, 7), (3, 10)):
        restore.restore(FakeLauncher(root), checkpoints.with_files(), "files", first.id if number == 2 else None, **WHO)
        now = generation.current(root, "pos_sales", "files")
        assert now is not None
        assert now.number == number
        begins = (checkpoint_log.newest_batch(now.paths(root).checkpoint) or 0) + 1
        run(root, now, range(begins, cut), stateful=False)
        snapshots.take(root, "pos_sales", "files")
        run(root, now, range(cut, cut + 2), stateful=False)
        assert rows_of(root, now) == list(range(cut + 2))
        assert verify.verify(root, checkpoints.with_files(), "files").findings == ()
    assert now is not None
    assert now.lineage == ((1, 5), (2, 6))


def test_a_restore_is_refused_while_a_driver_runs_or_is_wanted(root: str) -> None:
    run(root, begin(root), range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    launcher = FakeLauncher(root, [Driver("pos_sales", "1@1", 1.0, "process 1")])
    with pytest.raises(HeadraceError, match=r"its driver runs \(process 1\)"):
        restore.restore(launcher, POS, "tumbling", **WHO)
    launcher.living.clear()
    desired_state.write(root, "pos_sales", "RUNNING", "test", "start")
    with pytest.raises(HeadraceError, match="is wanted RUNNING"):
        restore.restore(launcher, POS, "tumbling", **WHO)
    desired_state.write(root, "pos_sales", "RUNNING", "test", "upgrade", hold_seconds=60)
    assert restore.restore(launcher, POS, "tumbling", **WHO).generation == 2


def test_a_driver_that_comes_up_during_a_restore_keeps_its_generation(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begin(root)
    run(root, made, range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    launcher, copy = FakeLauncher(root), trees.copy

    def starts(source: str, target: str) -> str:
        launcher.living = [Driver("pos_sales", "1@1", 1.0, "process 1")]
        return copy(source, target)

    monkeypatch.setattr(trees, "copy", starts)
    with pytest.raises(HeadraceError, match="came up meanwhile: nothing was changed"):
        restore.restore(launcher, POS, "tumbling", **WHO)
    assert generation.current(root, "pos_sales", "tumbling") == made
    launcher.living = []
    monkeypatch.setattr(trees, "copy", copy)
    assert restore.restore(launcher, POS, "tumbling", **WHO).generation == 3, "a half restore was used"


def test_a_restore_does_what_was_approved_or_nothing(root: str) -> None:
    made = begin(root)
    run(root, made, range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    planned = restore.plan(FakeLauncher(root), POS, "tumbling")
    assert generation.current(root, "pos_sales", "tumbling") == made, "a plan changes nothing"
    assert restore.plan(FakeLauncher(root), POS, "tumbling").id == planned.id, "the same situation"
    run(root, made, range(3, 5))
    same = restore.plan(FakeLauncher(root), POS, "tumbling")
    assert (same.id, same.items[0].note) == (planned.id, "40 offsets are read again"), "the lag is a note"
    later = begin(root)
    with pytest.raises(HeadraceError, match=f"The situation changed since plan {planned.id}"):
        restore.act(FakeLauncher(root), POS, "tumbling", Approval(planned.id, **WHO))
    assert generation.current(root, "pos_sales", "tumbling") == later
    assert acts(root) == []
    now = restore.plan(FakeLauncher(root), POS, "tumbling")
    assert now.notes[0].startswith("Generation(s) [2] began after this snapshot")
    done = restore.act(FakeLauncher(root), POS, "tumbling", Approval(now.id, approved_by="mia", **WHO))
    assert (done.number, done.by, done.reason) == (3, "test", "test")
    (act,) = acts(root)
    assert (act.plan, act.approval.approved_by) == (now, "mia")


def test_the_plan_of_a_restore_is_another_after_a_newer_snapshot_a_changed_file_or_for_a_reset(root: str) -> None:
    made = begin(root)
    run(root, made, range(3))
    taken = snapshots.take(root, "pos_sales", "tumbling")
    planned = restore.plan(FakeLauncher(root), POS, "tumbling")
    run(root, made, range(3, 5))
    snapshots.take(root, "pos_sales", "tumbling")
    newest = restore.plan(FakeLauncher(root), POS, "tumbling")
    assert newest.id != planned.id
    assert restore.plan(FakeLauncher(root), POS, "tumbling", taken.id).id == planned.id, "it was pinned"
    checkpoints.put(f"{taken.paths(root).checkpoint}/state/0/1/2.delta", b"other")
    assert restore.plan(FakeLauncher(root), POS, "tumbling", taken.id).blockers
    resets = [restore.plan_reset(FakeLauncher(root), POS, "tumbling", at) for at in (None, 1, 2)]
    assert len({newest.id, *(plan.id for plan in resets)}) == 4


def test_a_snapshot_is_restored_where_every_generation_is_gone(root: str) -> None:
    run(root, begin(root), range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    trees.remove(paths.query_folder(root, "pos_sales", "tumbling"))
    assert restore.restore(FakeLauncher(root), POS, "tumbling", **WHO).sound


def test_a_damaged_generation_can_still_be_left_for_a_snapshot(root: str) -> None:
    made = begin(root)
    run(root, made, range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    run(root, made, range(3, 6))
    checkpoints.put(checkpoint_log.offsets_entry(made.paths(root).checkpoint, 5), "")
    planned = restore.plan(FakeLauncher(root), POS, "tumbling")
    assert planned.items[0].note == "60 offsets are read again", "the ledger tells how far it was"
    assert restore.restore(FakeLauncher(root), POS, "tumbling", **WHO).sound


def test_a_reset_takes_the_plan_of_its_first_driver_and_notes_time_and_reason(root: str) -> None:
    run(root, begin(root), range(3))
    planned = restore.plan_reset(FakeLauncher(root), POS, "tumbling", 1_700_000_000_000)
    assert planned.items[0].detail == "with empty state, from 2023-11-14T22:13:20+00:00 of its topics"
    with pytest.raises(HeadraceError, match="The situation changed"):
        restore.reset(FakeLauncher(root), POS, "tumbling", Approval(planned.id, **WHO))
    made = restore.reset(FakeLauncher(root), POS, "tumbling", Approval(planned.id, **WHO), 1_700_000_000_000)
    assert (made.number, made.starting_ms, made.reason, made.fingerprint) == (2, 1_700_000_000_000, "test", {})
    assert "State begins empty" in planned.notes[0]
    taken_up = generation.resume_or_begin(root, "pos_sales", "tumbling", {"mode": "other"})
    assert (taken_up.number, taken_up.fingerprint, taken_up.reason) == (2, {"mode": "other"}, "test")


def test_the_start_that_asked_for_a_generation_before_a_restore_does_not_ask_again(root: str) -> None:
    generation.begin(root, "pos_sales", "tumbling", {"a": 1}, "request")
    later = generation.begin(root, "pos_sales", "tumbling", {"a": 1})
    assert generation.begin(root, "pos_sales", "tumbling", {"a": 1}, "request") == later


def test_inspect_tells_of_all_generations_and_snapshots(root: str) -> None:
    run(root, begin(root), range(3))
    snapshots.take(root, "pos_sales", "tumbling")
    restore.restore(FakeLauncher(root), POS, "tumbling", **WHO)
    inspected = inspect.inspect(root, "pos_sales", "tumbling")
    first, second = inspected.generations
    assert (inspected.current, len(inspected.snapshots)) == (2, 1)
    assert (first.planned_batch, first.committed_batch, first.ledger_records) == (2, 2, 3)
    assert first.offsets == {"pos": {0: 30, 1: 30}}
    assert first.state_bytes > 0
    assert (second.lineage, second.fingerprint) == (((1, 2),), first.fingerprint)


def test_a_reader_takes_each_batch_once_whatever_compaction_has_done(root: str) -> None:
    folder = f"{root}/f"
    for name in (
        "batch_id=0",
        "batch_id=1",
        "batch_id=0-1",
        "batch_id=2",
        "batch_id=0-3",
        "batch_id=4",
        ".aside-5",
        "x",
    ):
        checkpoints.put(f"{folder}/{name}/part-0", "{}")
        checkpoints.put(f"{folder}/{name}/{file_sink.COMPLETE_MARK}", "")
    if not small_files.renames(folder):  # half-written: what it covers is read, it is not
        checkpoints.put(f"{folder}/batch_id=0-4/part-0", "{}")
        checkpoints.put(f"{folder}/batch_id=5/part-0", "{}")
    directories = file_sink.valid(file_sink.complete(folder))
    assert [(directory.first, directory.last) for directory in directories] == [(0, 3), (4, 4)]
    assert file_sink.newest_batch(folder) == 4
    fs, inner = small_files.locate(folder)
    assert fs.exists(f"{inner}/{file_sink.name_of(0, 3)}")
