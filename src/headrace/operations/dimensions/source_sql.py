"""A SQL table or view as the source of a dimension, reached through the binding `<dimension>-source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from headrace.access.bindings import DatabaseBinding, read_database
from headrace.contract.wording import first_line
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from sqlalchemy import URL

PAGE_ROWS = 10_000


def read_table(bindings: Path, dimension: str, table: str, schema: pa.Schema, types: Mapping[str, str]) -> pa.Table:
    """Return the schema's columns of a table, read by one statement, so from one state of the database.

    Raises HeadraceError if it cannot be reached, lacks the columns, or has values of other types.
    """
    import sqlalchemy
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    binding = read_database(bindings, f"{dimension}-source")
    parts = table.split(".")
    source = sqlalchemy.table(
        parts[-1], *(sqlalchemy.column(name) for name in schema.names), schema=parts[0] if len(parts) == 2 else None
    )
    try:
        engine = sqlalchemy.create_engine(_url(binding), poolclass=sqlalchemy.pool.NullPool)
    except (ImportError, NoSuchModuleError) as error:
        raise HeadraceError(
            f"The driver {binding.driver} of the binding {dimension}-source is not installed ({error}). Add it to the image."
        ) from error
    pages: list[pa.RecordBatch] = []
    try:
        with engine.connect().execution_options(stream_results=True) as connection:
            for page in connection.execute(sqlalchemy.select(source)).partitions(PAGE_ROWS):
                columns = [
                    _column(cells, field, types[field.name])
                    for cells, field in zip(zip(*page, strict=True), schema, strict=True)
                ]
                pages.append(pa.record_batch(columns, schema=schema))
    except SQLAlchemyError as error:
        raise HeadraceError(
            f"{table} cannot be read from {binding.place} ({first_line(error)}). Check the binding {dimension}-source and "
            f"that the table has {', '.join(schema.names)}."
        ) from error
    except _ValueError as error:
        raise HeadraceError(
            f"{table} of {binding.place} has values of other types than the contract ({error}). Cast them in a view and name the "
            "view."
        ) from error
    return pa.Table.from_batches(pages, schema=schema)


class _ValueError(Exception):
    """A value of another type; the message has its column and type, not the value."""


def _column(cells: Sequence[object], field: pa.Field, kind: str) -> pa.Array:
    try:
        return pa.array(cells, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
        types = sorted({type(cell).__name__ for cell in cells if cell is not None})
        raise _ValueError(f"{field.name} must be {kind} but is {', '.join(types)}") from error


def _url(binding: DatabaseBinding) -> URL:
    from sqlalchemy import URL

    return URL.create(
        binding.driver,
        username=binding.username or None,
        password=binding.password or None,
        host=binding.host or None,
        port=binding.port,
        database=binding.database,
    )
