"""Data of past refreshes: records, by which later ones are judged, and staged rows, which expire."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from headrace.contract.model import Pipeline, Refresh
from headrace.operations.dimensions.documents import RefreshRecord
from headrace.operations.dimensions.snapshot import VERSION, settings
from headrace.store import paths, records, small_files, trees

LAST = 10
"""The number of past refreshes by which a new one is judged."""
USUAL_FROM = 5
UNUSUAL_TIMES = 10


def history(root: str, pipeline: str, dimension: str) -> list[RefreshRecord]:
    """Return the records of the last refreshes, newest first: up to LAST, none older than the last approved one.

    An approval sets a new baseline, so an approved refresh is the oldest that counts.
    """
    known: list[RefreshRecord] = []
    folder = paths.refresh(root, pipeline, dimension)
    for version in sorted(filter(_time_of, small_files.list_names(folder)), reverse=True):
        if record := records.read(RefreshRecord, f"{folder}/{version}/record.json"):
            known.append(record)
            if len(known) == LAST or record.approved_by:
                break
    return known


def rows_before(known: Sequence[RefreshRecord]) -> int:
    """Return the rows of the largest snapshot among the records; 0 if there are none."""
    return max((record.rows for record in known), default=0)


def reasons_for_approval(
    refresh: Refresh, known: Sequence[RefreshRecord], live: int, staged: int, deletes: int
) -> list[str]:
    """Return why a refresh needs approval, each reason as the end of "It needs approval: "; empty if it needs none.

    A percentage alone would let a directory shrink a little every night, and would miss a small fault if users rarely leave.
    """
    allowed, largest = refresh.max_delete_percent, rows_before(known)
    reasons = []
    if deletes * 100 > allowed * live:
        reasons.append(f"it deletes more than {allowed} % of {live} rows")
    if (largest - staged) * 100 > allowed * largest:
        reasons.append(
            f"it has {staged} rows, more than {allowed} % fewer than {largest}, the most in the last "
            f"{len(known)} refreshes"
        )
    usual = max((record.deletes for record in known), default=0)
    if len(known) >= USUAL_FROM and deletes > UNUSUAL_TIMES * max(1, usual) and deletes * 1_000 > allowed * live:
        reasons.append(
            f"it deletes {deletes} rows, but none of the last {len(known)} refreshes deleted more than {usual}"
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
