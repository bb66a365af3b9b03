"""A real RocksDB state: the files that `store.state_files` names are enough to go on, and each of them is needed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F
from pyspark.sql.utils import StreamingQueryException

from headrace.contract import state
from headrace.contract.load import load_pipeline
from headrace.contract.model import State
from headrace.store import checkpoint_log, state_files, trees

pytestmark = pytest.mark.spark
CHANGELOG = "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled"


class Counting:
    """Counts words of JSON files by key, a run for each file, on whatever checkpoint it is given."""

    def __init__(self, spark: Any, folder: Path, conf: dict[str, str]) -> None:
        self.spark, self.folder, self.conf = spark, folder, conf
        self.sent: Counter[str] = Counter()
        (folder / "in").mkdir()

    def feed(self, number: int) -> None:
        words = [f"w{n % (number + 3)}" for n in range(20)]
        self.sent.update(words)
        (self.folder / "in" / f"{number}.json").write_text("".join(json.dumps({"word": w}) + "\n" for w in words))

    def run(self, place: Path, changelog: bool) -> dict[str, int]:
        """Take all files that wait and return the newest total of each word of these batches."""
        counts: dict[str, int] = {}
        settings = self.conf | {CHANGELOG: str(changelog).lower()}
        before = {key: self.spark.conf.get(key, None) for key in settings}
        for key, value in settings.items():
            self.spark.conf.set(key, value)
        try:
            query = (
                self.spark.readStream.schema("word string")
                .json(str(self.folder / "in"))
                .groupBy("word")
                .agg(F.count(F.lit(1)).alias("n"))
                .writeStream.outputMode("update")
                .option("checkpointLocation", str(place))
                .trigger(availableNow=True)
                .foreachBatch(lambda frame, _: counts.update({row["word"]: row["n"] for row in frame.collect()}))
                .start()
            )
            query.awaitTermination()
        finally:
            for key, value in before.items():
                self.spark.conf.unset(key) if value is None else self.spark.conf.set(key, value)
        return counts


def needed(place: Path) -> dict[str, state_files.StateChain]:
    """Return what each store of a checkpoint needs for the version after its newest batch."""
    files = trees.files(str(place))
    version = (checkpoint_log.newest_batch(str(place)) or 0) + 1
    return {
        store: state_files.needed(files, store, version, lambda path: trees.read_bytes(f"{place}/{path}"))
        for store in state_files.stores(files)
    }


@pytest.fixture
def counting(spark: Any, tmp_path: Path, project: Path) -> Counting:
    query = load_pipeline(project / "pipelines" / "pos_sales.yaml").queries["product_totals"]
    declared = query.model_copy(update={"state": State(store="rocksdb")})
    return Counting(spark, tmp_path, state.conf(declared))


def test_a_copy_of_the_needed_files_goes_on_exactly_and_without_any_of_them_spark_does_not(
    counting: Counting, tmp_path: Path
) -> None:
    place = tmp_path / "checkpoint"
    for number, changelog in enumerate((False, False, True, True)):  # two full files, then two change files
        counting.feed(number)
        counting.run(place, changelog)
    chains = needed(place)
    kinds = {Path(name).suffix for chain in chains.values() for name in chain.files}
    assert kinds == {".zip", ".sst", ".changelog"}
    assert [chain.missing for chain in chains.values()] == [()] * 2
    kept = tmp_path / "kept"
    shutil.copytree(place, kept)
    for path in (path for path in kept.rglob("*") if path.is_file() and "state" in path.parts):
        store, _, name = str(path.relative_to(kept)).partition("/SSTs/")
        store, name = (store, f"SSTs/{name}") if name else (str(path.parent.relative_to(kept)), path.name)
        if store in chains and name not in chains[store].files:
            path.unlink()
    counting.feed(4)
    assert counting.run(kept, True) == {word: counting.sent[word] for word in (f"w{n}" for n in range(7))}
    for store, chain in chains.items():
        for name in chain.files:
            broken = tmp_path / "broken"
            shutil.copytree(place, broken)
            (broken / store / name).unlink()
            with pytest.raises(StreamingQueryException):
                counting.run(broken, True)
            shutil.rmtree(broken)
