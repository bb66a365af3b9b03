"""A year of one query's ledger at a trigger of 2 seconds: its files, its size, and what reading it costs.

    .venv/bin/python -m bench.ledger_year [--days 365] [--folder FOLDER]

Each simulated night adds a day's records in the segments that compaction makes of single files, and then runs the compaction
(`operations.checkpoints.compact.compact_ledger`), which merges them. Prints JSON: seconds are processor seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.operations.checkpoints import compact
from headrace.store import ledger
from headrace.store.checkpoint_log import BatchRange

A_DAY = 24 * 3600 // 2
ROWS, PARTITIONS = 100, 3
NEWEST = 200


def _records(first: int, count: int) -> list[ledger.BatchRecord]:
    """Return the records of consecutive batches, each of ROWS rows in PARTITIONS partitions."""
    records = []
    for number in range(first, first + count):
        starts = {"pos": dict.fromkeys(range(PARTITIONS), number * ROWS)}
        ends = {"pos": dict.fromkeys(range(PARTITIONS), (number + 1) * ROWS)}
        at_ms = 1_767_225_600_000 + number * 2000
        batch = BatchRange(number, starts, ends, at_ms, at_ms)
        records.append(
            ledger.make_record(
                "pos_sales.items", 1, batch, rows_out=ROWS * PARTITIONS, began_ms=at_ms, written_ms=at_ms
            )
        )
    return records


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return round(time.process_time() - began, 4)


def _night(folder: str, day: int) -> None:
    for first in range(day * A_DAY, (day + 1) * A_DAY, compact.SEGMENT_RECORDS):
        count = min(compact.SEGMENT_RECORDS, (day + 1) * A_DAY - first)
        ledger.write_segment(folder, _records(first, count))
    compact.compact_ledger(folder)


def measure(folder: str, days: int) -> dict[str, Any]:
    """Build the ledger below `folder` and return the figures."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    nights = [_seconds(lambda day=day: _night(folder, day)) for day in range(days)]  # type: ignore[misc]
    # The day that runs: the newest records are single files until the night.
    for record in _records(days * A_DAY, 1000):
        ledger.write(folder, record)
    files = list(Path(folder).iterdir())
    newest = ledger.newest_batch(folder) or 0
    return {
        "days": days,
        "batches": newest + 1,
        "files": len(files),
        "mib": round(sum(path.stat().st_size for path in files) / (1 << 20), 1),
        "night_s": {"first": nights[0], "last": nights[-1], "most": max(nights)},
        "newest_record_s": _seconds(lambda: ledger.newest(folder)),
        "newest_200_s": _seconds(lambda: list(ledger.stream(folder, newest - NEWEST))),
        "gaps_s": _seconds(lambda: ledger.runs(folder)),
        "all_records_s": _seconds(lambda: sum(1 for _ in ledger.stream(folder))),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="A year of a query's ledger at a trigger of 2 seconds.")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--folder", help="kept afterwards; default: a temporary one")
    given = parser.parse_args()
    folder = given.folder or tempfile.mkdtemp(prefix="ledger-year-")
    try:
        print(json.dumps(measure(folder, given.days), indent=1))
    finally:
        if not given.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
