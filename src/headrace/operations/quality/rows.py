"""Rows as pandas frames with the contract's types, and the columns that a check adds (listed in `contract.checked_sinks`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import combinations
from typing import Any

import pandas as pd

from headrace.contract.checked_sinks import (
    AHEAD,
    BEHIND,
    OFFSET_IN_GRID,
    SCHEMA_ERROR,
    STANDS,
    WINDOW_START,
    CheckedSink,
)
from headrace.contract.model import Column, Window, decimal_digits
from headrace.store.records import Row

_INTEGERS = {"int": 2**31, "long": 2**63}
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def frame_of(rows: Sequence[Row], sink: CheckedSink, table_columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows with typed columns and `_schema_error`. Cells are as Kafka's JSON, Cassandra or Iceberg give them.

    `table_columns` are the columns of the sink (of a table; default: all columns of the rows, besides the contract's). Cells
    without a value of the contract's type are null, and `_schema_error` says why. Timestamps are UTC.
    """
    present = {name for row in rows for name in row}.union(STANDS.get(sink.kind, ()))
    extra = [] if table_columns is not None else sorted(present - set(sink.columns))
    columns = [name for name in sink.columns if table_columns is None or name in table_columns]
    others = [name for name in table_columns or [] if name not in sink.columns]
    errors: list[list[str]] = [[] for _ in rows]
    frame = pd.DataFrame(index=pd.RangeIndex(len(rows)))
    for name in columns:
        frame[name] = _column([row.get(name) for row in rows], name, sink.columns[name], errors)
    for name in extra:
        added = [row.get(name) for row in rows]
        frame[name] = pd.Series(added, dtype=object)
        if not name.startswith("_"):
            for at, value in enumerate(added):
                if value is not None:
                    errors[at].append(f"{name} is no column of the contract")
    for name in others:
        frame[name] = pd.Series([row.get(name) for row in rows], dtype=object)
    frame[SCHEMA_ERROR] = pd.Series(["; ".join(row_errors) or None for row_errors in errors], dtype=object)
    return frame


def _column(values: list[Any], name: str, column: Column, errors: list[list[str]]) -> Any:  # noqa: ANN401 - pandas
    convert = _converter(column.type)
    cells: list[Any] = []
    for at, value in enumerate(values):
        try:
            cells.append(None if value is None else convert(value))
        except (TypeError, ValueError, ArithmeticError):
            cells.append(None)
            errors[at].append(f"{name} is {str(value)[:40]!r}, no {column.type}")
    if column.type == "timestamp":
        return pd.Series(cells, dtype="datetime64[us, UTC]")  # of nanoseconds there are none before 1677
    return pd.Series(cells, dtype="Int64" if column.type in _INTEGERS else object)


def _converter(column_type: str) -> Callable[[Any], Any]:
    digits = decimal_digits(column_type)
    if digits:
        return lambda value: _decimal(value, *digits)
    if column_type in _INTEGERS:
        return lambda value: _integer(value, _INTEGERS[column_type])
    return {"string": _string, "boolean": _boolean, "timestamp": _timestamp, "date": _date}[column_type]


def _decimal(value: object, precision: int, scale: int) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
        raise TypeError(value)
    number = Decimal(value)
    exact = number.quantize(Decimal(1).scaleb(-scale))
    if exact != number or len(exact.as_tuple().digits) > precision:
        raise ValueError(value)
    return exact


def _integer(value: object, limit: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    if not -limit <= value < limit:
        raise ValueError(value)
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _timestamp(value: object) -> datetime:
    if isinstance(value, datetime):  # Cassandra's driver gives UTC without a zone
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if not isinstance(value, str) or not _ISO.fullmatch(value):
        raise TypeError(value)
    return datetime.fromisoformat(value)


def _date(value: object) -> date:
    if isinstance(value, date):
        return value
    if not _DAY.fullmatch(str(value)):  # Cassandra's driver gives a class of its own
        raise TypeError(value)
    return date.fromisoformat(str(value))


def with_facts(
    frame: pd.DataFrame, sink: CheckedSink, window: Window | None, *, behind_seconds: float, now_ms: int
) -> pd.DataFrame:
    """Return the frame with `_behind_seconds`, `_ahead_seconds`, the seconds between times, and the window's grid."""
    times = [name for name in sink.times if name in frame]
    frame = frame.assign(**{BEHIND: float(behind_seconds)})
    if times:
        latest = frame[times].max(axis=1)
        frame[AHEAD] = (latest - _utc(now_ms)).dt.total_seconds()
    for first, second in combinations(times, 2):
        frame[f"_{first}_to_{second}_seconds"] = (frame[second] - frame[first]).dt.total_seconds()
    if window and WINDOW_START in frame:
        grid = (window.slide or window.size).total_seconds()
        frame[OFFSET_IN_GRID] = (_epoch_seconds(frame[WINDOW_START]) - window.offset.total_seconds()) % grid
    return frame


def _epoch_seconds(times: Any) -> Any:  # noqa: ANN401 - pandas
    return (times - _utc(0)).dt.total_seconds()


def _utc(milliseconds: int) -> pd.Timestamp:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC").as_unit("us")
