"""The nightly verification keeps a snapshot of each sound checkpoint, and fails for each damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.operations.checkpoints import snapshots
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.orchestration import tasks
from headrace.store import generation, paths, trees
from tests.support.checkpoints import begin, run


@pytest.fixture
def deployed(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment whose Kafka is not asked."""
    monkeypatch.setattr("headrace.operations.checkpoints.verify.kafka_holds", lambda *_: [])
    monkeypatch.setattr("headrace.operations.checkpoints.verify.same_topics", lambda *_: [])
    drivers = LocalDrivers(
        run_dir=tmp_path, log_dir=tmp_path, tmp_dir=tmp_path, driver_bindings=tmp_path, environment={}
    )
    return Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path, drivers=drivers)


def test_queries_without_a_committed_batch_are_left_out(deployed: Deployment) -> None:
    run(deployed.root, begin(deployed.root), range(3))
    begin(deployed.root, "items", stateful=False)  # it waits for its first record
    assert list(tasks.verify_and_snapshot(deployed, "pos_sales")["taken"]) == ["tumbling"]


@pytest.mark.parametrize("gone", ["the folder of checkpoints", "the only manifest"])
def test_a_query_that_has_lost_all_generations_fails_the_night(deployed: Deployment, gone: str) -> None:
    made = begin(deployed.root)
    run(deployed.root, made, range(3))
    snapshots.take(deployed.root, "pos_sales", "tumbling")
    if gone == "the only manifest":
        trees.remove_file(made.paths(deployed.root).manifest)
    else:
        trees.remove(paths.query_folder(deployed.root, "pos_sales", "tumbling"))
    assert generation.current(deployed.root, "pos_sales", "tumbling") is None
    with pytest.raises(HeadraceError, match=r"Checkpoints are not sound.*pos_sales\.tumbling: .*CheckpointLogDamaged"):
        tasks.verify_and_snapshot(deployed, "pos_sales")
