"""Upkeep of a pipeline's Iceberg tables: small files together, old snapshots and orphan files away. Streams may run.

Each procedure commits for itself and may be repeated (Iceberg, "Spark procedures"); appends of a running archive query
never conflict with a rewrite of older files. In an object store only orphans are removed here, which is no commit: the
rest is done by the process that writes the table (`streaming.tables`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from headrace.contract import names, objects
from headrace.streaming import tables
from headrace.streaming.batch_job import Job

ORPHAN_DAYS = 3.0  # Iceberg asks for more than any write can take: files of one under way are nobody's yet


def run(job: Job, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do the upkeep of every table of the pipeline; the order may say `expire_days` and `orphan_days`.

    Returns table -> files rewritten and added, snapshots expired (as files deleted), orphans removed, seconds.
    """
    expire, orphans = (float(order.get(name, default)) for name, default in _DEFAULTS.items())
    found = job.spark.sql(f"SHOW TABLES IN {names.LAKE_CATALOG}.{job.pipeline.name}").collect()
    every = sorted(str(row["tableName"]) for row in found)
    told = {}
    for number, table in enumerate(every):
        job.progress(number, len(every), table)
        told[table] = _table(job, table, expire, orphans)
    return {"pipeline": job.pipeline.name, "tables": told}


_DEFAULTS = {"expire_days": tables.EXPIRE_DAYS, "orphan_days": ORPHAN_DAYS}


def _table(job: Job, table: str, expire_days: float, orphan_days: float) -> dict[str, Any]:
    began, pipeline = time.monotonic(), job.pipeline.name
    theirs = objects.is_object(job.root)
    done = {} if theirs else tables.tend(job.spark, job.root, pipeline, table, expire_days)
    before = tables.moment(time.time_ns() / 1_000_000 - orphan_days * tables.DAY_MS)
    removed = tables.call(job.spark, "remove_orphan_files", f"{pipeline}.{table}", f"older_than => {before}")
    return done | {"orphans_removed": len(removed), "seconds": round(time.monotonic() - began, 1)}
