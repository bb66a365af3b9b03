"""Bounded repair of a Cassandra table after a reconciliation: single rows of closed windows and of settled joins.

No later batch of the stream writes such a row, so the repair can use the current time as the writetime. The next generation
starts later and therefore wins again (ADR 0006). A running total is still open: a repaired value would win or lose against the
next batch at random. It is therefore not repaired but rebuilt by a new generation.

Plan (reads only) -> approval (ADR 48) -> act -> reconcile again. `act` first checks that each row is still as planned. Then it
writes one action for each primary key, reads these keys again and compares them with the values that are due.

In a table with a ttl a repaired row expires when the stream's row would: a ttl after the batch that should have written it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement
from cassandra.util import Date

from headrace.contract import batch_views, names
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.batch import job_runs
from headrace.operations.clients import cassandra_session, stored_time
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval, Item, Plan
from headrace.store import ledger
from headrace.store.job_reports import Account, Cell, Difference, ReconcileReport
from headrace.store.paths import generation_paths

MAX_ROWS = 200
KINDS = ("windows", "joined rows")
AHEAD_MICROS = 60_000_000  # a row whose writetime is further ahead of the clock is not repaired
LEFT_MS = 60_000  # a row that expires sooner is not repaired: it would be gone before it is read again


@dataclass(frozen=True)
class Row:
    """One action on the row of a primary key: `values` are the new values of the other columns (JSON values of the report).

    `present` are the values that the row has now (None: there is no row), `written` is its newest writetime, in microseconds.
    `batch` is the batch that should have written it, `expires_ms` when that row expires (None: never).
    """

    query: str
    action: Literal["write", "delete"]
    key: Mapping[str, Cell]
    values: Mapping[str, Cell]
    present: Mapping[str, str | None] | None = None
    written: int | None = None
    batch: int = -1
    expires_ms: int | None = None


@dataclass(frozen=True)
class Repaired:
    """The result of a repair. `queries` are those to reconcile again."""

    plan: str
    pipeline: str
    run: str
    written: int
    deleted: int
    verified: int
    queries: tuple[str, ...]


def plan(deployment: Deployment, pipeline: str, run: str) -> Plan:
    """Return what a repair after a reconciliation run would write. Changes nothing.

    Notes name each account or row that is not repaired, with the reason and the remedy.
    """
    return _plan(pipeline, run, *_rows(deployment, deployment.pipeline(pipeline), run))


def act(deployment: Deployment, pipeline: str, run: str, approval: Approval) -> Repaired:
    """Carry out the approved repair.

    Raises HeadraceError as `plans.begin` does (after a finished repair too), or if a row that is read again differs from what
    was written.
    """
    described = deployment.pipeline(pipeline)
    rows, refused = _rows(deployment, described, run)
    plans.begin(deployment.root, _plan(pipeline, run, rows, refused), approval)
    with cassandra_session(deployment.bindings) as session:
        for row in rows:
            _run(session, *statement(described, row, _now_micros()))
        wrong = [row for row in rows if not _is_as_due(session, described, row)]
    if wrong:
        again = " ".join(f"--query {name}" for name in _queries_of(wrong))
        raise HeadraceError(
            f"{len(wrong)} of {len(rows)} rows are not as the repair of {run} wrote them, the first is {_item(wrong[0])}: "
            f"somebody writes them too. Compare them again: headrace batch reconcile {pipeline} {again}"
        )
    written = sum(row.action == "write" for row in rows)
    return Repaired(approval.plan, pipeline, run, written, len(rows) - written, len(rows), _queries_of(rows))


def _plan(pipeline: str, run: str, rows: Sequence[Row], refused: Sequence[str]) -> Plan:
    notes = tuple(f"Not repaired: {why}." for why in refused)
    return Plan("repair", f"{pipeline} after run {run}", tuple(map(_item, rows)), notes=notes)


def _rows(deployment: Deployment, described: Pipeline, run: str) -> tuple[list[Row], list[str]]:
    """Return the rows to write or delete as they are now, and why others are refused."""
    report = job_runs.result(deployment.root, described.name, run, ReconcileReport)
    rows: list[Row] = []
    refused: list[str] = []
    with cassandra_session(deployment.bindings) as session:
        for account in report.accounts:
            why = _refusal(described, account)
            if why:
                refused.append(why)
            elif account.differing:
                wanted = actions(described.queries[account.query], account.query, account.differences)
                wanted = _expiring(deployment.root, described, account.generation, wanted)
                rows += [_now(session, described, row) for row in wanted]
    now = _now_micros()
    refused += [_ahead(described, row) for row in rows if _is_ahead(row, now)]
    rows = [row for row in rows if not _is_ahead(row, now)]
    refused += [_expired(row) for row in rows if _is_expired(row, now)]
    return [row for row in rows if not _is_expired(row, now)], refused


def _expiring(root: str, pipeline: Pipeline, number: int, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one account with the time at which each expires; `number` is the generation that was compared."""
    ttl = _sink(pipeline.queries[rows[0].query]).ttl if rows else None
    if ttl is None:
        return list(rows)
    paths = generation_paths(root, pipeline.name, rows[0].query, number)
    written = {record["batch"]: record["written_ms"] for record in ledger.stream(paths.ledger)}
    ttl_ms = int(ttl.total_seconds()) * 1000
    return [replace(r, expires_ms=written.get(r.batch, 0) + ttl_ms) if r.action == "write" else r for r in rows]


