"""Maintenance of one Iceberg table: compact data files, expire old snapshots. Streams may run.

Each step is a commit, and may be repeated. A commit in a Hadoop catalog checks whether the version's name is free and then
renames, which replaces an existing file: if two processes commit at the same moment, one loses its commit and its rows,
on a disk as in an object store. So only the process that writes a table maintains it (ADR 0032).
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.sql import SparkSession

from headrace.contract.names import LAKE_CATALOG
from headrace.store import archive_notes

EXPIRE_DAYS = 7.0
KEPT_SNAPSHOTS = 5
MIN_INPUT_FILES = 5
DAY_MS = 86_400_000
MAINTENANCE_BATCHES = 1000
"""How often the writer of an archive maintains its table: with a batch every 10 to 30 seconds, every 3 to 8 hours."""

log = logging.getLogger(__name__)


def maintain(
    spark: SparkSession, root: str, pipeline: str, table: str, expire_days: float = EXPIRE_DAYS
) -> dict[str, int]:
    """Rewrite small files of a table and expire its old snapshots; return how many files were removed, added and expired."""
    name, now_ms = f"{pipeline}.{table}", time.time_ns() // 1_000_000
    rewritten = call(spark, "rewrite_data_files", name, f"options => map('min-input-files', '{MIN_INPUT_FILES}')")
    # The note of the archive's offsets is in a snapshot: the newest one with a note, and all later ones, stay.
    note = archive_notes.newest(root, pipeline, table)
    before_ms = min(now_ms - expire_days * DAY_MS, note.at_ms if note else now_ms)
    expired = call(
        spark, "expire_snapshots", name, f"older_than => {moment(before_ms)}, retain_last => {KEPT_SNAPSHOTS}"
    )
    return {
        "files_rewritten": int(rewritten[0]["rewritten_data_files_count"]),
        "files_added": int(rewritten[0]["added_data_files_count"]),
        "files_expired": sum(int(value or 0) for value in expired[0].asDict().values()),
    }


def maintain_own(spark: SparkSession, root: str, table: str) -> None:
    """Maintain a table (`<catalog>.<pipeline>.<name>`) that this process writes, between two of its commits.

    A failure ends nothing: the rows are there, and the next maintenance catches up.
    """
    _, pipeline, name = table.split(".")
    try:
        log.info("maintained %s: %s", table, maintain(spark, root, pipeline, name))
    except (Py4JError, CapturedException, OSError) as error:
        log.warning("could not maintain %s, will try again later: %s", table, str(error).splitlines()[0])


def call(spark: SparkSession, procedure: str, table: str, arguments: str) -> list[Any]:
    """Call one of Iceberg's procedures (Iceberg, "Spark procedures") and return its rows."""
    return list(spark.sql(f"CALL {LAKE_CATALOG}.system.{procedure}(table => '{table}', {arguments})").collect())


def moment(milliseconds: float) -> str:
    """Return a time (milliseconds since 1970) as SQL."""
    return f"TIMESTAMP '{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}'"
