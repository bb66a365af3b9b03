"""Each fault of a checkpoint is found, told where it is, and named with its runbook; a sound one has no finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.operations.checkpoints import snapshots, verify
from headrace.store import file_sink, generation, integrity, ledger, lost_folders, paths, small_files, trees
from headrace.store.checkpoint_log import commits_entry, offsets_entry, planned_entry, read_entry
from headrace.store.generation import Generation
from tests.support import checkpoints
from tests.support.checkpoints import begin, plan_batch, put, run, write_batch

ROOT = Path(__file__).resolve().parents[3]


def _faults(root: str, query: str = "tumbling") -> list[tuple[str, str]]:
    report = verify.verify(root, checkpoints.pos_sales(), query)
    return [(finding.fault, finding.severity) for finding in report.findings]


def _remove(path: str) -> None:
    fs, inner = small_files.locate(path)
    fs.rm(inner, recursive=True)


def test_a_query_that_never_ran_or_has_no_batch_yet_is_sound(root: str) -> None:
    assert _faults(root) == []
    begin(root)
    assert _faults(root) == []


def test_a_checkpoint_is_sound_at_every_moment_of_a_batch(root: str) -> None:
    made = begin(root)
    for batch in range(3):
        plan_batch(root, made, batch)
        assert _faults(root) == []
        write_batch(root, made, batch)
        assert _faults(root) == []
        checkpoints.commit(root, made, batch)
        assert _faults(root) == []


def test_a_checkpoint_that_spark_has_purged_is_sound(root: str) -> None:
    made = begin(root)
    run(root, made, range(25))
    checkpoints.purge(root, made, 20)
    assert _faults(root) == []


def _state(made: Generation, root: str, name: str) -> str:
    return f"{made.paths(root).checkpoint}/state/0/1/{name}"


Damage = Callable[[str, Generation], None]

# What is done to a checkpoint whose batches 0..11 are whole (state snapshot at 10), and what verify must say first.
DAMAGES: dict[str, tuple[Damage, str]] = {
    "manifest gone": (lambda r, g: _remove(g.paths(r).manifest), "MANIFEST_GONE"),
    "metadata gone": (lambda r, g: _remove(f"{g.paths(r).checkpoint}/metadata"), "METADATA_GONE"),
    "metadata cut": (lambda r, g: put(f"{g.paths(r).checkpoint}/metadata", "{"), "LOG_BROKEN"),
    "newest commit empty": (lambda r, g: put(commits_entry(g.paths(r).checkpoint, 11), "", crc=True), "LOG_EMPTY"),
    "newest offsets empty": (lambda r, g: put(offsets_entry(g.paths(r).checkpoint, 11), "", crc=True), "LOG_EMPTY"),
    "newest offsets cut": (
        lambda r, g: put(offsets_entry(g.paths(r).checkpoint, 11), 'v1\n{"ba', crc=True),
        "LOG_BROKEN",
    ),
    "newest offsets gone": (lambda r, g: _remove(offsets_entry(g.paths(r).checkpoint, 11)), "OFFSETS_BEHIND_COMMITS"),
    "offsets before the newest gone": (lambda r, g: _remove(offsets_entry(g.paths(r).checkpoint, 10)), "LOG_GAP"),
    "a commit in the middle gone": (lambda r, g: _remove(commits_entry(g.paths(r).checkpoint, 7)), "LOG_GAP"),
    "a bit of the log turned": (lambda r, g: _turn(commits_entry(g.paths(r).checkpoint, 11)), "CHECKSUM"),
    "newest state gone": (lambda r, g: _remove(_state(g, r, "12.delta")), "STATE_GONE"),
    "state before it gone": (lambda r, g: _remove(_state(g, r, "11.delta")), "STATE_GONE"),
    "state snapshot empty": (lambda r, g: put(_state(g, r, "10.snapshot"), b"", crc=True), "STATE_BROKEN"),
    "state cut": (lambda r, g: put(_state(g, r, "12.delta"), b"del"), "STATE_BROKEN"),
    "a partition's state gone": (lambda r, g: _remove(f"{g.paths(r).checkpoint}/state/0/1"), "STATE_GONE"),
    "all state gone": (lambda r, g: _remove(f"{g.paths(r).checkpoint}/state"), "STATE_GONE"),
    "checkpoint removed by hand": (lambda r, g: _remove(g.paths(r).checkpoint), "BEHIND_LEDGER"),
    "older checkpoint restored by hand": (lambda r, g: _put_back(r, g), "BEHIND_LEDGER"),
    "offsets exchanged": (
        lambda r, g: plan_batch(r, g, 11, {"pos": {0: 999, 1: 999}}),
        "LEDGER_DIFFERS",
    ),
}


def _turn(path: str) -> None:
    content = bytearray(trees.read_bytes(path))
    content[-3] ^= 1
    put(path, bytes(content))


def _put_back(root: str, made: Generation) -> None:
    folder = made.paths(root).checkpoint
    for batch in (9, 10, 11):
        _remove(offsets_entry(folder, batch))
        _remove(commits_entry(folder, batch))


def _start(root: str) -> None:
    """Check what a driver checks before it goes on with the generation."""
    chosen = generation.resume_or_begin(root, "pos_sales", "tumbling", checkpoints.STATEFUL)
    integrity.require_sound(root, chosen, stateful=True, files=False)


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_is_critical_and_has_a_runbook(root: str, damage: str) -> None:
    made = begin(root)
    run(root, made, range(12))
    assert _faults(root) == []
    do, wanted = DAMAGES[damage]
    do(root, made)
    faults = _faults(root)
    assert (wanted, "critical") in faults, faults
    runbook = integrity.RUNBOOKS[wanted]
    assert (ROOT / "docs" / "runbooks" / f"{runbook}.md").is_file()
    with pytest.raises(HeadraceError, match=r"pos_sales\.tumbling: .*docs/runbooks/") as refused:
        _start(root)
    assert refused.value.exit_code == Exit.DAMAGED


@pytest.mark.parametrize("shown_by", ["its snapshot", "the archive of its topic"])
def test_a_query_whose_folder_of_checkpoints_is_gone_is_damaged_with_the_remedy_of_the_refused_start(
    root: str, shown_by: str
) -> None:
    pipeline = checkpoints.pos_sales()
    made = begin(root)
    run(root, made, range(3))
    if shown_by == "its snapshot":
        snapshots.take(root, "pos_sales", "tumbling")
    else:
        checkpoints.archived(root)
    _remove(paths.query_folder(root, "pos_sales", "tumbling"))
    with pytest.raises(HeadraceError) as refused:
        lost_folders.refuse(root, pipeline, frozenset(set(pipeline.queries) - {"tumbling"}))
    report = verify.verify(root, pipeline, "tumbling")
    (finding,) = report.findings
    assert not report.sound
    assert (finding.fault, finding.severity) == ("FOLDER_GONE", "critical")
    assert f"{finding.where} {finding.what}" == str(refused.value)
    assert "headrace stream start pos_sales --new-generation all --rows keep" in finding.what


def _files(root: str) -> Generation:
    made = begin(root, "files", stateful=False)
    run(root, made, range(12), stateful=False)
    return made


def test_a_start_is_refused_where_the_directories_of_the_newest_batches_are_gone(root: str) -> None:
    """The remedy is a new generation: a restore would begin beside the same gap."""
    made = _files(root)
    integrity.require_sound(root, made, stateful=False, files=True)
    _remove(made.paths(root).files)
    report = verify.verify(root, checkpoints.with_files(), "files")
    assert [finding.fault for finding in report.findings] == ["FILES_GONE"]
    wanted = r"pos_sales\.files: .*FILES_GONE.*CheckpointBehindSinks.*stream start pos_sales --new-generation files"
    with pytest.raises(HeadraceError, match=wanted) as refused:
        integrity.require_sound(root, made, stateful=False, files=True)
    assert refused.value.exit_code == Exit.DAMAGED


def test_old_directories_that_are_removed_on_purpose_are_reported_and_refuse_no_start(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _files(root)
    monkeypatch.setattr(integrity, "NEWEST_FILES", 4)
    for batch in range(7):
        _remove(f"{made.paths(root).files}/batch_id={batch}")
    (finding,) = verify.verify(root, checkpoints.with_files(), "files").findings
    assert finding.what == "lacks 7 batch(es) that wrote rows; the first is 0"
    integrity.require_sound(root, made, stateful=False, files=True)
    _remove(f"{made.paths(root).files}/batch_id=7")
    with pytest.raises(HeadraceError, match="FILES_GONE"):
        integrity.require_sound(root, made, stateful=False, files=True)


def test_a_newest_commit_that_is_gone_is_no_fault_its_batch_is_replayed(root: str) -> None:
    made = begin(root)
    run(root, made, range(5))
    _remove(commits_entry(made.paths(root).checkpoint, 4))
    assert _faults(root) == []


def test_two_commits_that_are_gone_are_a_warning_where_the_ledger_has_the_batch_and_else_critical(root: str) -> None:
    made = begin(root)
    run(root, made, range(5))
    for batch in (3, 4):
        _remove(commits_entry(made.paths(root).checkpoint, batch))
    assert _faults(root) == [("COMMITS_BEHIND_OFFSETS", "warning")]
    _remove(f"{made.paths(root).ledger}/{ledger.record_name(3)}")
    assert ("COMMITS_BEHIND_OFFSETS", "critical") in _faults(root)


def test_a_file_sink_that_is_ahead_or_lacks_a_batch_is_found(root: str) -> None:
    made = begin(root, "items", stateful=False)
    run(root, made, range(4), stateful=False)
    assert _faults(root, "items") == []
    put(f"{made.paths(root).files}/batch_id=4/part-0.json", "{}")
    put(f"{made.paths(root).files}/batch_id=4/{file_sink.COMPLETE_MARK}", "")
    assert _faults(root, "items") == [("BEHIND_FILES", "critical")]


def test_a_ledger_with_a_hole_is_a_warning(root: str) -> None:
    made = begin(root)
    run(root, made, range(4))
    _remove(f"{made.paths(root).ledger}/{ledger.record_name(1)}")
    assert _faults(root) == [("LEDGER_GAP", "warning")]


def test_a_record_or_an_entry_that_cannot_be_read_is_a_finding_and_not_the_end(root: str) -> None:
    made = begin(root, "archive_pos", stateful=False)
    run(root, made, range(4), stateful=False)
    put(f"{made.paths(root).ledger}/{ledger.record_name(3)}", '{"batch":')
    assert ("LOG_BROKEN", "critical") in _faults(root, "archive_pos")
    put(offsets_entry(made.paths(root).checkpoint, 2), "v1\n{}\nx")
    assert ("LOG_BROKEN", "critical") in _faults(root, "archive_pos")


def test_every_fault_has_a_runbook_that_is_there() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("Checkpoint*.md")}
    assert {page for page in integrity.RUNBOOKS.values() if page} == pages


def test_the_first_generation_after_a_lost_folder_does_not_use_old_output_directories(root: str) -> None:
    """Somebody removes all checkpoints of a query by hand: the files of generation 1 must not be taken for replays."""
    made = begin(root, "files", stateful=False)
    run(root, made, range(3), stateful=False)
    _remove(made.paths(root).folder)
    assert generation.current(root, "pos_sales", "files") is None
    again = begin(root, "files", stateful=False)
    assert again.number == 2
    assert trees.files(again.paths(root).files) == {}


def test_a_planned_entry_is_that_of_the_batch_before_with_other_ends_and_watermark(root: str) -> None:
    made = begin(root)
    run(root, made, range(3))
    folder = made.paths(root).checkpoint
    put(offsets_entry(folder, 3), planned_entry(folder, 3, {"pos": {0: 77, 2: 5}}, 123))
    assert read_entry(folder, 3) == (123, {"pos": {0: 77, 1: 30, 2: 5}})