def actions(query: Query, name: str, differences: Sequence[Difference]) -> list[Row]:
    """Return one action for each primary key in the differences of an account, in their order.

    The row that is due wins. A row that changed in a column outside the primary key can appear as two differences: one for the
    missing row and one for the surplus row. Both are the same row of the table.
    """
    sink = _sink(query)
    primary = (*sink.partition_key, *sink.clustering_key)
    by_key: dict[tuple[str, ...], Row] = {}
    for difference in differences:
        key = {column: difference.key[column] for column in primary}
        primary_key = tuple(map(str, key.values()))
        if difference.due is None:
            by_key.setdefault(primary_key, Row(name, "delete", key, {}))
        else:
            rest = {column: value for column, value in difference.key.items() if column not in key}
            newest = max(difference.batches, default=-1)
            batch = newest if difference.expected_batch is None else difference.expected_batch
            by_key[primary_key] = Row(name, "write", key, rest | difference.due, batch=batch)
    return list(by_key.values())


def statement(pipeline: Pipeline, row: Row, now_micros: int) -> tuple[str, list[Any]]:
    """Return the CQL of one row of a plan, and its values. It is written later than the present row, with the rest of the ttl."""
    query = pipeline.queries[row.query]
    sink = _sink(query)
    table = quoted(*names.cassandra_table(pipeline.name, row.query, sink))
    at = max(now_micros, (row.written or 0) + 1)
    if row.action == "delete":
        where = " AND ".join(f'"{column}" = %s' for column in row.key)
        text = f"DELETE FROM {table} USING TIMESTAMP {at} WHERE {where}"  # noqa: S608 - quoted names
        return text, [_cell(query, c, v) for c, v in row.key.items()]
    cells = {**row.key, **row.values}
    columns, placeholders = ", ".join(f'"{c}"' for c in cells), ", ".join(["%s"] * len(cells))
    # TTL 0 would mean never.
    ttl = "" if row.expires_ms is None else f" AND TTL {max(1, row.expires_ms // 1000 - now_micros // 1_000_000)}"
    text = f"INSERT INTO {table} ({columns}) VALUES ({placeholders}) USING TIMESTAMP {at}{ttl}"  # noqa: S608 - quoted names
    return text, [_cell(query, c, v) for c, v in cells.items()]


def _item(row: Row) -> Item:
    """Return one row as an item of a plan: the key, each changed value as `old -> new`, and the present row's writetime."""
    before, after = row.present, row.values if row.action == "write" else None
    changes = [
        f"{column}: {_shown(before, column)} -> {_shown(after, column)}"
        for column in {**(before or {}), **(after or {})}
        if before is None or after is None or str(before.get(column)) != str(after.get(column))
    ]
    key = ", ".join(f"{name}={value}" for name, value in row.key.items())
    written = f" (writetime {row.written})" if row.written else ""
    expires = "" if row.expires_ms is None else f", expires {_shown_ms(row.expires_ms)}"
    detail = f"{', '.join(changes) or 'the row itself'}{written}{expires}"
    return Item(row.action, printable(f"{row.query} {key}"), printable(detail))


