"""The rows of a Parquet file, with values as texts or numbers: supports dates beyond Python's, and text that is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.contract.model import Source
from headrace.contract.wording import first_line
from headrace.errors import HeadraceError
from headrace.operations.produce.rows import named

_ROWS: Final = 8_192
_EPOCH: Final = datetime(1970, 1, 1)
_CYCLE: Final = 146_097 * 86_400  # seconds of 400 years, after which the calendar repeats
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def opened(path: Path) -> pq.ParquetFile:
    """Open a file. Raises HeadraceError if it is not Parquet."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise HeadraceError(
            f"{named(path)} is not a readable Parquet file ({first_line(error)}). Write it again."
        ) from error


def wanted_columns(path: Path, topic: str, source: Source, schema: pa.Schema) -> list[str]:
    """Return the columns that the source declares. Raises HeadraceError if one is nested."""
    wanted = [name for name in schema.names if name in source.columns]
    for name in wanted:
        if pa.types.is_nested(schema.field(name).type):
            raise HeadraceError(
                f"{named(path)}: column {name!r} is {schema.field(name).type}, but topic {topic} requires "
                f"{source.columns[name].type}. Flatten it."
            )
    return wanted


def rows(path: Path, file: pq.ParquetFile, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    """Yield each row's cells by name, and close the file. Raises HeadraceError if reading fails."""
    with file:
        try:
            for batch in file.iter_batches(batch_size=_ROWS, columns=wanted):
                columns = {name: cells(batch.column(name)) for name in wanted}
                for row in zip(*columns.values(), strict=True):
                    yield dict(zip(columns, row, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise HeadraceError(
                f"{named(path)} cannot be read completely ({first_line(error)}). Write it again."
            ) from error


def cells(column: pa.Array) -> list[Any]:
    """Return a column's values for `cells.cell_text`; null is None.

    Timestamps are `yyyy-MM-dd HH:mm:ss[.ffffff[fff]]` in UTC, without trailing zeros, and years of any length; dates
    `yyyy-MM-dd`; a 32-bit float has its shortest decimal form. Texts are bytes.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return cells(column.dictionary_decode())
    if pa.types.is_timestamp(kind):  # with a zone, the value is stored in UTC
        return [None if value is None else _moment(value, kind.unit) for value in column.view(pa.int64()).to_pylist()]
    if pa.types.is_date32(kind):
        days = column.view(pa.int32()).to_pylist()
        return [None if value is None else _moment(value * 86_400, "s").partition(" ")[0] for value in days]
    if pa.types.is_date64(kind):
        moments = (None if stamp is None else _moment(stamp, "ms") for stamp in column.view(pa.int64()).to_pylist())
        return [moment and moment.removesuffix(" 00:00:00") for moment in moments]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts: list[Any] = column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist()
        return texts
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return [None if text == "nan" else text for text in column.cast(pa.float32()).cast(pa.string()).to_pylist()]
    if pa.types.is_temporal(kind):
        return [str(value) if value is not None else None for value in column.cast(pa.string()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _moment(value: int, unit: str) -> str:
    """Return the UTC time `value` units after 1970 as text; Python's datetime ends with the year 9999, files do not."""
    seconds, rest = divmod(value, _PER_SECOND[unit])
    cycles, within = divmod(seconds, _CYCLE)
    at = _EPOCH + timedelta(seconds=within)
    digits = f"{rest * (1_000_000_000 // _PER_SECOND[unit]):09}"
    fraction = digits if not digits.endswith("000") else digits[:6]
    year = f"{at.year + 400 * cycles:04}"
    return f"{year}-{at:%m-%d %H:%M:%S}" + (f".{fraction}" if rest else "")
