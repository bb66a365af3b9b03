"""Maintenance of a pipeline's Iceberg tables outside their writers: remove files that belong to no snapshot. Streams may run.

This commits nothing, so it cannot conflict with the process that writes a table. That process compacts small files and
expires old snapshots (`streaming.tables`, ADR 0032).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from headrace.contract import names
from headrace.streaming import tables
from headrace.streaming.batch_job import Job

ORPHAN_DAYS = 3.0  # Iceberg requires more than the longest write: files of a running write belong to no snapshot yet


def run(job: Job, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the orphan files of every table of the pipeline; the job spec may have `orphan_days`.

    Returns table -> orphans removed, seconds.
    """
    orphan_days = float(spec.get("orphan_days", ORPHAN_DAYS))
    rows = job.spark.sql(f"SHOW TABLES IN {names.LAKE_CATALOG}.{job.pipeline.name}").collect()
    every = sorted(str(row["tableName"]) for row in rows)
    results = {}
    for number, table in enumerate(every):
        job.progress(number, len(every), table)
        results[table] = _table(job, table, orphan_days)
    return {"pipeline": job.pipeline.name, "tables": results}


def _table(job: Job, table: str, orphan_days: float) -> dict[str, Any]:
    began = time.monotonic()
    before = tables.moment(time.time_ns() / 1_000_000 - orphan_days * tables.DAY_MS)
    removed = tables.call(job.spark, "remove_orphan_files", f"{job.pipeline.name}.{table}", f"older_than => {before}")
    return {"orphans_removed": len(removed), "seconds": round(time.monotonic() - began, 1)}