def _queries_of(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(sorted({row.query for row in rows}))


def _refusal(pipeline: Pipeline, account: Account) -> str | None:
    if not account.differing:
        return None
    name = account.query
    remedy = f"begin a new generation: headrace stream restart {pipeline.name} --new-generation {name} --rows keep"
    if account.kind == "batch view":
        days = sorted(
            str(value)
            for difference in account.differences
            for value in [difference.key[batch_views.day(pipeline.queries[name])]]
        )
        return (
            f"{name}: a batch view is computed, not repaired: headrace batch views {pipeline.name} --first {days[0]} "
            f"--last {days[-1]}"
        )
    if not account.sink.startswith("table "):
        return f"{name}: a {account.sink.split()[0]} sink is not repaired row by row; {remedy}"
    if account.kind not in KINDS:
        return f"{name}: {account.kind} are open, a repaired row would lose or win against the next batch; {remedy}"
    if account.differing > len(account.differences) or account.differing > MAX_ROWS:
        return f"{name}: {account.differing} rows are more than a bounded repair takes ({MAX_ROWS}); {remedy}"
    return None


def _is_ahead(row: Row, now_micros: int) -> bool:
    return (row.written or 0) > now_micros + AHEAD_MICROS


def _ahead(pipeline: Pipeline, row: Row) -> str:
    at = datetime.fromtimestamp((row.written or 0) / 1_000_000, UTC)
    return (
        f"{row.query}: {dict(row.key)} has the writetime {at:%Y-%m-%d %H:%M:%S}, which is to come, and a repair that wins would "
        f"win against the next generation too; empty the table: headrace stream restart {pipeline.name} "
        f"--new-generation {row.query} --rows empty"
    )


def _is_expired(row: Row, now_micros: int) -> bool:
    return row.expires_ms is not None and row.expires_ms < now_micros // 1000 + LEFT_MS


def _expired(row: Row) -> str:
    at = _shown_ms(row.expires_ms or 0)
    return f"{row.query}: {dict(row.key)} is no longer due: batch {row.batch} wrote it, and its ttl ends at {at}"


def _shown_ms(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _read(session: Session, pipeline: Pipeline, row: Row) -> tuple[dict[str, Any] | None, int | None]:
    """Return the values of a row's other columns (None: the row does not exist) and the newest writetime of its cells."""
    query = pipeline.queries[row.query]
    cells = [column for column in query.columns if column not in row.key]
    table = quoted(*names.cassandra_table(pipeline.name, row.query, _sink(query)))
    times = [f'WRITETIME("{column}")' for column in cells]
    selected = ", ".join([*(f'"{column}"' for column in cells), *times]) or "*"
    where = " AND ".join(f'"{column}" = %s' for column in row.key)
    text = f"SELECT {selected} FROM {table} WHERE {where}"  # noqa: S608 - quoted names
    stored = _run(session, text, [_cell(query, c, v) for c, v in row.key.items()]).one()
    if stored is None:
        return None, None
    values: list[Any] = [stored_time(value) if isinstance(value, datetime) else value for value in stored]
    written = [writetime for writetime in values[len(cells) : 2 * len(cells)] if writetime is not None]
    return dict(zip(cells, values, strict=False)), max(written, default=None)


def _now(session: Session, pipeline: Pipeline, row: Row) -> Row:
    values, written = _read(session, pipeline, row)
    shown = None if values is None else {name: _plain(value) for name, value in values.items()}
    return replace(row, present=shown, written=written)


def _is_as_due(session: Session, pipeline: Pipeline, row: Row) -> bool:
    values, _ = _read(session, pipeline, row)
    if row.action == "delete" or values is None:
        return (values is None) is (row.action == "delete")
    query = pipeline.queries[row.query]
    return all(_kept(values[c]) == _kept(_cell(query, c, v)) for c, v in row.values.items())


def _kept(value: Any) -> Any:  # noqa: ANN401 - CQL values
    """Return a value as Cassandra stores it: times rounded down to milliseconds, in UTC; a date as a Python date."""
    if isinstance(value, datetime):
        utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return utc.replace(microsecond=utc.microsecond // 1000 * 1000)
    return value.date() if isinstance(value, Date) else value


def _plain(value: Any) -> str | None:  # noqa: ANN401 - CQL values
    """Return a value in the format of a reconciliation report."""
    kept = _kept(value)
    return None if kept is None else kept.isoformat() if isinstance(kept, datetime) else str(kept)


def _shown(values: Mapping[str, Any] | None, column: str) -> str:
    if values is None:
        return "no row"
    return "null" if values.get(column) is None else str(values[column])


def _run(session: Session, statement: str, values: Sequence[Any]) -> Any:  # noqa: ANN401 - a ResultSet
    return session.execute(SimpleStatement(statement, consistency_level=ConsistencyLevel.LOCAL_QUORUM), values)


def _cell(query: Query, column: str, value: Any) -> Any:  # noqa: ANN401 - JSON value in, CQL value out
    kind = query.columns[column].type
    if value is None:
        return None
    if kind == "date":
        return date.fromisoformat(value)
    if kind == "timestamp":
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind.startswith("decimal"):
        return Decimal(value)
    return int(Decimal(value)) if kind in ("int", "long") else value


def _sink(query: Query) -> CassandraSink:
    return next(sink for sink in query.sinks if isinstance(sink, CassandraSink))


def _now_micros() -> int:
    return time.time_ns() // 1_000
