"""Logins against the users table: joined by key, always the table as it is now, never by a scan."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from headrace.contract.exit_codes import Exit
from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from tests.support import actual
from tests.support.drivers import Content, Stage, make_stage

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

SCAN = (
    "would scan its Cassandra dimension in every batch instead of joining it by key. Join on all columns of the table's "
    "partition key, with the same types as in the table."
)
CAST = (
    "joins its Cassandra dimension by a key of another type, and a value that does not fit would end the stream. Give "
    "the column the same type in the source and in the table."
)

BY_NAME = """

def last_login(logins_name: DataFrame, users_name: DataFrame) -> DataFrame:
    names = users_name.select("login_id", "user_name").withColumnRenamed("login_id", "known_id")
    return logins_name.join(names, F.col("user_name") == F.col("login_id"), "left").select(
        "login_id",
        F.col("login_at").alias("last_login"),
        F.col("device").alias("last_device"),
        F.col("known_id").isNotNull().alias("known"),
        "headrace_source",
        "headrace_raw",
    )
"""


def _login(stage: Stage, suffix: str, *logins: tuple[str, str, str]) -> None:
    """Send (user, time of day, device) and wait until they are taken."""
    stage.send(
        (
            f"logins{suffix}",
            user.encode(),
            f'{{"login_id": "{user}", "login_at": "2026-03-01 {at}", "device": "{device}"}}'.encode(),
        )
        for user, at, device in logins
    )
    stage.await_quiet()


def _user(stage: Stage, login_id: str) -> tuple[str | None, datetime | None, str | None]:
    rows = stage.cql(
        "SELECT user_name, last_login, last_device FROM test_db.users_join WHERE login_id = %s", (login_id,)
    )
    return tuple(rows[0].values()) if rows else (None, None, None)


def test_a_changed_user_row_is_seen_by_the_next_batch(platform: Settings, project: Path, tmp_path: Path) -> None:
    stage = make_stage(platform, project, tmp_path, "user_logins", suffix="_join", trigger="200 milliseconds")
    insert = "INSERT INTO test_db.users_join (login_id, user_name) VALUES (%s, %s)"
    stage.cql(insert, ("ada", "Ada"))
    try:
        stage.start()
        _login(stage, "_join", ("ada", "10:00:00", "web"), ("bo", "10:00:00", "tv"))
        assert _user(stage, "ada") == ("Ada", datetime(2026, 3, 1, 10), "web")
        assert _user(stage, "bo") == (None, None, None)

        stage.cql(insert, ("bo", "Bo"))
        stage.cql("DELETE FROM test_db.users_join WHERE login_id = %s", ("ada",))
        _login(stage, "_join", ("ada", "11:00:00", "ios"), ("bo", "11:00:00", "ios"))
        assert _user(stage, "bo") == ("Bo", datetime(2026, 3, 1, 11), "ios")
        assert _user(stage, "ada") == (None, None, None)

        # An older login that comes later changes nothing; one without a device keeps the device that is known.
        stage.send(
            [
                ("logins_join", b"bo", b'{"login_id": "bo", "login_at": "2026-03-01 12:00:00"}'),
                ("logins_join", b"bo", b'{"login_id": "bo", "login_at": "2026-03-01 09:00:00", "device": "tv"}'),
            ]
        )
        stage.await_quiet()
        assert _user(stage, "bo") == ("Bo", datetime(2026, 3, 1, 12), "ios")
        assert stage.stop() == Exit.FINISHED
    finally:
        stage.kill()
    messages = stage.read("logins_join")
    unknown = [m for m in messages if m.key == b"ada" and b"11:00:00" in (m.value or b"")]
    unknown += [
        m for m in messages if m.key == b"bo" and b'"tv"' in (m.value or b"") and b"10:00:00" in (m.value or b"")
    ]
    known = {(m.partition, m.offset) for m in messages} - {(m.partition, m.offset) for m in unknown}
    actual.require_archive(stage, "logins_join", messages, known)
    letters, _ = actual.distinct(stage.read(dead_letter_topic("logins_join")))
    assert {letter.header("headrace.reason") for letter in letters.values()} == {"unmatched: login_id"}
    assert len(letters) == 2


def _int_key(content: Content) -> None:
    """Make the dimension's key an int; what the query writes goes to a table of its own."""
    content["dimensions"]["users_int"]["columns"]["login_id"]["type"] = "int"
    del content["dimensions"]["users_int"]["quality"]  # a pattern for texts
    sink = content["queries"]["last_login"]["sinks"][0]
    del sink["keyspace"], sink["table"], sink["quality"]


@pytest.mark.parametrize(
    ("suffix", "edit", "transforms", "sentence"),
    [
        pytest.param("_int", _int_key, "", CAST, id="a key of another type than the topic's"),
        pytest.param("_name", None, BY_NAME, SCAN, id="a join by a column that is no key"),
    ],
)
def test_a_join_that_is_not_by_the_tables_own_key_is_refused_before_anything_starts(
    platform: Settings,
    project: Path,
    tmp_path: Path,
    suffix: str,
    edit: Callable[[Content], None] | None,
    transforms: str,
    sentence: str,
) -> None:
    stage = make_stage(platform, project, tmp_path, "user_logins", suffix=suffix, edit=edit, transforms=transforms)
    stage.start()
    try:
        assert stage.await_end() == Exit.REFUSED, stage.log[-6000:]
    finally:
        stage.kill()
    assert f" ERROR headrace: user_logins{suffix}.last_login {sentence}\n" in stage.log
    assert not list(Path(stage.root).glob("checkpoints/*/*/*")), "a generation was begun"
