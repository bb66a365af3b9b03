"""Good frames of every sink, made from the contract: what a healthy sink gives a check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd

from headrace.contract.checked_sinks import CheckedSink, added_columns
from headrace.contract.model import Column, Pipeline
from headrace.operations.quality.rows import frame_of, with_facts

ROWS = 20
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PARAMETERS: dict[str, float] = {
    "rows_out": ROWS,
    "rows_in": 10_000,
    "rows_least": 1,
    "rows_min": 1,
    "freshness_seconds": 60,
    "behind_seconds": 0,
}


def good_frame(pipeline: Pipeline, sink: CheckedSink, rows: int = ROWS) -> pd.DataFrame:
    """Return a frame that keeps every expectation of the sink's suite."""
    query = pipeline.queries.get(sink.query)
    window = query.aggregate.window if query and query.aggregate else None
    columns = [*sink.columns, "key", "value", "headers"] if sink.kind == "iceberg" else None
    if sink.kind == "cassandra":
        columns = list(sink.columns)
    length = window.size if window else timedelta(minutes=2)
    step = (window.slide or window.size) if window else timedelta(minutes=5)
    made = [_row(sink, number, length, step) for number in range(rows)]
    frame = with_facts(
        frame_of(made, sink, columns), sink, window, behind_seconds=0, now_ms=int(NOW.timestamp() * 1000)
    )
    for name in added_columns(pipeline, sink):
        if name.startswith("_known_in_"):
            frame[name] = pd.Series([True] * len(frame), dtype=object)
        elif name not in frame:  # the sums of smaller windows
            frame[name] = frame[name.partition("_tumbling_")[2]].astype(object)
    return frame


def _row(sink: CheckedSink, number: int, length: timedelta, step: timedelta) -> dict[str, Any]:
    start = NOW - timedelta(hours=3) + number // 2 * step
    row: dict[str, Any] = {
        name: _value(sink, name, column, number, start, length) for name, column in sink.columns.items()
    }
    if sink.kind == "kafka":
        row |= {"_id": f"id-{number}", "_copies": 1, "_batch": 0, "_partition": 0, "_offset": number}
    if sink.kind == "files":
        row |= {"_batch": 0, "_line": f"part-00000:{number}"}
    return row


def _value(sink: CheckedSink, name: str, column: Column, number: int, start: datetime, length: timedelta) -> Any:
    special = {
        "window_start": start,
        "window_end": start + length,
        "click_date": start + timedelta(minutes=2),
        "behavior": f"d{number}.example:view",
        "board": "all",
        "click_key": "none" if number % 2 else "2026-03-01T11:02:00.000000",
        "topic": sink.query.partition("_")[2],
        "reason": None,
    }
    if name in special:
        value = special[name]
        return value if not isinstance(value, datetime) or sink.kind == "cassandra" else value.isoformat()
    if column.type == "timestamp":
        return start if sink.kind in {"cassandra", "iceberg"} else start.isoformat()
    if column.type.startswith("decimal"):
        return Decimal(f"{number}.25")
    return number + 1 if column.type in {"int", "long"} else f"{name.replace('_', '-')}-{number}"
