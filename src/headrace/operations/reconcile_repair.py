"""Bounded repair of a Cassandra table after a reconciliation: the named rows of closed windows and of settled joins.

No later batch of the stream writes such a row, so it can be written with the clock's time; the next generation begins
later than that and wins again (ADR 0006). A running total is open: whatever is written under it wins or loses against
the next batch at random, so it is not repaired but rebuilt by a new generation.

Plan (reads only) -> approval -> act, which first checks that each row still is as the plan saw it -> reconcile again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from headrace.contract import names
from headrace.contract.cassandra import quoted
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.errors import HeadraceError
from headrace.operations import batch_runs
from headrace.operations.clients import cassandra_session
from headrace.operations.deployment import Deployment

MAX_ROWS = 200
KINDS = ("windows", "joined rows")


def plan(deployment: Deployment, pipeline: str, run: str) -> dict[str, Any]:
    """Return what a repair after a reconciliation run would write: {pipeline, run, rows, refused, fingerprint}, JSON-safe.

    Each row has query, action (write or delete), key, values and `is` (what the table has now). `refused` says of each
    account with differences that is not repaired why, and what to do instead.
    """
    found = deployment.pipeline(pipeline)
    report = batch_runs.result(deployment.root, pipeline, run)
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    with cassandra_session(deployment.bindings) as session:
        for account in report["accounts"]:
            why = _refusal(found, account)
            if why:
                refused.append(why)
            elif account["differing"]:
                rows += [_wanted(session, found, account["query"], each) for each in account["differences"]]
    return {"pipeline": pipeline, "run": run, "rows": rows, "refused": refused, "fingerprint": _fingerprint(rows)}


def act(deployment: Deployment, pipeline: str, run: str, approved: str) -> dict[str, Any]:
    """Carry out the repair that was approved by its fingerprint; returns {pipeline, run, written, deleted}.

    Raises HeadraceError if a row is not as it was planned: then look at a new plan. A repeat after it was done raises too.
    """
    planned = plan(deployment, pipeline, run)
    if planned["fingerprint"] != approved:
        raise HeadraceError(f"{pipeline} is not as it was when the repair of {run} was planned: look at a new plan.")
    found = deployment.pipeline(pipeline)
    written = deleted = 0
    with cassandra_session(deployment.bindings) as session:
        for row in planned["rows"]:
            if row["action"] == "delete":
                _delete(session, found, row)
                deleted += 1
            else:
                _write(session, found, row)
                written += 1
    return {"pipeline": pipeline, "run": run, "written": written, "deleted": deleted}


def queries_of(planned: Mapping[str, Any]) -> list[str]:
    """Return the queries to reconcile again after a repair."""
    return sorted({row["query"] for row in planned["rows"]})


def _refusal(pipeline: Pipeline, account: Mapping[str, Any]) -> str | None:
    if not account["differing"]:
        return None
    name = account["query"]
    again = f"begin a new generation: headrace stream restart {pipeline.name} --new-generation {name} --rows keep"
    if not account["sink"].startswith("table "):
        return f"{name}: a {account['sink'].split()[0]} sink is not repaired row by row; {again}"
    if account["kind"] not in KINDS:
        return f"{name}: {account['kind']} are open, a repaired row would lose or win against the next batch; {again}"
    if account["differing"] > len(account["differences"]) or account["differing"] > MAX_ROWS:
        return f"{name}: {account['differing']} rows are more than a bounded repair takes ({MAX_ROWS}); {again}"
    return None


def _wanted(session: Session, pipeline: Pipeline, name: str, difference: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of a plan: `due` is what the stream should have written."""
    query, sink = pipeline.queries[name], _sink(pipeline.queries[name])
    key = {column: difference["key"][column] for column in (*sink.partition_key, *sink.clustering_key)}
    there = difference["due"] is not None
    values = {column: v for column, v in difference["key"].items() if column not in key} | (difference["due"] or {})
    return {
        "query": name,
        "action": "write" if there else "delete",
        "key": key,
        "values": values if there else {},
        "is": _now(session, pipeline, name, query, key),
    }


def _now(
    session: Session, pipeline: Pipeline, name: str, query: Query, key: Mapping[str, Any]
) -> dict[str, str | None] | None:
    columns = [column for column in query.columns if column not in key]
    selected = ", ".join(f'"{column}"' for column in columns) or "*"
    table = quoted(*names.cassandra_table(pipeline.name, name, _sink(query)))
    where = " AND ".join(f'"{column}" = %s' for column in key)
    statement = f"SELECT {selected} FROM {table} WHERE {where}"  # noqa: S608 - quoted names
    row = _run(session, statement, [_cell(query, c, v) for c, v in key.items()]).one()
    return None if row is None else {name_: None if v is None else str(v) for name_, v in row._asdict().items()}


def _write(session: Session, pipeline: Pipeline, row: Mapping[str, Any]) -> None:
    query = pipeline.queries[row["query"]]
    sink = _sink(query)
    cells = {c: _cell(query, c, v) for c, v in (row["key"] | row["values"]).items() if v is not None}
    columns, marks = ", ".join(f'"{c}"' for c in cells), ", ".join(["%s"] * len(cells))
    ttl = f" AND TTL {int(sink.ttl.total_seconds())}" if sink.ttl else ""
    table = quoted(*names.cassandra_table(pipeline.name, row["query"], sink))
    statement = f"INSERT INTO {table} ({columns}) VALUES ({marks}) USING TIMESTAMP {_now_micros()}{ttl}"  # noqa: S608
    _run(session, statement, list(cells.values()))


def _delete(session: Session, pipeline: Pipeline, row: Mapping[str, Any]) -> None:
    query = pipeline.queries[row["query"]]
    table = quoted(*names.cassandra_table(pipeline.name, row["query"], _sink(query)))
    where = " AND ".join(f'"{column}" = %s' for column in row["key"])
    statement = f"DELETE FROM {table} USING TIMESTAMP {_now_micros()} WHERE {where}"  # noqa: S608 - quoted names
    _run(session, statement, [_cell(query, c, v) for c, v in row["key"].items()])


def _run(session: Session, statement: str, values: Sequence[Any]) -> Any:  # noqa: ANN401 - a ResultSet
    return session.execute(SimpleStatement(statement, consistency_level=ConsistencyLevel.LOCAL_QUORUM), values)


def _cell(query: Query, column: str, value: Any) -> Any:  # noqa: ANN401 - JSON value in, CQL value out
    kind = query.columns[column].type
    if kind == "timestamp":
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind.startswith("decimal"):
        return Decimal(value)
    return int(Decimal(value)) if kind in ("int", "long") else value


def _sink(query: Query) -> CassandraSink:
    return next(sink for sink in query.sinks if isinstance(sink, CassandraSink))


def _now_micros() -> int:
    return time.time_ns() // 1_000


def _fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
