"""Maintenance of a pipeline's Iceberg tables outside their writers: remove files that belong to no snapshot. Streams may run.

This commits nothing, so it cannot conflict with the process that writes a table. That process compacts small files and
expires old snapshots (`driver.iceberg_maintenance`, ADR 0032).
"""

from __future__ import annotations

import time

from headrace.batch.finite_job import Job
from headrace.contract import names
from headrace.contract.job_files import UpkeepSpec
from headrace.driver import iceberg_maintenance
from headrace.store.job_reports import TableUpkeep, UpkeepReport


def run(job: Job, spec: UpkeepSpec) -> UpkeepReport:
    """Remove the orphan files of every table of the pipeline, and return what was removed."""
    rows = job.spark.sql(f"SHOW TABLES IN {names.LAKE_CATALOG}.{job.pipeline.name}").collect()
    every = sorted(str(row["tableName"]) for row in rows)
    results = {}
    for number, table in enumerate(every):
        job.progress(number, len(every), table)
        results[table] = _table(job, table, spec.orphan_days)
    return UpkeepReport(job.pipeline.name, results)


def _table(job: Job, table: str, orphan_days: float) -> TableUpkeep:
    began = time.monotonic()
    before = iceberg_maintenance.moment(time.time_ns() / 1_000_000 - orphan_days * iceberg_maintenance.DAY_MS)
    removed = iceberg_maintenance.call(
        job.spark, "remove_orphan_files", f"{job.pipeline.name}.{table}", f"older_than => {before}"
    )
    return TableUpkeep(len(removed), round(time.monotonic() - began, 1))
