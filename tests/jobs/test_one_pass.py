"""A batch that is read once is counted, checked and written by one job (ADR 0036), whatever repeats it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j import clientserver
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from headrace.contract.model import Query
from headrace.driver import counted, refusals, sinks, writer
from headrace.store import generation, integrity, ledger
from headrace.store.checkpoint_log import BatchRange

pytestmark = pytest.mark.spark

QUERY = Query.model_validate(
    {
        "sources": ["t"],
        "mode": "append",
        "columns": {"word": {"type": "string", "required": True}, "note": {"type": "string"}},
        "sinks": [{"kind": "files"}],
    }
)


@dataclass
class Stage:
    """A query over parquet files, one a batch, written by the writer as a driver does."""

    spark: SparkSession
    folder: Path
    write: writer.Write | None = None
    link: Any = None
    letters: writer.Write | None = None
    stateless: bool = False
    laid: int = 0
    begun: generation.Generation = field(init=False)

    def __post_init__(self) -> None:
        self.begun = generation.begin(str(self.folder), "p", "q", {})
        self.paths = self.begun.paths(str(self.folder))

    def lay(self, *words: str | None) -> None:
        """Add the input of one batch."""
        (self.folder / "input").mkdir(exist_ok=True)
        table = pa.table({"word": pa.array(words, pa.string()), "note": pa.array(words, pa.string())})
        path = self.folder / "input" / f"{self.laid:03}.parquet"
        pq.write_table(table, path)
        os.utime(
            path, (1_000_000 + self.laid,) * 2
        )  # Spark takes the oldest first: two in one millisecond have no order
        self.laid += 1

    def run(self, shape: Callable[[DataFrame], DataFrame] = lambda frame: frame, mode: str = "append") -> int:
        """Run over what is laid and return how many jobs that took."""
        read = self.spark.readStream.schema("word string, note string").option("maxFilesPerTrigger", 1)
        write = self.write or (lambda rows, batch: sinks.write_files(rows, self.paths.files, QUERY, batch.number))
        batches = writer.Writer(
            self.spark,
            self.begun,
            self.paths,
            write,
            SimpleNamespace(commit=lambda *_: None),  # type: ignore[arg-type]
            writer.Gate(),
            writer.Counters(),
            self.link,
            letters=self.letters,
            stateless=self.stateless,
        )
        writing = counted.observed(shape(read.parquet(str(self.folder / "input")))).writeStream.outputMode(mode)
        query = (
            writing.option("checkpointLocation", self.paths.checkpoint)
            .trigger(availableNow=True)
            .foreachBatch(batches)
            .start()
        )
        assert query.awaitTermination(300)
        self.spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty(300_000)  # the status store follows the jobs
        return len(self.spark.sparkContext.statusTracker().getJobIdsForGroup(str(query.runId)))

    def rows_out(self) -> list[int]:
        """Return what the ledger says of each batch."""
        return [record["rows_out"] for record in ledger.read(self.paths.ledger)]

    def written(self, batch: int) -> list[str] | None:
        """Return the words in a batch's folder, or None where there is no folder."""
        folder = Path(self.paths.files) / f"batch_id={batch}"
        lines = [line for part in sorted(folder.glob("part-*")) for line in part.read_text().splitlines()]
        return sorted(json.loads(line)["word"] for line in lines) if folder.exists() else None


