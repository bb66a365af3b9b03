"""Data of past refreshes: records, by which later ones are judged, and staged rows, which expire."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.contract.model import Pipeline, Refresh
from headrace.operations.dimensions.snapshot import VERSION, settings
from headrace.store import paths, small_files, trees

LAST = 10
"""The number of past refreshes by which a new one is judged."""
USUAL_FROM = 5
UNUSUAL_TIMES = 10


def history(root: str, pipeline: str, dimension: str) -> list[dict[str, Any]]:
    """Return the records of the last refreshes, newest first: up to LAST, none older than the last approved one.

    An approval sets a new baseline, so an approved refresh is the oldest that counts.
    """
    records: list[dict[str, Any]] = []
    folder = paths.refresh(root, pipeline, dimension)
    for version in sorted(filter(_time_of, small_files.list_names(folder)), reverse=True):
        if record := small_files.read_json(f"{folder}/{version}/record.json"):
            records.append(record)
            if len(records) == LAST or record.get("approved_by"):
                break
    return records


def rows_before(records: Sequence[dict[str, Any]]) -> int:
    """Return the rows of the largest snapshot among the records; 0 if there are none."""
    return max((int(record["rows"]) for record in records), default=0)


def reasons_to_ask(
    refresh: Refresh, records: Sequence[dict[str, Any]], live: int, staged: int, deletes: int
) -> list[str]:
    """Return why a refresh needs approval, each reason as the end of "It needs approval: "; empty if it needs none.

    A percentage alone would let a directory shrink a little every night, and would miss a small fault if users rarely leave.
    """
    allowed, largest = refresh.max_delete_percent, rows_before(records)
    reasons = []
    if deletes * 100 > allowed * live:
        reasons.append(f"it deletes more than {allowed} % of {live} rows")
    if (largest - staged) * 100 > allowed * largest:
        reasons.append(
            f"it has {staged} rows, more than {allowed} % fewer than {largest}, the most in the last "
            f"{len(records)} refreshes"
        )
    usual = max((int(record["deletes"]) for record in records), default=0)
    if len(records) >= USUAL_FROM and deletes > UNUSUAL_TIMES * max(1, usual) and deletes * 1_000 > allowed * live:
        reasons.append(
            f"it deletes {deletes} rows, but none of the last {len(records)} refreshes deleted more than {usual}"
        )
    return reasons


def remove_old(root: str, pipeline: Pipeline, dimension: str) -> list[str]:
    """Remove the staged rows and differences that are older than the dimension's `keep`; return the versions.

    They contain the directory's personal data. Records, which contain only counts, stay.
    """
    before_ms = time.time_ns() // 1_000_000 - settings(pipeline, dimension).keep // timedelta(milliseconds=1)
    folder, removed = paths.refresh(root, pipeline.name, dimension), []
    for version in filter(_time_of, small_files.list_names(folder)):
        version_folder = f"{folder}/{version}"
        rows = [name for name in small_files.list_names(version_folder) if name.endswith(".parquet")]
        staged = small_files.read_json(f"{version_folder}/staged.json") or {}
        if rows and staged.get("at_ms", _time_of(version)) < before_ms:
            for name in rows:
                trees.remove_file(f"{version_folder}/{name}")
            removed.append(version)
    return removed


def _time_of(version: str) -> int:
    """Return a version's time in milliseconds since 1970; 0 if the name is not a version."""
    try:
        return int(datetime.strptime(version, VERSION).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return 0
