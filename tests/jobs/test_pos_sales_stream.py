"""Every query of pos_sales, replayed in random orders, against the oracle: batch by batch, row by row."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from spark_jobs import pos_sales
from tests.jobs.events import quiet, sales
from tests.support.oracle import Oracle
from tests.support.replay import Input, Job, Replayed, Step, replay

pytestmark = pytest.mark.spark

FIVE, TEN = timedelta(minutes=5), timedelta(minutes=10)
JOBS = {
    name: Job(name, getattr(pos_sales, name)) for name in ("product_totals", "tumbling", "sliding", "final_windows")
}


@pytest.fixture(scope="module")
def pipeline(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


def given(pipeline: Pipeline, folder: Path, *steps: Step) -> Input:
    found = Input(folder / "input", pipeline)
    found.lay(steps)
    return found


def oracle(taken: Input, replayed: Replayed) -> Oracle:
    found = Oracle({"pos": TEN}, {"pos": "create_date"}, len(replayed.batches))
    columns = {"product_id": "VARCHAR", "amount": "DECIMAL(12,2)", "create_date": "TIMESTAMP"}
    found.add("pos", columns, [(replayed.batch_of(r.step), r.event) for r in taken.records if r.event])
    return found


def same(replayed: Replayed, expected: dict[int, list[tuple[Any, ...]]]) -> None:
    """Each batch gave exactly the expected rows, in any order."""
    for batch in replayed.batches:
        assert Counter(batch.rows) == Counter(expected.get(batch.number, [])), f"batch {batch.number}"
    assert expected.keys() <= {batch.number for batch in replayed.batches}


@pytest.mark.parametrize("round_", range(2))
def test_every_stateful_query_equals_the_oracle_in_every_batch(
    spark: SparkSession, pipeline: Pipeline, tmp_path: Path, seed: int, round_: int
) -> None:
    taken = given(pipeline, tmp_path, *sales(random.Random(seed + round_), 12), *quiet(2))
    jobs = JOBS | {"leaderboard": Job("leaderboard", pos_sales.leaderboard)}
    found = replay(spark, taken, jobs, tmp_path)
    for name in ("tumbling", "sliding", "final_windows"):
        marks = [(b.watermark_ms, b.late_watermark_ms) for b in found[name].batches]
        assert marks == oracle(taken, found[name]).watermarks(), name
    same(found["product_totals"], oracle(taken, found["product_totals"]).totals_update())
    same(found["tumbling"], oracle(taken, found["tumbling"]).windows_update(FIVE, FIVE))
    same(found["sliding"], oracle(taken, found["sliding"]).windows_update(TEN, FIVE))
    same(found["final_windows"], oracle(taken, found["final_windows"]).windows_append(FIVE, FIVE))
    boards = oracle(taken, found["leaderboard"]).totals_complete()
    same(found["leaderboard"], {batch: [("all", *row) for row in rows] for batch, rows in boards.items()})
