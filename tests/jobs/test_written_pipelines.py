"""What `headrace pipeline new` writes plans: the driver's own check finds no difference between file and transform."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from headrace.contract.load import load_pipeline
from headrace.driver import queries
from headrace.driver.check import differences
from headrace.operations.pipelines.new import SINKS, NewPipeline, write
from headrace.operations.pipelines.sample import columns_of

pytestmark = pytest.mark.spark

RECORDS = [
    b'{"orderId": "a1", "shipTo": {"city": "Oslo"}, "items": [1], "total": 12.5, "n": 1, "createdAt": "2026-03-01T10:00:00Z"}',
    b'{"orderId": "a2", "shipTo": null, "items": [], "total": 7, "n": 2, "on": "2026-03-01", "createdAt": "2026-03-01 10:00:01"}',
]


@pytest.mark.parametrize("sink", SINKS)
def test_a_pipeline_that_was_written_from_a_sample_plans(spark: SparkSession, tmp_path: Path, sink: str) -> None:
    request = NewPipeline("orders", "shop.orders-v1", columns_of(RECORDS), "me", sink=sink)  # type: ignore[arg-type]
    description, transform = write(tmp_path, request)
    pipeline = load_pipeline(description)
    module = queries.load_module(transform)
    assert differences(spark, pipeline, queries.transforms_of(pipeline, module)) == []
    transform.write_text(transform.read_text().replace('"total",', '"n",'))
    assert differences(spark, pipeline, queries.transforms_of(pipeline, queries.load_module(transform)))
