"""Load users into a dimension table. Columns written by a stream (last_login, last_device) are never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path

from cassandra.concurrent import execute_concurrent_with_args

from headrace.contract.cassandra import quoted
from headrace.contract.model import Dimension
from headrace.operations.clients import cassandra_session

CONCURRENCY = 64


def load_users(root: Path, dimension: Dimension, users: Sequence[Mapping[str, str]]) -> int:
    """Upsert rows with the columns login_id and user_name; return their number."""
    table = quoted(dimension.keyspace, dimension.table)
    with cassandra_session(root) as session:
        insert = session.prepare(f"INSERT INTO {table} (login_id, user_name) VALUES (?, ?)")  # noqa: S608 - quoted names
        rows = [(user["login_id"], user["user_name"]) for user in users]
        for _ in zip(execute_concurrent_with_args(session, insert, rows, concurrency=CONCURRENCY), repeat(None)):
            pass
    return len(users)
