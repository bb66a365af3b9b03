"""Checkpoints whose state is in RocksDB: verified, kept and restored like those of the memory store."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable

import pytest

from headrace.operations.checkpoints import snapshots
from headrace.store import integrity, small_files, state_files, trees
from headrace.store.checkpoint_log import commits_entry
from headrace.store.generation import Generation
from tests.support.checkpoints import MINUTE_MS, begin, plan_batch, put, write_batch

UP_TO = 12
FULL_EVERY = 5


def zip_of(version: int) -> bytes:
    """Return what RocksDBFileManager uploads for a version: the small files, and the names of the large ones."""
    tables = [
        {"localFileName": f"{n:06d}.sst", "dfsSstFileName": f"{n:06d}-abc.sst", "sizeBytes": 4 + n}
        for n in range(1, version // FULL_EVERY + 1)
    ]
    said = {"sstFiles": tables, "logFiles": [], "numKeys": 7}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("metadata", f"v1\n{json.dumps(said)}")
        archive.writestr("CURRENT", "MANIFEST-000004\n")
    return content.getvalue()


def run(root: str, made: Generation) -> None:
    """Write batches 0 to 11: a change file each, and at versions 5 and 10 a full file with one table more."""
    folder = made.paths(root).checkpoint
    for batch in range(UP_TO):
        plan_batch(root, made, batch)
        write_batch(root, made, batch)
        version = batch + 1
        for partition in range(2):
            store = f"{folder}/state/0/{partition}"
            put(f"{store}/{version}.changelog", b"changes of %d" % batch, crc=True)
            if version % FULL_EVERY == 0:
                number = version // FULL_EVERY
                put(f"{store}/SSTs/{number:06d}-abc.sst", b"t" * (4 + number), crc=True)
                put(f"{store}/{version}.zip", zip_of(version), crc=True)
        put(commits_entry(folder, batch), f'v1\n{{"nextBatchWatermarkMs":{version * MINUTE_MS}}}', crc=True)


@pytest.fixture
def made(root: str) -> Generation:
    begun = begin(root)
    run(root, begun)
    return begun


def faults(root: str, made: Generation) -> list[str]:
    return [finding.fault for finding in integrity.structure(made.paths(root), stateful=True)]


def test_a_checkpoint_with_full_and_change_files_is_sound(root: str, made: Generation) -> None:
    assert faults(root, made) == []


def test_a_version_needs_the_newest_full_file_its_tables_and_the_changes_after_it(root: str, made: Generation) -> None:
    folder = made.paths(root).checkpoint
    files = trees.files(folder)

    def need(version: int) -> set[str]:
        chain = state_files.needed(files, "state/0/1", version, lambda path: trees.read_bytes(f"{folder}/{path}"))
        assert chain.missing == ()
        return set(chain.files)

    first, second = "SSTs/000001-abc.sst", "SSTs/000002-abc.sst"
    assert need(4) == {"1.changelog", "2.changelog", "3.changelog", "4.changelog"}
    assert need(5) == {"5.zip", first}
    assert need(12) == {"10.zip", first, second, "11.changelog", "12.changelog"}


def remove(path: str) -> None:
    fs, inner = small_files.locate(path)
    fs.rm(inner, recursive=True)


def turn(path: str) -> None:
    content = bytearray(trees.read_bytes(path))
    content[-1] ^= 1
    put(path, bytes(content))


DAMAGES: dict[str, tuple[Callable[[str], None], str]] = {
    "a table is gone": (lambda store: remove(f"{store}/SSTs/000001-abc.sst"), "STATE_GONE"),
    "a table is cut": (lambda store: put(f"{store}/SSTs/000002-abc.sst", b"t"), "STATE_GONE"),
    "a bit of a table is turned": (lambda store: turn(f"{store}/SSTs/000002-abc.sst"), "STATE_BROKEN"),
    "the newest change file is gone": (lambda store: remove(f"{store}/12.changelog"), "STATE_GONE"),
    "the newest change file is empty": (lambda store: put(f"{store}/12.changelog", b"", crc=True), "STATE_BROKEN"),
    "the full file is no archive": (lambda store: put(f"{store}/10.zip", b"PK", crc=True), "STATE_BROKEN"),
    "the full file is empty": (lambda store: put(f"{store}/10.zip", b"", crc=True), "STATE_BROKEN"),
    "a partition is gone": (remove, "STATE_GONE"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_to_the_state_is_found(root: str, made: Generation, damage: str) -> None:
    do, fault = DAMAGES[damage]
    do(f"{made.paths(root).checkpoint}/state/0/1")
    assert fault in faults(root, made)


def test_a_table_that_no_needed_version_names_may_go(root: str, made: Generation) -> None:
    put(f"{made.paths(root).checkpoint}/state/0/1/SSTs/000009-old.sst", b"old", crc=True)
    remove(f"{made.paths(root).checkpoint}/state/0/1/5.zip")
    assert faults(root, made) == []


def test_a_snapshot_has_what_its_batch_needs_and_nothing_more(root: str, made: Generation) -> None:
    taken = snapshots.take(root, "pos_sales", "tumbling")
    kept = {path.partition("state/0/1/")[2] for path in taken.files if "state/0/1/" in path}
    assert kept == {"10.zip", "SSTs/000001-abc.sst", "SSTs/000002-abc.sst", "11.changelog", "12.changelog"}
