"""What all tests of Spark semantics share: one random replay a pipeline, which several tests look at."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from spark_jobs import ad_attribution, pos_sales
from tests.jobs.events import MICRO, ads, pair, quiet, sale, sales
from tests.support.oracle import Oracle
from tests.support.replay import Input, Job, Replayed, Step, replay

ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"


@dataclass(frozen=True)
class Played:
    """An input, what each query gave for it, and the seed that makes it again."""

    seed: int
    given: Input
    replayed: dict[str, Replayed]

    def oracle(self, name: str) -> Oracle:
        """Return the oracle for the batches of one query."""
        return oracle_of(self.given, self.replayed[name])

    def check(self, name: str, expected: dict[int, list[tuple[Any, ...]]]) -> None:
        """Each batch of a query gave exactly the expected rows, in any order."""
        for batch in self.replayed[name].batches:
            assert Counter(batch.rows) == Counter(expected.get(batch.number, [])), (
                f"{name}, batch {batch.number}; HEADRACE_TEST_SEED={self.seed}"
            )
        assert expected.keys() <= {batch.number for batch in self.replayed[name].batches}


@pytest.fixture(scope="session")
def pos_sales_file(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "pos_sales.yaml")


@pytest.fixture(scope="session")
def ad_attribution_file(project: Path) -> Pipeline:
    return load_pipeline(project / "pipelines" / "ad_attribution.yaml")


@pytest.fixture(scope="session")
def pos_played(spark: SparkSession, pos_sales_file: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Random sales through every query of pos_sales, all drivers stopped and started again half way."""
    seed = _seed()
    jobs = {name: Job(name, getattr(pos_sales, name)) for name in pos_sales_file.queries}
    jobs["complete_windows"] = Job("tumbling", pos_sales.tumbling, mode="complete")
    steps = sales(random.Random(seed), 8)
    # One row that is late for the first of its two sliding windows only, and one that is late for both.
    newest = max(event["create_date"] for step in steps for event in step["pos"] if not isinstance(event, bytes))
    border = newest.replace(minute=newest.minute // 5 * 5, second=0, microsecond=0)
    steps += [
        {"pos": [sale("p0", "0.10", border + timedelta(minutes=10))]},
        {"pos": []},
        {"pos": [sale("p0", "0.20", border - MICRO), sale("p1", "0.40", border - timedelta(minutes=30))]},
    ]
    return _play(spark, seed, pos_sales_file, jobs, steps, tmp_path_factory.mktemp("pos_played"))


@pytest.fixture(scope="session")
def ads_played(spark: SparkSession, ad_attribution_file: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Random impressions and clicks, once with each kind of state store; no restart (it would change the watermark)."""
    seed = _seed()
    jobs = {
        "in_memory": Job("attributed", ad_attribution.attributed),
        "rocksdb": Job("attributed", ad_attribution.attributed, conf={STORE: ROCKSDB}),
    }
    given = Input(tmp_path_factory.mktemp("ads_played"), ad_attribution_file)
    steps = ads(random.Random(seed), 12)
    # A pair that both sides' watermarks have passed: a drawn order need not hold any.
    newest = max(
        event["create_date"] for step in steps for side in step.values() for event in side if type(event) is dict
    )
    steps += [pair("ahead", newest + timedelta(hours=1)), {}, pair("belated", newest - timedelta(hours=1))]
    given.lay([*steps, *quiet(2)])
    return Played(seed, given, replay(spark, given, jobs, given.folder / "out"))


STORE = "spark.sql.streaming.stateStore.providerClass"


def oracle_of(given: Input, replayed: Replayed) -> Oracle:
    """Return the oracle for an input and the batches in which it was read."""
    pipeline = given.pipeline
    kinds = {"string": "VARCHAR", "timestamp": "TIMESTAMP", "decimal(12,2)": "DECIMAL(12,2)"}
    delays = {t: d for query in pipeline.queries.values() for t, d in query.watermark.items()}
    times = {topic: source.event_time.column for topic, source in pipeline.sources.items() if source.event_time}
    oracle = Oracle(delays, times, len(replayed.batches))
    for topic, source in pipeline.sources.items():
        events = [(replayed.batch_of(r.step), r.event) for r in given.records if r.topic == topic and r.event]
        oracle.add(topic, {name: kinds[column.type] for name, column in source.columns.items()}, events)
    return oracle


def _play(
    spark: SparkSession, seed: int, pipeline: Pipeline, jobs: dict[str, Job], steps: list[Step], folder: Path
) -> Played:
    given, half = Input(folder / "input", pipeline), len(steps) // 2
    given.lay(steps[:half])
    replay(spark, given, jobs, folder)
    given.lay([*steps[half:], *quiet(2)])
    return Played(seed, given, replay(spark, given, jobs, folder))


def _seed() -> int:
    return int(os.environ.get("HEADRACE_TEST_SEED") or random.SystemRandom().randrange(2**31))
