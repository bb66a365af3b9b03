"""Small reads of the lake's Iceberg tables without Spark: batch views for serving, report tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.contract import names, paths, storage

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression


def metadata(root: str, table: str) -> str | None:
    """Return the newest metadata file of a table (`<catalog>.<pipeline>.<name>`), or None where there is no table.

    A Hadoop catalog keeps the version in version-hint.text (Iceberg, HadoopTableOperations).
    """
    folder = f"{paths.lake(root)}/{table.removeprefix(f'{names.LAKE_CATALOG}.').replace('.', '/')}/metadata"
    version = storage.read_text(f"{folder}/version-hint.text")
    return None if version is None else f"{folder}/v{version.strip()}.metadata.json"


def scan(root: str, table: str, condition: BooleanExpression | None = None) -> pa.Table | None:
    """Return rows of a table as Arrow, filtered by pyiceberg's expression; None where there is no table."""
    from pyiceberg.table import StaticTable

    found = metadata(root, table)
    if found is None:
        return None
    loaded = StaticTable.from_metadata(found)
    return (loaded.scan() if condition is None else loaded.scan(row_filter=condition)).to_arrow()


def rows(root: str, table: str, condition: BooleanExpression | None = None) -> list[dict[str, Any]]:
    """Return rows of a table as dicts; none where there is no table."""
    found = scan(root, table, condition)
    return [] if found is None else found.to_pylist()
