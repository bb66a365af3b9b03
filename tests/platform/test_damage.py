"""The damage matrix on Spark 3.5.7: what Spark itself says of each fault, and what the driver makes of it.

First Spark alone, without our checks, so that the table in ADR 0013 is what was seen; then the driver, which asks
`store.integrity` before it starts: it refuses with DAMAGED, changes nothing, and names the runbook.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from headrace.access.bindings import read_kafka
from headrace.contract.exit_codes import Exit
from headrace.driver import runtime
from headrace.driver.session import kafka_options
from headrace.local.settings import Settings
from headrace.operations.checkpoints import restore, snapshots, verify
from headrace.operations.produce.record import Record
from headrace.operations.produce.send import send
from headrace.store import integrity, paths
from tests.support import actual
from tests.support.drivers import Stage, make_stage
from tests.support.servers import new_topic

pytestmark = [pytest.mark.platform, pytest.mark.spark, pytest.mark.timeout(900), pytest.mark.long(group="checkpoints")]

BATCHES = 4


def _cut(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: -5 if kept == 1 else int(len(content) * kept)])  # 5 bytes: in the stream's end mark
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)


def _empty(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)


def _gone(path: Path) -> None:
    path.unlink()
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)


def _turned(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


@dataclass(frozen=True)
class Fault:
    """What is done to a checkpoint whose batches 0..3 are whole, and what then happens.

    `verify`: what our check says ("" nothing). `spark`: the class of Spark's own error, None if it goes on.
    """

    do: Callable[[Path], None]
    verify: str
    spark: Exit | None


FAULTS = {
    "newest commit gone": Fault(lambda c: _gone(c / "commits/3"), "", None),
    "newest commit empty": Fault(lambda c: _empty(c / "commits/3"), "LOG_EMPTY", Exit.DAMAGED),
    "newest offsets empty": Fault(lambda c: _empty(c / "offsets/3"), "LOG_EMPTY", Exit.DAMAGED),
    "newest offsets gone": Fault(lambda c: _gone(c / "offsets/3"), "OFFSETS_BEHIND_COMMITS", Exit.DUPLICATE_WRITER),
    "offsets before the newest gone": Fault(lambda c: _gone(c / "offsets/2"), "LOG_GAP", Exit.DAMAGED),
    "metadata gone": Fault(lambda c: _gone(c / "metadata"), "METADATA_GONE", None),
    "newest state gone": Fault(lambda c: _gone(c / "state/0/0/4.delta"), "STATE_GONE", Exit.DAMAGED),
    "end mark of the newest state cut": Fault(lambda c: _cut(c / "state/0/0/4.delta", 1), "", None),
    "newest state cut in half": Fault(lambda c: _cut(c / "state/0/0/4.delta", 0.5), "", Exit.DAMAGED),
    "newest state empty": Fault(lambda c: _empty(c / "state/0/0/4.delta"), "STATE_BROKEN", Exit.DAMAGED),
    "a byte of the state turned": Fault(lambda c: _turned(c / "state/0/0/4.delta"), "STATE_BROKEN", Exit.DAMAGED),
    "first state gone": Fault(lambda c: _gone(c / "state/0/1/1.delta"), "STATE_GONE", Exit.DAMAGED),
    "all state gone": Fault(lambda c: shutil.rmtree(c / "state"), "STATE_GONE", Exit.DAMAGED),
}


@dataclass
class Job:
    """A cheap stateful query over a real topic: how many records each key has."""

    spark: SparkSession
    admin: Path
    topic: str
    sent: int = 0
    rows: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    def send(self) -> None:
        """Send one record of each of four keys."""
        made = [Record(self.topic, b"k%d" % key, b"x", 0.0) for key in range(4)]
        send(made, read_kafka(self.admin), {self.topic}, paced=False)
        self.sent += 1

    def run(self, folder: Path) -> str | None:
        """Run one batch, or all that is to be done after a fault; return Spark's error or None."""
        options = kafka_options(read_kafka(self.admin)) | {"subscribe": self.topic, "startingOffsets": "earliest"}
        frame = self.spark.readStream.format("kafka").options(**options).load()
        counted = frame.selectExpr("CAST(key AS STRING) AS k").groupBy("k").count()
        query = (
            counted.writeStream.outputMode("update")
            .trigger(once=True)
            .option("checkpointLocation", str(folder))
            .foreachBatch(self._keep)
            .start()
        )
        try:
            ended = query.awaitTermination(600)
        except Exception:
            return str(query.exception())
        finally:
            query.stop()
        assert ended, "a batch takes longer than ten minutes"
        return None

    def _keep(self, frame: DataFrame, number: int) -> None:
        self.rows.append((number, {row["k"]: row["count"] for row in frame.collect()}))


