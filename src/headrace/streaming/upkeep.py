"""Upkeep of a pipeline's Iceberg tables: small files together, old snapshots and orphan files away. Streams may run.

Each procedure commits for itself and may be repeated (Iceberg, "Spark procedures"); appends of a running archive query
never conflict with a rewrite of older files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headrace.contract import archived, names
from headrace.streaming.batch_job import Job

EXPIRE_DAYS = 7.0
ORPHAN_DAYS = 3.0  # Iceberg asks for more than any write can take: files of one under way are nobody's yet
KEPT_SNAPSHOTS = 5
MIN_INPUT_FILES = 5
DAY_MS = 86_400_000


def run(job: Job, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do the upkeep of every table of the pipeline; the order may say `expire_days` and `orphan_days`.

    Returns table -> files rewritten and added, snapshots expired (as files deleted), orphans removed, seconds.
    """
    expire, orphans = (float(order.get(name, default)) for name, default in _DEFAULTS.items())
    found = job.spark.sql(f"SHOW TABLES IN {names.LAKE_CATALOG}.{job.pipeline.name}").collect()
    tables = sorted(str(row["tableName"]) for row in found)
    told = {}
    for number, table in enumerate(tables):
        job.progress(number, len(tables), table)
        told[table] = _table(job, table, expire, orphans)
    return {"pipeline": job.pipeline.name, "tables": told}


_DEFAULTS = {"expire_days": EXPIRE_DAYS, "orphan_days": ORPHAN_DAYS}


def _table(job: Job, table: str, expire_days: float, orphan_days: float) -> dict[str, Any]:
    began, name = time.monotonic(), f"{job.pipeline.name}.{table}"
    now_ms = time.time_ns() // 1_000_000
    rewritten = _call(job, "rewrite_data_files", name, f"options => map('min-input-files', '{MIN_INPUT_FILES}')")
    # The note of which offsets the archive has lives in a snapshot: the newest with a note, and all after it, stay.
    note = archived.newest(job.root, job.pipeline.name, table)
    before_ms = min(now_ms - expire_days * DAY_MS, note.at_ms if note else now_ms)
    expired = _call(
        job, "expire_snapshots", name, f"older_than => {_moment(before_ms)}, retain_last => {KEPT_SNAPSHOTS}"
    )
    removed = _call(job, "remove_orphan_files", name, f"older_than => {_moment(now_ms - orphan_days * DAY_MS)}")
    return {
        "files_rewritten": int(rewritten[0]["rewritten_data_files_count"]),
        "files_added": int(rewritten[0]["added_data_files_count"]),
        "files_expired": sum(int(value or 0) for value in expired[0].asDict().values()),
        "orphans_removed": len(removed),
        "seconds": round(time.monotonic() - began, 1),
    }


def _call(job: Job, procedure: str, table: str, arguments: str) -> list[Any]:
    return list(
        job.spark.sql(f"CALL {names.LAKE_CATALOG}.system.{procedure}(table => '{table}', {arguments})").collect()
    )


def _moment(milliseconds: float) -> str:
    return f"TIMESTAMP '{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}'"
