"""Sources, batches and an oracle for the decode tests. The oracle shares no code with what it judges."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from headrace.contract.model import Column, EventTime, Source, SourceColumn
from headrace.contract.platform_columns import KAFKA_TIMESTAMP, SOURCE
from headrace.driver.decode import Decoder

POS = Source(
    key="product_id",
    columns={
        "product_id": SourceColumn(type="string", required=True),
        "amount": SourceColumn(type="decimal(12,2)", required=True),
        "create_date": SourceColumn(type="timestamp", required=True),
    },
    event_time=EventTime(column="create_date"),
)
# Every type, once required and once not, and no event time.
WIDE = Source(
    key="name",
    columns={
        "name": SourceColumn(type="string", required=True),
        "note": SourceColumn(type="string"),
        "flag": SourceColumn(type="boolean"),
        "small": SourceColumn(type="int"),
        "large": SourceColumn(type="long", required=True),
        "price": SourceColumn(type="decimal(10,3)"),
        "day": SourceColumn(type="date"),
        "seen": SourceColumn(type="timestamp"),
    },
)
# Fields of another team: camelCase, inside objects, with a dot in a name.
ORDERS = Source(
    topic="shop.orders-v1",
    key="order_id",
    columns={
        "order_id": SourceColumn(type="string", required=True, field="order.orderId"),
        "total": SourceColumn(type="decimal(12,2)", field="order.sum.total"),
        "currency": SourceColumn(type="string", field=["order", "sum", "iso.code"]),
        "lines": SourceColumn(type="int", field="order.lineCount"),
        "at": SourceColumn(type="timestamp", required=True, field="@timestamp"),
        "gift": SourceColumn(type="boolean"),
        "items": SourceColumn(type="json", field="order.items"),
    },
    event_time=EventTime(column="at"),
)
KAFKA_TIME = datetime(2026, 3, 9, 12, 0, 0, 123000, tzinfo=UTC)
GOOD = b'{"product_id": "p1", "amount": 12.50, "create_date": "2026-03-09 11:59:00"}'


def batch(
    values: Sequence[bytes | None], *, first_offset: int = 0, kafka_time: datetime = KAFKA_TIME
) -> pa.RecordBatch:
    """Return records as Spark hands them to a worker."""
    size = len(values)
    columns = {
        "key": pa.array([b"k"] * size, pa.binary()),
        "value": pa.array(values, pa.binary()),
        "topic": pa.array(["pos"] * size, pa.string()),
        "partition": pa.array([3] * size, pa.int32()),
        "offset": pa.array(range(first_offset, first_offset + size), pa.int64()),
        "timestamp": pa.array([kafka_time] * size, pa.timestamp("us", "UTC")),
    }
    return pa.RecordBatch.from_pydict(columns)


def reasons(decoder: Decoder, values: Sequence[bytes | None]) -> list[str | None]:
    """Judge values as one batch."""
    (judged,) = decoder.judged([batch(values)])
    texts: list[str | None] = judged.column("reason").to_pylist()
    return texts


def rows(decoder: Decoder, values: Sequence[bytes | None]) -> dict[int, dict[str, Any]]:
    """Decode values as one batch; give {offset: the source's columns}."""
    (accepted,) = decoder.accepted([batch(values)])
    by_offset = {}
    for row in accepted.to_pylist():
        source = row.pop(SOURCE)
        assert source == {"topic": "pos", "partition": 3, "offset": source["offset"]}
        assert row.pop(KAFKA_TIMESTAMP) == KAFKA_TIME
        by_offset[source["offset"]] = row
    return by_offset


class RefusedByOracleError(Exception):
    """The oracle's no."""


def oracle(source: Source, value: bytes | None) -> dict[str, Any] | None:
    """Return what a record must decode to, or None: stdlib json, Decimal and datetime, one record at a time."""
    try:
        record = json.loads((value or b"").decode("utf-8"), parse_float=Decimal, parse_constant=_no_constant)
        json.dumps(record, ensure_ascii=False, default=str).encode("utf-8")  # no unpaired surrogates
        if not isinstance(record, dict):
            return None
        row = {name: _typed(column, _at(record, column.path(name))) for name, column in source.columns.items()}
    except (ValueError, RefusedByOracleError, RecursionError):
        return None
    if row[source.key] == "":
        return None
    if source.event_time and row[source.event_time.column] > KAFKA_TIME + source.event_time.accepted_skew:
        return None
    return row


def _at(record: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if record is not None and not isinstance(record, dict):
            raise RefusedByOracleError
        record = (record or {}).get(name)
    return record


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _typed(column: Column, value: Any) -> Any:
    if value is None:
        if column.required:
            raise RefusedByOracleError
        return None
    kind = column.type.split("(")[0]
    if kind == "json":
        return value
    if kind in ("string", "timestamp", "date"):
        if not isinstance(value, str):
            raise RefusedByOracleError
        return {"string": _text(column), "timestamp": _time, "date": _day}[kind](value)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise RefusedByOracleError
        return value
    if kind in ("int", "long"):
        bits = {"int": 31, "long": 63}[kind]
        if type(value) is not int or not -(2**bits) <= value < 2**bits:
            raise RefusedByOracleError
        return value
    return _amount(column.type, value)


def _text(column: Column) -> Any:
    def check(value: str) -> str:
        if column.required and len(value.encode()) > 16384:
            raise RefusedByOracleError
        return value

    return check


def _amount(kind: str, value: Any) -> Decimal:
    precision, scale = map(int, re.findall(r"\d+", kind))
    if isinstance(value, str) and not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
        raise RefusedByOracleError
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise RefusedByOracleError
    amount = Decimal(value)
    if not amount:
        return Decimal(0)
    if amount.adjusted() >= precision - scale or amount.as_tuple().exponent < -500:  # type: ignore[operator]
        raise RefusedByOracleError
    shifted = amount.scaleb(scale) if len(amount.as_tuple().digits) <= 28 else Decimal(f"{amount:f}e{scale}")
    if shifted % 1:
        raise RefusedByOracleError
    return amount


def _time(text: str) -> datetime:
    if not re.fullmatch(r"[0-9-]{10}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9:]{2,5})?", text):
        raise RefusedByOracleError
    try:
        time = datetime.fromisoformat(text)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        time = time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise RefusedByOracleError from None
    if time - datetime(1970, 1, 1, tzinfo=UTC) < timedelta(0):
        raise RefusedByOracleError
    return time


def _day(text: str) -> date:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise RefusedByOracleError
    return date.fromisoformat(text)
