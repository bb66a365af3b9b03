"""Small reads of the lake's Iceberg tables without Spark: batch views for serving, and report tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.access import object_store
from headrace.contract import names
from headrace.store import archive_notes, paths
from headrace.store.records import Record, from_json

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import StaticTable


def load(root: str, table: str) -> StaticTable | None:
    """Return the current state of a table (`<catalog>.<pipeline>.<name>`) for reading, or None if it does not exist."""
    from pyiceberg.table import StaticTable

    folder = f"{paths.lake(root)}/{table.removeprefix(f'{names.LAKE_CATALOG}.').replace('.', '/')}/metadata"
    metadata = archive_notes.metadata_file(folder)
    return None if metadata is None else StaticTable.from_metadata(metadata, object_store.iceberg_properties(root))


def scan(root: str, table: str, condition: BooleanExpression | None = None) -> pa.Table | None:
    """Return rows of a table as Arrow, filtered by pyiceberg's expression; None if the table does not exist."""
    loaded = load(root, table)
    if loaded is None:
        return None
    return (loaded.scan() if condition is None else loaded.scan(row_filter=condition)).to_arrow()


def rows(kind: type[Record], root: str, table: str) -> list[Record]:
    """Return the rows of a table as dataclasses; empty if the table does not exist."""
    content = scan(root, table)
    return [] if content is None else [from_json(kind, row) for row in content.to_pylist()]