@pytest.fixture(scope="module")
def job(platform: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """The job and the folder of its sound checkpoint, four batches old."""
    made = Job(spark, platform.bindings(), new_topic(platform, "damage"))
    sound = tmp_path_factory.mktemp("damage") / "checkpoint"
    for _ in range(BATCHES):
        made.send()
        assert made.run(sound) is None
    assert [number for number, _ in made.rows] == list(range(BATCHES))
    made.send()  # something to do after every fault
    return made, sound


def _class_of(error: str) -> Exit:
    class Ended:
        class query:  # noqa: N801 - the shape of queries.Running
            @staticmethod
            def exception() -> str:
                return error

    ended: Any = Ended
    return runtime._classify([ended])


@pytest.mark.parametrize("name", FAULTS)
def test_spark_itself_meets_each_fault_as_the_table_says_and_a_restart_makes_nothing_worse(
    job: tuple[Job, Path], tmp_path: Path, name: str
) -> None:
    made, sound = job
    fault, folder = FAULTS[name], tmp_path / "checkpoint"
    shutil.copytree(sound, folder)
    files = paths.GenerationPaths(str(tmp_path), str(folder), str(tmp_path / "none"), "", "")
    assert _findings(files) == set()
    fault.do(folder)
    findings = _findings(files)
    print(f"\n{name}: verify {findings or 'nothing'}")
    assert (fault.verify in findings) if fault.verify else not findings
    for start in (1, 2):
        made.rows.clear()
        error = made.run(folder)
        print(f"start {start}: {_class_of(error).name if error else 'goes on'} {made.rows} {(error or '')[:300]!r}")
        if fault.spark is None:
            assert error is None
            if start == 1 and made.rows:
                assert max(number for number, _ in made.rows) >= BATCHES - 1
        else:
            assert error is not None
            assert _class_of(error) == fault.spark, error[-1500:]
    if fault.spark:
        assert max((number for number, _ in made.rows), default=-1) < BATCHES, "a batch was written over a fault"


def _findings(files: paths.GenerationPaths) -> set[str]:
    # this job writes no ledger
    return {finding.fault for finding in integrity.structure(files, stateful=True)} - {"LEDGER_GAP"}


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _event(number: int) -> tuple[str, bytes, bytes]:
    return "quickstart_damage", b"d", b'{"city":"C%d","domain":"d","event":"view"}' % number


def _refused(stage: Stage) -> str:
    """Start a driver that must refuse as DAMAGED without changing a file of the query; return its sentence."""
    folders = [
        Path(stage.root) / "checkpoints" / stage.name / "files",
        Path(paths.query_files(stage.root, stage.name, "files")),
    ]
    before, seen = [_tree(folder) for folder in folders], len(stage.log)
    for _ in range(2):  # and once more: a restart makes nothing worse
        stage.start()
        assert stage.await_end() == Exit.DAMAGED, stage.log[-6000:]
    assert [_tree(folder) for folder in folders] == before
    return [line for line in stage.log[seen:].splitlines() if " ERROR " in line][-1]


def test_a_checkpoint_that_was_reset_or_put_back_manually_beside_its_sink_never_runs_and_our_tools_lose_nothing(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    """The two silent losses: Spark would count the coming batches as written. Refused; restore and reset are exact."""
    stage = make_stage(
        platform, project, tmp_path, "web_events", suffix="_damage", queries=("files",), trigger="200 milliseconds"
    )
    try:
        stage.start_and_wait()
        stage.send(_event(n) for n in range(20))
        stage.await_quiet()
        cut = snapshots.take(stage.root, stage.name, "files")
        stage.send(_event(n) for n in range(20, 40))
        stage.await_quiet()
        assert stage.stop() == 0
        files = stage.generation("files").paths(stage.root)
        checkpoint, aside = Path(files.checkpoint), tmp_path / "aside"
        checkpoint.rename(aside)

        # reset by hand: an empty checkpoint under the same generation
        assert "BEHIND_LEDGER" in _refused(stage)
        # restored by hand: an older checkpoint under the same generation
        shutil.copytree(cut.paths(stage.root).checkpoint, checkpoint)
        sentence = _refused(stage)
        assert "web_events_damage.files: " in sentence
        assert "docs/runbooks/CheckpointBehindSinks.md" in sentence
        faults = {finding.fault for finding in verify.verify(stage.root, stage.pipeline, "files").findings}
        assert {"BEHIND_LEDGER", "BEHIND_FILES"} <= faults
        # the metadata alone gone, over which Spark 3.5 would go on
        shutil.rmtree(checkpoint)
        shutil.copytree(aside, checkpoint)
        (checkpoint / "metadata").unlink()
        assert "METADATA_GONE" in _refused(stage)

        # the same two by our tools: every row once
        restore.restore(stage.launcher, stage.pipeline, "files", cut.id, by="test", reason="test")
        stage.start_and_wait()
        stage.send(_event(n) for n in range(40, 60))
        stage.await_quiet()
        assert stage.stop() == 0
        assert actual.lineage_rows(stage, "files", "lower_city") == sorted(f"c{n}" for n in range(60))
        stage.start_and_wait("files")
        stage.send(_event(n) for n in range(60, 70))
        stage.await_quiet()
        assert stage.stop() == 0
        assert actual.lineage_rows(stage, "files", "lower_city") == sorted(f"c{n}" for n in range(70))
        assert stage.generation("files").number == 3
    finally:
        stage.kill()
