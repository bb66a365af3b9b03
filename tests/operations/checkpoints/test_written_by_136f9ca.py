"""What release 136f9ca left below a storage root is read, verified, snapshotted and restored by this one.

The fixture comes from a run of that release on real servers: `headrace produce` twice, a snapshot in between, and then
`headrace stream stop`. It holds three queries of pos_sales, the file sink of web_events, and two snapshots.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.contract.load import load_pipelines
from headrace.operations.checkpoints import inspect, restore, snapshots
from headrace.operations.drivers import desired_state
from headrace.store import checkpoint_log, generation, integrity, ledger, paths, snapshot, trees
from tests.support.checkpoints import FakeLauncher

ROOT = Path(__file__).resolve().parents[3]
FIXTURE = ROOT / "tests" / "fixtures" / "storage-136f9ca.tar.gz"
QUERIES = [("pos_sales", "items"), ("pos_sales", "product_totals"), ("pos_sales", "tumbling"), ("web_events", "files")]
STATEFUL = ("product_totals", "tumbling")


@pytest.fixture
def storage_root(tmp_path: Path) -> str:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return str(tmp_path)


@pytest.mark.parametrize(("pipeline", "query"), QUERIES)
def test_its_checkpoints_and_ledgers_are_sound_and_agree_with_its_heartbeat(
    storage_root: str, pipeline: str, query: str
) -> None:
    beat = json.loads(Path(paths.heartbeat(storage_root, pipeline)).read_text())
    said = next(entry for entry in beat["queries"] if entry["query"] == f"{pipeline}.{query}")
    now = generation.current(storage_root, pipeline, query)
    assert now is not None
    folder = now.paths(storage_root)
    assert integrity.structure(folder, stateful=query in STATEFUL) == []
    assert checkpoint_log.newest_batch(folder.checkpoint) == said["batch"]
    newest = ledger.newest(folder.ledger)
    assert newest is not None
    assert newest["batch"] == said["batch"]
    assert ledger.ends(newest) == {
        topic: {int(p): end for p, end in ends.items()} for topic, ends in said["offsets"].items()
    }
    assert inspect.has_batch(storage_root, pipeline, query)


def test_its_desired_state_and_exit_record_are_read(storage_root: str) -> None:
    stopped = desired_state.read(storage_root, "pos_sales")
    assert (stopped.want, stopped.release) == ("STOPPED", "")
    said = json.loads(Path(paths.outcome(storage_root, "pos_sales")).read_text())
    assert said["exit"] in {member.name for member in Exit}


@pytest.mark.parametrize("query", STATEFUL)
def test_its_snapshots_are_unchanged_and_a_restore_of_one_is_sound(storage_root: str, query: str) -> None:
    (kept,) = snapshot.listed(storage_root, "pos_sales", query)
    assert snapshot.damaged(storage_root, kept) == []
    pos_sales = load_pipelines(ROOT / "pipelines")["pos_sales"]
    restore.restore(FakeLauncher(storage_root), pos_sales, query, by="test", reason="test", snapshot=kept.id)
    restored = generation.current(storage_root, "pos_sales", query)
    assert restored is not None
    assert restored.number == 2
    assert integrity.structure(restored.paths(storage_root), stateful=True) == []


def test_a_snapshot_of_this_release_holds_its_state(storage_root: str) -> None:
    taken = snapshots.take(storage_root, "pos_sales", "tumbling", reason="test")
    assert snapshot.damaged(storage_root, taken) == []
    held = {path for path in trees.files(taken.paths(storage_root).checkpoint) if path.startswith("state/")}
    assert any(path.endswith((".delta", ".snapshot")) for path in held)
