"""The users refresh on a real Cassandra: under a stream that joins the table, and with every kind of bad snapshot.

Slow: 30 000 users are loaded and refreshed, with a driver beside; about a minute. HEADRACE_TEST_USERS=100000 measures more.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from cassandra.query import SimpleStatement

from headrace.contract.names import dead_letter_topic
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session
from headrace.operations.dimensions import duty
from headrace.operations.dimensions.diff import DirectoryDifference
from headrace.operations.dimensions.snapshot import DirectorySnapshot
from headrace.operations.plans import Approval
from headrace.store.records import to_json
from tests.support.drivers import Stage, make_stage
from tests.support.expectations import import_great_expectations

pytestmark = [pytest.mark.platform, pytest.mark.long(group="trust"), pytest.mark.timeout(900)]

USERS = int(os.environ.get("HEADRACE_TEST_USERS", "30000"))
RUN = {"holder": "a run", "by": "test"}
CHANGED, ADDED, LEFT = 600, 300, 100


def _stage(platform: Settings, project: Path, folder: Path, suffix: str) -> Stage:
    import_great_expectations()
    return make_stage(platform, project, folder, "user_logins", suffix=suffix, trigger="500 milliseconds")


def _drop(stage: Stage, at: datetime, users: dict[str, str | None], mark: bool = True) -> str:
    """Drop a snapshot as an extract would: the file, then its mark."""
    return _drop_table(stage, at, {"login_id": list(users), "user_name": list(users.values())}, mark)


def _drop_table(stage: Stage, at: datetime, columns: dict[str, list[Any]], mark: bool = True) -> str:
    (dimension,) = stage.pipeline.dimensions
    folder = Path(stage.root) / "refresh" / stage.name / dimension / "drop"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"users-{at.strftime('%Y%m%dT%H%M%SZ')}.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    if mark:
        path.with_name(path.name + ".done").write_text("")
    return path.name


def _refresh(stage: Stage, *, approve: bool = False) -> dict[str, Any]:
    (dimension,) = stage.pipeline.dimensions
    plan = duty.prepare(stage.deployment, stage.name, dimension).plan
    if not plan.items:
        return {"skip": plan.notes[0]}
    approval = Approval(plan.id, by="test", approved_by="test" if approve else "")
    refreshed = duty.refresh(stage.deployment, stage.name, dimension, approval)
    document: dict[str, Any] = json.loads(json.dumps(to_json(refreshed)))
    return document


def _picked(stage: Stage, dimension: str) -> DirectorySnapshot:
    snapshot = duty.pick(stage.deployment, stage.name, dimension)
    assert isinstance(snapshot, DirectorySnapshot), snapshot
    return snapshot


def _approved(stage: Stage, dimension: str, difference: DirectoryDifference) -> Approval:
    return Approval(difference.plan(f"{stage.name}.{dimension}").id, by="test")


def _rows(stage: Stage, columns: str = "login_id, user_name") -> list[dict[str, Any]]:
    (dimension,) = stage.pipeline.dimensions.values()
    return stage.table(dimension.keyspace, dimension.table, columns)


def _names(stage: Stage) -> dict[str, str | None]:
    return {row["login_id"]: row["user_name"] for row in _rows(stage)}


def _tombstone_cells(stage: Stage) -> int:
    """Return how many tombstones of cells Cassandra itself passes over in one scan; a deleted row is none."""
    (dimension,) = stage.pipeline.dimensions.values()
    scan = SimpleStatement(f'SELECT * FROM {dimension.keyspace}."{dimension.table}"', fetch_size=2 * USERS)
    with cassandra_session(stage.admin) as session:
        result = session.execute(scan, trace=True, timeout=120)
        events = result.get_query_trace(max_wait_sec=60).events
    said = [re.search(r"(\d+) tombstone cells", event.description) for event in events]
    counts = [int(match[1]) for match in said if match]
    assert counts, [event.description for event in events]
    return sum(counts)


def test_a_stream_that_joins_the_users_misses_none_while_the_table_is_refreshed(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    stage = _stage(platform, project, tmp_path, "_load")
    now = datetime.now(UTC).replace(microsecond=0)
    users: dict[str, str | None] = {f"u{number:06d}": f"User {number}" for number in range(USERS)}
    first, second = now - timedelta(hours=2), now - timedelta(hours=1)
    _drop(stage, first, users)
    began = time.monotonic()
    assert _refresh(stage)["upserted"] == USERS
    print(f"first load of {USERS} users: {time.monotonic() - began:.1f} s")

    ids = list(users)
    after = dict(users)
    after |= {login: f"{users[login]} Married" for login in ids[:CHANGED]}
    after |= {f"n{number:06d}": f"New {number}" for number in range(ADDED)}
    for login in ids[-LEFT:]:
        del after[login]
    staying = [login for login in ids[:-LEFT] if login in after]
    sent: dict[str, datetime] = {}
    ended = threading.Event()

    def load() -> None:
        turn = 0
        while not ended.is_set():
            at = datetime.now(UTC).replace(microsecond=0)
            logins = [staying[(turn * 97 + step * 31) % len(staying)] for step in range(50)]
            stage.send(
                (
                    "logins_load",
                    login.encode(),
                    f'{{"login_id": "{login}", "login_at": "{at:%Y-%m-%d %H:%M:%S}"}}'.encode(),
                )
                for login in logins
            )
            sent.update(dict.fromkeys(logins, at))
            turn += 1
            time.sleep(0.2)

    try:
        stage.start_and_wait()
        thread = threading.Thread(target=load)
        thread.start()
        try:
            stage.await_until(lambda: len(stage.ledger("last_login")) > 2, "the stream takes logins")
            _drop(stage, second, after)
            began = time.monotonic()
            refreshed = _refresh(stage)
            print(f"refresh of {USERS} users with {CHANGED + ADDED + LEFT} changes: {time.monotonic() - began:.1f} s")
        finally:
            ended.set()
            thread.join()
        stage.await_quiet()
        stage.stop()
    finally:
        stage.kill()
    assert (refreshed["inserts"], refreshed["updates"], refreshed["deletes"]) == (ADDED, CHANGED, LEFT)
    assert (refreshed["upserted"], refreshed["deleted"]) == (CHANGED + ADDED, LEFT)

    letters = stage.read(dead_letter_topic("logins_load"))
    assert [letter.value for letter in letters] == [], "a login met a table without its user"
    rows = _rows(stage, "login_id, user_name, last_login, writetime(user_name) AS at")
    assert {row["login_id"]: row["user_name"] for row in rows} == after
    micros = int(second.timestamp()) * 1_000_000
    assert sum(row["at"] == micros for row in rows) == CHANGED + ADDED, "only changed rows are written"
    logged = {row["login_id"]: row["last_login"].replace(tzinfo=UTC) for row in rows if row["last_login"]}
    assert logged == sent
    assert _tombstone_cells(stage) == 0, "beside the deleted rows there is no tombstone"
    stage.cql("UPDATE test_db.users_load SET last_device = null WHERE login_id = %s", (ids[0],))
    assert _tombstone_cells(stage) == 1, "one would be seen"


def test_whatever_is_wrong_with_a_snapshot_the_live_table_stays_as_it_was(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    stage = _stage(platform, project, tmp_path, "_bad")
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    users: dict[str, str | None] = {f"u{number:03d}": f"User {number}" for number in range(200)}
    _drop(stage, now, users)
    assert _refresh(stage)["inserts"] == 200
    ids = list(users)
    stage.cql("UPDATE test_db.users_bad SET last_login = '2026-01-01' WHERE login_id = %s", (ids[0],))
    stage.cql("UPDATE test_db.users_bad SET last_login = '2026-01-01' WHERE login_id = %s", (ids[-1],))
    before = _rows(stage, "*")
    bad: list[tuple[dict[str, list[Any]], str]] = [
        ({"login_id": ids[:80], "user_name": ids[:80]}, "table_row_count_to_be_between(), found 80"),
        ({"login_id": [*ids, ids[0]], "user_name": [*ids, "x"]}, "column_values_to_be_unique(login_id) in 2 rows"),
        ({"login_id": ids, "user_name": [None, *ids[1:]]}, "column_values_to_not_be_null(user_name) in 1 rows"),
        ({"login_id": ids, "user_name": list(range(200))}, "user_name is int64, not string"),
        ({"login_id": ids}, "lacks user_name"),
        ({"login_id": [], "user_name": []}, "has no rows"),
    ]
    for minute, (columns, says) in enumerate(bad):
        name = _drop_table(stage, now + timedelta(minutes=minute + 1), columns)
        with pytest.raises(HeadraceError) as refused:
            _refresh(stage)
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
        assert _rows(stage, "*") == before, name

    # A cut file without its mark is not read; the bad ones before it are still newer than what is applied.
    _drop(stage, now + timedelta(minutes=30), users, mark=False)
    with pytest.raises(HeadraceError, match="has no rows"):
        _refresh(stage)

    # A tenth fewer is more than may be deleted without an approval.
    fewer = dict(list(users.items())[:180])
    _drop(stage, now + timedelta(minutes=40), fewer)
    with pytest.raises(
        HeadraceError, match=r"20 deleted \(10\.0 % of 200; .* It needs approval: it deletes more than 5 % of 200"
    ):
        _refresh(stage)
    assert _rows(stage, "*") == before
    refreshed = _refresh(stage, approve=True)
    assert (refreshed["deletes"], refreshed["by"], refreshed["approved_by"]) == (20, "test", "test")
    left = fewer | {ids[-1]: None}  # a login after the extract outlives its user, as a row without name
    assert _names(stage) == left
    (kept,) = [row for row in _rows(stage, "login_id, last_login") if row["login_id"] == ids[0]]
    assert kept["last_login"] == datetime(2026, 1, 1), "what the stream wrote is not touched"

    # An older snapshot that comes late is not even read.
    _drop(stage, now + timedelta(minutes=35), users)
    assert "is not newer than applied" in _refresh(stage)["skip"]
    assert _names(stage) == left


def test_a_plan_is_void_once_another_refresh_came_or_its_file_was_changed(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    stage = _stage(platform, project, tmp_path, "_plan")
    deployment, name = stage.deployment, "users_plan"
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    _drop(stage, now, {"a": "A", "b": "B"})
    staged = duty.stage(deployment, stage.name, name, _picked(stage, name))
    plan = duty.plan(deployment, stage.name, name, staged)
    Path(plan.diff).write_bytes(b"other")
    with pytest.raises(HeadraceError, match="is not what was planned"):
        duty.apply(deployment, stage.name, name, plan, _approved(stage, name, plan), holder=RUN["holder"])
    assert _names(stage) == {}
    plan = duty.plan(deployment, stage.name, name, staged)
    assert _refresh(stage)["inserts"] == 2
    with pytest.raises(HeadraceError, match="has been applied since the plan"):
        duty.apply(deployment, stage.name, name, plan, _approved(stage, name, plan), holder=RUN["holder"])

    # While one run writes, another waits; what it left is free for the next.
    _drop(stage, now + timedelta(seconds=30), {"a": "A", "b": "B1"})
    staged = duty.stage(deployment, stage.name, name, _picked(stage, name))
    plan = duty.plan(deployment, stage.name, name, staged)
    written = duty.apply(deployment, stage.name, name, plan, _approved(stage, name, plan), holder=RUN["holder"])
    with pytest.raises(HeadraceError, match=r"Another refresh of .* is writing, by test since"):
        _refresh(stage)
    assert duty.verify(deployment, stage.name, name, staged, **RUN)["rows"] == 2
    duty.record(deployment, stage.name, name, staged, plan, written, _approved(stage, name, plan), holder=RUN["holder"])

    # A row that was written after the extract is left as it is, whichever way it differs.
    stage.cql("UPDATE test_db.users_plan SET user_name = 'By hand' WHERE login_id = 'a'")
    stage.cql("INSERT INTO test_db.users_plan (login_id, user_name) VALUES ('c', 'By hand')")
    _drop(stage, now + timedelta(minutes=1), {"a": "A2", "b": "B2"})
    refreshed = _refresh(stage)
    assert (refreshed["updates"], refreshed["deletes"], refreshed["newer"]) == (1, 0, 2)
    assert _names(stage) == {"a": "By hand", "b": "B2", "c": "By hand"}
    assert duty.status(deployment, stage.name, name).applied.version == refreshed["version"]
    assert duty.dimensions(deployment) == [(stage.name, name)]
