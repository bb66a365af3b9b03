"""Only one refresh of a dimension writes at a time: a lease in Cassandra, next to the data that it guards (ADR 0041).

A lease is a row with a time to live, taken and renewed by lightweight transactions. So it covers the command line and every
scheduler's tasks, on one machine or many, and a killed refresh blocks others only briefly.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from headrace.contract import names
from headrace.contract.cassandra import Table, quoted
from headrace.errors import HeadraceError
from headrace.operations.clients import ensure_tables

SECONDS = 900
"""How long a lease lasts without renewal, in seconds. It is renewed with every few thousand rows."""
LEASES = Table(
    names.QUALITY_KEYSPACE,
    "refresh_leases",
    {"dimension": "text", "holder": "text", "taken_by": "text", "since": "text"},
    ("dimension",),
    (),
    {},
)
_TABLE = quoted(LEASES.keyspace, LEASES.name)


# The statements contain only our own names; values are bound.
_TAKE = (
    f"INSERT INTO {_TABLE} (dimension, holder, taken_by, since) VALUES (%s, %s, %s, %s) "  # noqa: S608
    f"IF NOT EXISTS USING TTL {SECONDS}"
)
_RENEW = (
    f"UPDATE {_TABLE} USING TTL {SECONDS} SET holder = %s, taken_by = %s, since = %s "  # noqa: S608
    "WHERE dimension = %s IF holder = %s"
)
_RELEASE = f"DELETE FROM {_TABLE} WHERE dimension = %s IF holder = %s"  # noqa: S608


def take(session: Session, pipeline: str, dimension: str, holder: str, by: str) -> None:
    """Take or renew the lease of a dimension for a holder. Raises HeadraceError if another one holds it."""
    ensure_tables(session, [LEASES])
    name, now = f"{pipeline}.{dimension}", datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    current = _serial(session, _TAKE, (name, holder, by, now))
    if current["[applied]"]:
        return
    if current.get("holder") == holder:
        renewed = _serial(session, _RENEW, (holder, current["taken_by"], current["since"], name, holder))
        if renewed["[applied]"]:
            return
    raise HeadraceError(
        f"Another refresh of {name} is writing, by {current.get('taken_by')} since {current.get('since')}. Wait for its end. "
        f"A killed refresh blocks others for up to {SECONDS // 60} minutes."
    )


def release(session: Session, pipeline: str, dimension: str, holder: str) -> None:
    """Release the lease of a dimension, if the holder has it."""
    ensure_tables(session, [LEASES])
    _serial(session, _RELEASE, (f"{pipeline}.{dimension}", holder))


def _serial(session: Session, text: str, values: tuple[str, ...]) -> dict[str, Any]:
    statement = SimpleStatement(
        text,
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
    )
    result = session.execute(statement, values)
    return dict(
        zip(result.column_names, result.one(), strict=True)
    )  # a row itself has no field of the name "[applied]"
