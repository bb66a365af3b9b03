"""Compare a stage with the live table, and plan the refresh (ADR 48). Nothing is written to the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from headrace.contract.cassandra import directory_columns
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.dimensions import live as live_table
from headrace.operations.dimensions.documents import Staged
from headrace.operations.dimensions.kept import history, reasons_for_approval
from headrace.operations.dimensions.snapshot import applied, begun, settings
from headrace.operations.dimensions.stage import read_parquet, stage_schema, write_parquet
from headrace.operations.plans import Item, Plan

UPSERT, DELETE = "upsert", "delete"


@dataclass(frozen=True)
class Difference:
    """What a refresh would write. `newer` rows were written after the extract and stay unchanged.

    `diff` is the file with the rows, `sha256` its hash; `after` is the version that was applied when it was computed, `begun` the
    one that was begun last. `reasons` say why it needs approval; empty if it needs none.
    """

    COMPUTED: ClassVar = ("needs_approval",)
    version: str
    extract_ms: int
    diff: str
    sha256: str
    after: str
    live_rows: int
    stage_rows: int
    inserts: int
    updates: int
    deletes: int
    unchanged: int
    newer: int
    delete_percent: float
    max_delete_percent: int
    reasons: tuple[str, ...] = ()
    begun: str = ""

    @property
    def needs_approval(self) -> bool:
        """Return whether the refresh needs approval."""
        return bool(self.reasons)

    @property
    def text(self) -> str:
        """Return the difference as text for the approver."""
        return (
            f"Version {self.version}: {self.inserts} new, {self.updates} changed, {self.deletes} deleted "
            f"({self.delete_percent} % of {self.live_rows}; up to {self.max_delete_percent} % need no approval), "
            f"{self.unchanged} unchanged, {self.newer} kept because they are newer."
            + (f" It needs approval: {'; '.join(self.reasons)}." if self.reasons else "")
        )

    def plan(self, subject: str) -> Plan:
        """Return the plan of the refresh of a dimension (`subject`) by this difference.

        Its id follows from the rows to write and the version before. The version that is applied is a note: an extract from a
        database has a new one each time.
        """
        rows = f"{self.inserts} new, {self.updates} changed and {self.deletes} deleted rows"
        item = Item("write", rows, f"hash {self.sha256[:12]}, after version {self.after or 'none'}")
        return Plan("refresh", subject, (item,), notes=(self.text,))


@dataclass
class _Counts:
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    unchanged: int = 0
    newer: int = 0


def diff(
    root: str,
    bindings: Path,
    pipeline: Pipeline,
    dimension: str,
    staged: Staged,
    name: str = "difference.parquet",
) -> Difference:
    """Compare a stage with the live table and write the difference next to the stage, into a file called `name`.

    Raises HeadraceError if a key is null or duplicated in the stage (the stage's suite reports which).
    """
    refresh, schema = settings(pipeline, dimension), stage_schema(pipeline, dimension)
    width = len(pipeline.dimensions[dimension].key)
    wanted = _keyed(staged, read_parquet(staged.stage), width)
    live = live_table.read(bindings, pipeline, dimension)
    counts = _Counts()
    changes = _changes(wanted, live, staged.extract_ms * 1000, counts)
    rows = sorted(changes, key=lambda change: (change[0], change[1][:width]))  # the same rows have the same hash
    names = [field.name for field in schema]
    columns = directory_columns(pipeline, dimension)
    table = pa.Table.from_pylist(
        [
            {"op": op, "changed": changed, **dict(zip(names, row, strict=False))}  # for a deleted row only the key
            for op, row, changed in _named(rows, columns)
        ],
        schema=pa.schema([pa.field("op", pa.string()), pa.field("changed", pa.list_(pa.string())), *schema]),
    )
    path = staged.stage.rpartition("/")[0] + f"/{name}"
    percent = round(100 * counts.deletes / len(live), 2) if live else 0.0
    return Difference(
        version=staged.version,
        extract_ms=staged.extract_ms,
        diff=path,
        sha256=write_parquet(path, table),
        after=applied(root, pipeline.name, dimension).version,
        live_rows=len(live),
        stage_rows=len(wanted),
        delete_percent=percent,
        max_delete_percent=refresh.max_delete_percent,
        reasons=tuple(
            reasons_for_approval(
                refresh, history(root, pipeline.name, dimension), len(live), len(wanted), counts.deletes
            )
        ),
        begun=begun(root, pipeline.name, dimension).version,
        **asdict(counts),
    )


def _keyed(staged: Staged, table: pa.Table, width: int) -> dict[live_table.Key, tuple[Any, ...]]:
    rows = list(zip(*(map(_stored, column.to_pylist()) for column in table.columns), strict=True))
    by_key = {row[:width]: row[width:] for row in rows}
    if len(by_key) != len(rows) or any(part is None for key in by_key for part in key):
        raise HeadraceError(
            f"{staged.place} has a key that is duplicated or null. Correct the extract and drop it again."
        )
    return by_key


def _changes(
    wanted: dict[live_table.Key, tuple[Any, ...]], live: live_table.Live, extract_micros: int, counts: _Counts
) -> Iterator[tuple[str, tuple[Any, ...], list[int]]]:
    """Yield (op, key and values, positions of the changed values); for a row to delete only the key.

    Rows that are newer than the extract are left out.
    """
    for key, values in wanted.items():
        if key not in live:
            counts.inserts += 1
            yield UPSERT, (*key, *values), [at for at, value in enumerate(values) if value is not None]
            continue
        known, written = live[key]
        changed = [at for at, value in enumerate(values) if value != known[at]]
        if not changed:
            counts.unchanged += 1
        elif written >= extract_micros:
            counts.newer += 1
        else:
            counts.updates += 1
            yield UPSERT, (*key, *values), changed
    for key, (_, written) in live.items():
        if key in wanted:
            continue
        if written >= extract_micros:
            counts.newer += 1
        else:
            counts.deletes += 1
            yield DELETE, key, []


def _named(
    rows: list[tuple[str, tuple[Any, ...], list[int]]], columns: list[str]
) -> Iterator[tuple[str, tuple[Any, ...], list[str]]]:
    for op, row, changed in rows:
        yield op, row, [columns[at] for at in changed]


def _stored(value: Any) -> Any:  # noqa: ANN401 - a cell, as Cassandra keeps it: times to the millisecond
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value