@pytest.fixture
def stage(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(
        writer, "read_batch_range", lambda _, number: BatchRange(number, {"t": {0: 0}}, {"t": {0: 1}}, 0, 0)
    )
    return Stage(spark, tmp_path)


def test_one_job_writes_and_counts_a_batch_and_one_without_rows_leaves_no_folder(stage: Stage) -> None:
    stage.lay("a", "b", "c")
    stage.lay("-", "-")
    stage.lay("d")

    jobs = stage.run(lambda frame: frame.where("word <> '-'"))

    assert jobs == 3
    assert stage.rows_out() == [3, 0, 1]
    assert [stage.written(batch) for batch in range(3)] == [["a", "b", "c"], None, ["d"]]


def test_refused_rows_of_a_batch_that_is_read_once_are_counted_by_its_job_and_become_letters(stage: Stage) -> None:
    letters: dict[int, list[str]] = {}

    def judged(frame: DataFrame) -> DataFrame:
        return frame.withColumn(refusals.REASON, F.expr("IF(word = '-', 'not_written: x', NULL)"))

    def write(rows: DataFrame, batch: sinks.Batch) -> None:
        taken = rows.where(F.col(refusals.REASON).isNull())
        sinks.write_files(taken.select("word", "note"), stage.paths.files, QUERY, batch.number)

    def tell(rows: DataFrame, batch: sinks.Batch) -> None:
        letters[batch.number] = [row.word for row in rows.where(refusals.REFUSED).collect()]

    stage.write, stage.letters = write, tell
    stage.lay("a", "-")
    stage.lay("b")
    stage.lay("-")
    jobs = stage.run(judged)

    assert letters == {0: ["-"], 2: ["-"]}
    assert jobs == 5
    assert stage.rows_out() == [1, 1, 0]
    assert [record.get("refused", 0) for record in ledger.read(stage.paths.ledger)] == [1, 0, 1]
    # The batch whose rows were all refused has no folder, and a start does not miss it.
    assert integrity.files_gone(str(stage.folder), stage.begun) == []
    assert [stage.written(batch) for batch in range(3)] == [["a"], ["b"], None]


def test_rows_of_a_try_that_failed_are_not_counted_again(stage: Stage) -> None:
    tried: list[int] = []

    def write(rows: DataFrame, batch: sinks.Batch) -> None:
        rows.write.format("noop").mode("overwrite").save()
        tried.append(batch.number)
        if len(tried) == 1:
            raise ConnectionError("Cassandra went away")

    def run_when_available(work: Callable[[], counted.Counts]) -> counted.Counts:
        with contextlib.suppress(ConnectionError):
            return work()
        return work()

    stage.write, stage.link = write, SimpleNamespace(run_when_available=run_when_available)
    stage.lay("a", "b", "c")
    stage.run()

    assert tried == [0, 0]
    assert stage.rows_out() == [3]


def test_a_replayed_batch_whose_files_are_there_makes_its_state_and_counts_its_rows(stage: Stage) -> None:
    def totals(frame: DataFrame) -> DataFrame:
        return frame.groupBy("word").agg({"note": "max"}).withColumnRenamed("max(note)", "note")

    stage.lay("a", "b")
    stage.run(totals, "update")
    # as if the driver had been killed between the rename of the files and the ledger: nothing after the offset log
    for later in (Path(stage.paths.checkpoint) / "commits").iterdir():
        later.unlink()
    for record in Path(stage.paths.ledger).iterdir():
        record.unlink()
    stage.lay("b", "c")
    stage.run(totals, "update")

    assert stage.rows_out() == [2, 2]
    assert [stage.written(batch) for batch in range(2)] == [["a", "b"], ["b", "c"]]


@pytest.mark.parametrize(
    ("offsets", "stateless", "tasks"),
    [(60, True, 1), (2 * writer.TASK_OFFSETS + 1, True, 3), (9 * writer.TASK_OFFSETS, True, 6), (60, False, 6)],
    ids=["a small batch", "a larger one", "a large one", "a small one with state"],
)
def test_a_small_batch_without_state_runs_in_as_few_tasks_as_its_records_are_worth(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, offsets: int, stateless: bool, tasks: int
) -> None:
    of_batch = BatchRange(0, {"t": {0: 0}}, {"t": {0: offsets}}, 0, 0)
    monkeypatch.setattr(writer, "read_batch_range", lambda *_: of_batch)
    words = [f"word {number:02}" for number in range(60)]
    stage.stateless = stateless
    stage.lay(*words)

    stage.run(lambda frame: frame.repartition(6))

    assert len(list((Path(stage.paths.files) / "batch_id=0").glob("part-*"))) == tasks
    assert stage.written(0) == words
    assert stage.rows_out() == [60]


def test_a_later_batch_searches_no_java_class(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = clientserver.ClientServerConnection.send_command

    def note(self: Any, command: str) -> Any:
        if command.startswith("r\nu\n"):  # py4j's reflection command: what is this name?
            asked.append(command.split("\n")[2])
        return send(self, command)

    monkeypatch.setattr(clientserver.ClientServerConnection, "send_command", note)
    seen: list[list[str]] = []

    def write(rows: DataFrame, batch: sinks.Batch) -> None:
        sinks.write_files(rows.select(*QUERY.columns), stage.paths.files, QUERY, batch.number)
        sinks.headers(batch, {})
        seen.append(asked.copy())

    stage.write = write
    stage.lay("a")
    stage.lay("b")
    stage.run()

    assert len(seen) == 2
    assert seen[1] == seen[0]


@pytest.mark.parametrize("complete", [False, True])
def test_a_complete_result_without_rows_is_written_too_because_the_sink_loses_its_rows(
    spark: SparkSession, stage: Stage, complete: bool
) -> None:
    written: list[int] = []
    batches = writer.Writer(
        spark,
        stage.begun,
        stage.paths,
        lambda rows, batch: written.append(rows.count()),
        SimpleNamespace(commit=lambda *_: None),  # type: ignore[arg-type]
        writer.Gate(),
        writer.Counters(),
        often=True,
        complete=complete,
    )
    batch = sinks.Batch("p.q", stage.begun, 0)
    frame = spark.range(3).withColumn(refusals.REASON, F.lit(None).cast("string"))
    assert batches._count_and_write(frame, batch).rows == 3
    assert batches._count_and_write(frame.where("false"), batch).rows == 0
    assert written == ([3, 0] if complete else [3])
