"""An archive table with known records, and a finite job on it, in the test session's lake."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pyspark.sql import SparkSession

from headrace.batch.finite_job import Job
from headrace.contract.model import Pipeline
from headrace.driver import archive_table, queries


class Archived(NamedTuple):
    """One row of an archive; times are UTC without zone."""

    partition: int
    offset: int
    at: datetime
    value: dict[str, Any] | bytes
    reason: str | None = None


def renamed(pipeline: Pipeline, name: str) -> Pipeline:
    """Return the pipeline under another name, so that it has its own tables."""
    return pipeline.model_copy(update={"name": name})


def lay(spark: SparkSession, pipeline: Pipeline, topic: str, rows: Sequence[Archived]) -> None:
    """Append rows to a topic's archive as one batch."""
    archive_table.create(spark, pipeline.name, topic)
    key = pipeline.sources[topic].key
    spark.createDataFrame([_row(topic, key, row) for row in rows], archive_table.COLUMNS).writeTo(
        f"lake.{pipeline.name}.archive_{topic}"
    ).append()


def numbered(records: Iterable[tuple[datetime, dict[str, Any]]], partitions: int = 2) -> list[Archived]:
    """Return records (broker time, columns) with consecutive offsets in each partition."""
    ends = [0] * partitions
    archived = []
    for number, (at, value) in enumerate(records):
        partition = number % partitions
        archived.append(Archived(partition, ends[partition], at, value))
        ends[partition] += 1
    return archived


def job(spark: SparkSession, pipeline: Pipeline, module: ModuleType, root: Path, run: str) -> Job:
    """Return a finite job that needs no binding."""
    return Job(spark, pipeline, queries.transforms_of(pipeline, module), str(root), root / "none", run)


def sale(product: str, amount: str, at: datetime) -> dict[str, Any]:
    """Return one receipt line."""
    return {"product_id": product, "amount": Decimal(amount), "create_date": at}


def _row(topic: str, key: str, row: Archived) -> tuple[Any, ...]:
    if isinstance(row.value, bytes):
        key_bytes, value = None, row.value
    else:
        key_bytes = str(row.value[key]).encode()
        value = json.dumps(row.value, default=str).encode()
    at = row.at.replace(tzinfo=UTC)
    return (key_bytes, value, None, topic, row.partition, row.offset, at, row.reason)


MINUTE = timedelta(minutes=1)
