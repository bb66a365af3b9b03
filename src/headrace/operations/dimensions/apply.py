"""Writes a refresh's difference to the live table, and nothing else, with the time of the extract.

So an older snapshot that arrives late changes nothing (Cassandra keeps the cell with the greater write time), a repeated
write is idempotent, and a row that a stream joins is never missing between two writes: there is no truncate.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from headrace.contract.cassandra import quoted
from headrace.contract.model import Dimension, Pipeline
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.clients import cassandra_session
from headrace.operations.dimensions import lease
from headrace.operations.dimensions.compare import DELETE, UPSERT
from headrace.operations.dimensions.diff import DirectoryDifference, diff
from headrace.operations.dimensions.documents import Begun, RefreshRecord, Staged
from headrace.operations.dimensions.snapshot import applied, begun
from headrace.operations.dimensions.stage import read_parquet
from headrace.operations.plans import Approval
from headrace.store import paths, records, small_files

CONCURRENCY = 64
CHUNK = 5_000

Report = Callable[[int, int], None]


def apply(
    root: str,
    bindings: Path,
    pipeline: Pipeline,
    dimension: str,
    difference: DirectoryDifference,
    approval: Approval,
    *,
    holder: str,
    report: Report | None = None,
) -> dict[str, int]:
    """Write a difference's rows: upserts first, then deletes. Returns the number of each. May be repeated after a failure.

    `holder` identifies the run that writes: it takes the dimension's lease and keeps it until `record`. Raises HeadraceError if
    another run holds the lease, if a required approval is missing or is that of another plan, if another refresh came in
    between, or if the file with the rows is not the one that was planned.
    """
    if difference.needs_approval and not approval.approved_by:
        raise HeadraceError(f"{difference.text} Approve it, or correct the extract.")
    plans.require(difference.plan(f"{pipeline.name}.{dimension}"), approval.plan)
    table, micros = pipeline.dimensions[dimension], difference.extract_ms * 1000
    with cassandra_session(bindings) as session, held(session, pipeline.name, dimension, holder, approval.by):
        require_unchanged(root, pipeline, dimension, difference)
        now = Begun(difference.version, difference.extract_ms, approval.by)
        records.write(f"{paths.refresh(root, pipeline.name, dimension)}/begun.json", now)
        rows = read_parquet(difference.diff)
        done, written = 0, {UPSERT: 0, DELETE: 0}

        def renew(done: int) -> None:
            lease.take(session, pipeline.name, dimension, holder, approval.by)
            if report:
                report(done, rows.num_rows)

        for (op, changed), group in groupby(_row_dicts(rows), key=lambda row: (row["op"], row["changed"])):
            names = [*table.key, *changed]
            statement = _delete(table, micros) if op == DELETE else _insert(table, names, micros)
            before, values = done, (tuple(row[name] for name in names) for row in group)
            done = _write(session, statement, values, before, renew)
            written[op] += done - before
    return {"upserted": written[UPSERT], "deleted": written[DELETE]}


@contextmanager
def held(session: Session, pipeline: str, dimension: str, holder: str, by: str) -> Iterator[None]:
    """Hold the lease of a dimension, also afterwards. A HeadraceError releases it, because nothing more will be written."""
    lease.take(session, pipeline, dimension, holder, by)
    try:
        yield
    except HeadraceError:
        lease.release(session, pipeline, dimension, holder)
        raise


def release(bindings: Path, pipeline: str, dimension: str, holder: str) -> None:
    """Release the lease of a dimension, if the holder has it."""
    with cassandra_session(bindings) as session:
        lease.release(session, pipeline, dimension, holder)


def require_unchanged(root: str, pipeline: Pipeline, dimension: str, difference: DirectoryDifference) -> None:
    """Raise HeadraceError if another refresh came in between, or if the file with the rows has changed."""
    now, last = applied(root, pipeline.name, dimension).version, begun(root, pipeline.name, dimension).version
    since = f"the plan for {difference.version} was made"
    if now != difference.after:
        raise HeadraceError(f"Version {now or 'none'} of {dimension} has been applied since {since}. Plan again.")
    if last not in {difference.begun, difference.version}:
        raise HeadraceError(
            f"A refresh of {dimension} to version {last} began after {since}, and has not ended. Plan again."
        )
    fs, inner = small_files.locate(difference.diff)
    if not fs.exists(inner) or hashlib.sha256(fs.cat_file(inner)).hexdigest() != difference.sha256:
        raise HeadraceError(f"{difference.diff} is not what was planned. Start the refresh again from its first step.")


def verify(
    root: str, bindings: Path, pipeline: Pipeline, dimension: str, staged: Staged, *, holder: str, by: str
) -> dict[str, int]:
    """Compare again after the writes. Raises HeadraceError if the table still differs from the stage."""
    with cassandra_session(bindings) as session, held(session, pipeline.name, dimension, holder, by):
        return _verify(root, bindings, pipeline, dimension, staged)


def _verify(root: str, bindings: Path, pipeline: Pipeline, dimension: str, staged: Staged) -> dict[str, int]:
    left = diff(root, bindings, pipeline, dimension, staged, "left.parquet")
    if left.inserts or left.updates or left.deletes:
        raise HeadraceError(
            f"{dimension} still differs from version {left.version} after the refresh ({left.inserts} rows missing, "
            f"{left.updates} different, {left.deletes} surplus). A writer with a later time changes its columns; find it."
        )
    return {"rows": left.stage_rows, "newer": left.newer}


def record(
    root: str,
    bindings: Path,
    pipeline: Pipeline,
    dimension: str,
    staged: Staged,
    difference: DirectoryDifference,
    written: dict[str, int],
    approval: Approval,
    *,
    holder: str,
) -> RefreshRecord:
    """Record what was applied, when, by whom and who approved it; release the lease, and return the record.

    From now on older snapshots are refused.
    """
    entry = RefreshRecord(
        version=difference.version,
        extract_ms=difference.extract_ms,
        source=staged.place,
        sha256=staged.sha256,
        rows=staged.rows,
        inserts=difference.inserts,
        updates=difference.updates,
        deletes=difference.deletes,
        newer=difference.newer,
        upserted=written.get("upserted", 0),
        deleted=written.get("deleted", 0),
        plan=approval.plan,
        by=approval.by,
        approved_by=approval.approved_by if difference.needs_approval else "",
        reasons=difference.reasons,
        at_ms=time.time_ns() // 1_000_000,
    )
    folder = paths.refresh(root, pipeline.name, dimension)
    with cassandra_session(bindings) as session:
        lease.take(session, pipeline.name, dimension, holder, approval.by)
        records.write(f"{folder}/{difference.version}/record.json", entry)
        records.write(f"{folder}/applied.json", entry)
        lease.release(session, pipeline.name, dimension, holder)
    return entry


def _row_dicts(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(max_chunksize=CHUNK):
        yield from batch.to_pylist()


def _insert(dimension: Dimension, names: Sequence[str], micros: int) -> str:
    """Return the upsert of the key and the changed columns: unchanged columns are not written, so they get no tombstone."""
    marks = ", ".join("?" * len(names))
    columns = ", ".join(map(quoted, names))
    table = quoted(dimension.keyspace, dimension.table)
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) USING TIMESTAMP {micros}"  # noqa: S608 - quoted names


def _delete(dimension: Dimension, micros: int) -> str:
    """Return the delete of a row as of the extract: one tombstone. Later writes of a stream stay."""
    where = " AND ".join(f"{quoted(name)} = ?" for name in dimension.key)
    table = quoted(dimension.keyspace, dimension.table)
    return f"DELETE FROM {table} USING TIMESTAMP {micros} WHERE {where}"  # noqa: S608 - quoted names


def _write(
    session: Session, statement: str, values: Iterator[tuple[Any, ...]], done: int, renew: Callable[[int], None]
) -> int:
    """Write rows by one statement. Returns the number of rows written so far, which `renew` gets after each chunk."""
    prepared = session.prepare(statement)
    prepared.consistency_level = ConsistencyLevel.LOCAL_QUORUM
    while chunk := list(islice(values, CHUNK)):
        execute_concurrent_with_args(session, prepared, chunk, concurrency=CONCURRENCY)
        done += len(chunk)
        renew(done)
    return done
